"""Built-in tables: licences, citations and how they were made are in this folder's README.md."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedkit.errors import DataError

# A literal, so that a changed table cannot pass for the cited one.
CHECKSUMS = {
    "heart_disease.csv": "907def608938ed9ec8113d9b9f02b87e84a9d9a5e309e295f27b10eb2de879c5",
    "breast_cancer.csv": "fefd0594fe431ad9205a996d0fb446ec2f093a41fbee00c6df7fcc29518b15c6",
    "diabetes.csv": "b4e9eebd4f09de1afaf1e0c38e8c180b18d3f031c0d641a580dab2e5c3e37c26",
    "digits.csv": "5b7ec5cd43ad9c096d4cbbd752fd7bf086d65c294fb19b7e7e89cb676b4a03d0",
}
FOLDER = Path(__file__).parent


def verified_path(name: str, folder: Path = FOLDER) -> Path:
    """Path of a built-in table whose bytes are the published ones.

    Args:
        name: file name, such as ``heart_disease.csv``.

    Returns:
        The file's path.

    Raises:
        DataError: FK201 for an unknown name, FK209 if the file is missing or its SHA-256 differs.

    >>> verified_path("heart_disease.csv").name
    'heart_disease.csv'
    """
    if name not in CHECKSUMS:
        raise DataError(
            f"there is no built-in table {name!r}", code="FK201", remedy=f"use one of {', '.join(sorted(CHECKSUMS))}"
        )
    path = folder / name
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
    if found != CHECKSUMS[name]:
        raise DataError(
            f"the built-in table {name} has SHA-256 {found[:12]}, expected {CHECKSUMS[name][:12]}",
            code="FK209",
            remedy="install fedkit again",
        )
    return path
