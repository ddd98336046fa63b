from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedkit.data.check import check_table
from fedkit.errors import DataError


def test_report_counts_what_does_not_fit(rows):
    lines = (
        "north,130,80,female,1",
        "north,130,80,female,1",
        "south,60,10,Male,0",
        "south,?,300,m,0",
        "south,40,,Male,",
    )
    report = check_table(rows(*lines, records={"north": 2, "south": 4}))
    columns = {column.name: column for column in report.columns}
    assert report.ok
    assert (report.rows, report.repeated) == (5, 1)
    assert columns["age"].out_of_range == 2
    assert (columns["age"].missing, columns["age"].missing_by_site) == (1, {"north": 0, "south": 1})
    assert columns["rate"].out_of_range == 2
    assert columns["gender"].undeclared_levels == {"female": 2, "m": 1}
    assert columns["died"].missing == 1
    assert [(site.name, site.units, site.records_declared) for site in report.sites] == [
        ("north", 2, 2),
        ("south", 2, 4),
    ]
    assert report.sites[0].classes == {"negative": 0, "positive": 2}
    assert any("south has 2 units; records declares 4" in text for text in report.warnings)


def test_what_a_run_would_refuse_is_a_problem_and_not_an_exception(rows):
    report = check_table(rows("north,old,80,Male,1", "north,30,80,Male,0"))
    assert not report.ok
    assert "age has 1 value that is no finite number (first in line 2)" in report.problems[0]
    assert {column.name: column.not_numbers for column in report.columns}["age"] == 1


def test_rows_of_one_unit_are_repeated(rows):
    config = rows("north,1,80,Male,1", "north,1,90,Male,0", "north,2,80,Male,0")
    config = replace(config, unit_column="age", features=replace(config.features, numeric={"rate": (20, 250)}))
    report = check_table(config)
    assert report.repeated == 1
    assert report.sites[0].rows == 3
    assert report.sites[0].units == 2


def test_missing_ids_are_missing_and_a_problem(rows):
    config = rows("north,1,80,Male,1", "north,NaN,90,Male,0", "south,null,80,Male,0", unit_column="age")
    report = check_table(replace(config, features=replace(config.features, numeric={"rate": (20, 250)})))
    assert {column.name: (column.role, column.missing) for column in report.columns}["age"] == ("unit", 2)
    assert "unit_column age is empty or missing in 2 rows" in report.problems[0]


def test_patients_of_several_sites_are_a_warning(rows):
    config = rows("north,1,80,Male,1", "north,2,90,Male,0", "south,1,80,Male,0", unit_column="age")
    report = check_table(replace(config, features=replace(config.features, numeric={"rate": (20, 250)})))
    assert any(text.startswith("1 patient has records at more than one site") for text in report.warnings)


def test_name_that_no_site_can_have_is_a_problem(rows):
    report = check_table(rows("a/b,1,80,Male,1", "..,2,90,Male,0"))
    assert "'a/b' holds a slash" in report.problems[0]
    assert "'..' begins with a dot" in report.problems[0]


def test_report_is_json(rows):
    report = check_table(rows("north,1,80,Male,1", "south,2,80,x,0"))
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_unreadable_table_is_refused(csv):
    with pytest.raises(DataError, match="is empty"):
        check_table(csv(""))


def test_site_with_more_than_it_declares_is_told_before_a_private_run_refuses_it(rows):
    lines = [f"north,{age},80,Male,{age % 2}" for age in range(11)]
    report = check_table(rows(*lines, records={"north": 10}))
    assert report.ok
    (told,) = report.warnings
    assert "north has 11 units and declares 10" in told
    assert "data.records.north is at least 11" in told
