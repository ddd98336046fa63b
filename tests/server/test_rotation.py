from __future__ import annotations

import pytest
from fedkit_server import folder as folders
from fedkit_server import pki, rotation

from fedkit.federation.keyring import extend
from fedkit.storage.keys import fingerprint, new_signing_key
from tests.server.builders import make_server_folder


@pytest.fixture
def folder(tmp_path):
    return make_server_folder(tmp_path / "coordinator", new_signing_key())


def test_a_renewed_certificate_hangs_on_the_same_authority(folder):
    authority, before = folder.read(folder.ca), folder.read(folder.certificate)
    rotation.renew_certificate(folder, ["new.example", "192.0.2.1"])
    assert folder.read(folder.ca) == authority and folder.read(folder.certificate) != before
    assert folder.settings().hosts == ("new.example", "192.0.2.1")
    assert folder.settings().federation == pki.certificate_fingerprint(authority)


def test_sites_follow_a_new_coordinators_key_from_the_keyring_that_they_know(folder):
    known, old = folder.keyring(), folder.key().fingerprint
    new = rotation.renew_coordinator_key(folder, 1.0)
    assert new != old and folder.key().fingerprint == new
    assert fingerprint(extend(known, folder.keyring().statements).coordinator) == new
    assert not folder.next_coordinator_key.exists()
    assert folder.coordinator_key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut_after_keyring", [True, False])
def test_a_rotation_that_a_crash_cut_in_two_is_completed_or_taken_back(folder, monkeypatch, cut_after_keyring):
    old = folder.key().fingerprint

    def crash(*_):
        raise KeyboardInterrupt

    if cut_after_keyring:
        monkeypatch.setattr(rotation, "finish", crash)
    else:
        monkeypatch.setattr(folders.ServerFolder, "write_keyring", crash)
    with pytest.raises(KeyboardInterrupt):
        rotation.renew_coordinator_key(folder, 1.0)
    monkeypatch.undo()
    rotation.finish(folder)
    assert (folder.key().fingerprint == old) is not cut_after_keyring
    assert fingerprint(folder.keyring().coordinator) == folder.key().fingerprint
