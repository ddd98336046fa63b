"""Whether taps can train a model here, and in which forms."""

from __future__ import annotations

import torch
from torch import nn

from fedkit.errors import TrainingError
from fedkit.models.flat import pack, unpack
from fedkit.native.library import library
from fedkit.privacy import tap_sum
from fedkit.training import local
from fedkit.training.engine_memory import bytes_of_taps, too_large
from fedkit.training.on_device import CPU
from fedkit.training.tapped import Tapped, tapped
from fedkit.training.taps import Taps, probe
from fedkit.training.trunk import trunk_of
from fedkit.training.trunk_probe import steady
from fedkit.types import Task

Refusal = tuple[str, str, str]
"""Code, reason and remedy."""


def taps_of(
    model: nn.Module, task: Task, input_shape: tuple[int, ...], memory_gb: float, device: torch.device
) -> tuple[str, float, tuple[Taps, ...]] | Refusal:
    """Why taps can train it, a site's gigabytes here, and today's form before the one without compiled code.

    On a GPU there is one form, without a trunk.

    Returns:
        A refusal of three texts, if they cannot.
    """
    remedy = "set training.engine=auto, or reference"
    found = tapped(model, input_shape)
    if isinstance(found, str):
        return "FK417", found, remedy
    if not tap_sum.fits(found.parts):
        return "FK417", "exact sums of its layers exceed what the noise is scaled for", remedy
    here = device == CPU
    forms = [True, False] if here and library() is not None else [False]
    trunks = [trunk_of(model, found, input_shape, compiled=compiled) if here else None for compiled in forms]
    gigabytes = max(bytes_of_taps(found, trunk) for trunk in trunks) / 2**30
    if here and gigabytes > memory_gb:
        return too_large(gigabytes, memory_gb, private=True)
    if not found.proven:
        refused = _mixing(model, found, task, input_shape)
        if refused:
            return "FK417", refused, remedy
    kinds = sorted({tap.kind.__name__ for tap in found.taps})
    why = f"the model trains {len(found.taps)} layers of {', '.join(kinds)}" + (
        ", in compiled code" if forms[0] else ""
    )
    taps = tuple(
        Taps(found, trunk if trunk and steady(model, found, trunk, task, input_shape) else None, compiled)
        for trunk, compiled in zip(trunks, forms, strict=True)
    )
    return why, gigabytes, taps


def _mixing(model: nn.Module, found: Tapped, task: Task, input_shape: tuple[int, ...]) -> str | None:
    """What a probe has to say against a model that is not proven."""
    probed = local.copy_of(model)
    unpack(probed, pack(model))
    try:
        with local.as_found():
            probe(probed, found, task, input_shape)
    except TrainingError as error:
        return error.message
    return None
