"""The environment of the peers: what is in it, what is missing, and the command that makes it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
MAKE = "make bench-peers"
NEEDS: Mapping[str, Sequence[str]] = {
    "flower": ("flwr", "ray", "opacus", "torch"),
    "pfl": ("pfl", "opacus", "torch"),
}
_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter, and the versions of what it has.

    Attributes:
        missing: peer to why it cannot be run.
    """

    python: Path
    versions: Mapping[str, str]
    missing: Mapping[str, str]


def look(python: Path = PYTHON) -> Environment:
    """What an interpreter has of the peers' packages; nothing is imported and nothing installed."""
    wanted = sorted({package for packages in NEEDS.values() for package in packages})
    try:
        done = subprocess.run([str(python), "-c", _ASK, *wanted], capture_output=True, text=True, timeout=60)
    except OSError:
        why = f"there is no environment of the peers ({python}); {MAKE} makes it"
        return Environment(python, {}, dict.fromkeys(NEEDS, why))
    if done.returncode:
        why = f"{python} does not run: {done.stderr.strip()[-300:]}; {MAKE} makes it anew once its folder is removed"
        return Environment(python, {}, dict.fromkeys(NEEDS, why))
    versions: dict[str, str] = json.loads(done.stdout)
    missing = {}
    for peer, packages in NEEDS.items():
        if lacking := [package for package in packages if package not in versions]:
            missing[peer] = f"{python} lacks {', '.join(lacking)}; {MAKE} installs what is pinned"
    return Environment(python, versions, missing)


def refusal(missing: Mapping[str, str]) -> str:
    """Why nothing is written where peers are missing."""
    return f"--write needs every peer; the tables stay as they are. Missing: {', '.join(missing)}; {MAKE} brings them"


def with_ray() -> bool:
    """Whether fedkit's own environment has Ray, and fedkit a federation over it."""
    from importlib.util import find_spec

    from fedkit.config.compose import compose
    from fedkit.errors import FedkitError

    if find_spec("ray") is None:
        return False
    try:
        compose(None, ["federation=ray"])
    except FedkitError:
        return False
    return True
