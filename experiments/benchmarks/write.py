"""What the benchmarks leave: a results file each, and the table between the markers of README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fedkit", "torch", "opacus", "flwr", "numpy")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; a ratio above 1 says that fedkit is faster than the peer."""
    lines = ["| work | peer | fedkit, ms | peer, ms | peer / fedkit | turns |", "|---|---|---:|---:|---:|---:|"]
    lines += [
        f"| {r['case']} | {r['peer']} | {r['fedkit_ms']:,} | {r['peer_ms']:,} |"
        f" **{r['ratio']:.2f}** ({r['least']:.2f} to {r['greatest']:.2f}) | {r['turns']} |"
        for r in results
    ]
    return "\n".join(lines)


def options(parser: argparse.ArgumentParser, quick: str) -> None:
    """The options of every benchmark that leaves a results file.

    Args:
        quick: what its small form is.
    """
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--write", action="store_true", help="write the results file and its section of README.md")
    parser.add_argument("--results", type=Path, help="a folder that gets the results file; README.md stays as it is")


def leave(chosen: argparse.Namespace, name: str, told: Mapping[str, Any], section: str) -> None:
    """Leave a results file where the options of :func:`options` say, and a README's section if they say so.

    Args:
        name: of the file, without .json, and of the section.

    Raises:
        ValueError: README.md has no markers.
    """
    folder = Path(__file__).parent
    for place in {folder} if chosen.write else {chosen.results} - {None}:
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if chosen.write:
        put(folder / "README.md", name, f"{section}\n\n{about(told)}")


def about(told: Mapping[str, Any]) -> str:
    """When, where and with which versions it was measured."""
    m = told["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    where = f"{m['date']}, {m['cpu']}, {m['cores']} cores, load {m['load']} at the end; {versions}."
    return f"The small form (`--quick`). {where}" if told.get("quick") else where


def put(readme: Path, name: str, text: str) -> None:
    """Put a text between the markers of that name.

    Raises:
        ValueError: the file has none.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, ending, after = rest.partition(end)
    if not (found and ending):
        raise ValueError(f"{readme} lacks {begin} and {end}")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
