from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fedkit_server.enrolment import Enrolment, invite

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.enrolment import check_version
from fedkit.federation.invite import invitation_line, read_invitation
from fedkit.federation.keyring import open_keyring
from fedkit.storage.keys import new_signing_key
from tests.server.builders import new_site, offer_text


@pytest.fixture
def enrolment(coordinator):
    return Enrolment(coordinator.state)


def _joined(enrolment, name="north", site=None):
    site = site or new_site()
    made = invite(enrolment.state, name, 72)
    answer = enrolment.join(site.request(name, made.secret), "192.0.2.9")
    return site, int(answer["node_id"]), answer


def _nodes(state):
    return {int(node.node_id): node.status for node in state.link.state.get_node_info()}


def test_an_invitation_pins_authority_coordinator_and_root(coordinator):
    made = invite(coordinator.state, "north", 72)
    assert read_invitation(invitation_line(made)) == made
    keyring = coordinator.state.keyring
    pinned = open_keyring(keyring.statements, federation=made.federation, root=made.root, coordinator=made.coordinator)
    assert pinned == keyring
    assert made.expires_at == int(coordinator.clock.now + 72 * 3600)


def test_a_site_joins_as_the_node_that_its_key_is(enrolment):
    site, node_id, answer = _joined(enrolment)
    state = enrolment.state
    assert state.link.state.get_node_id_by_public_key(site.node_bytes) == node_id
    assert state.store.site("north").site_key == site.signing.public
    assert answer["keyring"] == list(state.keyring.statements)


def test_no_secret_is_stored(enrolment):
    made = invite(enrolment.state, "north", 72)
    state = enrolment.state
    state.store.close()
    files = [path for path in state.folder.path.rglob("*") if path.is_file()]
    assert files and not any(made.secret.encode() in path.read_bytes() for path in files)


def _refused(enrolment, request, code, address="192.0.2.9"):
    before = _nodes(enrolment.state)
    with pytest.raises((DeploymentError, FederationError), match=code):
        enrolment.join(request, address)
    assert _nodes(enrolment.state) == before


def test_an_invitation_works_once(enrolment):
    made = invite(enrolment.state, "north", 72)
    enrolment.join(new_site().request("north", made.secret), "a")
    _refused(enrolment, new_site().request("north", made.secret), "FK714")


def test_an_expired_invitation_is_refused(enrolment, coordinator):
    made = invite(enrolment.state, "north", 1)
    coordinator.clock.now += 3601
    _refused(enrolment, new_site().request("north", made.secret), "FK715")


def test_an_invitation_for_another_site_is_refused_and_stays_good(enrolment):
    made = invite(enrolment.state, "north", 72)
    _refused(enrolment, new_site().request("south", made.secret), "FK716")
    enrolment.join(new_site().request("north", made.secret), "a")


def test_an_unknown_secret_is_refused(enrolment):
    invite(enrolment.state, "north", 72)
    _refused(enrolment, new_site().request("north", "x" * 43), "FK716")


def test_whoever_guesses_has_to_wait_and_others_do_not(enrolment):
    made = invite(enrolment.state, "north", 72)
    for _ in range(10):
        _refused(enrolment, new_site().request("north", "x" * 43), "FK716")
    _refused(enrolment, new_site().request("north", "x" * 43), "FK717")
    _refused(enrolment, new_site().request("north", "x" * 43), "FK716", address="198.51.100.1")
    # Whoever else is behind the same address has the right one, and gets in.
    enrolment.join(new_site().request("north", made.secret), "192.0.2.9")


@pytest.mark.parametrize(
    "wrong",
    [{"node_key": "AAAA"}, {"node_key": "?"}, {"site_key": "AAAA"}, {"site_key": ""}],
)
def test_a_key_that_is_none_is_refused_and_the_invitation_stays_good(enrolment, wrong):
    made, site = invite(enrolment.state, "north", 72), new_site()
    _refused(enrolment, site.request("north", made.secret, **wrong), "FK719")
    enrolment.join(site.request("north", made.secret), "a")


