"""What the benchmarks leave: results.json, and the table between the markers of README.md."""

from __future__ import annotations

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


def write(folder: Path, told: Mapping[str, Any]) -> None:
    """Write results.json and put the table into README.md.

    Raises:
        ValueError: README.md has no markers.
    """
    (folder / "results.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    m = told["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    about = f"{m['date']}, {m['cpu']}, {m['cores']} cores, load {m['load']} at the end; {versions}."
    put(folder / "README.md", "bench", f"{table(told['results'])}\n\n{about}")


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
