"""Draws in compiled code: the words of OpenSSL, and site by site what Python's sources give, bit for bit."""

import dataclasses
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.errors import PrivacyError, TrainingError
from fedkit.native.library import library
from fedkit.privacy import randomness
from fedkit.privacy.randomness import keystreams
from fedkit.training import cohort_compiled, cohort_drawn
from fedkit.training.cohort_compiled import train_private
from fedkit.training.cohort_drawn import Drawn, draws_here
from fedkit.training.sites_read import SitesRead
from fedkit.types import Examples, Site, Task
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan
from tests.training.test_cohort_compiled import CLASSES, layers_of, quiet, site, stack

pytestmark = pytest.mark.skipif(not draws_here(), reason="no compiled code here, or no instructions for AES")


@settings(max_examples=60, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    segment=st.integers(0, 255),
    block=st.integers(0, 2**40),
    count=st.integers(0, 75),
    paired=st.booleans(),
)
def test_words_are_those_of_openssl(key, segment, block, count, paired):
    start = ((segment << 120) + block).to_bytes(16)
    theirs = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(8 * count))
    ours = np.full(count + 1, 7, dtype=np.uint64)
    assert library().fedkit_has_aes()
    if not paired:
        library().fedkit_unpaired()
    library().fedkit_keystream(key, segment, block, ours.ctypes.data, count)
    assert ours[:count].tobytes() == theirs and ours[count] == 7


def in_both_ways(monkeypatch, layers, task, sites, plan):
    """Trained parameters with draws in compiled code, and with Python's; how many pairs were in doubt."""
    settled, inner = [], cohort_drawn.settle
    with monkeypatch.context() as patch:
        patch.setattr(cohort_compiled, "_private", None)
        patch.setattr(cohort_drawn, "settle", lambda *given: settled.append(given[3]) or inner(*given))
        ours = train_private(layers, task, sites, plan)
    with monkeypatch.context() as patch:
        patch.setattr(Drawn, "of", lambda *_: None)
        theirs = train_private(layers, task, sites, plan)
    return ours, theirs, len(settled)


@pytest.mark.parametrize("hidden", [7, 8])
@pytest.mark.parametrize(("optimizer", "mu"), [("sgd", 0.0), ("adam", 0.0), ("sgd", 0.3), ("adam", 0.3)])
@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_sites_of_many_kinds_are_trained_to_the_same_bits(hidden, optimizer, mu, noise, monkeypatch):
    if noise == "secure":
        keys = [bytes([k]) * 32 for k in range(5)] * 2
        monkeypatch.setattr("fedkit.privacy.randomness.os.urandom", lambda count: keys.pop(0)[:count])
    model, sizes = stack(5, hidden, 3), (40, 1, 0, 7, 64)
    sites = [site(f"s{k}", n, k, classes=3) for k, n in enumerate(sizes)]
    # Rows in another order than their units, and sites that differ in all that a call leaves free.
    turned = dataclasses.replace(sites[0].train, unit=np.arange(40)[::-1].copy())
    sites[0] = dataclasses.replace(sites[0], train=turned)
    plans = {
        s.name: local_plan(
            steps, 8, rate, optimizer,
            privacy_plan(s.name, sample_rate=q, steps=steps, max_lot=8, noise=noise, noise_multiplier=sigma),
        )
        for s, steps, rate, q, sigma in zip(
            sites, (9, 3, 5, 1, 4), (0.1, 0.1, 0.05, 0.1, 0.1), (0.2, 1.0, 0.5, 1.0, 1e-20), (1.0, 2.0, 0.5, 1.0, 3.0),
            strict=True,
        )
    }  # fmt: skip
    plan = round_plan(model, plans, mu=mu)
    ours, theirs, _ = in_both_ways(monkeypatch, layers_of(model, outputs=3), CLASSES, sites, plan)
    assert np.array_equal(ours, theirs) and (np.abs(theirs - plan.parameters).max(1) > 0).all()


@pytest.mark.parametrize("width", [1, 2])
def test_pairs_in_doubt_are_settled_one_after_another_and_the_sites_go_on(width, monkeypatch):
    """On so fine a lattice one pair in thirty is: the first of a site, the last of a step, several of one."""
    model, sites = stack(5, width), [site(f"s{k}", 20, k) for k in range(12)]
    task = BINARY if width == 1 else Task("multiclass", ("a", "b"))
    plans = {
        s.name: local_plan(40, 8, 1e-4, "adam", privacy_plan(s.name, steps=40, noise_multiplier=2.0**13)) for s in sites
    }
    layers, plan = layers_of(model, outputs=width), round_plan(model, plans)
    ours, theirs, doubtful = in_both_ways(monkeypatch, layers, task, sites, plan)
    assert np.array_equal(ours, theirs) and (np.abs(theirs - plan.parameters).max(1) > 0).all()
    assert doubtful > 12


