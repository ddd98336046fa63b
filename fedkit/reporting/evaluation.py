"""What the charged evaluation measured, as readers see it: estimates with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedkit.reporting import text
from fedkit.reporting.reader import RunView

LABELS: Mapping[str, tuple[str, str]] = {
    "units": ("Test units", "Estimated number of test units, each counted once whatever its rows."),
    "prevalence": ("Prevalence", "Share of test units with a positive label."),
    "sensitivity": ("Sensitivity", "Share of the positive test units that are found, at threshold 0.5."),
    "specificity": ("Specificity", "Share of the negative test units that are left alone, at threshold 0.5."),
    "calibration_gap": ("Calibration gap", "Mean prediction minus the share that came true."),
    "calibration_error": ("Calibration error", "Mean distance of predictions from shares that came true, by bin."),
}


@dataclass(frozen=True)
class Shown:
    """One estimate in words."""

    label: str
    meaning: str
    value: str
    interval: str


def evaluation_of(view: RunView) -> Mapping[str, Any] | None:
    """The run's charged evaluation, if it has one."""
    found = (view.result or {}).get("evaluation")
    return found if isinstance(found, Mapping) else None


def shown(metrics: Mapping[str, Mapping[str, Any]]) -> list[Shown]:
    """Every estimate of one histogram, in the order given."""
    return [_shown(name, found) for name, found in metrics.items()]


def estimate(name: str, found: Mapping[str, Any] | None) -> str:
    """Value and interval in one cell.

    >>> estimate("auroc", {"value": 0.753, "low": 0.62, "high": 0.91})
    '0.753 (0.620 to 0.910)'
    >>> estimate("auroc", {"value": None, "low": None, "high": None})
    'too uncertain'
    """
    one = _shown(name, found or {})
    return f"{one.value} ({one.interval})" if one.interval else one.value


def summary(view: RunView) -> str:
    """One sentence for a terminal; empty where nothing was released."""
    evaluation = evaluation_of(view)
    if evaluation is None:
        return ""
    told = [
        f"{label(name)} {estimate(name, evaluation['overall'].get(name))}"
        for name in ("accuracy", "auroc", "rmse")
        if name in evaluation["overall"]
    ]
    told_by = "released, within epsilon" if evaluation.get("private") else "would release, were the noise real"
    deployed = view.manifest.get("federation") == "deployed"
    above = "" if deployed else "The metrics above are exact: simulation only, not protected. "
    return (
        f"{above}What the sites {told_by}"
        f" ({text.plural(evaluation['histograms'], 'noisy histogram')} a site, sigma"
        f" {evaluation['noise_multiplier']:g}; 95 % intervals): {', '.join(told)}."
    )


def label(name: str) -> str:
    """Column header of an estimate."""
    return LABELS[name][0] if name in LABELS else text.describe(name).label


def context(view: RunView) -> dict[str, Any] | None:
    """What the report's section on the charged evaluation shows."""
    evaluation = evaluation_of(view)
    if evaluation is None:
        return None
    overall = evaluation["overall"]
    names = list(overall)
    narrow = [name for name in ("units", "accuracy", "auroc", "rmse", "mae") if name in overall]
    groups = evaluation.get("subgroups") or {}
    grouped = list(dict.fromkeys(k for levels in groups.values() for known in levels.values() for k in known))
    return {
        "after_round": evaluation["after_round"],
        "sigma": f"{evaluation['noise_multiplier']:g}",
        "histograms": text.plural(evaluation["histograms"], "noisy histogram"),
        "private": bool(evaluation.get("private")),
        "missing": ", ".join(site for site in view.sites if site not in (evaluation.get("sites") or {})),
        "overall": shown({name: overall[name] for name in names}),
        "columns": [label(name) for name in narrow],
        "sites": [
            {"name": site, "cells": [estimate(name, found.get(name)) for name in narrow]}
            for site, found in (evaluation.get("sites") or {}).items()
        ],
        "group_columns": [label(name) for name in grouped],
        "groups": [
            {"column": column, "level": level, "cells": [estimate(name, known.get(name)) for name in grouped]}
            for column, levels in groups.items()
            for level, known in levels.items()
        ],
    }


def _shown(name: str, found: Mapping[str, Any]) -> Shown:
    meaning = LABELS[name][1] if name in LABELS else text.describe(name).meaning
    value = found.get("value")
    if value is None:
        return Shown(label(name), meaning, "too uncertain", "")
    digits = 0 if name == "units" else 3
    low, high = (text.number(found.get(end), digits) for end in ("low", "high"))
    return Shown(label(name), meaning, text.number(value, digits), f"{low} to {high}")
