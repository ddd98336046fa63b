"""The bill of materials of an image: what cyclonedx-py found in it, with the hash of every file that was installed.

python sbom.py FOUND.json WHEELS... > sbom.json
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path


def _key(name: str, version: str) -> tuple[str, str]:
    return re.sub(r"[-_.]+", "-", name).lower(), version


def hashes(folders: list[Path]) -> dict[tuple[str, str], tuple[str, str]]:
    """The file and SHA-256 of every wheel in the folders, by name and version."""
    found = {}
    for wheel in sorted(file for folder in folders for file in folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        found[_key(name, version)] = (wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest())
    return found


def with_hashes(document: dict[str, object], wheels: dict[tuple[str, str], tuple[str, str]]) -> dict[str, object]:
    """The document with a hash at every component.

    Raises:
        SystemExit: A component was installed from no wheel that is known, so nobody could tell what it is.
    """
    unknown = []
    for component in document["components"]:  # type: ignore[attr-defined]
        wheel = wheels.get(_key(component["name"], component["version"]))
        if wheel is None:
            unknown.append(f"{component['name']} {component['version']}")
            continue
        component["hashes"] = [{"alg": "SHA-256", "content": wheel[1]}]
        component.setdefault("properties", []).append({"name": "fedkit:wheel", "value": wheel[0]})
    if unknown:
        sys.exit(f"sbom: installed from no known file: {', '.join(unknown)}")
    return document


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    known = hashes([Path(folder) for folder in sys.argv[2:]])
    print(json.dumps(with_hashes(found, known), indent=1))  # noqa: T201
