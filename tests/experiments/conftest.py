"""The benchmarks' modules, which are programs in a folder of their own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="session")
def benchmark_module():
    """A module of experiments/benchmarks by name; nothing of them is left for other tests."""
    before = {*sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in list(sys.modules.items()):
            if name not in before and str(FOLDER) in (getattr(module, "__file__", None) or ""):
                del sys.modules[name]
