"""Small convolutional network with GroupNorm: for images, with and without differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fedkit.errors import TrainingError
from fedkit.models.limits import MOST_PARAMETERS


def cnn(
    input_shape: tuple[int, ...],
    num_outputs: int,
    channels: Any = (16, 32),
    kernel: Any = 3,
    groups: Any = 4,
    hidden: Any = (64,),
) -> nn.Module:
    """Stages of convolution, GroupNorm, ReLU and 2 x 2 max pooling, then Linear layers with ReLU between.

    GroupNorm (Wu and He 2018) takes its statistics from one image, where BatchNorm mixes the images of a batch, which
    differential privacy forbids.

    Args:
        input_shape: [channels, height, width].
        channels: filters of each stage; a stage halves height and width.
        kernel: width of the square filters, odd: padding then keeps height and width.
        groups: of GroupNorm; a divisor of every stage's channels. 0: no normalisation.
        hidden: widths of the Linear layers before the last one.

    Raises:
        TrainingError: FK402, arguments that do not fit each other or the images.

    >>> sum(p.numel() for p in cnn((1, 28, 28), 10, groups=0).parameters())
    105866
    """
    if len(input_shape) != 3:
        message = f"cnn takes images of shape [channels, height, width]; an example here has {list(input_shape)}"
        raise TrainingError(
            message, code="FK402", remedy="declare data.features.shape, such as [1, 28, 28], or set model=mlp"
        )
    channels, hidden = _counts("channels", channels, (16, 32)), _counts("hidden", hidden, (64,))
    kernel, groups = _count("kernel", kernel, 1), _count("groups", groups, 0)
    planes, height, width = input_shape
    if kernel % 2 == 0:
        raise TrainingError(f"kernel {kernel} is even", code="FK402", remedy="set model.kernel=3, or another odd width")
    stages, small = 0, min(height, width)
    while small >> (stages + 1):
        stages += 1
    if len(channels) > stages:
        message = f"channels has {len(channels)} stages, each halves the image; {height} x {width} allows {stages}"
        raise TrainingError(message, code="FK402", remedy="give fewer model.channels")
    odd = [size for size in channels if groups and size % groups]
    if odd:
        message = f"groups {groups} does not divide channels {odd[0]}"
        raise TrainingError(message, code="FK402", remedy="set model.groups to a divisor of every entry of channels")
    _check_size(planes, height, width, channels, kernel, hidden)
    layers: list[nn.Module] = []
    for size in channels:
        layers.append(nn.Conv2d(planes, size, kernel, padding=kernel // 2))
        layers += [nn.GroupNorm(groups, size)] if groups else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        planes, height, width = size, height // 2, width // 2
    layers.append(nn.Flatten())
    features = planes * height * width
    for size in hidden:
        layers += [nn.Linear(features, size), nn.ReLU()]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, num_outputs))


def _check_size(
    planes: int, height: int, width: int, channels: Sequence[int], kernel: int, hidden: Sequence[int]
) -> None:
    """Counted before a layer is made: a width by mistake must not fill the memory first."""
    count = 0
    for size in channels:
        count += (planes * kernel**2 + 3) * size
        planes, height, width = size, height // 2, width // 2
    features = planes * height * width
    for size in hidden:
        count += (features + 1) * size
        features = size
    if count > MOST_PARAMETERS:
        raise TrainingError(
            f"channels {list(channels)} and hidden {list(hidden)} make more than {MOST_PARAMETERS:,} parameters, the"
            " most that an update may have",
            code="FK402",
            remedy="set channels: [16, 32] and hidden: [64], or narrower layers",
        )


def _counts(name: str, values: Any, example: Sequence[int]) -> list[int]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        message = f"{name} {values!r} is not a list of widths"
        raise TrainingError(message, code="FK402", remedy=f"set {name}: {list(example)}")
    return [_count(name, value, 1) for value in values]


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name} {value!r} is not a whole number of at least {least}"
        raise TrainingError(message, code="FK402", remedy=f"see `fedkit config show model=cnn` for {name}")
    return value
