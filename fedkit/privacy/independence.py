"""Whether a model treats each record by itself, asked of random numbers before it sees a record.

Clipping bounds what a record does to its own gradient. A model that mixes the rows of a batch, or keeps something of
them, lets a record into other rows' gradients, where no clipping reaches it.

What a probe shows and what it cannot: it finds mistakes (statistics over the batch axis, attention over a batch taken
for a sequence, rows in another order, state between calls) on the few random batches that it draws. It proves nothing
about a module that behaves only under the probe, or that mixes only in large batches or on rare values: the model's
code is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedkit.errors import TrainingError

Probe = Callable[[Tensor, Tensor], tuple[Tensor, list[Tensor]]]
"""(x [n, ...], weight of each row [n]) -> outputs [n, ...], and per-sample gradients [n, *shape] of each parameter."""

Forward = Callable[[Tensor], Tensor]
"""x [n, ...] -> outputs [n, ...]."""

# Rows that are looked at, all rows in another order, and some of them in another.
_Rows = tuple[list[int], list[int], list[int]]
_MANY: _Rows = [1, 3], [4, 3, 0, 2, 1], [3, 1]
# Of a large model, whose rows' gradients fill the memory; of as many as of others only outputs are compared.
_LARGE_MODEL = 2**22
_FEW: _Rows = [1], [1, 2, 0], [2, 1]
_LARGE = 1000.0
_PIECE = 2**16
"""Values that are compared at once, in a core's cache."""
_RELATIVE, _FLOOR = 1e-4, 1e-5
# What a module's own __dict__ holds that belongs to torch or to the wrapping, not to the model's code.
_TORCHS_OWN = frozenset(nn.Module().__dict__) | {
    "activations", "max_batch_len", "ft_compute_sample_grad", "autograd_grad_sample_hooks"
}  # fmt: skip


def check_independence(probe: Probe, forward: Forward, parameters: Sequence[Tensor], shape: Sequence[int]) -> None:
    """Refuse a model in which a row's output or gradient depends on other rows, or on what was seen before.

    Args:
        probe: forward and backward pass of the model in training mode. forward: the first of these alone.
        parameters: the trainable ones; random values stand in them for some draws, and they are put back.
        shape: of one example; the batches are random numbers, never records.

    Raises:
        TrainingError: the model mixes or remembers rows, refuses small batches, or moves the batch axis.
    """
    was = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        try:
            for randomise in (False, True):
                # Rounding may flip one ReLU of a wide model: what fails is drawn anew, and refused the second time.
                if _difference(probe, forward, parameters, shape, generator, randomise) is None:
                    continue
                reason = _difference(probe, forward, parameters, shape, generator, randomise)
                if reason is not None:
                    raise refusal(reason)
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, was, strict=True):
                    p.copy_(value)


def refusal(reason: str) -> TrainingError:
    """The error of a model that mixes or remembers records."""
    return TrainingError(
        f"the model cannot be trained with differential privacy: it mixes or remembers records ({reason})",
        code="FK404",
        remedy="let forward treat each row by itself: no statistics, attention or order over the batch axis, no random"
        " numbers but dropout's, nothing kept between calls or written into parameters",
    )


class WithoutDropout(TorchFunctionMode):
    """Dropout's masks depend on a row's place in the batch, not on other rows: it is the identity inside."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention and kwargs.get("dropout_p"):
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


_DROPOUT = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout,
})  # fmt: skip


def snapshot(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside its parameters: buffers and attributes, copied, by dotted name."""
    kept: dict[str, Any] = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    for path, child in module.named_modules():
        for name, value in child.__dict__.items():
            if name not in _TORCHS_OWN:
                kept[f"{path}.{name}" if path else name] = _copied(value)
    return kept