@st.composite
def some_sites(draw):
    """A model, its task, and sites that differ in all that a call leaves free; some have many pairs in doubt."""
    kind = draw(st.sampled_from(["binary", "multiclass", "regression"]))
    outputs = draw(st.integers(2, 4)) if kind == "multiclass" else 1
    widths = [draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 3)))]
    parts = [
        part
        for a, b in itertools.pairwise([*widths, outputs])
        for part in (nn.Linear(a, b, bias=draw(st.booleans())), draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid]))())
    ]
    model, task = nn.Sequential(*parts[:-1]), Task(kind, tuple("abcd"[:outputs]) if outputs > 1 else ("a", "b"))
    sites, plans = [], {}
    for k in range(draw(st.integers(1, 5))):
        here = site(f"s{k}", draw(st.integers(0, 40)), k, widths[0], max(2, outputs))
        steps = draw(st.integers(1, 9))
        promised = privacy_plan(
            here.name,
            steps=steps,
            sample_rate=draw(st.sampled_from([0.0, 1e-300, 0.1, 0.5, 1 - 2.0**-53, 1.0])),
            noise_multiplier=draw(st.sampled_from([0.5, 2.0**6, 2.0**13.9])),
            max_grad_norm=draw(st.sampled_from([0.5, 3.0])),
            lot_size=draw(st.sampled_from([1.0, 10.0])),
            max_lot=draw(st.sampled_from([1, 8, 50])),
            noise=draw(st.sampled_from(["seeded", "secure"])),
        )
        rate, optimizer = draw(st.sampled_from([1e-4, 1e-3])), draw(st.sampled_from(["sgd", "adam"]))
        sites.append(here)
        plans[here.name] = local_plan(steps, 8, rate, optimizer, promised)
    plan = round_plan(model, plans, draw(st.integers(0, 2**63)), mu=draw(st.sampled_from([0.0, 0.3])))
    return layers_of(model, widths[0], outputs), task, sites, plan


@settings(max_examples=80, deadline=None)
@given(some_sites())
def test_any_sites_are_trained_to_the_same_bits(told):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "secure_key", Keys())
        patch.setattr(cohort_drawn, "secure_key", Keys())
        ours, theirs, _ = in_both_ways(patch, *told)
    assert ours.tobytes() == theirs.tobytes()


class Keys:
    """The same ones, in the same order, for whoever asks."""

    def __init__(self):
        self.given = 0

    def __call__(self):
        self.given += 1
        return bytes([self.given]) * 32


def test_who_trains_again_draws_from_other_keys():
    """One noise in two releases would cancel: their difference would tell of the records."""
    model, layers = stack(5, 8, 1), cohort_compiled.described(layers_of(stack(5, 8, 1)))
    plan = round_plan(
        model, {"s": local_plan(1, 8, 0.1, "sgd", privacy_plan("s", sample_rate=0, noise="secure", steps=1))}
    )
    found = np.zeros((1, len(plan.parameters)), dtype=np.float32)
    drawn = Drawn.of(layers, BINARY, [site("s", 20)], plan, found, SitesRead())
    drawn.train()
    first = found.copy()
    drawn.train()
    assert np.abs(first).min() > 0
    assert np.abs(found - 2 * first).min() > 1e-7


def test_a_unit_whose_bits_are_as_many_as_q_does_not_join(monkeypatch):
    """Else its chance were above q, by 2**-64 at least."""
    model, here = stack(5, 8, 1), site("s", 40)
    layers, words = layers_of(model), np.empty(40, dtype=np.uint64)
    for seed in range(1000):
        plan = round_plan(model, {}, seed)
        keystreams(randomness.seeded_key(seed, plan.round, "s", "lots and noise"), 2)[0](words)
        found = [word for word in words.tolist() if float(word) == word and word > 2**63]
        if found:
            break
    at, above = (
        dataclasses.replace(plan, sites={"s": quiet("s", 40, sample_rate=below / 2**64)})
        for below in (found[0], found[0] + 2**11)
    )
    (ours, theirs, _), (more, also, _) = (in_both_ways(monkeypatch, layers, BINARY, [here], p) for p in (at, above))
    assert np.array_equal(ours, theirs) and np.array_equal(more, also) and not np.array_equal(ours, more)


