import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.training import local, vmapped
from fedkit.training.choice import choose
from fedkit.training.kinds import Kinds
from fedkit.training.vmapped import AT_ONCE, Vmapped, refused
from fedkit.types import Task
from tests.training.builders import BINARY, Mixing, local_plan, privacy_plan, round_plan, site

TASKS = {"binary": BINARY, "multiclass": Task("multiclass", ("a", "b", "c")), "regression": Task("regression", ())}
NORMED = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))
WIDE = nn.Sequential(nn.Linear(5, 8192), nn.LayerNorm(8192), nn.Linear(8192, 1))


class Attending(nn.Module):
    """Each column is a token; a frozen part, a tied one, and one that nothing uses."""

    def __init__(self, outputs):
        super().__init__()
        self.lift, self.attention = nn.Linear(1, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.frozen, self.unused = nn.Linear(8, 8), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.tied, self.last = nn.Linear(8, 8), nn.Linear(8, outputs)

    def forward(self, x):
        hidden = self.lift(x.unsqueeze(-1))
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return self.last(self.tied(self.frozen(self.tied(hidden)).tanh()).mean(1))


class Remembering(Mixing):
    def forward(self, x):
        self.last = x.detach()
        return self.linear(x)


class Collecting(Mixing):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.linear(x)


class Drawing(Mixing):
    def forward(self, x):
        return self.linear(nn.functional.dropout(x, 0.5))


def both(model, sites, plan, task=BINARY):
    ours, theirs = (train(model, task, sites, plan, {})[0] for train in (Vmapped().train, local.train))
    assert [u.site for u in ours] == [u.site for u in theirs]
    assert [u.weight for u in ours] == [u.weight for u in theirs]
    assert [u.metrics for u in ours] == [u.metrics for u in theirs]
    return ours, theirs


def check_same(model, sites, plan, task=BINARY):
    for mine, its in zip(*both(model, sites, plan, task), strict=True):
        reached = plan.parameters + its.delta
        assert np.linalg.norm(mine.delta - its.delta) <= 1e-5 * np.linalg.norm(reached), mine.site


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(sorted(TASKS)),
    norm=st.booleans(),
    optimizer=st.sampled_from(["sgd", "adam"]),
    mu=st.sampled_from([0.0, 0.1]),
    counts=st.lists(st.integers(1, 23), min_size=1, max_size=6),
    steps=st.lists(st.integers(1, 50), min_size=6, max_size=6),
    batches=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_weights_equal_the_references_whatever_the_sites_are(kind, norm, optimizer, mu, counts, steps, batches):
    torch.manual_seed(0)
    task = TASKS[kind]
    layers = [nn.Linear(5, 8), nn.LayerNorm(8) if norm else nn.Identity(), nn.GELU(), nn.Linear(8, task.num_outputs)]
    sites = [site(f"s{k}", n, k, kind) for k, n in enumerate(counts)]
    rate = 0.05 if optimizer == "sgd" else 1e-3
    plans = {
        each.name: local_plan(steps[k], batches[k], rate, optimizer, weight=float(k + 1) if k % 2 else None)
        for k, each in enumerate(sites)
    }
    check_same(nn.Sequential(*layers), sites, round_plan(nn.Sequential(*layers), plans, mu=mu), task)


@pytest.mark.parametrize("model", [Attending(1), Mixing()], ids=["attention", "looks across its batch"])
def test_other_models_equal_the_reference_after_50_steps(model):
    sites = [site(f"s{k}", 17 + k % 3, k) for k in range(5)]
    plan = round_plan(model, {each.name: local_plan(50, 8, 0.05) for each in sites})
    assert refused(model, BINARY, (5,)) is None
    check_same(model, sites, plan)


def test_more_sites_than_one_program_takes_come_back_in_order(monkeypatch):
    sites = [site(f"s{k:02d}", 9, k) for k in range(7)]
    monkeypatch.setattr(vmapped, "AT_ONCE", 3)
    plan = round_plan(NORMED, {each.name: local_plan(2 + k % 2, 4) for k, each in enumerate(sites)})
    check_same(NORMED, sites, plan)
    first, again = (Vmapped().train(NORMED, BINARY, sites, plan, {})[0] for _ in range(2))
    assert all(np.array_equal(a.delta, b.delta) for a, b in zip(first, again, strict=True))


def test_the_callers_model_generator_and_threads_are_left_as_found():
    before, state = [p.clone() for p in NORMED.parameters()], torch.get_rng_state()
    sites = [site("a"), site("b")]
    Vmapped().train(NORMED, BINARY, sites, round_plan(NORMED, {s.name: local_plan() for s in sites}), {})
    assert all(torch.equal(a, b) for a, b in zip(before, NORMED.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.1), nn.Linear(4, 1)), r"1 \(Dropout\) draws at random"),
        (Drawing(), "vmap does not take it"),
        (Remembering(), "it keeps something"),
        (Collecting(), "it keeps something"),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "vmap does not take it"),
        (nn.Linear(5, 2), "vmap does not take it"),
    ],
    ids=["dropout", "a function that draws", "memory", "a list that grows", "batch norm", "other outputs"],
)
def test_what_cannot_be_trained_so_is_refused_and_left_to_the_reference(model, why):
    assert re.match(why, refused(model, BINARY, (5,)))
    plans = {f"s{k}": local_plan() for k in range(8)}
    with pytest.raises(TrainingError, match=r"engine=vmap cannot train this model") as caught:
        choose(TrainingConfig(0.1, local_steps=1, engine="vmap"), model, BINARY, (5,), Kinds.of(plans))
    assert caught.value.code == "FK417"


