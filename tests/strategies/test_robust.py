"""Our robust strategies do what Flower's classes of the same names do, block by block."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.arguments import STRATEGY_ARGUMENTS
from fedkit.config.experiment import StrategyConfig
from fedkit.strategies import STRATEGIES, build, memory_note, robust
from fedkit.strategies.robust import BUFFER, ROBUST, Robust
from tests.strategies.test_streaming import LEAST, _flower_round

SIZE = 60


def _compare(name, arguments, x, deltas, weights):
    """Flower's in float64: in float32 it works on full models, and loses what is small beside them."""
    arguments = {key: known.default for key, known in STRATEGY_ARGUMENTS[name].items()} | arguments
    ours = ROBUST[name](**arguments).finish(x, deltas, weights)
    other = _flower_round(STRATEGIES[name](**LEAST, **arguments), x.astype(np.float64), deltas, weights, 1)
    np.testing.assert_allclose(ours, other, rtol=0, atol=1e-6 * max(1.0, float(np.abs(other).max())))
    assert ours.dtype == np.float32


def test_what_is_robust_by_itself_is_what_the_issue_names():
    assert set(ROBUST) == {"fedmedian", "fedtrimmedavg", "krum", "multikrum"} and ROBUST.keys() <= STRATEGIES.keys()
    for name in ROBUST:
        known = {key: argument.default for key, argument in STRATEGY_ARGUMENTS[name].items()}
        assert isinstance(build(StrategyConfig(name, known), num_sites=3, private=True), Robust)
        assert isinstance(build(StrategyConfig(name), num_sites=3, private=True), Robust)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), sites=st.integers(1, 33), liars=st.integers(0, 3), ties=st.booleans())
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("fedmedian", {}), ("fedtrimmedavg", {}), ("fedtrimmedavg", {"beta": 0.0}), ("fedtrimmedavg", {"beta": 0.49})],
)
def test_places_are_flowers(name, arguments, seed, sites, liars, ties):
    generator = np.random.default_rng(seed)
    deltas = generator.normal(size=(sites, SIZE)).astype(np.float32)
    deltas[: min(liars, sites)] *= 1e5
    if ties:
        # Few values, and whole updates that are the same.
        deltas = np.round(deltas[generator.integers(0, sites, sites)])
    x = generator.normal(size=SIZE).astype(np.float32)
    _compare(name, arguments, x, list(deltas), [1.0] * sites)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), liars=st.integers(0, 4), more=st.integers(0, 20), chosen=st.integers(1, 30),
       close=st.booleans())  # fmt: skip
@pytest.mark.parametrize("name", ["krum", "multikrum"])
def test_krum_is_flowers(name, seed, liars, more, chosen, close):
    generator = np.random.default_rng(seed)
    sites = 2 * liars + 3 + more
    # Updates that differ by a hundredth of themselves: float32 must not confuse them.
    deltas = generator.normal(size=(1 if close else sites, SIZE)) + (1e-2 if close else 0) * generator.normal(
        size=(sites, SIZE)
    )
    deltas[:liars] += 100
    weights = [float(w) for w in generator.uniform(1, 1000, sites)]
    arguments = {"num_malicious_nodes": liars} | ({"num_nodes_to_select": chosen} if name == "multikrum" else {})
    x = generator.normal(size=SIZE).astype(np.float32)
    _compare(name, arguments, x, list(deltas.astype(np.float32)), weights)


def test_krum_takes_one_of_the_honest_and_of_equals_the_first():
    generator = np.random.default_rng(0)
    honest = [generator.normal(size=SIZE).astype(np.float32) for _ in range(5)]
    lies = [np.full(SIZE, 1e6, np.float32), np.full(SIZE, -1e6, np.float32)]
    after = ROBUST["krum"](num_malicious_nodes=2).finish(np.zeros(SIZE, np.float32), [*lies, *honest], [1.0] * 7)
    assert any(np.array_equal(after, one) for one in honest)
    same = [honest[0]] * 5
    assert robust._closest(same, 0, 2) == [0, 1]


def test_what_float32_cannot_tell_apart_is_told_apart():
    generator = np.random.default_rng(1)
    base = generator.normal(size=4000)
    # Distances of 1e-6 of the norms: rounding in float32 would decide who is nearest.
    spread = np.array([3.0, 1.0, 2.0, 4.0, 5.0])
    directions = generator.normal(size=(5, 4000))
    deltas = [(base + 3e-4 * s * d).astype(np.float32) for s, d in zip(spread, directions, strict=True)]
    exact = np.stack(deltas).astype(np.float64)
    distances = np.sort(((exact[:, None] - exact[None]) ** 2).sum(-1), axis=1)[:, 1:4].sum(1)
    ranked = [int(i) for i in np.argsort(distances, kind="stable")]
    in_float32 = np.argsort(robust._scores(robust._gram(deltas, np.float32), 0)[0], kind="stable")
    assert [int(i) for i in in_float32] != ranked
    assert all(robust._closest(deltas, 0, chosen) == ranked[:chosen] for chosen in range(1, 5))


@pytest.mark.parametrize("name", ROBUST)
def test_one_update_is_the_result_and_is_not_written_to(name):
    delta = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    before = delta.copy()
    delta.flags.writeable = False
    after = ROBUST[name]().finish(np.zeros(SIZE, np.float32), [delta], [3.0])
    np.testing.assert_allclose(after, before, rtol=1e-7)
    assert np.array_equal(delta, before)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("width", [1, 7, 64])
def test_blocks_change_no_bit(name, width, monkeypatch):
    generator = np.random.default_rng(2)
    deltas = [generator.normal(size=200).astype(np.float32) for _ in range(9)]
    x, weights = np.zeros(200, np.float32), [1.0] * 9
    whole = ROBUST[name]().finish(x, deltas, weights)
    monkeypatch.setattr(robust, "_width", lambda count: width)
    assert ROBUST[name]().finish(x, deltas, weights).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", ROBUST)
def test_memory_is_the_result_and_a_bounded_block_whatever_the_number_of_sites(name):
    size, sites = 2_000_000, 40
    delta = np.random.default_rng(3).normal(size=size).astype(np.float32)
    x = np.zeros(size, np.float32)
    ROBUST[name]().finish(x[:10], [delta[:10]] * sites, [1.0] * sites)
    tracemalloc.start()
    ROBUST[name]().finish(x, [delta] * sites, [1.0] * sites)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size + BUFFER + 3_000_000 < sites * 4 * size / 4


def test_who_holds_updates_says_so():
    note = memory_note(ROBUST["krum"](), sites=20, parameters=5_000_000)
    assert note is not None and "krum" in note and "up to 20 models of 20.0 MB" in note


def test_a_round_with_too_few_updates_makes_no_model():
    assert ROBUST["krum"](num_malicious_nodes=2).least == ROBUST["multikrum"](num_malicious_nodes=2).least == 7
    assert ROBUST["fedmedian"]().least == 1
