"""A small convolutional net over four sites' images, your own model and data: ``python docs/own_model.py``."""

import sys

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import fedkit


def model() -> nn.Module:
    """Two convolutions; it ends in ten logits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Site to (images [n, 1, 8, 8] within 0 .. 1, digits [n]); the writers of each quarter are others."""
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8) / 16
    quarters = np.array_split(np.arange(len(images)), 4)
    return {f"site{i}": (images[rows], digits[rows]) for i, rows in enumerate(quarters, 1)}


task = fedkit.Task("multiclass", tuple("0123456789"))
settings = ["name=digits", "privacy.epsilon=8", "federation.num_rounds=20", "training.learning_rate=1"]
run = fedkit.simulate(overrides=[*settings, *sys.argv[1:]], model=model, data=data(), task=task)
print(f"{run.path}: accuracy {run.result['overall']['accuracy']:.3f}")
