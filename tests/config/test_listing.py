from __future__ import annotations

import pytest

from fedkit.config.listing import options
from fedkit.config.locate import GROUPS
from fedkit.errors import ConfigError


def test_every_option_and_experiment_is_listed_with_a_line():
    listed = options()
    assert set(listed) == {*GROUPS, "experiments"}
    assert all(description for entries in listed.values() for _, description in entries)
    assert "heart_disease" in dict(listed["experiments"])
    assert dict(listed["strategy"])["fedmedian"].startswith("Coordinate-wise median")


def test_a_user_folder_is_listed_beside_ours(my):
    listed = options(my)
    assert dict(listed["strategy"])["gentle"] == "Adam in small steps."
    assert dict(listed["experiments"])["ward"] == "Two wards."
    assert "logistic" in dict(listed["model"])


def test_a_description_key_goes_before_the_comment(my):
    path = my / "data/icu.yaml"
    path.write_text(path.read_text() + "description: Two intensive care\n  units\n")
    assert dict(options(my)["data"])["icu"] == "Two intensive care units"


def test_a_broken_file_does_not_break_the_list(my):
    (my / "data/broken.yaml").write_text("a: [\n")
    (my / "data/empty.yaml").write_text("")
    (my / "data/binary.yaml").write_bytes(b"\xff\xfe")
    listed = dict(options(my)["data"])
    assert (listed["broken"], listed["empty"], listed["binary"]) == ("(cannot be read)", "", "(cannot be read)")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        options(tmp_path / "absent")
