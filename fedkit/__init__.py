"""fedkit: train one model over the records of many hospitals; no record leaves its hospital.

>>> import fedkit
>>> fedkit.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkit.config.compose import compose as compose
    from fedkit.simulation.replay import replay as replay
    from fedkit.simulation.simulate import simulate as simulate
    from fedkit.types import Task as Task

__version__ = "0.1.0"
__all__ = ["Task", "__version__", "compose", "replay", "simulate"]

# Loaded on first use: torch, flwr and hydra take seconds, `fedkit --help` must not.
_LAZY = {
    "compose": "fedkit.config.compose",
    "replay": "fedkit.simulation.replay",
    "simulate": "fedkit.simulation.simulate",
    "Task": "fedkit.types",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fedkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
