from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedkit.errors import TrainingError
from fedkit.models.flat import pack
from fedkit.privacy import independence
from fedkit.privacy.dp_sgd import check_module, lot_gradients
from fedkit.privacy.randomness import Secure
from fedkit.training.evaluate import predict
from fedkit.training.local import train
from fedkit.types import Examples
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan, site


class Model(nn.Module):
    """One linear layer behind a function of the batch, and one behind it."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)
        self.before, self.after = before, after

    def forward(self, x):
        x = self.first(x if self.before is None else self.before(self, x)).relu()
        outputs = self.last(x)
        return outputs if self.after is None else self.after(self, outputs)


class Attention(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        from opacus.layers import DPMultiheadAttention

        self.attention, self.last = DPMultiheadAttention(5, 1, batch_first=batch_first), nn.Linear(5, 1)

    def forward(self, x):
        x = x[:, None, :]
        return self.last(self.attention(x, x, x)[0][:, 0])


class Flipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x):
        return self.last(self.first(x).relu().flip(0)).flip(0)


class Counting(nn.Module):
    """Its integer buffer, or an attribute, moves with the batch; with ``used`` it enters the output."""

    def __init__(self, buffer, used):
        super().__init__()
        self.last, self.used = nn.Linear(5, 1), used
        if buffer:
            self.register_buffer("seen", torch.zeros(5, dtype=torch.int64))
        else:
            self.seen = torch.zeros(5)

    def forward(self, x):
        outputs = self.last(x - self.seen / 1000.0 if self.used else x)
        self.seen = (x.detach().amax(0) * 1000).to(self.seen.dtype)
        return outputs


class Writing(nn.Module):
    """Forward writes into a parameter: wherever ``when`` says so of the batch."""

    def __init__(self, how, when=lambda x: True):
        super().__init__()
        self.table, self.last = nn.Embedding(10, 5), nn.Linear(5, 1)
        self.frozen = nn.Linear(5, 1).requires_grad_(False)
        self.how, self.when = how, when

    def forward(self, x):
        if self.when(x):
            self.how(self)
        return self.last(x) + self.frozen(x)


def renormalised(model):
    F.embedding(torch.arange(3), model.table.weight, max_norm=0.5)


def scaled(model):
    with torch.no_grad():
        model.last.weight.mul_(0.5)


def swapped(model):
    model.last.weight.data = model.last.weight.data * 0.5


def thawed(model):
    model.frozen.bias.data.add_(1.0)


def replaced(model):
    model.frozen.bias = nn.Parameter(model.frozen.bias * 2.0, requires_grad=False)


WRITING = {how.__name__: how for how in (renormalised, scaled, swapped, thawed)}


def seed(factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return factory()


def trained(model):
    return train(model, BINARY, [site()], round_plan(model, {"north": local_plan(privacy=privacy_plan())}), {})


MIXING = {
    "centred": lambda: Model(lambda m, x: x - x.mean(0)),
    "shifted by three": lambda: Model(lambda m, x: x + F.pad(x, (0, 0, 3, 0))[: len(x)]),
    "centred from four rows on": lambda: Model(lambda m, x: x - x.mean(0) if len(x) > 3 else x),
    "centred output": lambda: Model(after=lambda m, o: o - o.mean(0)),
    "functional batch norm": lambda: Model(lambda m, x: F.batch_norm(x, None, None, training=m.training)),
    "layer norm over the batch": lambda: Model(lambda m, x: F.layer_norm(x.T, (len(x),)).T),
    "group norm over the batch": lambda: Model(lambda m, x: F.group_norm(x.reshape(1, -1), 1).reshape(x.shape)),
    "scaled by the largest": lambda: Model(lambda m, x: x / x.abs().max()),
    "attention over records": lambda: Model(lambda m, x: torch.softmax(m.first(x) @ x.T, 1) @ x),
    "batch taken for a sequence": lambda: Attention(batch_first=False),
    "another order": Flipped,
    "integer buffer": lambda: Counting(True, True),
    "attribute": lambda: Counting(False, True),
    "integer buffer, unused": lambda: Counting(True, False),
    "attribute, unused": lambda: Counting(False, False),
}


@pytest.mark.parametrize("name", [*WRITING, "replaced"])
def test_a_model_that_writes_into_its_parameters_is_refused_before_a_record_is_seen(name):
    model = seed(lambda: Writing(WRITING.get(name, replaced)))
    with pytest.raises(TrainingError, match="mixes or remembers records") as caught:
        trained(model)
    assert caught.value.code == "FK404"


@pytest.mark.parametrize("layer", [nn.Embedding(10, 4, max_norm=1.0), nn.EmbeddingBag(10, 4, max_norm=1e9)])
def test_an_embedding_with_a_largest_norm_is_refused_by_name(layer):
    with pytest.raises(TrainingError, match=r"0 has max_norm=.*, which rescales in forward") as caught:
        check_module(nn.Sequential(layer, nn.Linear(4, 1)))
    assert "max_norm=None" in caught.value.remedy


@pytest.mark.parametrize("owners", [None, np.array([0, 0, 1, 1])])
@pytest.mark.parametrize("name", WRITING)
def test_what_a_rare_record_makes_forward_write_is_undone_and_ends_the_round(name, owners):
    rare = 7.0
    model = seed(lambda: Writing(WRITING[name], when=lambda x: bool((x == rare).any())))
    was = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.full((4, 5), 0.5)
    x[2] = rare
    with lot_gradients(model, lambda outputs, y: outputs.sum()) as gradients:
        gradients.check_independence((5,), torch.float32)
        lot, clip, source = (x, torch.zeros(4)), 1.0, Secure()
        asked = (
            partial(gradients.of_records, *lot, clip, source, max_lot=8, lot_size=4.0)
            if owners is None
            else partial(gradients.of_units, *lot, owners, clip, source)
        )
        with pytest.raises(TrainingError, match=r"forward or backward writes into the parameters (table|last|frozen)"):
            asked()
    assert all(torch.equal(was[key], value) for key, value in model.state_dict().items())


def test_what_forward_writes_for_some_rows_of_a_private_evaluation_reaches_no_other_block():
    model = seed(lambda: Writing(scaled)).eval()
    x = np.full((300, 5), 0.5, dtype=np.float32)
    examples = Examples(x, np.zeros(300, dtype=np.int64), np.arange(300))
    scores = predict(model, pack(model), BINARY, examples, places=Secure()).scores
    assert len(set(scores.tolist())) == 1


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_or_remembers_records_is_refused_in_a_private_round(name, large, monkeypatch):
    """Of a large model few rows are drawn."""
    monkeypatch.setattr(independence, "_LARGE_MODEL", 0 if large else 2**22)
    with pytest.raises(TrainingError, match="mixes or remembers records") as caught:
        trained(seed(MIXING[name]))
    assert caught.value.code == "FK404"


def test_a_model_that_squeezes_is_refused_before_a_lot_has_one_record():
    model = seed(lambda: Model(after=lambda m, o: o.squeeze()[..., None]))
    with pytest.raises(TrainingError, match="answers 1 rows") as caught:
        trained(model)
    assert caught.value.code == "FK403"


ALONE = {
    "linear": lambda: nn.Linear(5, 1),
    "attention within a record": lambda: Attention(batch_first=True),
    "layer norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1)),
    "group norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)),
    "dropout": lambda: nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 1)),
    "functional dropout": lambda: Model(lambda m, x: F.dropout(x, 0.5, m.training)),
    "wide": lambda: nn.Sequential(nn.Linear(5, 4096), nn.ReLU(), nn.Linear(4096, 1)),
    "softmax within a row": lambda: Model(lambda m, x: x.softmax(1)),
}


@pytest.mark.parametrize("kind", ["other place", "infinity", "no number"])
def test_gradients_are_compared_to_their_last_piece(kind, monkeypatch):
    monkeypatch.setattr(independence, "_PIECE", 4)
    row = torch.arange(1.0, 12.0)
    other = row.clone()
    other[10] = {"other place": 11.1, "infinity": torch.inf, "no number": torch.nan}[kind]
    assert independence._close(row, row.clone(), 0.0) and not independence._close(row, other, 0.0)
    assert independence._close(other, other.clone(), 0.0)
    assert not independence._close(row, row[:10], 0.0)
    assert independence._largest(other) == pytest.approx(11.1 if kind == "other place" else 10.0)
    assert independence._close(row, other, 0.2) == (kind == "other place")


def test_numbers_whose_difference_is_beyond_float32_are_not_alike():
    row = torch.tensor([1.0, 3e38])
    assert not independence._close(row, torch.tensor([1.0, -3e38]), 1e30)


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ALONE)
def test_a_model_that_treats_each_row_by_itself_is_admitted(name, large, monkeypatch):
    monkeypatch.setattr(independence, "_LARGE_MODEL", 0 if large else 2**22)
    [update], _ = trained(seed(ALONE[name]))
    assert update.site == "north"


def test_no_state_crosses_from_one_hospital_to_the_next():
    # Without privacy a model may keep what it likes, but a site's update must not depend on who was trained before.
    model = seed(lambda: Counting(False, True))
    sites = [site("a", seed=1), site("b", seed=2)]
    plan = round_plan(model, {s.name: local_plan() for s in sites})
    together = train(model, BINARY, sites, plan, {})[0][1].delta
    alone = train(model, BINARY, sites[1:], plan, {})[0][0].delta
    assert (together == alone).all()


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_a_large_model_that_leaves_out_rows_where_there_are_many_is_refused(monkeypatch):
    monkeypatch.setattr(independence, "_LARGE_MODEL", 0)
    with pytest.raises(TrainingError, match="does not keep the batch as the first dimension") as caught:
        trained(seed(lambda: Model(after=lambda m, o: o[:3])))
    assert caught.value.code == "FK404"
