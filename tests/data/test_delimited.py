from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from fedkit.config.experiment import FeaturesConfig
from fedkit.data.delimited import line_of
from fedkit.data.load import load_dataset
from fedkit.data.source import read_table
from fedkit.errors import DataError

GOOD = "region,age,rate,gender,died\nnorth,60,135,Female,1\nsouth,30,80,Male,0\n"
SECRET = "Jane Roe"


def refused(config, code, *told):
    with pytest.raises(DataError) as caught:
        load_dataset(config, private=True)
    assert caught.value.code == code
    for text in told:
        assert text in str(caught.value)
    assert caught.value.__cause__ is None


def test_byte_order_mark_is_refused_and_admitted_when_declared(csv):
    content = b"\xef\xbb\xbf" + GOOD.encode()
    refused(csv(content), "FK203", "byte-order mark", "source.encoding: utf-8-sig")
    refused(csv(content, source={"encoding": "latin-1"}), "FK203", "utf-8-sig")
    assert len(read_table(csv(content, source={"encoding": "utf-8-sig"}))) == 2


def test_semicolons_are_refused_and_admitted_when_declared(csv):
    content = GOOD.replace(",", ";")
    refused(csv(content), "FK204", "';'", 'source.delimiter: ";"')
    assert len(read_table(csv(content, source={"delimiter": ";"}))) == 2
    refused(csv(GOOD.replace(",", "\t")), "FK204", 'source.delimiter: "\\t"')
    refused(csv(GOOD, source={"delimiter": ";"}), "FK204", 'source.delimiter: ","')


def test_latin_1_is_refused_and_admitted_when_declared(csv):
    content = GOOD.replace("north", "nörd").encode("latin-1")
    refused(csv(content), "FK203", "line 2", "source.encoding: latin-1")
    config = csv(content, source={"encoding": "latin-1"})
    assert "nörd" in read_table(config).columns["region"].values


def test_latin_1_in_the_header_is_refused_and_admitted_when_declared(csv):
    content = GOOD.replace("age", "größe").encode("latin-1")
    features = FeaturesConfig({"größe": (0, 100)})
    refused(csv(content, features=features), "FK203", "line 1", "latin-1")
    assert len(read_table(csv(content, features=features, source={"encoding": "latin-1"}))) == 2


def test_utf_16_is_refused_and_admitted_when_declared(csv):
    content = GOOD.encode("utf-16")
    refused(csv(content), "FK203", "source.encoding: utf-16")
    assert len(read_table(csv(content, source={"encoding": "utf-16"}))) == 2


def test_encoding_that_needs_an_extension_is_refused(csv):
    refused(csv(GOOD, source={"encoding": "cp1252"}), "FK203", "cp1252", "utf-8")


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        ("", "FK202", "is empty"),
        ("\n\n", "FK202", "is empty"),
        ("region,age,rate,gender,died\n", "FK202", "has no rows"),
        ("region,age,rate,gender,died", "FK202", "has no rows"),
        (GOOD.replace("rate", "Rate"), "FK205", "rate (did you mean Rate?)"),
        (GOOD.replace("gender", "genre"), "FK205", "gender (did you mean genre?)"),
        (GOOD.replace("rate", "age"), "FK205", "rate"),
        ("region,age,rate,gender,died,age\n" + f"north,1,1,Male,1,{SECRET}\n", "FK206", "age more than once"),
        (GOOD + f"north,1,2,{SECRET}\n", "FK207", "4 cells in line 4, expected 5"),
        (GOOD + f"north,1,2,Male,1,{SECRET}\n", "FK207", "6 cells in line 4, expected 5"),
        (GOOD + f'north,1,2,"{SECRET},1\n', "FK207", "line 4"),
    ],
)
def test_malformed_table_has_one_error_without_its_content(csv, content, code, told):
    config = csv(content)
    refused(config, code, told)
    with pytest.raises(DataError) as caught:
        load_dataset(config, private=True)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_declared_columns_are_decoded(csv):
    # The undeclared column is no utf-8 at all: were it ever decoded, reading would fail.
    content = GOOD.replace("died\n", "died,secret\n").replace(",1\n", ",1,\xff\n").replace(",0\n", ",0,\xfe\n")
    table = read_table(csv(content.encode("latin-1")))
    assert set(table.columns) == {"region", "age", "rate", "gender", "died"}


def test_duplicate_undeclared_columns_do_no_harm(csv):
    content = "region,age,rate,gender,died,,\n" + "north,60,135,Female,1,,\nsouth,30,80,Male,0,,\n"
    assert len(read_table(csv(content))) == 2


def test_columns_that_differ_by_case_are_told_apart(csv):
    content = "region,age,AGE,rate,gender,died\nnorth,60,1,135,Female,1\nsouth,30,2,80,Male,0\n"
    assert read_table(csv(content)).columns["age"].values == ("60", "30")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_reads_the_same(csv, end):
    table = read_table(csv(GOOD.replace("\n", end).encode()))
    assert table.columns["died"].values == ("1", "0")


def test_path_with_wildcards_names_one_file(csv, tmp_path):
    config = csv(GOOD)
    (tmp_path / "a1.csv").write_text(GOOD)
    (tmp_path / "a[1]*.csv").write_text(GOOD + GOOD.split("\n", 1)[1])
    config = replace(config, source=replace(config.source, path=str(tmp_path / "a[1]*.csv")))
    assert len(read_table(config)) == 4


def test_line_of_a_record_counts_blank_lines_and_quoted_line_ends(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n3,z\n')
    assert [line_of(path, record, 2) for record in range(3)] == [2, 5, 6]


def test_error_names_the_line_of_the_cell(csv):
    content = GOOD.replace("Female,1\n", 'Female,1\n\n"no\nrth",1,2,Male,0\nnorth,old,1,Male,0\n')
    refused(csv(content), "FK210", "age has 1 value that is no finite number (first in line 6)", "missing.codes")


def test_empty_cells_are_missing(csv):
    table = read_table(csv(GOOD + ",,,,\n"))
    assert all(column.values[column.codes[-1]] is None for column in table.columns.values())
    assert np.array_equal(table.numbers, [0, 1, 2])


def test_no_message_of_duckdb_is_passed_on(csv):
    with pytest.raises(DataError) as caught:
        load_dataset(csv(GOOD + "a,b\n"), private=True)
    assert not re.search(r"strict_mode|Possible", str(caught.value))