@pytest.mark.parametrize("request_", [{}, {"wire": "1.0"}, {"wire": "1.0", "site": 3}])
def test_a_request_that_lacks_something_is_refused(enrolment, request_):
    _refused(enrolment, request_, "FK540|FK718")


@pytest.mark.parametrize(
    ("theirs", "good"), [("2.5", True), ("2.4", True), ("2.3", False), ("2.6", False), ("1.5", False), ("x", False)]
)
def test_one_minor_version_behind_is_understood_and_no_other(theirs, good):
    if good:
        check_version(theirs, ours=(2, 5))
        return
    with pytest.raises(DeploymentError, match="FK718") as refused:
        check_version(theirs, ours=(2, 5))
    assert ("coordinator" if theirs == "2.6" else "on the site") in refused.value.remedy


def test_a_site_one_minor_version_behind_joins_and_announces_and_another_is_told_which_side_to_update(coordinator):
    enrolment = Enrolment(coordinator.state, version=(1, 3))
    made, site = invite(enrolment.state, "north", 72), new_site()
    for theirs, side in (("1.1", "site"), ("1.4", "coordinator"), ("0.3", "site"), ("2.0", "coordinator")):
        with pytest.raises(DeploymentError, match="FK718") as refused:
            enrolment.join(site.request("north", made.secret, wire=theirs), "192.0.2.9")
        assert "understands 1.2 to 1.3" in refused.value.message
        assert refused.value.remedy == f"update fedkit on the {side}"
    # The invitation is as good as before.
    assert enrolment.join(site.request("north", made.secret, wire="1.2"), "192.0.2.9")["wire"] == "1.3"
    offer = offer_text("north", site.signing, coordinator.clock())
    assert enrolment.announce({"offer": offer, "wire": "1.2"}, "a")["wire"] == "1.3"
    with pytest.raises(DeploymentError, match="FK718"):
        enrolment.announce({"offer": offer, "wire": "1.1"}, "a")


def test_a_site_that_lost_its_folder_joins_anew_and_its_old_key_is_out(enrolment):
    old, old_id, _ = _joined(enrolment)
    new, new_id, _ = _joined(enrolment)
    state = enrolment.state
    assert state.link.state.get_node_id_by_public_key(old.node_bytes) is None
    assert state.link.state.get_node_id_by_public_key(new.node_bytes) == new_id
    assert not state.link.state.activate_node(old_id, 30.0)


def test_one_site_cannot_join_with_anothers_keys(enrolment):
    site, _, _ = _joined(enrolment)
    made = invite(enrolment.state, "south", 72)
    _refused(enrolment, site.request("south", made.secret), "FK719")


def test_of_many_that_join_at_once_with_one_key_one_is_let_in(enrolment):
    site = new_site()
    requests = [site.request(name, invite(enrolment.state, name, 72).secret) for name in "abcdefgh"]

    def attempt(request):
        try:
            return enrolment.join(request, request["site"])["node_id"]
        except DeploymentError as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, requests))
    assert sorted(answers)[1:] == ["FK719"] * 7
    assert len(enrolment.state.store.sites()) == 1


def test_a_revoked_site_cannot_be_activated_and_its_key_never_comes_back(enrolment):
    site, node_id, _ = _joined(enrolment)
    state = enrolment.state
    assert state.link.state.activate_node(node_id, 30.0)
    state.revoke(state.store.site("north"))
    assert not state.link.state.activate_node(node_id, 30.0)
    assert node_id not in state.link.online()
    made = invite(state, "north", 72)
    with pytest.raises(DeploymentError, match="FK719"):
        enrolment.join(site.request("north", made.secret), "a")


def test_a_start_removes_nodes_that_no_site_is(enrolment):
    _, node_id, _ = _joined(enrolment)
    state = enrolment.state
    rogue = state.link.register(new_site().node_bytes, "rogue")
    state.reconcile()
    assert state.link.state.activate_node(node_id, 30.0)
    assert not state.link.state.activate_node(rogue, 30.0)


