"""A database's URL: found where the source says, parsed, and never shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from fedkit.config.experiment import DataConfig
from fedkit.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL


def url_text(config: DataConfig) -> str:
    """A source's URL, wherever it is written.

    Raises:
        DataError: FK208, there is none, or it cannot be read.
    """
    # Sensitive: may hold a password; only `parsed_url` sees it.
    source = config.source
    given = [key for key in ("url", "url_env", "url_file") if getattr(source, key)]
    if len(given) != 1:
        raise DataError(
            f"source.kind is sql with {' and '.join(given) or 'no URL'}; exactly one is needed",
            code="FK208",
            remedy="set source.url_env to the name of an environment variable that holds the URL",
        )
    if source.url:
        return source.url
    if source.url_env:
        value = os.environ.get(source.url_env, "").strip()
        if not value:
            raise DataError(
                f"the environment variable {source.url_env} is not set", code="FK208", remedy="export it with the URL"
            )
        return value
    path = Path(source.url_file or "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        raise DataError(
            f"source.url_file {path} cannot be read", code="FK208", remedy="write the database's URL into it"
        ) from None


def parsed_url(text: str) -> URL:
    """A URL in its parts.

    Raises:
        DataError: FK208, it is none; FK201, a SQLite file that is not there.
    """
    from sqlalchemy.engine import make_url

    try:
        url = make_url(text)
    except Exception:
        # SQLAlchemy's message may hold the URL.
        raise DataError(
            "the database's URL cannot be parsed",
            code="FK208",
            remedy="write it as dialect+driver://user:password@host:port/database",
        ) from None
    if url.drivername.split("+")[0] == "sqlite" and url.database and url.database != ":memory:":
        # SQLite would make an empty database of a misspelt name.
        path = url.database.removeprefix("file:").partition("?")[0]
        if not Path(path).is_file():
            raise DataError(f"there is no SQLite file {path}", code="FK201", remedy="mend the URL's path")
    return url


def refuse_password(url: str) -> None:
    """Refuse ``source.url`` with a password in it: that key is printed in configs and manifests.

    Raises:
        DataError: FK208, without the URL.
    """
    parsed = parsed_url(url)
    if parsed.username is not None or parsed.password is not None or parsed.query:
        raise DataError(
            "source.url holds a user, a password or options, and configs and manifests are printed",
            code="FK208",
            remedy="set source.url_env or source.url_file instead",
        )


def secrets_of(url: URL) -> set[str]:
    """Every spelling of what must not be shown."""
    parts: list[Any] = [url.password, url.username]
    for value in url.query.values():
        parts += [value] if isinstance(value, str) else list(value)
    plain = {str(part) for part in parts if part}
    whole = {url.render_as_string(hide_password=False), url.render_as_string(hide_password=True)}
    return whole | plain | {quote(part, safe="") for part in plain} | {quote_plus(part) for part in plain}
