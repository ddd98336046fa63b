import copy
import os
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkit.errors import PrivacyError
from fedkit.privacy.randomness import DRAWS, Secure, Seeded, derive_seed, keystreams

GOLDEN = [453060, 1598423, -859543, 330189]
JOINED = [0, 3, 9]
ORDER = [0, 3, 1, 2, 4, 5]
SCALE = 2.0**30
SOURCES = {"seeded": lambda: Seeded(1, 2, "north", "noise"), "secure": Secure}


@pytest.mark.parametrize("name", SOURCES)
def test_gaussians_pass_a_kolmogorov_smirnov_test(name):
    noise = SOURCES[name]().rounded_gaussian(200_000, SCALE) / SCALE
    # A correct Secure source fails this by chance once in a thousand million runs.
    assert stats.kstest(noise, "norm").pvalue > 1e-9
    assert abs(np.corrcoef(noise[:100_000], noise[100_000:])[0, 1]) < 0.02


@pytest.mark.parametrize("name", SOURCES)
def test_masks_join_each_unit_with_chance_q(name):
    mask = SOURCES[name]().poisson_mask(200_000, 0.05)
    assert mask.dtype == np.bool_ and mask.shape == (200_000,)
    assert abs(mask.mean() - 0.05) < 6 * (0.05 * 0.95 / 200_000) ** 0.5
    assert SOURCES[name]().poisson_mask(100, 1.0).all()
    assert SOURCES[name]().poisson_mask(0, 0.5).shape == (0,)


@settings(max_examples=200, deadline=None)
@given(q=st.one_of(st.floats(0, 1), st.floats(0, 1e-18), st.sampled_from([0.0, 2.0**-64, 0.3, 1 - 2.0**-53, 1.0])))
def test_secure_masks_never_join_with_more_than_chance_q(q):
    below = int(Fraction(q) * 2**64)
    assert Fraction(below, 2**64) <= Fraction(q) < Fraction(below + 1, 2**64)
    words = sorted({w for w in (0, below - 1, below, below + 1, 2**64 - 1) if 0 <= w < 2**64})
    source = Secure()
    source._lots = lambda into: into.__setitem__(slice(None), np.array(words, dtype=np.uint64))
    assert source.poisson_mask(len(words), q).tolist() == [w < below for w in words]


@pytest.mark.parametrize("q", [-0.1, float("nan"), float("inf"), np.nextafter(1.0, 2.0), 2.0])
def test_a_chance_that_is_none_is_refused(q):
    with pytest.raises(PrivacyError, match="not between 0 and 1") as caught:
        Secure().poisson_mask(3, q)
    assert caught.value.code == "FK304"


def test_seeded_draws_keep_the_bits_that_recorded_runs_repeat():
    # Other values are another scheme: DRAWS counts it, and replay refuses runs of another number.
    assert DRAWS == 2
    source = Seeded(1, 2, "north", "noise")
    assert source.rounded_gaussian(4, 2.0**20).tolist() == GOLDEN
    assert np.flatnonzero(source.poisson_mask(12, 0.3)).tolist() == JOINED
    assert source.permutation(6).tolist() == ORDER


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("count", "d"), [(1, 5), (7, 1), (9, 4130), (3, 2**15 + 77), (4, 0), (0, 4)])
def test_many_draws_at_once_are_those_of_one_after_another(name, count, d, monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))
    one, many = SOURCES[name](), SOURCES[name]()
    # On so fine a lattice one pair in thirty goes on with further bits.
    found = np.full((count, d), np.nan)
    many.fill_rounded_gaussians(found, 2.0**40)
    each = [one.rounded_gaussian(d, 2.0**40) for _ in range(count)]
    assert np.array_equal(found, np.array(each).reshape(count, d))
    assert np.array_equal(many.rounded_gaussian(3, 1e6), one.rounded_gaussian(3, 1e6))
    orders = [one.permutation(9) for _ in range(count)]
    assert np.array_equal(many.permutations(count, 9), np.array(orders, dtype=np.int64).reshape(count, 9))
    masks = [one.poisson_mask(11, 0.4) for _ in range(count)]
    assert np.array_equal(many.poisson_mask(11 * count, 0.4), np.array(masks, dtype=bool).reshape(-1))


