"""Run the README's commands and write what they print into it: ``python docs/refresh.py [--check] [PAGE.md...]``.

The pages are README.md, docs/own-table.md and docs/reference.md; their commands run one after another in one folder.

A block is a fence right after a comment, and each kind has one source of truth:

    <!-- output: COMMAND -->   what COMMAND prints on stdout, run in one scratch folder from top to bottom. In it RUN
                               stands for the newest run folder, RUN1, RUN2, ... for the first, the second, ..., and
                               JOB for the newest run of the coordinator that the README has started
    <!-- file: PATH -->        a file for the commands below: written into the scratch folder as the README has it
    <!-- source: PATH -->      a file of the repository, copied into the README and the scratch folder

The scratch folder has what the README's first commands find in a clone: the Makefile, the environment, the clients; its
own path is left out of what is printed. Coordinators and sites that are left in the background are ended. The first
run's report becomes docs/report.png where a browser is found. ``--check`` runs only the commands that take no time
(help texts and config lists), writes nothing, and says what differs.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in ("own-table.md", "reference.md")))
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
    (re.compile(r"(TIME-\w+)-[0-9a-f]{6}\b"), r"\1-ID"),
    (re.compile(r"sha256:[0-9a-f]{64}"), "FINGERPRINT"),
    (re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d UTC)?"), "DATE"),
    (re.compile(r"^\d\d:\d\d:\d\d", re.MULTILINE), "CLOCK"),
    (re.compile(r"(process|node) \d+"), r"\1 NUMBER"),
    (re.compile(r"(expires_at) [\d.e+]+"), r"\1 SECONDS"),
    (re.compile(r"\d+(\.\d+)? ?([GM]iB free|CPU seconds|min ago)"), r"SOME \2"),
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
    """The text without what differs from run to run: times, process numbers, fingerprints.

    >>> normal("runs/20260101-120000-heart_disease in 3.2 s")
    'runs/TIME-heart_disease in SECONDS'
    >>> normal("20260101-120000-heart_disease-0a1b2c: until 2026-01-01 12:00 UTC, process 71")
    'TIME-heart_disease-ID: until DATE, process NUMBER'
    """
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    return text


def run_folders(scratch: Path) -> list[str]:
    """Run folders made so far, oldest first."""
    found = [path.parent for path in scratch.glob("runs/*/manifest.json")]
    return [f"runs/{path.name}" for path in sorted(found)]


def job(scratch: Path) -> str:
    """The newest run of the coordinator."""
    return max(path.parent.name for path in scratch.glob("*/coordinator/runs/*/job.json"))


@contextmanager
def clone() -> Iterator[Path]:
    """A folder with what the first commands find in a clone; at the end, all that runs there is ended."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in ("Makefile", "clients"):
            (scratch / name).symlink_to(ROOT / name)
        (scratch / ".venv").mkdir()
        (scratch / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        # Newer than what it depends on: make installs nothing.
        for name in ("requirements.txt", "pyproject.toml"):
            (scratch / name).touch()
            os.utime(scratch / name, (0, 0))
        (scratch / ".venv" / ".runtime").touch()
        try:
            yield scratch
        finally:
            end(scratch)


def end(scratch: Path) -> None:
    """End the sites and coordinators of a folder."""
    for file in sorted(scratch.glob("*/*/enrolment.json")):
        _quietly("client", "stop", str(file.with_name("site.yaml")))
    for file in sorted(scratch.glob("*/*/server.json")):
        _quietly("server", "halt", str(file.parent))


def _quietly(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "fedkit", *words], stdout=subprocess.DEVNULL, check=True)


def output(command: str, scratch: Path) -> str:
    """Run one command as a reader would and return ``$ command`` and what it printed."""
    runs = run_folders(scratch)

    def folder(match: re.Match[str]) -> str:
        return runs[int(match[1]) - 1 if match[1] else -1]

    command = re.sub(r"\bRUN(\d*)\b", folder, command)
    command = re.sub(r"\bJOB\b", lambda _: job(scratch), command)
    # A make that runs this script must not speak in the output of one that the script runs.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FEDKIT", "MAKE", "MFLAGS"))}
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
    printed = "\n".join(line.rstrip() for line in done.stdout.replace(f"{scratch}/", "").splitlines())
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


def check(page: Path) -> list[str]:
    """Differences between a page and what its cheap commands print now; none is the wish."""
    problems = []
    with clone() as scratch:
        for block, body in fresh(page.read_text(encoding="utf-8"), scratch, cheap=True):
            if normal(block.body) != normal(body):
                lines = difflib.unified_diff(block.body.splitlines(), body.splitlines(), page.name, "now", lineterm="")
                problems.append(f"{block.kind}: {block.what}\n" + "\n".join(lines))
    return problems


def refresh(pages: Sequence[Path]) -> list[str]:
    """Write what the commands print into the pages; returns the blocks that changed."""
    changed = []
    with clone() as scratch:
        for page in pages:
            changed += write(page, scratch)
        if runs := run_folders(scratch):
            script = ROOT / "docs" / "screenshot.py"
            subprocess.run([sys.executable, script, scratch / runs[0], ROOT / "docs" / "report.png"], check=True)
    return changed


def write(page: Path, scratch: Path) -> list[str]:
    """The same for one page.

    A body that differs only in what is volatile stays as it is, so that a refresh without news changes nothing.
    """
    text, changed, shift = page.read_text(encoding="utf-8"), [], 0
    for block, body in fresh(text, scratch):
        print(f"{block.kind}: {block.what}", flush=True)
        if normal(block.body) == normal(body):
            continue
        changed.append(block.what)
        text = text[: block.start + shift] + body + text[block.end + shift :]
        shift += len(body) - (block.end - block.start)
    page.write_text(text, encoding="utf-8")
    return changed


def main(arguments: list[str]) -> int:
    """Refresh or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--check", action="store_true", help="run only what takes no time; write nothing")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        problems = [problem for page in chosen.pages for problem in check(page)]
        print("\n".join(problems) or "the pages are in step")
        return 1 if problems else 0
    changed = refresh(chosen.pages)
    print(f"{len(changed)} blocks changed" + "".join(f"\n  {what}" for what in changed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
