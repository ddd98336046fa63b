"""What a model must be for taps: its trainable parameters in layers whose rows' gradients follow from two tensors.

A model is *proven* where it is a Sequential of such layers and of functions in which rows are apart by what the modules
are: then no row enters another's gradient, and none is remembered. Any other forward is only probed for it, as the
reference probes it (:mod:`fedkit.privacy.independence`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkit.errors import first_line
from fedkit.privacy.tap_sum import Part, Product, Table
from fedkit.training.stack import POINTWISE, altered
from fedkit.training.tap_layers import KINDS

_ANY = range(2, 99)
APART: Mapping[type[nn.Module], range] = {
    **dict.fromkeys(POINTWISE, _ANY),
    nn.Identity: range(1, 99),
    nn.Flatten: _ANY,
    nn.MaxPool1d: range(3, 4),
    nn.MaxPool2d: range(4, 5),
    nn.AvgPool1d: range(3, 4),
    nn.AvgPool2d: range(4, 5),
    nn.AdaptiveAvgPool1d: range(3, 4),
    nn.AdaptiveAvgPool2d: range(4, 5),
}
"""Modules without parameters, by exact type: the numbers of dimensions of inputs in which they keep rows apart."""
_ROWS = 3


@dataclass(frozen=True)
class Tap:
    """A layer whose parameters are trained.

    Attributes:
        name: dotted, in the model. parts: of a row's gradient, as `fedkit.privacy.tap_sum` has them.
    """

    name: str
    kind: type[nn.Module]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tapped:
    """A model that taps can train.

    Attributes:
        taps: in the order in which parameters are packed.
        proven: whether rows are apart by construction.
        work: multiplications in a forward pass of one row. calls: modules that it calls.
        held: float32 numbers that are held of a row until its lot is summed. passing: those that its passes need.
    """

    taps: tuple[Tap, ...]
    proven: bool
    work: int
    calls: int
    held: int
    passing: int

    @property
    def parts(self) -> list[Part]:
        """Of all layers."""
        return [part for tap in self.taps for part in tap.parts]


def tapped(module: nn.Module, input_shape: tuple[int, ...]) -> Tapped | str:
    """What there is to tap, or in one sentence why the model is none of these.

    Args:
        input_shape: of one example; a few of zeros pass through a copy.
    """
    refused = next(filter(None, (_refused(name, part) for name, part in module.named_modules())), None)
    if refused:
        return refused
    if any(True for _ in module.buffers()):
        return "the model has buffers"
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if len(parameters) != len(list(module.parameters())):
        return "layers share parameters"
    if not any(p.requires_grad for p in parameters.values()):
        return "nothing in the model is trainable"
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters.values()):
        return "a parameter is not float32 on the CPU"
    try:
        return _traced(copy.deepcopy(module), input_shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"the model does not take a few rows of zeros: {first_line(error)}"


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of a Sequential in the order in which they are called."""
    if type(module) is nn.Sequential:
        for part in module:
            yield from leaves(part)
    else:
        yield module


def _refused(name: str, part: nn.Module) -> str | None:
    what = f"{name} ({type(part).__name__})" if name else type(part).__name__
    if altered(part):
        return f"{what} has hooks or a forward of its own"
    if isinstance(part, nn.modules.dropout._DropoutNd) and part.p:
        return f"{what} draws at random"
    if getattr(part, "inplace", False):
        return f"{what} works in place"
    own = {name: p for name, p in part.named_parameters(recurse=False)}
    trained = [p.requires_grad for p in own.values()]
    if not any(trained):
        return None
    kind = KINDS.get(type(part))
    if kind is None or set(own) - {"weight", "bias"}:
        return f"{what} has parameters and is none of {', '.join(kind.__name__ for kind in KINDS)}"
    if not all(trained):
        return f"{what} is frozen in part"
    reason = kind.refused(part)
    return f"{what} {reason}" if reason else None


def _traced(module: nn.Module, input_shape: tuple[int, ...]) -> Tapped | str:
    """The taps of a copy of the model, from the shapes that a few rows have in it."""
    names = {part: name for name, part in module.named_modules()}
    shapes: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = {}

    def see(part: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        alone = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(output, Tensor)
        nowhere = torch.Size()
        shapes.setdefault(part, []).append((given[0].shape, output.shape) if alone else (nowhere, nowhere))

    module.train()
    with torch.no_grad():
        hooks = [part.register_forward_hook(see) for part in module.modules()]
        module(torch.zeros((_ROWS, *input_shape)))
    taps, work, held = [], 0, 0
    passing = 3 * sum(given[1:].numel() for calls in shapes.values() for _, given in calls)
    for part, name in names.items():
        if type(part) not in KINDS or not list(part.parameters()):
            continue
        kind, what = KINDS[type(part)], f"{name or 'the model'} ({type(part).__name__})"
        calls = shapes.get(part, [])
        frozen = not any(p.requires_grad for p in part.parameters())
        if frozen:
            work += sum(kind.cost(part, output[1:]) for _, output in calls)
            continue
        if len(calls) != 1:
            return f"{what} is called {len(calls)} times in a forward pass"
        taken, given = calls[0]
        if len(taken) not in kind.dims(part) or taken[0] != _ROWS or given[0] != _ROWS:
            return f"{what} takes rows in the shape {list(taken)}"
        taps.append(Tap(name, type(part), tuple(kind.parts(part, given[1:]))))
        held += sum(_numbers(each, given[1:]) for each in taps[-1].parts)
        work += kind.cost(part, given[1:])
        # A convolution's windows, side by side.
        passing += kind.cost(part, given[1:]) // given[1] if type(part) in (nn.Conv1d, nn.Conv2d) else 0
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        # Blocks may have one place, and a norm may refuse a row alone.
        module(torch.zeros((1, *input_shape)))
    proven = all(_apart(part, shapes.get(part, [])) for part in module.modules())
    return Tapped(tuple(taps), proven, work, sum(map(len, shapes.values())), held, passing)


def _apart(part: nn.Module, calls: Sequence[tuple[torch.Size, torch.Size]]) -> bool:
    """Whether rows are apart in a module by what it is, given the shapes of its calls."""
    if type(part) is nn.Sequential:
        return True
    if type(part) is nn.Flatten and part.start_dim < 1:
        return False
    dims = KINDS[type(part)].dims(part) if type(part) in KINDS else APART.get(type(part), range(0))
    return all(len(taken) in dims and taken[0] == _ROWS for taken, _ in calls)


def _numbers(part: Part, output: torch.Size) -> int:
    if isinstance(part, Product):
        return part.width + part.outputs
    return 2 * output.numel() if isinstance(part, Table) else part.size
