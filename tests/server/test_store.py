from __future__ import annotations

import stat

import pytest
from fedkit_server.store import Store

from fedkit.errors import DeploymentError


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "fedkit.db")
    yield made
    made.close()


def test_the_file_and_its_companions_are_for_the_owner_only(store, tmp_path):
    store.put_token("anna", "h", 1.0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_an_invitation_is_used_once(store):
    store.add_invitation("s", "north", 0.0, 10.0)
    assert [store.use_invitation("s", 1.0), store.use_invitation("s", 2.0)] == [True, False]


def test_a_newer_invitation_makes_the_older_void(store):
    store.add_invitation("old", "north", 0.0, 10.0)
    store.add_invitation("new", "north", 1.0, 10.0)
    assert [store.use_invitation("old", 2.0), store.use_invitation("new", 2.0)] == [False, True]


def test_node_ids_keep_their_64_bits(store):
    store.put_site("north", 2**64 - 1, b"n", b"s", 1.0)
    assert store.site("north").node_id == 2**64 - 1


def test_a_site_that_joins_again_has_no_offer_of_its_former_self(store):
    store.put_site("north", 1, b"n", b"s", 1.0)
    store.put_offer("north", "{}", 2.0)
    store.put_site("north", 2, b"m", b"t", 3.0)
    assert store.site("north").offer is None


def test_a_user_has_one_token(store):
    store.put_token("anna", "first", 1.0)
    store.put_token("anna", "second", 2.0)
    assert store.tokens() == [("second", "anna")]


def test_a_run_is_known_once(store):
    assert [store.add_run("r", "job", "n", "anna", 1.0), store.add_run("r", "job", "n", "anna", 1.0)] == [True, False]
    assert store.run("r").state == "queued"


def test_what_was_written_is_there_for_the_next_process(store, tmp_path):
    store.put_site("north", 1, b"n", b"s", 1.0)
    again = Store(tmp_path / "fedkit.db")
    assert again.site("north") == store.site("north")
    again.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "fedkit.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DeploymentError, match="FK705"):
        Store(tmp_path / "fedkit.db")


def test_a_queued_run_waits_for_the_one_at_work_and_for_those_that_were_submitted_before(store):
    for number, run in enumerate("abcd"):
        store.add_run(run, "job", "n", "anna", 100.0 + number)
    store.set_run("a", "finished", "complete")
    store.set_run("c", "running")
    before = {row.run: store.runs_before(row) for row in store.runs()}
    assert before == {"a": [], "b": ["c"], "c": [], "d": ["c", "b"]}
