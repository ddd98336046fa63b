"""Compile the C files beside this one; uses the standard library alone, for a build has nothing else."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = "kernels_base.so"
"""For every processor of the family; it also tells which other file this one can run."""
WIDE = "kernels_wide.so"
"""x86-64 with AVX2; the results are the same, bit for bit."""
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
# A product and a sum that are rounded once on one processor and twice on another would be two results.
_EXACT = "-ffp-contract=off"


def sources() -> str:
    """A digest of the C files: a library that was made from others is not used.

    Raises:
        OSError: they cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def compiler() -> list[str] | None:
    """The command that compiles C here: ``CC`` where it is set, else the first of cc, gcc and clang."""
    asked = os.environ.get("CC")
    if asked:
        command = shlex.split(asked)
        return command if command and shutil.which(command[0]) else None
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    return [found] if found else None


def compile_into(folder: Path) -> list[Path]:
    """Compile for this kind of machine.

    Returns:
        The libraries, none where there is no compiler or it fails, which is said on stderr.
    """
    command = compiler()
    if command is None:
        sys.stderr.write("fedkit: no C compiler (cc, gcc, clang): installed without compiled code\n")
        return []
    wanted: dict[str, list[str]] = {BASE: []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        wanted[WIDE] = ["-march=x86-64-v3"]
    return [path for name, flags in wanted.items() if (path := _compiled(command, flags, folder / name))]


def _compiled(command: list[str], flags: list[str], target: Path) -> Path | None:
    files = [str(path) for path in sorted(HERE.glob("*.c"))]
    with tempfile.TemporaryDirectory() as scratch:
        # Put in place whole: another process may be using the one that is there.
        made = Path(scratch) / target.name
        define = f'-DFEDKIT_SOURCES="{sources()}"'
        try:
            done = subprocess.run(
                [*command, *_FLAGS, _EXACT, *flags, define, "-o", str(made), *files, "-lm"],
                capture_output=True,
                text=True,
                timeout=300,
            )
            told = done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            told = str(error)
        if not made.exists():
            sys.stderr.write(f"fedkit: {shlex.join(command)} did not make {target.name}: {told.strip()[-500:]}\n")
            return None
        beside = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, beside)
        os.replace(beside, target)
    return target


def wheel_tag() -> str:
    """Of a wheel with libraries inside: any Python 3, this kind of machine."""
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in compile_into(HERE))
