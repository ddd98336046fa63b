"""docs/own-table.md: the hospitals' files that it shows can be read, and declare the table as its run does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fedkit.config.compose import compose
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.site_file import read_site_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page's files in a folder, as its reader has them."""
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None and spec.loader is not None
    refresh = importlib.util.module_from_spec(spec)
    sys.modules["refresh"] = refresh
    spec.loader.exec_module(refresh)
    folder = tmp_path_factory.mktemp("page")
    for block in refresh.blocks((ROOT / "docs" / "own-table.md").read_text(encoding="utf-8")):
        if block.kind == "file":
            path = folder / block.what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
    return folder


@pytest.mark.parametrize("site", ["north", "south"])
def test_a_hospitals_file_declares_the_table_as_the_run_does(written, site):
    run = compose(None, ["data=icu"], config_dir=written / "my").data
    own = read_site_file(written / "clinic" / f"{site}.yaml").data["icu"]
    assert declaration_digest(own.declaration) == declaration_digest(run)
    assert own.records == run.records[site] and own.unit == "patient"
