"""Upper estimates of the memory that an engine takes for one site, which ``training.memory_gb`` is held against."""

from __future__ import annotations

from collections.abc import Sequence

from fedkit.privacy.dp_sgd import most_rows
from fedkit.training.kinds import Kinds
from fedkit.training.stack import Layer
from fedkit.training.tap_gradients import most_places
from fedkit.training.tapped import Tapped
from fedkit.training.trunk import Trunk


def bytes_of_model(d: int, trained: int, *, private: bool) -> int:
    """An upper estimate of what one model takes in training, in whatever engine.

    Plain: parameters, gradient, and the update that they become. Private: also sums, noise, and what is kept to
    compare with.

    Args:
        d: parameters. trained: those that are not frozen.
    """
    # A model without parameters is refused where it is to be trained.
    return max(1, 12 * d + (48 * trained if private else 0))


def bytes_of_reference(d: int, trained: int, kinds: Kinds) -> int:
    """An upper estimate of what one site takes: a model; rows' gradients, as many as are held at once, and copied.

    Args:
        d, trained: as of :func:`bytes_of_model`.
    """
    model = bytes_of_model(d, trained, private=kinds.private)
    if not kinds.private:
        return model
    # A patient may have any number of rows; of records no block has more places than the largest lot. What a probe
    # holds of its rows takes as much as three of a lot: it has neither sums nor noise.
    held = most_rows(trained) if kinds.patients else min(most_rows(trained), max(3, kinds.places))
    return model + 12 * held * trained


def bytes_of_taps(found: Tapped, trunk: Trunk | None) -> int:
    """An upper estimate of what one site takes: parameters, sums, noise, moments; a block of rows and its passes."""
    d = sum(part.size for part in found.parts)
    return 80 * d + 4 * most_places(found) * (6 * found.held + 2 * found.passing) + 4 * (trunk.passing if trunk else 0)


def bytes_of_stack(layers: Sequence[Layer], places: int) -> int:
    """An upper estimate of what one site takes: parameters, gradient, sums, noise, moments; rows and their factors."""
    d = sum(layer.size for layer in layers)
    widths = sum(layer.width + layer.outputs for layer in layers)
    return 60 * d + 24 * places * widths


def enough(gigabytes: float) -> float:
    """Two digits, and enough."""
    return float(f"{gigabytes * 1.06:.2g}")


def too_large(gigabytes: float, allowed: float, *, private: bool) -> tuple[str, str, str]:
    """Code, reason and remedy where one site is beyond ``training.memory_gb``; private, the reference takes more."""
    told = f"one site takes {gigabytes:.3g} GB, training.memory_gb is {allowed:g}"
    remedy = f"set training.memory_gb={enough(gigabytes):g}"
    return "FK418", told, remedy if private else f"{remedy}, or training.engine=reference"
