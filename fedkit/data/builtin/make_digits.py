"""Make digits.csv from scikit-learn's ``load_digits``: 1,797 images of 8 x 8 pixels and the digit each shows.

Command::

    python fedkit/data/builtin/make_digits.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.datasets import load_digits

ROWS, SIDE = 1797, 8


def main(target: Path) -> None:
    """Write ``target``, or stop if the images are not the known ones."""
    images = load_digits()
    if images.images.shape != (ROWS, SIDE, SIDE):
        raise SystemExit(f"scikit-learn's images are {images.images.shape}, expected {(ROWS, SIDE, SIDE)}")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(f"r{row}c{column}" for row in range(SIDE) for column in range(SIDE)), "digit"])
        for image, digit in zip(images.data, images.target, strict=True):
            writer.writerow([*(int(pixel) for pixel in image), int(digit)])


if __name__ == "__main__":
    main(Path(__file__).with_name("digits.csv"))
