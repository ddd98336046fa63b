"""Which arguments each model and strategy takes: default and bounds, by name. No torch, no flwr here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedkit.config.wording import shown


@dataclass(frozen=True)
class Argument:
    """One argument: its default and what it may be.

    Attributes:
        kind: ``number``, ``count`` (whole) or ``counts`` (a list of whole numbers, at least one).
        above, at_least, below: bounds of every number; None where there is none.
        optional: null is allowed.
    """

    default: Any
    kind: Literal["number", "count", "counts"] = "number"
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value, None if nothing is.

        >>> Argument(0.1, above=0).problem(-1)
        'is -1; it must be above 0'
        """
        if value is None and self.optional:
            return None
        if self.kind == "counts":
            if not isinstance(value, (list, tuple)) or not value:
                return f"is {shown(value)}; a list of whole numbers is needed, such as {list(self.default)}"
            return next((text for text in map(self._number_problem, value) if text), None)
        return self._number_problem(value)

    def _number_problem(self, value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.kind != "number" and not whole:
            return f"is {shown(value)}; a whole number is needed"
        if not (whole or isinstance(value, float)) or not math.isfinite(value):
            return f"is {shown(value)}; a finite number is needed"
        for holds, bound, word in (
            (self.above is None or value > self.above, self.above, "above"),
            (self.at_least is None or value >= self.at_least, self.at_least, "at least"),
            (self.below is None or value < self.below, self.below, "below"),
        ):
            if not holds:
                return f"is {value}; it must be {word} {bound}"
        return None

    def settled(self, value: Any) -> Any:
        """Return a valid value in its one form: numbers as float, lists as tuple."""
        if value is None:
            return None
        if self.kind == "counts":
            return tuple(value)
        return float(value) if self.kind == "number" else value


_ETA = {"eta": Argument(0.1, above=0), "eta_l": Argument(0.1, above=0)}
_BETAS = {"beta_1": Argument(0.9, at_least=0, below=1), "beta_2": Argument(0.99, at_least=0, below=1)}
_TAU = {"tau": Argument(1e-3, above=0)}
_MALICIOUS = {"num_malicious_nodes": Argument(0, "count", at_least=0)}

MODEL_ARGUMENTS: Mapping[str, Mapping[str, Argument]] = {
    "logistic": {},
    "cnn": {
        "channels": Argument((16, 32), "counts", at_least=1, below=4097),
        "kernel": Argument(3, "count", at_least=1, below=16),
        "groups": Argument(4, "count", at_least=0, below=4097),
        "hidden": Argument((64,), "counts", at_least=1, below=100_001),
    },
    "mlp": {"hidden": Argument((32,), "counts", at_least=1, below=100_001)},
}

STRATEGY_ARGUMENTS: Mapping[str, Mapping[str, Argument]] = {
    "fedavg": {},
    "fedavgm": {"server_learning_rate": Argument(1.0, above=0), "server_momentum": Argument(0.0, at_least=0, below=1)},
    "fedprox": {"proximal_mu": Argument(0.01, at_least=0, below=1e4)},
    "fedadagrad": {**_ETA, "beta_1": Argument(0.0, at_least=0, below=1), **_TAU},
    "fedadam": {**_ETA, **_BETAS, **_TAU},
    "fedadam_uncorrected": {
        "eta": Argument(0.01, above=0),
        "beta_1": _BETAS["beta_1"],
        "beta_2": Argument(0.999, at_least=0, below=1),
        "tau": Argument(1e-8, above=0),
    },
    "fedyogi": {"eta": Argument(0.01, above=0), "eta_l": Argument(0.0316, above=0), **_BETAS, **_TAU},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": Argument(0.2, at_least=0, below=0.5)},
    "krum": {**_MALICIOUS},
    "multikrum": {**_MALICIOUS, "num_nodes_to_select": Argument(1, "count", at_least=1)},
    "bulyan": {**_MALICIOUS},
    "qfedavg": {"client_learning_rate": Argument(None, above=0, optional=True), "q": Argument(0.1, above=0)},
}
"""Flower's own arguments and defaults (1.41), but for fedadam_uncorrected and fedadagrad's beta_1, which are ours."""
