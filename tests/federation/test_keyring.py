import base64
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation import statements
from fedkit.federation.envelope import read, seal
from fedkit.federation.keyring import GENESIS, MOST_ROTATIONS, MOST_STATEMENTS, RESERVED, extend, open_keyring
from fedkit.storage.keys import fingerprint, new_signing_key
from tests.federation.signers import COORDINATOR, FEDERATION, NOW, OPERATOR, OTHER, ROOT, VIEWER, keyring

KNOWN = keyring()
PINS = {"federation": FEDERATION, "root": ROOT.fingerprint}


def refused(code, function, *given, **named):
    with pytest.raises(FederationError) as caught:
        function(*given, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def forged(signer, after=KNOWN, /, **changes):
    """A statement that this key signs, whatever the rules."""
    values = {
        "federation": after.federation, "serial": len(after.statements), "previous": after.head, "action": "add",
        "name": "eve", "role": "admin", "key": base64.b64encode(OTHER.public).decode(), "issued_at": int(NOW),
    }  # fmt: skip
    return seal("keyring", {**values, **changes}, signer).text


def test_a_chain_says_the_same_to_whoever_reads_it_from_the_start():
    assert open_keyring(KNOWN.statements, **PINS, coordinator=COORDINATOR.fingerprint) == KNOWN
    assert {member.name: member.role for member in KNOWN.members.values()} == {
        "ana": "admin", "bo": "operator", "vi": "viewer",
    }  # fmt: skip
    assert KNOWN.coordinator == COORDINATOR.public


def test_every_prefix_extends_to_the_whole_and_never_back():
    for length in range(1, len(KNOWN.statements)):
        part = open_keyring(KNOWN.statements[:length], **PINS)
        assert extend(part, KNOWN.statements) == KNOWN
        assert "older state" in refused("FK544", extend, KNOWN, KNOWN.statements[:length])
    assert extend(KNOWN, KNOWN.statements) == KNOWN
    refused("FK544", extend, KNOWN, [])


def test_a_revocation_that_was_seen_stays():
    after = statements.revoke(KNOWN, "bo", ROOT, NOW)
    assert "revoked" in refused("FK541", after.signer, OPERATOR.fingerprint, "viewer")
    fork = statements.add(KNOWN, "cy", "viewer", OTHER.public, ROOT, NOW)
    for other in (KNOWN, fork):
        refused("FK544", extend, after, other.statements)
    refused("FK544", statements.add, after, "bo", "operator", OPERATOR.public, ROOT, NOW)
    back = statements.add(after, "bo", "operator", OTHER.public, ROOT, NOW)
    assert back.signer(OTHER.fingerprint, "operator").name == "bo"


@pytest.mark.parametrize("signer", [OPERATOR, VIEWER, COORDINATOR, OTHER])
@pytest.mark.parametrize("action", ["add", "revoke"])
def test_only_an_admin_adds_and_revokes(signer, action):
    target = {"name": "vi", "role": "viewer", "key": base64.b64encode(VIEWER.public).decode()}
    changes = {"action": action, **(target if action == "revoke" else {})}
    refused("FK541", extend, KNOWN, (*KNOWN.statements, forged(signer, **changes)))


def test_a_new_admin_is_one_until_revoked():
    both = statements.add(KNOWN, "cy", "admin", OTHER.public, ROOT, NOW)
    alone = statements.revoke(both, "ana", OTHER, NOW)
    assert [member.name for member in alone.members.values()] == ["bo", "vi", "cy"]
    refused("FK541", statements.revoke, alone, "bo", ROOT, NOW)
    assert "last admin" in refused("FK544", statements.revoke, alone, "cy", OTHER, NOW)


def test_a_rotation_is_by_the_old_key_and_keeps_name_and_role():
    new = new_signing_key()
    after = statements.rotate(KNOWN, new.public, OPERATOR, NOW)
    assert (after.named("bo").public, after.named("bo").role) == (new.public, "operator")
    refused("FK541", after.signer, OPERATOR.fingerprint, "viewer")
    for changes in ({"name": "bo", "role": "admin"}, {"name": "ana", "role": "operator"}):
        refused("FK544", extend, KNOWN, (*KNOWN.statements, forged(OPERATOR, action="rotate", **changes)))
    refused("FK544", statements.rotate, KNOWN, VIEWER.public, OPERATOR, NOW)


def rotated(ring, key, times):
    for _ in range(times):
        new = new_signing_key()
        ring, key = statements.rotate(ring, new.public, key, NOW), new
    return ring, key


def test_a_user_who_rotates_without_end_is_refused_and_an_admin_still_revokes_and_adds():
    ring, key = rotated(KNOWN, VIEWER, MOST_ROTATIONS)
    assert "20 times" in refused("FK544", statements.rotate, ring, OTHER.public, key, NOW)
    assert open_keyring(ring.statements, **PINS).named("vi").rotations == MOST_ROTATIONS
    ring = statements.revoke(ring, "vi", ROOT, NOW)
    ring = statements.add(ring, "vi", "viewer", OTHER.public, ROOT, NOW)
    assert rotated(ring, OTHER, 1)[0].named("vi").rotations == 1


def test_the_end_of_a_chain_is_left_to_admins():
    full = replace(KNOWN, statements=("{}",) * (MOST_STATEMENTS - RESERVED - 1) + KNOWN.statements[-1:])
    for key in (VIEWER, OPERATOR):
        assert "admins" in refused("FK544", statements.rotate, full, OTHER.public, key, NOW)
    assert statements.rotate(full, OTHER.public, ROOT, NOW).named("ana").public == OTHER.public
    assert "vi" not in [member.name for member in statements.revoke(full, "vi", ROOT, NOW).members.values()]
    assert statements.replace_coordinator(full, OTHER.public, COORDINATOR, NOW).coordinator == OTHER.public
    shorter = replace(full, statements=full.statements[1:])
    assert statements.rotate(shorter, OTHER.public, VIEWER, NOW).named("vi").public == OTHER.public


def test_the_coordinator_is_replaced_by_its_old_key_or_an_admin():
    for signer in (COORDINATOR, ROOT):
        after = statements.replace_coordinator(KNOWN, OTHER.public, signer, NOW)
        assert after.coordinator == OTHER.public
        refused("FK541", statements.replace_coordinator, after, new_signing_key().public, COORDINATOR, NOW)
        refused("FK541", open_keyring, after.statements, **PINS, coordinator=COORDINATOR.fingerprint)
    for signer in (OPERATOR, VIEWER, OTHER):
        refused("FK541", statements.replace_coordinator, KNOWN, OTHER.public, signer, NOW)


def test_the_second_statement_and_no_other_introduces_the_coordinator():
    first = open_keyring(KNOWN.statements[:1], **PINS)
    refused("FK544", extend, first, (*first.statements, forged(ROOT, first)))
    assert first.coordinator == b""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"federation": fingerprint(b"another")}, "FK542"),
        ({"serial": 2}, "FK544"),
        ({"serial": 5}, "FK544"),
        ({"previous": GENESIS}, "FK544"),
        ({"action": "root"}, "FK544"),
        ({"action": "sudo"}, "FK544"),
        ({"role": "owner"}, "FK544"),
        ({"role": "coordinator"}, "FK544"),
        ({"name": "bo"}, "FK544"),
        ({"name": "coordinator"}, "FK544"),
        ({"name": "a b"}, "FK544"),
        ({"name": "../x"}, "FK544"),
        ({"name": "a" * 65}, "FK544"),
        ({"key": base64.b64encode(VIEWER.public).decode()}, "FK544"),
        ({"key": base64.b64encode(COORDINATOR.public).decode()}, "FK544"),
        ({"key": "AAAA"}, "FK540"),
        ({"key": "no base64"}, "FK540"),
        ({"issued_at": 1.5}, "FK540"),
        ({"extra": 1}, "FK540"),
        ({"action": "revoke", "name": "bo", "role": "viewer"}, "FK544"),
    ],
)
def test_a_statement_that_the_rules_forbid_is_refused_though_an_admin_signed_it(changes, code):
    refused(code, extend, KNOWN, (*KNOWN.statements, forged(ROOT, **changes)))


