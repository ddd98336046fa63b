from __future__ import annotations

import logging

from fedkit_server import logs
from fedkit_server.tokens import Brake, looks_like_token, new_token, owner, token_hash

from fedkit.federation.invite import PREFIX as INVITE


def test_a_tokens_owner_is_found_by_its_hash_and_nobody_by_another():
    token = new_token()
    known = [(token_hash(new_token()), "ben"), (token_hash(token), "anna")]
    assert owner(token, known) == "anna"
    assert owner(new_token(), known) is None
    assert owner("", known) is None
    assert owner("\udcff", known) is None


def test_a_token_is_in_no_hash():
    token = new_token()
    assert looks_like_token(token)
    assert token.split(".")[1] not in token_hash(token)


def test_an_address_waits_after_its_failures_and_no_other_does():
    now = [0.0]
    brake = Brake(most=3, seconds=60.0, clock=lambda: now[0])
    for _ in range(3):
        assert not brake.holds("a")
        brake.failed("a")
    assert brake.holds("a") and not brake.holds("b")
    now[0] = 61.0
    assert not brake.holds("a")


def test_no_log_holds_a_token_or_an_invitation(tmp_path):
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    token, line = new_token(), f"{INVITE}abcDEF-_123"
    try:
        logs.configure(tmp_path / "server.log", screen=False)
        try:
            raise ValueError(f"bad {token}")
        except ValueError:
            logging.getLogger("fedkit.test").exception("of %s and %s", token, line)
        for handler in root.handlers:
            handler.close()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
    text = (tmp_path / "server.log").read_text()
    assert "[secret]" in text
    assert token not in text and line not in text
    assert (tmp_path / "server.log").stat().st_mode & 0o077 == 0
