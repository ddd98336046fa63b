import os
import signal
import tempfile

from fedkit.simulation.ray_environment import environment, handlers_kept, short_folder, store_bytes, token


def test_variables_are_as_they_were_afterwards_also_those_that_ray_set(monkeypatch):
    monkeypatch.setenv("FEDKIT_TEST_A", "mine")
    monkeypatch.setenv("FEDKIT_TEST_B", "mine")
    monkeypatch.delenv("FEDKIT_TEST_C", raising=False)
    with environment({"FEDKIT_TEST_A": "its"}, ("FEDKIT_TEST_B", "FEDKIT_TEST_C")):
        assert os.environ["FEDKIT_TEST_A"] == "its" and "FEDKIT_TEST_B" not in os.environ
        os.environ["FEDKIT_TEST_C"] = "set meanwhile"
    assert os.environ["FEDKIT_TEST_A"] == os.environ["FEDKIT_TEST_B"] == "mine" and "FEDKIT_TEST_C" not in os.environ


def test_sigterm_is_whoses_it_was_afterwards():
    def mine(*_):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_folder_for_sockets_is_short_wherever_temporary_folders_go(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/a/very/long/folder/for/temporary/things")
    assert short_folder() == "/tmp"
    monkeypatch.setattr(tempfile, "tempdir", "/scratch")
    assert short_folder() is None


def test_a_token_is_long_and_one_a_process():
    assert len(bytes.fromhex(token())) == 32 and token() == token()
    assert store_bytes() >= 80 << 20
