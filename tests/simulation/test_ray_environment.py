import os
import signal
import threading

import pytest

from fedkit.simulation.ray_environment import environment, handlers_kept, same_place, signals_held, store_bytes, token


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


def held(*steps):
    with signals_held():
        for step in steps:
            step()


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_a_signal_is_answered_once_what_must_not_be_half_done_is_done():
    done, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        held(interrupt, lambda: done.append("all of it"))
    assert done and signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_is_answered_at_once():
    done, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        held(interrupt, interrupt, lambda: done.append("too late"))
    assert not done and signal.getsignal(signal.SIGINT) is before


def test_an_error_does_not_swallow_a_signal_and_threads_hold_none():
    with pytest.raises(KeyboardInterrupt):
        held(interrupt, lambda: 1 / 0)
    before, seen = signal.getsignal(signal.SIGINT), []

    thread = threading.Thread(target=held, args=(lambda: seen.append(signal.getsignal(signal.SIGINT)),))
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_place_is_itself_by_any_name_of_its_host():
    assert same_place("localhost:6379", "127.0.0.1:6379") and same_place(
        "no.such.host.invalid:1", "no.such.host.invalid:1"
    )
    assert not same_place("localhost:6379", "localhost:6380") and not same_place(
        "no.such.host.invalid:1", "127.0.0.1:1"
    )


def test_a_token_is_long_and_one_a_process():
    assert len(bytes.fromhex(token())) == 32 and token() == token()
    assert store_bytes() >= 80 << 20
