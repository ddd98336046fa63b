"""Make diabetes.csv from scikit-learn's ``load_diabetes``: 442 patients, ten measurements, and how the disease went.

Command::

    python fedkit/data/builtin/make_diabetes.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.datasets import load_diabetes

ROWS = 442
# scikit-learn's s1 .. s6 by what its documentation says they are.
COLUMNS = {
    "age": "age",
    "sex": "sex",
    "bmi": "bmi",
    "bp": "map",
    "s1": "total_cholesterol",
    "s2": "ldl",
    "s3": "hdl",
    "s4": "cholesterol_ratio",
    "s5": "log_triglycerides",
    "s6": "glucose",
}
# Between the published mean of 152 and the middle of the table: a round number, so that it tells of no single row.
PROGRESSED_ABOVE = 150


def main(target: Path) -> None:
    """Write ``target``, or stop if the table is not the known one."""
    table = load_diabetes(scaled=False)
    if table.data.shape != (ROWS, len(COLUMNS)) or list(table.feature_names) != list(COLUMNS):
        raise SystemExit(f"scikit-learn's table is {table.data.shape}, expected {(ROWS, len(COLUMNS))}")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS.values(), "progression", "progressed"])
        for row, outcome in zip(table.data, table.target, strict=True):
            progressed = "yes" if outcome > PROGRESSED_ABOVE else "no"
            writer.writerow([*(f"{value:.10g}" for value in row), f"{outcome:.10g}", progressed])


if __name__ == "__main__":
    main(Path(__file__).with_name("diabetes.csv"))