def chosen(model, count=8, **changes):
    plans = {f"s{k}": local_plan(privacy=changes.pop("privacy", None)) for k in range(count)}
    return choose(TrainingConfig(0.1, local_steps=1, **changes), model, BINARY, (5,), Kinds.of(plans))


def test_auto_takes_it_for_many_sites_in_one_process_and_says_why_not_otherwise():
    assert chosen(NORMED).record() == {
        "name": "vmap",
        "why": "plain training of one model at 128 sites at once",
        "at_once": AT_ONCE,
    }
    assert chosen(NORMED).most_workers == 1
    few, spread, wide = chosen(NORMED, 7), chosen(NORMED, workers="2"), chosen(WIDE)
    assert {each.name for each in (few, spread, wide)} == {"reference"} and "parameters trains faster" in wide.why
    assert "few sites" in few.why and "training.workers is 2" in spread.why
    assert chosen(NORMED, 3, engine="vmap").name == "vmap"


def test_what_bounds_memory_chooses_another_engine_and_never_other_bits():
    tight = chosen(NORMED, max_clients_at_once=AT_ONCE - 1)
    assert tight.name == "reference" and f"max_clients_at_once {AT_ONCE - 1}" in tight.why
    assert chosen(NORMED, memory_gb=1e-5).name == "reference"
    with pytest.raises(TrainingError) as caught:
        chosen(NORMED, memory_gb=1e-5, engine="vmap")
    assert caught.value.code == "FK418" and "max_clients_at_once" not in caught.value.remedy
    with pytest.raises(TrainingError) as caught:
        chosen(NORMED, max_clients_at_once=AT_ONCE - 1, engine="vmap")
    assert caught.value.remedy == "set training.max_clients_at_once=null, or training.engine=reference"


def test_private_training_is_refused_before_and_when_it_is_asked_for():
    plans = {f"s{k}": local_plan(privacy=privacy_plan(f"s{k}")) for k in range(8)}
    with pytest.raises(TrainingError, match="vmap is for plain training") as caught:
        choose(TrainingConfig(0.1, local_steps=1, engine="vmap"), NORMED, BINARY, (5,), Kinds.of(plans))
    assert caught.value.code == "FK417"
    with pytest.raises(TrainingError, match="s0 trains privately"):
        Vmapped().train(NORMED, BINARY, [site("s0")], round_plan(NORMED, plans), {})


def test_a_site_without_a_plan_or_rows_and_a_result_that_is_not_finite_are_refused_as_in_the_reference():
    for sites, plans, code in (
        ([site("a")], {}, "FK409"),
        ([site("a", 0)], {"a": local_plan()}, "FK409"),
        ([site("a")], {"a": local_plan(50, learning_rate=1e30)}, "FK405"),
    ):
        for train in (Vmapped().train, local.train):
            with pytest.raises(TrainingError) as caught:
                train(NORMED, BINARY, sites, round_plan(NORMED, plans), {})
            assert caught.value.code == code
