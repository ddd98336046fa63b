"""The models on offer and how one is built."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models.cnn import cnn
from fedkit.models.logistic import logistic
from fedkit.models.mlp import mlp

MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
}


def build(
    config: ModelConfig,
    input_shape: tuple[int, ...],
    num_outputs: int,
    seed: int,
    extra: Mapping[str, Callable[..., nn.Module]] | None = None,
    *,
    values: bool = True,
) -> nn.Module:
    """Build a model with torch's own initialisation under ``torch.manual_seed(seed)``.

    Args:
        extra: further models by name, which a site or a coordinator has installed; ours cannot be replaced.
        values: whether parameters are given their first values; False leaves those of our own models as memory has
            them, for a caller who replaces every one.

    Returns:
        A new module; torch's global generator is left as found.

    Raises:
        TrainingError: an unknown name or argument.

    >>> model = build(ModelConfig("logistic"), (13,), 1, seed=42)
    >>> sum(p.numel() for p in model.parameters())
    14
    """
    known = {**(extra or {}), **MODELS}
    if config.name not in known:
        close = difflib.get_close_matches(config.name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "set model=" + " or model=".join(known)
        raise TrainingError(f"model {config.name} is not one of {', '.join(known)}", code="FK402", remedy=hint)

    def make() -> nn.Module:
        return known[config.name](input_shape, num_outputs, **config.arguments)

    if values or config.name not in MODELS:
        # Another's model may draw more than parameters, and would draw other numbers after fewer.
        return initialise(make, seed, config.name)
    with _Unfilled():
        return initialise(make, seed, config.name)


class _Unfilled(TorchFunctionMode):
    """What torch.nn.init would fill stays as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def initialise(factory: Callable[[], nn.Module], seed: int, name: str = "model") -> nn.Module:
    """Call a model's factory under ``torch.manual_seed(seed)``, global generator left as found.

    Raises:
        TrainingError: the factory does not take the arguments, or does not return a module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = factory()
        except TypeError as error:
            raise TrainingError(f"model {name} refuses its arguments: {error}", code="FK402") from error
    if not isinstance(module, nn.Module):
        raise TrainingError(f"model {name} is a {type(module).__name__}, not a torch.nn.Module", code="FK402")
    return module