def test_another_root_or_federation_is_not_the_pinned_one():
    theirs = statements.start(FEDERATION, "ana", OTHER, COORDINATOR.public, NOW)
    assert "pinned" in refused("FK541", open_keyring, theirs.statements, **PINS)
    refused("FK542", open_keyring, KNOWN.statements, federation=fingerprint(b"b"), root=ROOT.fingerprint)
    # A self-signed root whose key is not the one that signed it.
    mixed = forged(OTHER, serial=0, previous=GENESIS, action="root", key=base64.b64encode(ROOT.public).decode())
    refused("FK541", open_keyring, [mixed], federation=FEDERATION, root=OTHER.fingerprint)


def test_a_chain_is_neither_empty_nor_endless():
    refused("FK544", open_keyring, [], **PINS)
    refused("FK544", open_keyring, KNOWN.statements * MOST_STATEMENTS, **PINS)
    refused("FK544", extend, KNOWN, KNOWN.statements * MOST_STATEMENTS)


@given(st.permutations(range(len(KNOWN.statements))), st.integers(1, len(KNOWN.statements)))
def test_a_chain_in_another_order_or_with_a_gap_is_refused(order, length):
    chosen = order[:length]
    if chosen == list(range(length)):
        return
    with pytest.raises(FederationError):
        open_keyring([KNOWN.statements[index] for index in chosen], **PINS)


@given(st.integers(0, len(KNOWN.statements) - 1), st.data())
@settings(max_examples=200)
def test_any_changed_letter_of_any_statement_is_refused(index, data):
    text = KNOWN.statements[index]
    position = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(exclude_categories=("Cs",), exclude_characters=text[position]))
    changed = [*KNOWN.statements]
    changed[index] = text[:position] + letter + text[position + 1 :]
    with pytest.raises(FederationError) as caught:
        open_keyring(changed, **PINS)
    assert caught.value.code in ("FK540", "FK541")
    refused("FK544", extend, KNOWN, changed)


def test_roles_contain_the_lower_ones():
    assert KNOWN.signer(ROOT.fingerprint, "operator").name == "ana"
    assert "bo is operator; admin is needed" in refused("FK541", KNOWN.signer, OPERATOR.fingerprint, "admin")
    assert "vi is viewer; operator is needed" in refused("FK541", KNOWN.signer, VIEWER.fingerprint, "operator")
    assert "orders and nothing else" in refused("FK541", KNOWN.signer, COORDINATOR.fingerprint, "viewer")
    assert "is not known" in refused("FK541", KNOWN.signer, OTHER.fingerprint, "viewer")
    assert "name one of ana, bo, vi" in refused("FK541", KNOWN.named, "zed")


def test_the_head_names_the_newest_statement():
    heads = [open_keyring(KNOWN.statements[:length], **PINS).head for length in range(1, 5)]
    assert len(set(heads)) == 4
    assert read(KNOWN.statements[2]).payload.count(heads[1]) == 1
