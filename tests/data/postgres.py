"""A PostgreSQL server of a test's own, from the distribution's programs: a socket in a folder, no network."""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def absent() -> str | None:
    """Why there can be no server, if there cannot."""
    if importlib.util.find_spec("psycopg") is None:
        return "the driver psycopg is not installed (pip install 'fedkit[postgresql]')"
    if _programs() is None:
        return "initdb and pg_ctl are not installed (the distribution's package postgresql)"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses root, and there is no user postgres or nobody"
    return None


@contextmanager
def server() -> Iterator[str]:
    """A server that lives as long as the block: its URL for SQLAlchemy."""
    programs, user = _programs(), _user()
    assert programs is not None
    # Not under pytest's folder, which only its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="fedkit-pg-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *words: str) -> None:
        given = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
        command = [str(programs / program), *words]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, **given,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}"

    try:
        data = str(folder / "data")
        run("initdb", "-D", data, "-U", "site", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-t", "60", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://site@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    folders += [Path(found) for found in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((each for each in folders if (each / "initdb").exists() and (each / "pg_ctl").exists()), None)


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as, where this process is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
