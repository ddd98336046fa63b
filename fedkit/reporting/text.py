"""Names, numbers and words as readers see them: metric labels, honest rounding, secrets blanked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedkit.runs.statement import rounded_up

UNDEFINED = "undefined"


@dataclass(frozen=True)
class MetricText:
    """How one metric is shown.

    Attributes:
        label: column header.
        better: ``higher`` or ``lower``.
        meaning: one sentence for a reader who does not compute metrics for a living.
        undefined: why it can have no value.
    """

    label: str
    better: str
    meaning: str
    undefined: str


_NO_ROWS = "the site has no test rows"
_ONE_CLASS = "it needs test rows of more than one class"
METRICS: dict[str, MetricText] = {
    "accuracy": MetricText("Accuracy", "higher", "Share of test rows that are classified correctly.", _NO_ROWS),
    "auroc": MetricText("AUROC", "higher", "Chance that a case is ranked above a control; 0.5 is a coin.", _ONE_CLASS),
    "average_precision": MetricText("Avg. precision", "higher", "Area under precision over recall.", _ONE_CLASS),
    "log_loss": MetricText("Log loss", "lower", "Mean negative log-likelihood of the true class.", _NO_ROWS),
    "brier": MetricText("Brier", "lower", "Mean squared error of the predicted probabilities.", _NO_ROWS),
    "rmse": MetricText("RMSE", "lower", "Root mean squared error, in the target's units.", _NO_ROWS),
    "mae": MetricText("MAE", "lower", "Mean absolute error, in the target's units.", _NO_ROWS),
    "r2": MetricText(
        "R²", "higher", "Share of the variance that is explained.", "the target is constant in the test rows"
    ),
}
HEADLINE: dict[str, tuple[str, str]] = {
    "binary": ("accuracy", "auroc"),
    "multiclass": ("accuracy", "auroc"),
    "regression": ("rmse", "r2"),
}
"""The two metrics of a task that stand for the rest in tiles, baselines and comparisons."""
CURVES: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "auroc", "log_loss"),
    "multiclass": ("accuracy", "auroc", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
"""The metrics of a task that are drawn over rounds, most important first."""


def describe(name: str) -> MetricText:
    """How a metric is shown; a metric that fedkit does not know keeps its own name."""
    return METRICS.get(name) or MetricText(name, "higher", "", "it could not be computed")


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Metric names in the order of METRICS, unknown ones last and sorted."""
    seen = set(names)
    return tuple(n for n in METRICS if n in seen) + tuple(sorted(seen - METRICS.keys()))


def number(value: float | None, digits: int = 3) -> str:
    """A metric for a table; None is spelled out.

    >>> number(0.75), number(None), number(1234.5)
    ('0.750', 'undefined', '1,234')
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def epsilon(value: float | None) -> str:
    """Epsilon, rounded up: a reader never sees less than was spent.

    >>> epsilon(2.981), epsilon(0.0123), epsilon(2.98)
    ('2.99', '0.013', '2.98')
    """
    return UNDEFINED if value is None else rounded_up(value)


def floored(value: float | None, digits: int = 4) -> str:
    """A noise multiplier or another protection, rounded down.

    >>> floored(1.31198)
    '1.3119'
    """
    return "–" if value is None else f"{math.floor(value * 10**digits + 1e-6) / 10**digits:.{digits}f}"


def evaluation(plan: Mapping[str, Any] | None) -> str:
    """The charged evaluation of a plan: how many histograms, and the sigma of each.

    >>> evaluation({"histograms": 3, "rounds": [15], "noise_multiplier": 5.4747}), evaluation(None)
    ('3 at 5.4747', 'none')
    """
    if not plan:
        return "none"
    return f"{plan['histograms'] * len(plan['rounds'])} at {floored(plan['noise_multiplier'])}"


def ceiled(value: float | None, digits: int = 4) -> str:
    """A sampling rate or another exposure, rounded up.

    >>> ceiled(1 / 19)
    '0.0527'
    """
    return "–" if value is None else f"{math.ceil(value * 10**digits - 1e-6) / 10**digits:.{digits}f}"


def small(value: float | None) -> str:
    """A small probability such as delta.

    >>> small(1e-05), small(0.00033), small(0.05)
    ('1e-5', '3.3e-4', '0.05')
    """
    if value is None:
        return "–"
    if value >= 0.001:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Seconds for a person.

    >>> duration(3.21), duration(75), duration(4020)
    ('3.2 s', '1 min 15 s', '1 h 7 min')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "site"), plural(4, "site")
    ('1 site', '4 sites')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def features(names: Sequence[object], shape: Sequence[int], most: int = 24) -> str:
    """How many features there are, in which shape if they make an image, and the first of them.

    >>> features(["age", "rate"], [2]), features(["a", "b", "c", "d"], [1, 2, 2], 3), features([], [])
    ('2: age, rate', '4 as 1 x 2 x 2: a, b, c, …', '')
    """
    if not names:
        return ""
    image = f" as {' x '.join(map(str, shape))}" if len(shape) > 1 else ""
    return f"{len(names)}{image}: {', '.join(map(str, names[:most]))}{', …' if len(names) > most else ''}"


def redact(text: str) -> str:
    """Blank passwords in database URLs: configs carry none, and a report travels further than a config.

    >>> redact("url: postgresql://ana:s3cret@db/icu")
    'url: postgresql://ana:***@db/icu'
    """
    return re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)
