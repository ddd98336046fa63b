from __future__ import annotations

import pytest

from fedkit.config import locate
from fedkit.errors import ConfigError


def test_the_package_is_looked_through_before_the_repository(tmp_path, monkeypatch):
    package = tmp_path / "fedkit"
    (package / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(locate, "_PACKAGE", package)
    assert locate.configs_root() == package / "configs"
    assert locate.experiments_root() == tmp_path / "experiments"


def test_an_installation_without_configs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "_PACKAGE", tmp_path / "fedkit")
    with pytest.raises(ConfigError, match=r"configs/ is missing from this installation"):
        locate.configs_root()


def test_our_own_configs_are_no_user_folder():
    assert locate.user_folder(locate.configs_root()) is None


def test_our_own_repository_is_a_user_folder_that_hides_nothing():
    assert locate.user_folder(locate.experiments_root().parent) is not None
