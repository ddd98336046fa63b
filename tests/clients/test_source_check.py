"""Two data sets of one table have two budgets, which somebody should know."""

import copy
from pathlib import Path

from fedkit_client.source_check import shared_sources

from fedkit.governance.site_checks import site_file_of
from tests.governance.test_site_file_junk import DATA, FILE


def found(**more):
    data = {"heart_disease": DATA, **{name: {**copy.deepcopy(DATA), **changes} for name, changes in more.items()}}
    file, problems = site_file_of({**FILE, "data": data}, Path("/tmp"))
    assert problems == []
    return [said for said, _ in shared_sources(file)]


def test_one_table_under_two_names_is_told_with_what_both_budgets_add_up_to():
    (said,) = found(again={"max_epsilon": 2.0})
    assert "heart_disease, again read one table" in said and "epsilon 3 + 2" in said


def test_two_tables_are_two():
    assert found() == [] and found(other={"source": {"kind": "csv", "path": "other.csv"}}) == []
    sql = {"kind": "sql", "url_env": "URL"}
    first, second = ({"source": {**sql, "query": f"SELECT * FROM {name}"}} for name in "ab")
    assert found(first=first, second=second) == [] and len(found(first=first, second=first)) == 1
