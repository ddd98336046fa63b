"""The coordinator's start when Flower's file is broken or gone."""

from __future__ import annotations

import pytest
from fedkit_server.state import State, readable_link

from fedkit.errors import DeploymentError
from fedkit.federation.flower_link import Link
from tests.server.builders import new_site


def again(coordinator, folder):
    state = coordinator.state
    folder.mkdir()
    link = Link.open(folder / "link.db", folder / "objects")
    return State(state.folder, state.settings, state.store, link)


def test_enrolled_sites_are_let_in_from_our_own_file_and_revoked_ones_are_not(coordinator, tmp_path):
    store, keys = coordinator.state.store, {name: new_site() for name in ("north", "south")}
    for name, key in keys.items():
        node_id = coordinator.state.link.register(key.node_bytes, name)
        store.put_site(name, node_id, key.node_bytes, key.signing.public, 1.0)
        store.put_offer(name, "{}", 2.0)
    before = store.site("north")
    store.revoke_site("south", 3.0)
    state = again(coordinator, tmp_path / "later")
    state.reconcile()
    found = store.site("north")
    assert found.node_id == state.link.state.get_node_id_by_public_key(keys["north"].node_bytes) != before.node_id
    assert (found.offer, found.enrolled_at) == ("{}", 1.0)
    assert state.link.state.get_node_id_by_public_key(keys["south"].node_bytes) is None
    state.reconcile()
    assert store.site("north") == found


@pytest.mark.parametrize("left", [0.5, 0.05, 0.9])
def test_a_truncated_file_is_named_with_a_remedy(coordinator, left):
    folder = coordinator.state.folder
    Link.open(folder.link, folder.path / "objects").state._engine.dispose()
    for name in ("link.db-wal", "link.db-shm"):
        (folder.path / name).unlink(missing_ok=True)
    content = folder.link.read_bytes()
    folder.link.write_bytes(content[: int(len(content) * left)])
    with (
        pytest.raises(DeploymentError, match=r"FK705.*link\.db.*Remedy: unless the disk is full, delete link\.db"),
        readable_link(folder),
    ):
        Link.open(folder.link, folder.path / "objects")
    folder.link.unlink()
    with readable_link(folder):
        Link.open(folder.link, folder.path / "objects")
