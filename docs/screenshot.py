"""Take the README's picture of a report: ``python docs/screenshot.py runs/TIME-NAME [docs/report.png]``.

Needs chromium, or another of its family named by ``CHROMIUM=...``; without one the picture in place is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedkit.errors import FedkitError
from fedkit.reporting.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH, HEIGHT = 1200, 1130


def browser() -> str | None:
    """Path of a browser that can take pictures without a screen."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def picture(page: Path, image: Path, program: str) -> None:
    """Render the top of a page into a PNG.

    Raises:
        subprocess.CalledProcessError: the browser failed.
    """
    with tempfile.TemporaryDirectory() as profile:
        # A copy: a confined browser (snap) may not read where the run lies.
        copy = Path(profile) / "report.html"
        copy.write_bytes(page.read_bytes())
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            f"--user-data-dir={profile}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={image.resolve()}",
            copy.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def take_pictures(take: Callable[[str, Path], Sequence[Path]], doc: str | None, arguments: list[str]) -> int:
    """What the scripts for the pictures of pages share: the words of a command, and what there is without a browser.

    Args:
        take: (browser, folder) -> the pictures. doc: says how the script is used.
    """
    if len(arguments) > 1:
        print(doc, file=sys.stderr)
        return 2
    program = browser()
    if program is None:
        print("no chromium found: the pictures are left as they are", file=sys.stderr)
        return 0
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    for made in take(program, Path(arguments[0]) if arguments else Path(__file__).parent):
        print(f"{made}: {made.stat().st_size // 1024} KiB")
    return 0


def main(arguments: list[str]) -> int:
    """Write the report of a run again and take its picture."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    image = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).parent / "report.png"
    try:
        page = write_report(Path(arguments[0]))
    except FedkitError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    program = browser()
    if program is None:
        print(f"no chromium found: {image} is left as it is", file=sys.stderr)
        return 0
    picture(page, image, program)
    print(f"{image}: {image.stat().st_size // 1024} KiB, from {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
