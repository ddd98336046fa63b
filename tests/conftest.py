"""What holds for every test: one thread a worker, global generators in a known state, no verdict by the clock."""

import copy
import gc
import os
import random
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch and BLAS are loaded, here and in the processes that tests start: workers of pytest-xdist share the cores,
# and threads that wait for one another by spinning take several times the work.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# How long an example takes is the machine's affair; benchmarks tell of speed.
settings.register_profile("fedkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedkit")


def pytest_collection_finish():
    """What was imported by now stays: no garbage collection need look at it again (a seventh of all tests' time)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish():
    """Libraries in C complain of what is still there at the end."""
    gc.unfreeze()


def pytest_ignore_collect(collection_path):
    """Helpers are imported by the tests that use them and scripts are started by them: neither is collected."""
    name = collection_path.name
    return True if name.endswith(".py") and not name.startswith(("test_", "conftest")) else None


_MERGED: dict[tuple[object, ...], tuple[dict, dict]] = {}


@pytest.fixture(autouse=True)
def _merged_once(request, monkeypatch):
    """The same words over the same files are merged by Hydra once a process, but for the tests of merging itself."""
    module = sys.modules.get("fedkit.config.compose")
    if module is None or "tests/config/" in request.node.nodeid:
        return
    merge = module._hydra_compose

    def merged(lines):
        if "\\" in lines[-1]:  # a folder with quotes in its name
            return merge(lines)
        key = (*lines, *_stamps(module, lines))
        if key not in _MERGED:
            _MERGED[key] = merge(lines)
        return copy.deepcopy(_MERGED[key])

    monkeypatch.setattr(module, "_hydra_compose", merged)


def _stamps(module, lines):
    """Size and time of every file that the words may have read."""
    folders = [module.configs_root(), *(Path(found) for found in re.findall(r"'file://([^']*)'", lines[-1]))]
    for folder in folders:
        for path in (*folder.glob("*/*.yaml"), *folder.glob("*.yaml"), *folder.glob("experiments/*/*.yaml")):
            said = path.stat()
            yield str(path), said.st_mtime_ns, said.st_size


@pytest.fixture(autouse=True)
def _known_generators():
    """A test's outcome does not depend on which tests ran before it; secure noise has no seed and is left alone."""
    random.seed(0)
    for name, seed in (("numpy", lambda: sys.modules["numpy"].random.seed(0)),
                       ("torch", lambda: sys.modules["torch"].manual_seed(0))):  # fmt: skip
        if name in sys.modules:
            seed()