def test_pairs_that_need_further_bits_have_a_stream_of_their_own(monkeypatch):
    asked = []
    source = Seeded(5)
    inner = source._more
    monkeypatch.setattr(source, "_more", lambda words: asked.append(len(words)) or inner(words))
    source.fill_rounded_gaussians(np.empty((3, 4000)), 2.0**40)
    assert len(asked) > 20 and set(asked) == {6}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_drawn_of_one_kind_moves_no_other(name, monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda n: bytes(n))
    draws = {
        "noise": lambda source: source.rounded_gaussian(64, 2.0**30),
        "mask": lambda source: source.poisson_mask(64, 0.5),
        "order": lambda source: source.permutation(64),
        "columns": lambda source: source.columns(64, 4),
        "seed": lambda source: source.seed(),
    }
    alone = {kind: draw(SOURCES[name]()) for kind, draw in draws.items()}
    for first in draws:
        source = SOURCES[name]()
        draws[first](source)
        for kind in draws.keys() - {first}:
            assert np.array_equal(draws[kind](source), alone[kind])


@pytest.mark.parametrize("name", SOURCES)
def test_every_order_is_as_likely_as_another(name):
    orders = SOURCES[name]().permutations(24_000, 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-9


def test_no_two_streams_of_a_key_share_words():
    key = bytes(range(32))
    words = [drawn(stream, [4000]) for stream in keystreams(key, 2)]
    assert len(np.unique(np.concatenate(words))) == 8000
    assert np.array_equal(drawn(keystreams(key, 2)[1], [0, 4000]), words[1])
    assert np.array_equal(drawn(keystreams(key, 2)[1], [1, 2, 1, 3, 0, 3993]), words[1])


def test_a_stream_is_aes_256_in_counter_mode_however_long():
    key, n = bytes(range(32)), 2**16 + 7
    whole = Cipher(algorithms.AES(key), modes.CTR((1 << 120).to_bytes(16))).encryptor().update(bytes(8 * n))
    assert np.array_equal(drawn(keystreams(key, 2)[1], [n]), np.frombuffer(whole, dtype="<u8"))
    assert np.array_equal(drawn(keystreams(key, 2)[1], [2**15, 2**15 + 7]), np.frombuffer(whole, dtype="<u8"))


def drawn(stream, counts):
    found = [np.zeros(n, dtype=np.uint64) for n in counts]
    for words in found:
        stream(words)
    return np.concatenate(found)


@pytest.mark.parametrize("d", [0, 1, 7, 8])
def test_any_number_of_gaussians_can_be_drawn(d):
    assert Secure().rounded_gaussian(d, SCALE).shape == (d,)


def test_secure_streams_differ_from_each_other_and_go_on():
    # On a lattice as fine as this, two of a thousand pairs are equal by chance once in 4e9 runs.
    a, b = Secure(), Secure()
    drawn = [source.rounded_gaussian(1000, 2.0**40) for source in (a, a, b)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.any(drawn[one] == drawn[other])


def test_secure_noise_ignores_every_seed():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(Secure().rounded_gaussian(100, 2.0**40))
    assert not np.any(drawn[0] == drawn[1])


def test_seeded_noise_repeats_for_the_same_material_only():
    base = Seeded(1, 2, "north", "noise").rounded_gaussian(1000, SCALE)
    assert np.array_equal(base, Seeded(1, 2, "north", "noise").rounded_gaussian(1000, SCALE))
    for material in [
        (2, 2, "north", "noise"),
        (1, 3, "north", "noise"),
        (1, 2, "south", "noise"),
        (1, 2, "north", "x"),
    ]:
        other = Seeded(*material).rounded_gaussian(1000, SCALE)
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.15
        assert not np.any(base == other)


def test_seeds_beyond_32_bits_count():
    assert derive_seed(7) != derive_seed(7 + 2**32)
    assert not np.any(Seeded(7).rounded_gaussian(100, SCALE) == Seeded(7 + 2**32).rounded_gaussian(100, SCALE))


def test_material_is_unambiguous():
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert derive_seed(1) != derive_seed("1")


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_source_draws_nothing_in_a_process_that_was_forked_from_its_own(name, begun):
    """Two processes with one key would release one noise twice: their difference has none."""
    source = SOURCES[name]()
    if begun:
        source.rounded_gaussian(10, SCALE)
    code = 0
    child = os.fork()
    if not child:
        for draw in (lambda: source.rounded_gaussian(4, SCALE), lambda: source.poisson_mask(4, 0.5)):
            try:
                draw()
            except PrivacyError as error:
                code += error.code == "FK316"
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert len(source.rounded_gaussian(4, SCALE)) == 4


@pytest.mark.parametrize("carried", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_source_is_neither_carried_nor_copied(carried):
    with pytest.raises(TypeError):
        carried(Secure())
