"""Whether noise is new in every step, in every round and at every site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import stats

from fedkit.assurance.audit.canaries import Readings
from fedkit.assurance.audit.finding import Finding, not_measured, within
from fedkit.assurance.audit.intervals import correlation_bound

LAGS = 5


def correlation_findings(noise: Mapping[str, Readings], alpha: float, *, kind: str = "steps") -> list[Finding]:
    """Correlation of any two releases, of successive rounds, of two sites in one round, of neighbouring coordinates.

    Args:
        noise: site to its noise, [rounds, coordinates]; the same coordinates at every site.
        kind: names the findings: ``steps``, ``rounds`` or ``seeded``.
    """
    unit = {site: _unit_rows(readings) for site, readings in noise.items()}
    found = [_any_two(unit, alpha, kind)]
    if kind == "rounds":
        return found
    return [*found, _successive(unit, alpha, kind), _sites(unit, alpha, kind), _coordinates(unit, alpha, kind)]


def _any_two(unit: Mapping[str, Readings], alpha: float, kind: str) -> Finding:
    check, what = f"correlation.{kind}.any_two", f"{_WORDS[kind]}any two releases"
    names = [(site, index) for site, rows in unit.items() for index in range(len(rows))]
    rows = np.concatenate(list(unit.values()))
    if len(rows) < 2:
        return not_measured(check, "independence", "all", what, "one release only")
    products = rows @ rows.T
    np.fill_diagonal(products, 0.0)
    at = int(np.abs(products).argmax())
    (site, first), (other, second) = names[at // len(rows)], names[at % len(rows)]
    largest = float(products.flat[at])
    bound = correlation_bound(rows.shape[1], alpha / (len(rows) * (len(rows) - 1) / 2))
    where = f"{site}, release {first + 1} and {other}, release {second + 1}"
    return within(check, "independence", "all", what, largest, (-bound, bound), 0.0,
                  broken=f"noise repeats: {where}", holds="independent")  # fmt: skip


def _successive(unit: Mapping[str, Readings], alpha: float, kind: str) -> Finding:
    check, what = f"correlation.{kind}.lags", f"{_WORDS[kind]}rounds 1 to {LAGS} apart"
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for site, rows in unit.items():
        for lag in range(1, min(LAGS, len(rows) - 1) + 1):
            mean = float(np.einsum("rd,rd->r", rows[:-lag], rows[lag:]).mean())
            found[site, lag] = mean, 1 / math.sqrt(rows.shape[1] * (len(rows) - lag))
    return _largest(check, what, found, alpha, lambda key: f"noise repeats at {key[0]} after {key[1]} rounds")


def _sites(unit: Mapping[str, Readings], alpha: float, kind: str) -> Finding:
    check, what = f"correlation.{kind}.sites", f"{_WORDS[kind]}two sites, same round"
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for a, b in combinations(unit, 2):
        rows = min(len(unit[a]), len(unit[b]))
        mean = float(np.einsum("rd,rd->r", unit[a][:rows], unit[b][:rows]).mean())
        found[a, b] = mean, 1 / math.sqrt(unit[a].shape[1] * rows)
    if not found:
        return not_measured(check, "independence", "all", what, "one site only")
    return _largest(check, what, found, alpha, lambda key: f"{key[0]} and {key[1]} share noise")


def _coordinates(unit: Mapping[str, Readings], alpha: float, kind: str) -> Finding:
    check, what = f"correlation.{kind}.coordinates", f"{_WORDS[kind]}nearby coordinates"
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for site, rows in unit.items():
        d = rows.shape[1]
        for lag in sorted({1, 8, d // 2}):
            total = float((rows[:, :-lag] * rows[:, lag:]).sum()) / len(rows) * d / (d - lag)
            found[site, lag] = total, 1 / math.sqrt(len(rows) * (d - lag))
    return _largest(check, what, found, alpha, lambda key: f"at {key[0]} noise repeats {key[1]} coordinates on")


def _largest(check: str, what: str, found: Mapping, alpha: float, broken) -> Finding:  # type: ignore[no-untyped-def, type-arg]  # noqa: ANN001
    if not found:
        return not_measured(check, "independence", "all", what, "too few releases")
    key = max(found, key=lambda k: abs(found[k][0]) / found[k][1])
    value, deviation = found[key]
    bound = float(stats.norm.isf(alpha / 2 / len(found))) * deviation
    return within(check, "independence", "all", what, value, (-bound, bound), 0.0,
                  broken=broken(key), holds="independent")  # fmt: skip


def _unit_rows(readings: Readings) -> Readings:
    """Rows of norm 1; a row without noise stays 0, which another finding reports."""
    norms = np.linalg.norm(readings, axis=1, keepdims=True)
    return readings / np.where(norms > 0, norms, 1.0)


_WORDS = {"steps": "", "rounds": "whole rounds: ", "seeded": "seeded: "}
