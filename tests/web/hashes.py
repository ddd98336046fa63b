"""Hashes of next to no cost, for tests that log in often."""

import pytest

from fedkit.web import passwords


@pytest.fixture
def cheap_hashes(monkeypatch):
    """As the real ones, but for their cost."""
    from argon2 import PasswordHasher

    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    passwords.decoy.cache_clear()
    yield
    passwords.decoy.cache_clear()
