from fedkit.federation import statements
from fedkit.federation.users import users
from fedkit.storage.keys import new_signing_key
from tests.federation.signers import NOW, ROOT, keyring


def test_a_list_of_users_says_when_each_came_changed_their_key_and_went():
    ring, (before) = keyring(), users(keyring())
    assert {user.key for user in before if user.revoked_at is None} == set(ring.members)
    first, second, third = (new_signing_key() for _ in range(3))
    ring = statements.add(ring, "cleo", "viewer", first.public, ROOT, NOW + 1)
    ring = statements.rotate(ring, second.public, first, NOW + 2)
    ring = statements.revoke(ring, "cleo", ROOT, NOW + 3)
    ring = statements.add(ring, "cleo", "operator", third.public, ROOT, NOW + 4)
    old, new = [user for user in users(ring) if user.name == "cleo"]
    assert (old.role, old.key, old.since, old.rotated_at, old.revoked_at) == (
        "viewer", second.fingerprint, NOW + 1, NOW + 2, NOW + 3,
    )  # fmt: skip
    assert (new.role, new.key, new.since, new.revoked_at) == ("operator", third.fingerprint, NOW + 4, None)
    assert {user.key for user in users(ring) if user.revoked_at is None} == set(ring.members)
