"""How a problem is worded: near misses are suggested, credentials are never repeated."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# User and password before a host. Greedy up to the last @, since passwords hold @ and / too.
_USERINFO = re.compile(r"://[^\s'\"]*:[^\s'\"]*@")
_NAMED_SECRET = re.compile(
    r"(?i)([a-z0-9_]*(?:password|passwd|passphrase|pwd|secret|token|api_?key))(=|%3d)[^\s'\"&;]*"
)


def holds_credentials(text: str) -> bool:
    """Say whether a text looks like a URL or connection string with a password in it.

    >>> holds_credentials("postgresql://reader:hunter2@db/clinic"), holds_credentials("postgresql://reader@db/clinic")
    (True, False)
    """
    connects = "://" in text or "odbc" in text.lower()  # a query may well have a column called token
    return bool(_USERINFO.search(text) or (connects and _NAMED_SECRET.search(text)))


def names_a_secret(text: str) -> bool:
    """Say whether a text holds ``password=...`` or the like, connection string or not.

    >>> names_a_secret("select * from dblink('host=db password=hunter2')"), names_a_secret("select pwd from t")
    (True, False)
    """
    return bool(_NAMED_SECRET.search(text))


def redacted(text: str) -> str:
    """Return the text without anything that looks like a credential.

    >>> redacted("cannot read postgresql://reader:hunter2@db/clinic")
    'cannot read postgresql://***@db/clinic'
    """
    return _NAMED_SECRET.sub(r"\1\2***", _USERINFO.sub("://***@", text))


def shown(value: object) -> str:
    """Return a value as it may stand in a message: short, on one line, without credentials."""
    text = redacted(value if isinstance(value, str) else repr(value)).replace("\n", " ")
    text = text if len(text) <= 60 else text[:57] + "..."
    return repr(text) if isinstance(value, str) else text


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all of them.

    >>> suggestion("epsilom", ["epsilon", "delta"])
    "did you mean 'epsilon'?"
    >>> suggestion("x", ["epsilon", "delta"])
    'known are delta, epsilon'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near := near or [name for name in names if len(word) > 2 and name.startswith(word)]:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(names)}" if names else "there is none"
