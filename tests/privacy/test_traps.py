"""Traps that libraries for private training set, each with the regression test that springs it.

All were reproduced with Opacus 1.6 or Flower 1.41: a run that reports an epsilon and does not have it.

- a new engine each round: 1.36 reported, 12.18 true
  privacy/test_plan.py::test_epsilon_is_composed_over_all_rounds_never_reset_each_round
- one step a round charged: 2.59 reported, 12.17 true
  test_every_lot_of_every_round_is_drawn_at_the_plans_rate_and_charged
- sites' records pooled: 2.46 reported, 12.17 true
  privacy/test_plan.py::test_sites_are_not_pooled_in_the_sampling_rate
- torch.manual_seed each round: the same noise, which cancels
  test_noise_is_new_in_every_round_whatever_is_seeded
- a default torch.Generator: noise known in advance
  test_noise_is_not_that_of_a_default_generator
- lot size int(n * q): n read off one step
  privacy/test_dp_sgd.py::test_the_divisor_is_the_plans_constant_whatever_the_data
- class-weighted mean loss: sensitivity 13.7 C
  test_a_record_moves_the_update_by_at_most_the_clip_however_rare_its_class
- frozen BatchNorm in train mode: raw data in running_mean
  privacy/test_dp_sgd.py::test_modules_that_break_the_bound_are_refused
- rand_on_empty: neighbours differ by 1.82 C
  test_an_empty_lot_releases_noise_and_nothing_else
- adaptive clipping: divides by the actual lot
  test_no_setting_asks_for_a_trap
- a lot left half summed: next sum 112 C, 64 C legal
  test_a_lot_that_failed_leaves_nothing_to_the_next
- stepping the raw optimizer: an update without noise
  test_an_update_carries_the_plans_noise_on_real_records
- re-wrapping the loader: q drifts, a batch is lost
  test_every_lot_of_every_round_is_drawn_at_the_plans_rate_and_charged
- ew mode, distributed sampler: empty lots dropped
  training/test_local.py::test_a_site_without_rows_still_releases_noise
- skipping empty lots: steps without noise
  privacy/test_dp_sgd.py::test_empty_lots_release_noise_of_the_plans_size
- Poisson sampling off: 3.49 reported, 14.1 true
  privacy/test_dp_sgd.py::test_units_join_lots_at_the_plans_rate
- drop_last: q 1/19 becomes 1/18
  test_every_lot_of_every_round_is_drawn_at_the_plans_rate_and_charged
- GDP accountant: 10.447, certified above 10.976
  test_gdp_is_below_what_is_certified_and_is_not_ours
- plain state into a wrapped module: keys carry _module.
  test_without_noise_and_clip_a_private_step_is_a_plain_one
- Flower's LocalDpMod: classical formula, no composition
  test_only_per_sample_gradients_come_from_libraries
- true counts as weights: an uncharged release
  training/test_local.py::test_a_private_update_carries_the_declared_weight_and_no_metrics
- z-scores from local data: an uncharged release
  data/test_split.py::test_private_run_refuses_what_depends_on_other_records
- a permuted or stratified split: one record moves others
  data/test_split.py::test_adding_a_row_moves_no_other
- refusals that depend on records: an uncharged release
  test_what_leaves_has_the_same_shape_whatever_the_records
- sites skipped by their records: an uncharged release
  training/test_plan.py::test_a_private_run_leaves_sites_out_by_their_declaration_only
- a 32-bit seed: noise recovered
  privacy/test_randomness.py::test_seeds_beyond_32_bits_count
- float32 normals: tail ends at 5.768 sigma
  privacy/test_rounded_gaussian.py::test_the_tail_goes_on_beyond_what_53_bits_can_say
"""

import ast
import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig, PrivacyConfig, TrainingConfig
from fedkit.errors import ConfigError
from fedkit.models import build
from fedkit.privacy import accounting, dp_sgd
from fedkit.privacy.accounting import epsilon
from fedkit.privacy.lattice import G
from fedkit.privacy.plan import SiteFacts, make_plan
from fedkit.privacy.randomness import Draws, Seeded
from fedkit.training.local import train
from fedkit.training.losses import loss
from fedkit.types import Examples, Task
from tests.training.builders import BINARY, examples, local_plan, privacy_plan, round_plan, site

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "binary": BINARY,
    "multiclass": Task("multiclass", ("a", "b", "c")),
    "regression": Task("regression", (), (0.0, 60.0)),
}
QUIET = 1e-9
"""A noise multiplier that leaves the sum to be seen."""


