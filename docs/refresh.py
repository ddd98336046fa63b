"""Run the README's commands and write what they print into it: ``python docs/refresh.py [--check] [README.md]``.

A block is a fence right after a comment, and each kind has one source of truth:

    <!-- output: COMMAND -->   what COMMAND prints on stdout, run in one scratch folder from top to bottom. In it RUN
                               stands for the newest run folder, RUN1, RUN2, ... for the first, the second, ...
    <!-- file: PATH -->        a file for the commands below: written into the scratch folder as the README has it
    <!-- source: PATH -->      a file of the repository, copied into the README and the scratch folder

The first run's report becomes docs/report.png where a browser is found. ``--check`` runs only the commands that take
no time (help texts and config lists), writes nothing, and says what differs.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"^<!-- (?P<kind>output|file|source): (?P<what>.+?) -->\n"
    r"(?P<fence>`{3,})(?P<language>\w*)\n(?P<body>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
MARKER = re.compile(r"^<!-- (?:output|file|source): ", re.MULTILINE)
CHEAP = re.compile(r"fedkit( \w+)* --help|fedkit config (list|show)[^|;&>]*")
VOLATILE = (
    (re.compile(r"\d{8}-\d{6}"), "TIME"),
    (re.compile(r"(\d+ min )?\d+(\.\d+)? s\b"), "SECONDS"),
    (re.compile(r'("seconds": )[\d.]+'), r"\1SECONDS"),
)


@dataclass(frozen=True)
class Block:
    """A block of the README: ``kind`` output | file | source, and the text between its fences."""

    kind: str
    what: str
    body: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """Every block, in order.

    Raises:
        ValueError: a marker without a fence right after it.
    """
    found = [Block(m["kind"], m["what"], m["body"], m.start("body"), m.end("body")) for m in BLOCK.finditer(text)]
    if len(found) != len(MARKER.findall(text)):
        raise ValueError("a marker has no fenced block right after it")
    return found


def normal(text: str) -> str:
    """The text without what differs from run to run: times of day in run names, seconds.

    >>> normal("runs/20260101-120000-heart_disease in 3.2 s")
    'runs/TIME-heart_disease in SECONDS'
    """
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    return text


def run_folders(scratch: Path) -> list[str]:
    """Run folders made so far, oldest first."""
    found = [path.parent for path in scratch.glob("runs/*/manifest.json")]
    return [f"runs/{path.name}" for path in sorted(found)]


def output(command: str, scratch: Path) -> str:
    """Run one command as a reader would and return ``$ command`` and what it printed."""
    runs = run_folders(scratch)

    def folder(match: re.Match[str]) -> str:
        return runs[int(match[1]) - 1 if match[1] else -1]

    command = re.sub(r"\bRUN(\d*)\b", folder, command)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FEDKIT")}
    variables |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    variables |= {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=scratch,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    return f"$ {command}\n" + (f"{printed}\n" if printed else "")


def fresh(text: str, scratch: Path, *, cheap: bool = False) -> Iterator[tuple[Block, str]]:
    """Each block with the body that it should have.

    Args:
        cheap: skip the commands that take time.
    """
    for block in blocks(text):
        if block.kind == "source":
            body = (ROOT / block.what).read_text(encoding="utf-8")
            (scratch / Path(block.what).name).write_text(body, encoding="utf-8")
            yield block, body
        elif block.kind == "file":
            path = scratch / block.what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
        elif not cheap or CHEAP.fullmatch(block.what):
            yield block, output(block.what, scratch)


def check(readme: Path) -> list[str]:
    """Differences between the README and what its cheap commands print now; none is the wish."""
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        for block, body in fresh(readme.read_text(encoding="utf-8"), Path(scratch), cheap=True):
            if normal(block.body) != normal(body):
                lines = difflib.unified_diff(block.body.splitlines(), body.splitlines(), "README", "now", lineterm="")
                problems.append(f"{block.kind}: {block.what}\n" + "\n".join(lines))
    return problems


def refresh(readme: Path) -> list[str]:
    """Write what the commands print into the README; returns the blocks that changed.

    A body that differs only in what is volatile stays as it is, so that a refresh without news changes nothing.
    """
    text, changed, shift = readme.read_text(encoding="utf-8"), [], 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for block, body in fresh(text, scratch):
            print(f"{block.kind}: {block.what}", flush=True)
            if normal(block.body) == normal(body):
                continue
            changed.append(block.what)
            text = text[: block.start + shift] + body + text[block.end + shift :]
            shift += len(body) - (block.end - block.start)
        readme.write_text(text, encoding="utf-8")
        if runs := run_folders(scratch):
            script = ROOT / "docs" / "screenshot.py"
            subprocess.run([sys.executable, script, scratch / runs[0], ROOT / "docs" / "report.png"], check=True)
    return changed


def main(arguments: list[str]) -> int:
    """Refresh or check the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", nargs="?", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="run only what takes no time; write nothing")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        problems = check(chosen.readme)
        print("\n".join(problems) or "README.md is in step")
        return 1 if problems else 0
    changed = refresh(chosen.readme)
    print(f"{len(changed)} blocks changed" + "".join(f"\n  {what}" for what in changed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
