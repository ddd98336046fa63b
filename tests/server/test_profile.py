"""What a user's profile believes of CAs: the coordinator's key in force, and none that was replaced before."""

import time

import pytest
from fedkit_server.pki import certificate_fingerprint, make_ca
from fedkit_server.profile import open_profile, take_authorities, write_profile
from fedkit_server.tokens import new_token

from fedkit.errors import FederationError
from fedkit.federation import statements
from fedkit.federation.authority import add_authority, signed_anew
from fedkit.storage.keys import new_signing_key


def test_a_key_that_was_replaced_names_no_further_ca_by_an_older_keyring(tmp_path):
    root, stolen, newer, now = new_signing_key(), new_signing_key(), new_signing_key(), time.time()
    first = make_ca("heart").certificate
    federation = certificate_fingerprint(first)
    write_profile(
        tmp_path / "ana", address="localhost:1", name="ana", root=root.fingerprint, ca=first, token=new_token()
    )
    profile = open_profile(tmp_path / "ana")
    before = statements.start(federation, "ana", root, stolen.public, now)
    after = statements.replace_coordinator(before, newer.public, stolen, now)

    def grown(chain, key, number):
        return add_authority(chain, federation, make_ca("heart", number=number).certificate.decode(), 2**40, key, now)

    chain = grown((), stolen, 2)
    assert take_authorities(profile, [each.text for each in chain], before) == 1
    # The key is replaced, and with it a further CA is named: both are known to the user from now on.
    chain = grown(signed_anew(chain, newer), newer, 3)
    assert take_authorities(profile, [each.text for each in chain], after) == 1
    thiefs = grown(chain, stolen, 4)
    with pytest.raises(FederationError, match=r"FK544.*older state"):
        take_authorities(profile, [each.text for each in thiefs], before)
    assert len(profile.authorities()) == 2
    assert take_authorities(profile, [each.text for each in chain], after) == 0