def rows():
    lines = (__doc__ or "").splitlines()
    return [(line[2:], named.strip()) for line, named in pairwise(lines) if line.startswith("- ")]


@pytest.mark.parametrize(("trap", "named"), rows(), ids=[trap for trap, _ in rows()])
def test_every_trap_has_a_test(trap, named):
    file, _, name = named.rpartition("::")
    path = ROOT / "tests" / file if file else Path(__file__)
    functions = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert name in functions


def trained(part, model, *, task=BINARY, number=1, **privacy):
    """The update of one round at one site with learning rate 1: minus the sum of its noisy mean gradients."""
    plan = privacy_plan(**{"steps": 1, "noise": "secure", **privacy})
    local = local_plan(steps=plan.steps, learning_rate=1.0, privacy=plan, weight=30.0)
    here = dataclasses.replace(site(), train=part)
    [update], _ = train(model, task, [here], round_plan(model, {"north": local}, number=number), {})
    return update


def none(kind="binary"):
    part = examples(1, kind=kind)
    return Examples(part.x[:0], part.y[:0], part.unit[:0])


@pytest.fixture
def logistic():
    return build(ModelConfig("logistic"), (5,), 1, 0)


@pytest.fixture
def wide():
    """1,401 parameters: enough to estimate a standard deviation from one update."""
    return build(ModelConfig("mlp", {"hidden": [200]}), (5,), 1, 0)


def test_every_lot_of_every_round_is_drawn_at_the_plans_rate_and_charged(logistic, monkeypatch):
    drawn = []
    masks, normals = Draws.poisson_mask, Draws.rounded_gaussian
    monkeypatch.setattr(Draws, "poisson_mask", lambda self, n, q: drawn.append((n, q)) or masks(self, n, q))
    monkeypatch.setattr(Draws, "rounded_gaussian", lambda self, d, scale: drawn.append(d) or normals(self, d, scale))
    privacy = PrivacyConfig("record_dp", noise_multiplier=1.2, delta=1e-5, max_grad_norm=1.0, sample_rate=1 / 19)
    plan = make_plan(SiteFacts("north", 303, True, "record", 0.25), privacy, TrainingConfig(0.1, local_epochs=1), 3)
    # 41 rows are no multiple of a lot, 4 are less than one, none is none: the draws are the same.
    for rows_here in (41, 4, 0):
        drawn.clear()
        part = examples(rows_here) if rows_here else none()
        for number in (1, 2, 3):
            trained(part, logistic, number=number, **dataclasses.asdict(plan))
        assert drawn == [(rows_here, 1 / 19), 6] * 57
    # A little more than the steps alone: delta pays for the lots beyond the bound, too.
    assert plan.epsilon == pytest.approx(epsilon(1 / 19, 1.2, 57, 1e-5), rel=1e-9)
    assert plan.epsilon >= epsilon(1 / 19, 1.2, 57, 1e-5)


def test_noise_is_new_in_every_round_whatever_is_seeded(wide):
    updates = []
    for number in (1, 1, 2):
        torch.manual_seed(42)
        np.random.seed(42)
        updates.append(trained(none(), wide, number=number).delta)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(updates[a], updates[b])[0, 1]) < 0.15
        # One of 1,401 float32 pairs is equal by chance once in 40,000 runs, four are never.
        assert np.count_nonzero(updates[a] == updates[b]) <= 3


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_noise_is_not_that_of_a_default_generator(wide, noise):
    torch.manual_seed(0)
    update = trained(none(), wide, noise=noise).delta
    d = len(update)
    torch.manual_seed(0)
    known = [
        torch.randn(d, generator=torch.Generator()).numpy(),
        torch.randn(d, generator=torch.Generator(), dtype=torch.float64).numpy(),
        torch.randn(d).numpy(),
        *(np.random.default_rng(seed).standard_normal(d) for seed in (0, 1, 42)),
        np.random.RandomState(0).standard_normal(d),
    ]
    for guess in known:
        assert abs(np.corrcoef(update, guess)[0, 1]) < 0.15


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("clip", [1.0, 100.0])
def test_a_record_moves_the_update_by_at_most_the_clip_however_rare_its_class(kind, clip):
    # All rows but one are alike and of one class, so that a loss that rescales them by the others adds up; with a clip
    # that never binds the bound is the record's own gradient.
    x = np.tile(np.array([[0.5, -0.2, 0.1, 0.3, 0.4]], np.float32), (30, 1))
    x[0] = -3.0 * x[0]
    y = np.full(30, 0.9, np.float32) if kind == "regression" else np.zeros(30, np.int64)
    y[0] = 0 if kind == "regression" else 1
    whole = Examples(x, y, np.arange(30))
    rest = Examples(x[1:], y[1:], np.arange(29))
    alone = Examples(x[:1], y[:1], np.arange(1))
    model = build(ModelConfig("mlp", {"hidden": [8]}), (5,), TASKS[kind].num_outputs, 0)
    quiet = {"noise_multiplier": QUIET, "max_grad_norm": clip, "sample_rate": 1.0, "lot_size": 1.0}
    a, b, own = (trained(part, model, task=TASKS[kind], **quiet).delta for part in (whole, rest, alone))
    assert np.linalg.norm(a - b) <= clip * (1 + 1e-4)
    np.testing.assert_allclose(a - b, own, atol=1e-4)
    assert np.linalg.norm(b) > 3 * np.linalg.norm(own) > 0


