import pytest
import torch
from torch import nn

from fedkit.errors import TrainingError
from fedkit.training.tapped import tapped
from fedkit.training.taps import probe
from tests.training.test_taps import THREE, LowRank, Words

LINEAR = nn.Linear(4, 3)


class Through(nn.Module):
    """A forward of its own over some parts."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._how = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self._how(self, x)


def hooked():
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda *_: None)
    return model


def frozen_in_part():
    model = nn.Linear(4, 3)
    model.bias.requires_grad_(False)
    return model


def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


REFUSED = {
    "hooks": (hooked, "Linear has hooks or a forward of its own"),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1)), r"1 \(Dropout\) draws at random"),
    "in place": (lambda: nn.Sequential(LINEAR, nn.ReLU(inplace=True)), r"1 \(ReLU\) works in place"),
    "buffers": (lambda: nn.Sequential(LINEAR, nn.BatchNorm1d(3, affine=False)), "the model has buffers"),
    "other layers": (
        lambda: nn.Sequential(LINEAR, nn.PReLU()),
        r"1 \(PReLU\) has parameters and is none of Linear, Conv1d, Conv2d, Embedding, LayerNorm, GroupNorm",
    ),
    "recurrent": (lambda: Through(lambda m, x: m.r(x)[0], r=nn.GRU(4, 3)), r"r \(GRU\) has parameters"),
    "frozen in part": (frozen_in_part, "Linear is frozen in part"),
    "shared": (tied, "layers share parameters"),
    "frozen": (lambda: nn.Linear(4, 3).requires_grad_(False), "nothing in the model is trainable"),
    "padding": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")),
        r"1 \(Conv1d\) has padding_mode=circular",
    ),
    "norm without bias": (lambda: nn.LayerNorm(4, bias=False), "LayerNorm has no bias"),
    "padded words": (lambda: nn.Embedding(4, 3, padding_idx=0), "Embedding has padding_idx=0"),
    "double": (lambda: nn.Linear(4, 3).double(), "a parameter is not float32 on the CPU"),
    "called twice": (lambda: Through(lambda m, x: m.a(m.a(x)), a=nn.Linear(4, 4)), r"a \(Linear\) is called 2 times"),
    "never called": (lambda: Through(lambda m, x: m.a(x), a=LINEAR, b=nn.Linear(4, 3)), r"b \(Linear\) is called 0"),
    "rows as planes": (lambda: nn.Conv1d(3, 3, 2), r"the model \(Conv1d\) takes rows in the shape \[3, 4\]"),
    "norm over rows": (lambda: nn.LayerNorm([3, 4]), r"takes rows in the shape \[3, 4\]"),
    "rows joined": (
        lambda: Through(lambda m, x: m.a(x.reshape(-1, 2)).reshape(len(x), -1), a=nn.Linear(2, 3)),
        r"a \(Linear\) takes rows in the shape \[6, 2\]",
    ),
    "one row": (lambda: nn.Sequential(nn.Linear(4, 3), nn.GroupNorm(3, 3)), "Expected more than 1 value per channel"),
    "three rows alone": (
        lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, 4)), nn.Linear(4, 3)),
        "the model does not take a few rows of zeros: unflatten",
    ),
    "another shape": (lambda: nn.Linear(5, 3), "the model does not take a few rows of zeros"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_tapped_is_refused_by_its_name(name):
    import re

    make, why = REFUSED[name]
    found = tapped(make(), (4,))
    assert isinstance(found, str) and re.search(why, found), found


@pytest.mark.parametrize(
    ("model", "shape", "proven"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.LayerNorm(3), nn.Tanh())), (4,), True),
        (nn.Sequential(nn.Conv1d(2, 3, 2), nn.GroupNorm(3, 3), nn.Flatten()), (2, 4), True),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(0)), (4,), False),
        (nn.Sequential(nn.Linear(4, 3), nn.MaxPool1d(2)), (4,), False),
        (Words(), (4,), False),
        (LowRank(), (5,), False),
    ],
)
def test_rows_are_apart_by_construction_only_where_every_module_keeps_them_apart(model, shape, proven):
    found = tapped(model, shape)
    assert not isinstance(found, str), found
    assert found.proven == proven
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(part.size for part in found.parts) == sum(trained)


MIXED = {
    "softmax over rows": nn.Sequential(nn.Linear(4, 3), nn.Softmax(0)),
    "mean of rows": Through(lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(4, 3)),
    "rows turned": Through(lambda m, x: m.a(x).flip(0), a=nn.Linear(4, 3)),
    "random": Through(lambda m, x: m.a(nn.functional.dropout(x, 0.5, True)), a=nn.Linear(4, 3)),
    "past its layer": Through(lambda m, x: m.a(x) + x @ m.a.weight.t(), a=nn.Linear(4, 3)),
    "written over": Through(lambda m, x: m.a(x).mul_(2.0), a=nn.Linear(4, 3)),
    "input written over": Through(lambda m, x: _overwritten(m, x * 1.0), a=nn.Linear(4, 3)),
}


def _overwritten(m, x):
    outputs = m.a(x)
    x.zero_()
    return outputs


@pytest.mark.parametrize("name", MIXED)
def test_models_that_mix_rows_or_evade_the_taps_are_refused_by_the_probe(name):
    torch.manual_seed(0)
    found = tapped(MIXED[name], (4,))
    assert not isinstance(found, str) and not found.proven
    with pytest.raises(TrainingError) as caught:
        probe(MIXED[name], found, THREE, (4,))
    assert caught.value.code == "FK404"
    assert all(p.requires_grad for p in MIXED[name].parameters())
    assert not any(part._forward_hooks for part in MIXED[name].modules())


def test_a_model_that_remembers_is_refused():
    def remembers(m, x):
        m.last = x.detach().sum(0)
        return m.a(x)

    model = Through(remembers, a=nn.Linear(4, 3))
    with pytest.raises(TrainingError, match="last changed"):
        probe(model, tapped(model, (4,)), THREE, (4,))
