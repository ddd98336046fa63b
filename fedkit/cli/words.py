"""Tells an experiment's name from overrides on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from fedkit.errors import ConfigError


def name_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``[NAME] [key=value ...]``; the name may stand anywhere.

    Raises:
        ConfigError: more than one word without ``=``.

    >>> name_and_overrides(["heart_disease", "privacy.epsilon=1"])
    ('heart_disease', ['privacy.epsilon=1'])
    """
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    if len(names) > 1:
        raise ConfigError(
            [
                f"{len(names)} experiment names are given ({', '.join(names)}); one is possible,"
                " and an override is written key=value"
            ],
            code="FK102",
        )
    return (names[0] if names else None), [word for word in words if word not in names]