@pytest.mark.parametrize("q", [-0.1, np.nextafter(1.0, 2.0), 2.0, float("nan")])
def test_a_chance_that_is_none_is_refused(q):
    """In compiled code it would move the lots' ends, and lots would be written beyond them."""
    model = stack(5, 8, 1)
    plan = round_plan(model, {"s": local_plan(4, 8, 0.1, "sgd", privacy_plan("s", steps=4, sample_rate=q))})
    with pytest.raises(PrivacyError, match="not between 0 and 1") as caught:
        train_private(layers_of(model), BINARY, [site("s", 20)], plan)
    assert caught.value.code == "FK304"


def test_sites_of_much_noise_are_drawn_by_python():
    model, here = stack(5, 8, 1), site("s", 20)
    layers = cohort_compiled.described(layers_of(model))

    def taken(**changes):
        plan = round_plan(model, {"s": local_plan(4, 8, 0.1, "sgd", privacy_plan("s", **{"steps": 4, **changes}))})
        return Drawn.of(layers, BINARY, [here], plan, plan.parameters[None].astype(np.float32), SitesRead()) is not None

    assert taken() and not taken(steps=2**13)
    with pytest.raises(PrivacyError, match="standard deviation"):
        taken(noise_multiplier=0.0)


def test_lots_and_noise_are_of_the_round_and_of_the_site(monkeypatch):
    model, first = stack(5, 8, 1), site("a", 20)
    sites = [first, dataclasses.replace(first, name="b")]
    plans = {s.name: local_plan(4, 8, 0.1, "sgd", privacy_plan(s.name, steps=4)) for s in sites}
    plan, layers = round_plan(model, plans), layers_of(model)
    one = train_private(layers, BINARY, sites, plan)
    again = train_private(layers, BINARY, sites[::-1], plan)[::-1]
    later = train_private(layers, BINARY, sites, dataclasses.replace(plan, round=plan.round + 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], later[0])


def test_a_class_that_is_none_is_told_of_its_site_and_the_sites_before_are_done():
    model = stack(5, 8, 3)
    sites = [site(f"s{k}", 20, k, classes=3) for k in range(3)]
    y = np.r_[sites[1].train.y[:-1], 3]
    sites[1] = dataclasses.replace(sites[1], train=dataclasses.replace(sites[1].train, y=y))
    plans = {s.name: local_plan(2, 8, 0.1, "sgd", privacy_plan(s.name, steps=2, sample_rate=1.0)) for s in sites}
    with pytest.raises(TrainingError, match="between 0 and 2"):
        train_private(layers_of(model, outputs=3), CLASSES, sites, round_plan(model, plans))


def test_a_class_that_is_none_is_told_of_behind_a_doubt_in_the_last_step(monkeypatch):
    model, here, steps = stack(5, 2), site("s", 20), []
    layers, task, inner = layers_of(model, outputs=2), Task("multiclass", ("a", "b")), Drawn._settle
    y = np.r_[here.train.y[:-1], 7]
    wrong = dataclasses.replace(here, train=dataclasses.replace(here.train, y=y))
    promised = privacy_plan("s", steps=2, sample_rate=1.0, noise_multiplier=2.0**13)
    monkeypatch.setattr(Drawn, "_settle", lambda *given: steps.append(given[2]) or inner(*given))
    for seed in range(100):
        plan = round_plan(model, {"s": local_plan(2, 8, 1e-4, "sgd", promised)}, seed)
        with pytest.raises(TrainingError, match="between 0 and 1"):
            train_private(layers, task, [wrong], plan)
    assert 1 in steps


def test_a_processor_that_gives_other_words_is_not_trusted(monkeypatch):
    draws_here.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(cohort_drawn, "library", lambda: Other())
        assert not draws_here()
        patch.setattr(cohort_drawn, "library", lambda: None)
        draws_here.cache_clear()
        assert not draws_here()
    draws_here.cache_clear()
    assert draws_here()


class Other:
    def fedkit_has_aes(self):
        return 1

    def fedkit_keystream(self, *given):
        library().fedkit_keystream(bytes(32), *given[1:])


def test_an_empty_site_is_noise_alone():
    model = stack(5, 8, 1)
    none = Examples(np.empty((0, 5), dtype=np.float32), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    plan = round_plan(model, {"s": local_plan(2, 8, 0.1, "sgd", privacy_plan("s", steps=2))})
    assert np.isfinite(train_private(layers_of(model), BINARY, [Site("s", none, none, 1, True)], plan)).all()
