"""Which library is used, if any."""

import subprocess
import sys

import pytest

from fedkit.native import library as module
from fedkit.native.library import BASE, OFF, library


@pytest.fixture(autouse=True)
def _asked_anew():
    library.cache_clear()
    yield
    library.cache_clear()


def test_it_can_be_done_without(monkeypatch):
    monkeypatch.setenv(OFF, "off")
    assert library() is None


def test_one_of_other_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(module, "sources", lambda: "others")
    assert library() is None


def test_what_is_no_library_is_not_used(tmp_path, monkeypatch):
    (tmp_path / BASE).write_bytes(b"no library")
    monkeypatch.setattr(module, "HERE", tmp_path)
    assert library() is None


def test_to_ask_for_it_imports_nothing_heavy():
    asked = (
        "import sys; from fedkit.native.library import library; library(); print({'numpy', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
