"""Make breast_cancer.csv from scikit-learn's ``load_breast_cancer``: 569 rows, 30 measurements and the diagnosis.

Command::

    python fedkit/data/builtin/make_breast_cancer.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.datasets import load_breast_cancer

ROWS, FEATURES = 569, 30


def main(target: Path) -> None:
    """Write ``target``, or stop if the table is not the known one."""
    table = load_breast_cancer()
    if table.data.shape != (ROWS, FEATURES):
        raise SystemExit(f"scikit-learn's table is {table.data.shape}, expected {(ROWS, FEATURES)}")
    names = [str(name).replace(" ", "_") for name in table.feature_names]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "diagnosis"])
        for row, label in zip(table.data, table.target, strict=True):
            writer.writerow([*(repr(float(value)) for value in row), str(table.target_names[label])])


if __name__ == "__main__":
    main(Path(__file__).with_name("breast_cancer.csv"))
