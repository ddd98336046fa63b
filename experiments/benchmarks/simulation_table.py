"""The tables of the simulation benchmark, from its results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def tables(told: Mapping[str, Any]) -> str:
    """Speed, then starts and memory, then what is missing."""
    results: Sequence[Row] = told["results"]
    lines = [*_speed(results), "", *_starts(results)]
    if told["quick"]:
        lines += ["", "The small form: all sides of a work started at the same time, which is in their starts."]
    if told["missing"]:
        lines += ["", *(f"Missing: {peer}. {why.splitlines()[0]}" for peer, why in told["missing"].items())]
    cores = f"{told['others_cores']:.2f} of {told['machine']['cores']} cores"
    lines += [
        "",
        f"{told['seconds']} s, of which other programs had {cores} on average; load {told['load_before']} before.",
    ]
    if told["peers"]:
        versions = ", ".join(f"{name} {number}" for name, number in told["peers"].items())
        lines += ["", f"Peers in an environment of their own: {versions}."]
    return "\n".join(lines)


def _speed(results: Sequence[Row]) -> list[str]:
    lines = [
        "| work | side | samples/s | x Flower | x loop, 2 processes | x pfl-research | samples/CPU s | turns |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        ratios = [_ratio(r.get(f"ratio_{peer}")) for peer in ("flower", "loop2", "pfl")]
        cpu = f"{r['samples_cpu_s']:,}" if r["samples_cpu_s"] else ""
        cells = [r["work"], r["variant"], f"{r['samples_s']:,}", *ratios, cpu, str(r["turns"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _starts(results: Sequence[Row]) -> list[str]:
    flower = {r["work"]: r for r in results if r["kind"] == "flower"}
    lines = [
        "| work | side | imports, s | start and all rounds, s | of it plans, s | x Flower | imports too | peak MB |"
        " processes |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        peer = flower.get(r["work"])
        ratios = [f"{from_call(peer, r):.1f}", f"{from_nothing(peer, r):.1f}"] if peer else ["", ""]
        plans = f"{r['plans_s']:.2f}" if r["plans_s"] else ""
        cells = [r["work"], r["variant"], f"{r['import_s']:.2f}", f"{r['with_start_s']:.2f}", plans, *ratios]
        lines.append(f"| {' | '.join([*cells, format(r['peak_mb'], ','), str(r['processes'])])} |")
    return lines


def from_call(peer: Row, ours: Row) -> float:
    """How many times as long a peer takes for a whole work, libraries imported."""
    return float(peer["with_start_s"] / ours["with_start_s"])


def from_plans(peer: Row, ours: Row) -> float:
    """The same, fedkit's rows read and plans made; a peer plans nothing."""
    return float(peer["with_start_s"] / (ours["with_start_s"] - ours["plans_s"]))


def from_nothing(peer: Row, ours: Row) -> float:
    """The same from the start of both processes."""
    whole = [row["import_s"] + row["with_start_s"] for row in (peer, ours)]
    return float(whole[0] / whole[1])


def _ratio(found: Sequence[float] | None) -> str:
    if found is None:
        return ""
    middle, least, greatest = (f"{value:,.{1 if value >= 10 else 2}f}" for value in found)
    return f"**{middle}** ({least} to {greatest})"