def test_an_empty_lot_releases_noise_and_nothing_else(wide):
    part = examples(40)
    rare = {"sample_rate": 1e-12, "steps": 3, "lot_size": 10.0}
    assert np.abs(trained(part, wide, noise_multiplier=QUIET, **rare).delta).max() < 1e-6
    assert trained(part, wide, noise_multiplier=2.0, **rare).delta.std() == pytest.approx(2 * 3**0.5 / 10, rel=0.1)


def test_an_update_carries_the_plans_noise_on_real_records(wide):
    # Everyone is in the lot, so that what differs from a run without noise is the noise.
    part = examples(40)
    settings = {"sample_rate": 1.0, "max_grad_norm": 0.5, "lot_size": 8.0}
    bare = trained(part, wide, noise_multiplier=QUIET, **settings).delta
    assert np.linalg.norm(bare) > 0.1
    first, second = (trained(part, wide, noise_multiplier=3.0, **settings).delta - bare for _ in range(2))
    # Standard errors: 1.9 % of each, 1.3 % of both together.
    for noise in (first, second):
        assert noise.std() == pytest.approx(3.0 * 0.5 / 8.0, rel=0.13)
        assert abs(noise.mean()) < 0.035
    assert np.concatenate((first, second)).std() == pytest.approx(3.0 * 0.5 / 8.0, rel=0.08)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_a_lot_that_failed_leaves_nothing_to_the_next(monkeypatch):
    monkeypatch.setattr(dp_sgd, "MAX_ROWS", 8)
    part, calls = examples(40), []
    x, y = torch.tensor(part.x), torch.tensor(part.y, dtype=torch.float32)
    module, untouched = (build(ModelConfig("mlp", {"hidden": [8]}), (5,), 1, 0) for _ in range(2))

    def losses(outputs, expected):
        calls.append(len(outputs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(BINARY, outputs, expected, "sum")

    # The lot stops in its third part of five, and with it the round; the next round finds the module as new.
    with pytest.raises(KeyboardInterrupt), dp_sgd.lot_gradients(module, losses) as gradients:
        gradients.of_records(x, y, 1.0, Seeded(1), max_lot=40, lot_size=10.0)
    sums = []
    for each in (module, untouched):
        with dp_sgd.lot_gradients(each, losses) as gradients:
            sums += [gradients.of_records(x, y, 1.0, Seeded(1), max_lot=40, lot_size=10.0) for _ in range(2)]
    assert all(torch.equal(each, sums[-1]) for each in sums)
    assert G < float(sums[0].double().norm()) <= 40 * G


def test_without_noise_and_clip_a_private_step_is_a_plain_one():
    part = examples(40)
    model = build(ModelConfig("mlp", {"hidden": [6]}), (5,), 1, 0)
    quiet = {"noise_multiplier": QUIET, "max_grad_norm": 1e4, "sample_rate": 1.0, "lot_size": 40.0}
    private = trained(part, model, **quiet).delta
    here = dataclasses.replace(site(), train=part)
    plan = round_plan(model, {"north": local_plan(steps=1, batch_size=40, learning_rate=1.0)})
    [plain], _ = train(model, BINARY, [here], plan, {})
    np.testing.assert_allclose(private, plain.delta, atol=2e-3)
    assert np.abs(plain.delta).max() > 0.05
    assert not any("_module" in name for name, _ in model.named_parameters())


RECORDS = {
    "one fewer": lambda: examples(39),
    "none": none,
    "one class": lambda: dataclasses.replace(examples(40), y=np.zeros(40, np.int64)),
    "one record": lambda: examples(1),
    "values without bound": lambda: dataclasses.replace(examples(40), x=np.full((40, 5), 3e38, np.float32)),
    "not a number": lambda: dataclasses.replace(examples(40), x=np.full((40, 5), np.nan, np.float32)),
    "all of one unit": lambda: dataclasses.replace(examples(40), unit=np.zeros(40, np.int64)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_leaves_has_the_same_shape_whatever_the_records(logistic, name):
    def shape(update):
        return update.site, update.delta.shape, update.delta.dtype, update.weight, dict(update.metrics)

    found, again, usual = (trained(part, logistic, steps=6) for part in (*[RECORDS[name]()] * 2, examples(40)))
    assert shape(found) == shape(usual) == ("north", (6,), np.float32, 30.0, {})
    assert np.isfinite(found.delta).all()
    # Every parameter bears noise; float32 rounds one to 0 once in ten million times, and never twice.
    assert np.all((found.delta != 0) | (again.delta != 0))


def test_gdp_is_below_what_is_certified_and_is_not_ours():
    from opacus.accountants.analysis.gdp import compute_eps_poisson

    gdp = compute_eps_poisson(steps=1000, noise_multiplier=1.0, sample_rate=0.05, delta=1e-5)
    assert gdp == pytest.approx(10.447, abs=2e-3)
    # 10.976 is a certified lower bound of the true epsilon.
    assert gdp < 10.976 <= epsilon(0.05, 1.0, 1000, 1e-5)
    assert accounting.ACCOUNTANT == "pld"


SETTINGS = [
    "privacy.accountant=gdp",
    "privacy.clipping=adaptive",
    "privacy.poisson_sampling=false",
    "privacy.rand_on_empty=true",
    "privacy.drop_last=true",
    "privacy.grad_sample_mode=ew",
    "privacy.noise_generator=default",
    "privacy.noise_seed=42",
    "privacy.secure_mode=false",
    "privacy.lot_size=30",
    "privacy.steps=1",
    "training.class_weights=[1,50]",
    "training.loss=mean",
    "training.drop_last=true",
]


@pytest.mark.parametrize("sign", ["", "+"])
def test_no_setting_asks_for_a_trap(sign):
    with pytest.raises(ConfigError) as caught:
        compose("heart_disease", [sign + setting for setting in SETTINGS])
    named = [setting.partition("=")[0] for setting in SETTINGS]
    assert [key for key in named if not any(key in problem for problem in caught.value.problems)] == []
    assert len(caught.value.problems) >= len(SETTINGS)


# What may be had of Opacus, and names that stand for a trap wherever they come from.
OPACUS = {"GradSampleModule", "ModuleValidator"}
TRAPS = {
    "PrivacyEngine",
    "make_private",
    "make_private_with_epsilon",
    "DPOptimizer",
    "DPDataLoader",
    "BatchMemoryManager",
    "GaussianAccountant",
    "LocalDpMod",
    "fixedclipping_mod",
    "adaptiveclipping_mod",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideFixedClipping",
}


def test_only_per_sample_gradients_come_from_libraries():
    found, files = [], [p for folder in ("fedkit", "clients", "server") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                if (node.module or "").split(".")[0] == "opacus" and not names <= OPACUS:
                    found.append((path.name, *names - OPACUS))
            elif isinstance(node, ast.Import):
                found += [(path.name, alias.name) for alias in node.names if alias.name.split(".")[0] == "opacus"]
            elif isinstance(node, ast.Attribute):
                names = {node.attr}
            elif isinstance(node, ast.Name):
                names = {node.id}
            found += [(path.name, name) for name in names & TRAPS]
    assert found == []


def test_secure_is_the_source_of_a_private_round(logistic, monkeypatch):
    used = []
    real = Draws.rounded_gaussian
    monkeypatch.setattr(Draws, "rounded_gaussian", lambda self, d, scale: used.append(d) or real(self, d, scale))
    trained(examples(40), logistic, steps=4)
    assert used == [6] * 4


# Seconds of accounting or of real processes: make test runs these, the two-minute loop of make check does not.
pytestmark = pytest.mark.slow