def _announce(enrolment, text, address="192.0.2.9"):
    return enrolment.announce({"offer": text, "wire": "1.0"}, address)


def test_an_offer_by_the_sites_own_key_is_stored(enrolment, coordinator):
    site, _, _ = _joined(enrolment)
    text = offer_text("north", site.signing, coordinator.clock.now)
    assert _announce(enrolment, text)["keyring"] == list(enrolment.state.keyring.statements)
    assert enrolment.state.store.site("north").offer == text


def test_an_offer_by_another_key_is_refused(enrolment, coordinator):
    _joined(enrolment)
    south, _, _ = _joined(enrolment, "south")
    with pytest.raises(DeploymentError, match="FK736"):
        _announce(enrolment, offer_text("north", south.signing, coordinator.clock.now))
    assert enrolment.state.store.site("north").offer is None


def test_a_replayed_older_offer_does_not_replace_a_newer_one(enrolment, coordinator):
    site, _, _ = _joined(enrolment)
    old = offer_text("north", site.signing, coordinator.clock.now - 100, max_epsilon=8.0)
    new = offer_text("north", site.signing, coordinator.clock.now, max_epsilon=1.0)
    _announce(enrolment, new)
    _announce(enrolment, old)
    assert enrolment.state.store.site("north").offer == new


@pytest.mark.parametrize("revoked", [True, False])
def test_who_is_not_enrolled_can_offer_nothing(enrolment, coordinator, revoked):
    site, _, _ = _joined(enrolment)
    if revoked:
        enrolment.state.revoke(enrolment.state.store.site("north"))
    with pytest.raises(DeploymentError, match="FK736"):
        _announce(enrolment, offer_text("north" if revoked else "west", site.signing, coordinator.clock.now))


def test_a_stranger_hears_of_a_site_that_takes_part_what_it_hears_of_one_that_does_not(enrolment, coordinator):
    _joined(enrolment)
    revoked, _, _ = _joined(enrolment, "south")
    enrolment.state.revoke(enrolment.state.store.site("south"))
    told, stranger = [], new_signing_key()
    for name in ("north", "south", "west"):
        with pytest.raises(DeploymentError) as refused:
            _announce(enrolment, offer_text(name, stranger, coordinator.clock.now))
        told.append((refused.value.code, refused.value.message, refused.value.remedy))
    assert len(set(told)) == 1 and told[0][0] == "FK736"
    with pytest.raises(DeploymentError, match="revoked"):
        _announce(enrolment, offer_text("south", revoked.signing, coordinator.clock.now))


def test_whoever_guesses_names_has_to_wait_and_a_site_behind_the_same_address_does_not(enrolment, coordinator):
    site, _, _ = _joined(enrolment)
    for number in range(10):
        with pytest.raises(DeploymentError, match="FK736"):
            _announce(enrolment, offer_text(f"hospital{number}", new_signing_key(), coordinator.clock.now))
    with pytest.raises(DeploymentError, match="FK717"):
        _announce(enrolment, offer_text("north", new_signing_key(), coordinator.clock.now))
    assert _announce(enrolment, offer_text("north", site.signing, coordinator.clock.now))["wire"]


@pytest.mark.parametrize("hours", [0, -1, 1e9])
def test_an_invitation_for_ever_is_refused(coordinator, hours):
    with pytest.raises(DeploymentError, match="FK707"):
        invite(coordinator.state, "north", hours)


def test_a_name_that_was_enrolled_before_joins_with_its_ledgers_or_says_that_they_are_empty(enrolment):
    _joined(enrolment)
    made = invite(enrolment.state, "north", 72)
    _refused(enrolment, new_site().request("north", made.secret, again=False), "FK737")
    enrolment.state.revoke(enrolment.state.store.site("north"))
    made = invite(enrolment.state, "north", 72)
    _refused(enrolment, new_site().request("north", made.secret, again=False), "FK737")
    enrolment.join(new_site().request("north", made.secret, again=True), "192.0.2.9")
    first = invite(enrolment.state, "south", 72)
    enrolment.join(new_site().request("south", first.secret, again=False), "192.0.2.9")