def moved(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """The names of what differs between two snapshots."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or not _same(before[name], after[name]):
            yield name


class Untouched:
    """A module's parameters, frozen ones too, as they were: forward and backward read them and never write them.

    What forward writes into a parameter (``nn.Embedding(max_norm=...)`` rescales the rows that it looks up) reaches
    other rows' gradients, and leaves the site without noise.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._named = module, list(module.named_parameters())
        self._was: list[Tensor] = []

    def keep(self) -> None:
        """Remember the parameters as they are."""
        self._was = [p.detach().clone() for _, p in self._named]

    def check(self) -> None:
        """Put back what was written since, and say so.

        Raises:
            TrainingError: FK404, a bit of a parameter differs.
        """
        changed = [(name, p, was) for (name, p), was in zip(self._named, self._was, strict=True) if not _bits(p, was)]
        with torch.no_grad():
            for _, p, was in changed:
                p.copy_(was)
        if changed:
            names = ", ".join(name for name, _, _ in changed)
            raise refusal(f"forward or backward writes into the parameters {names}")

    def replaced(self) -> list[str]:
        """Names of the parameters that are other objects now."""
        known, now = dict(self._named), dict(self._module.named_parameters())
        return sorted(name for name in known.keys() | now.keys() if known.get(name) is not now.get(name))


def _bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Bits and not values: NaN is itself, and 0.0 is not -0.0.
    whole = torch.int32 if a.dtype == torch.float32 else torch.uint8
    return torch.equal(a.detach().reshape(-1).view(whole), b.reshape(-1).view(whole))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, tuple)):
        return [_copied(part) for part in value]
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value if isinstance(value, (bool, int, float, complex, str, bytes, type(None))) else type(value)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b) or (a != a and b != b)


def _difference(
    probe: Probe,
    forward: Forward,
    parameters: Sequence[Tensor],
    shape: Sequence[int],
    generator: torch.Generator,
    randomise: bool,
) -> str | None:
    """Why rows depend on one another in one random draw; None where they do not."""
    if randomise:
        with torch.no_grad():
            for p in parameters:
                fan_in = p.numel() // len(p) if p.dim() > 1 and len(p) else 4
                p.copy_(torch.randn(p.shape, generator=generator) / max(1, fan_in) ** 0.5)
    if sum(p.numel() for p in parameters) <= _LARGE_MODEL:
        return _among(probe, shape, generator, _MANY)

    def outputs(x: Tensor, _: Tensor) -> tuple[Tensor, list[Tensor]]:
        with WithoutDropout(), torch.no_grad():
            found = forward(x)
        if found.dim() == 0 or len(found) != len(x):
            raise TrainingError("the model does not keep the batch as the first dimension", code="FK404")
        return found, []

    return _among(probe, shape, generator, _FEW) or _among(outputs, shape, generator, _MANY)


def _among(probe: Probe, shape: Sequence[int], generator: torch.Generator, drawn: _Rows) -> str | None:
    kept, order, some = drawn
    rows = torch.randn((len(order), *shape), generator=generator)
    weights = torch.rand(len(order), generator=generator) + 0.5
    others = torch.randn((len(order), *shape), generator=generator) * _LARGE
    others[kept] = rows[kept]
    loud = weights * _LARGE
    loud[kept] = weights[kept]
    expected = _answer(probe, rows, weights, kept)
    floors = [_FLOOR * max((_largest(part) for part in ours), default=0.0) for ours in expected]
    for reason, x, w, at in (
        ("other rows of the batch are replaced", others, loud, kept),
        ("rows change places", rows[order], weights[order], [order.index(k) for k in kept]),
        ("other rows are left out", rows[some], weights[some], [some.index(k) for k in kept]),
        ("the row is alone", rows[kept[:1]], weights[kept[:1]], [0]),
        ("the same batch comes again", rows, weights, kept),
    ):
        found = _answer(probe, x, w, at)
        for what, floor, ours, theirs in zip(("output", "gradient"), floors, expected, found, strict=True):
            if not all(_close(a[: len(at)], b, floor) for a, b in zip(ours, theirs, strict=True)):
                return f"a row's {what} changes when {reason}"
    return None


def _answer(probe: Probe, x: Tensor, weights: Tensor, at: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    torch.default_generator.manual_seed(0)
    outputs, gradients = probe(x, weights)
    return [outputs[at]], [gradient[at] for gradient in gradients]


def _close(a: Tensor, b: Tensor, floor: float) -> bool:
    if a.shape != b.shape:
        return False
    apart = 0.0
    for of_a, of_b in zip(_pieces(a), _pieces(b), strict=True):
        finite = torch.isfinite(of_a)
        if not torch.equal(finite, torch.isfinite(of_b)):
            return False
        # Of finite numbers: a difference that is not finite is the largest.
        apart = max(apart, float(torch.where(finite, of_a - of_b, 0.0).abs().max()))
    return apart <= floor or apart <= _RELATIVE * _largest(a) + floor


def _largest(values: Tensor) -> float:
    # Without numbers that are not finite: NaN is neither above nor below.
    return max((float(torch.nan_to_num(part, 0.0, 0.0, 0.0).abs().max()) for part in _pieces(values)), default=0.0)


def _pieces(values: Tensor) -> Sequence[Tensor]:
    flat = values.reshape(-1)
    return torch.split(flat, _PIECE) if len(flat) else ()
