"""A device gives the CPU's numbers, for both are the ideal ones; the rest of the proof is tested for the CPU."""

import mpmath
import numpy as np
import pytest
import torch

from fedkit.errors import PrivacyError, TrainingError
from fedkit.privacy import device_gaussian
from fedkit.privacy.device_gaussian import (
    candidates_there,
    check_float64,
    integer_noise_on,
    rounded_gaussians,
    sent,
)  # fmt: skip
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.pair_candidate import settled
from fedkit.privacy.randomness import Secure, Seeded
from tests.privacy.test_rounded_gaussian import ideal

TWIN = torch.device("cpu", 0)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


@everywhere
@pytest.mark.parametrize(("count", "d"), [(1, 1), (3, 7), (5, 4131), (2, 32768), (2, 32769), (1, 65536), (2, 100_001)])
def test_numbers_are_the_cpus_whatever_the_chunks_of_its_stream(count, d, device):
    here = np.empty((count, d))
    Seeded("noise", d).fill_rounded_gaussians(here, 1.3 * G)
    sources, scales = [Seeded("noise", 1), Seeded("noise", d)], [G, 1.3 * G]
    other, there = rounded_gaussians([source.noise for source in sources], scales, count, d, torch.device(device))
    assert there.dtype == torch.float64 and there.shape == (count, d)
    # A pair in doubt on one of the two alone would be one step apart: none is in these few.
    assert np.array_equal(there.cpu().numpy(), here)
    Seeded("noise", 1).fill_rounded_gaussians(here, G)
    assert np.array_equal(other.cpu().numpy(), here)


@everywhere
def test_calls_go_on_in_the_stream(device):
    source, other = Seeded("noise"), Seeded("noise")
    parts = [rounded_gaussians([source.noise], [G], count, 50, torch.device(device))[0] for count in (2, 1, 3)]
    assert np.array_equal(torch.cat(parts).cpu().numpy(), np.stack([other.rounded_gaussian(50, G) for _ in range(6)]))


@everywhere
def test_pairs_in_doubt_are_the_ideal_ones_of_their_further_bits_row_by_row(device):
    """At the largest scale one in thirty is."""
    rows, pairs, scale, drawn = 3, 200, 2.0**40, []
    words, more = np.random.default_rng(1).integers(0, 2**64, (rows, 2, pairs), dtype=np.uint64), Seeded("more")

    def further(found):
        more._more(found)
        drawn.append([int(word) for word in found])

    def fill(found):
        found.reshape(-1)[:] = words.reshape(-1)

    streams = [(fill, further), (fill, Seeded("else").noise[1])]
    found = rounded_gaussians(streams, [scale, 2 * G], rows, 2 * pairs, torch.device(device))[0].cpu().numpy()
    places = [(row, at) for row in range(rows) for at in range(pairs)]
    # As on the CPU, to the pair: else further bits would go to others.
    doubtful = [(row, at) for row, at in places if settled(*(int(w) >> 12 for w in words[row, :, at]), scale) is None]
    assert len(drawn) == len(doubtful) > 10
    for (row, at), extension in zip(doubtful, drawn, strict=True):
        u, v = (int(word) >> 12 for word in words[row, :, at])
        for word in range(3):
            u, v = u << 64 | extension[word], v << 64 | extension[3 + word]
        for member, exact in enumerate(ideal(u, v, 52 + 192, scale)):
            assert found[row, member * pairs + at] == mpmath.nint(exact)


@everywhere
def test_candidates_are_within_their_bounds(device):
    words = np.random.default_rng(3).integers(0, 2**64, (1, 2, 2000), dtype=np.uint64)
    words[0, 0, :20] = [(k << 12) for k in range(20)]
    words[0, 0, 20:40] = [2**64 - 1 - (k << 12) for k in range(20)]
    scale = 1.2 * G
    scales = torch.tensor([scale], dtype=torch.float64)
    found, tolerance = candidates_there(torch.from_numpy(words.view(np.int64)).to(device), scales)
    found, tolerance = found.cpu().numpy(), tolerance.cpu().numpy()
    for at in range(0, 2000, 7):
        u, v = (int(word) >> 12 for word in words[0, :, at])
        for member, exact in enumerate(ideal(u, v, 52, scale)):
            # What is not the cell's width is arithmetic: at most half of the first term of the bound.
            radius = mpmath.sqrt(-2 * mpmath.log(mpmath.mpf(2 * u + 1) / 2**53))
            assert abs(found[0, member, at] - exact) <= scale * radius * mpmath.mpf(2) ** -48
            assert tolerance[0, at] >= scale * radius * mpmath.mpf(2) ** -47 * (1 - mpmath.mpf(2) ** -40)


@everywhere
def test_noise_has_the_plans_size(device):
    found = integer_noise_on(torch.device(device), [Secure(), Secure()], [2.0, 2.0], 3, 100_000).cpu()
    assert not torch.equal(*found)
    assert float(found.std()) / (2.0 * slack(100_000) * G) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(found, found.round()) and abs(float(found.mean())) < 0.02 * G


def test_a_scale_out_of_bounds_is_refused_before_bits_are_drawn():
    with pytest.raises(PrivacyError) as caught:
        rounded_gaussians([(None, None)], [0.0], 1, 4, TWIN)
    assert caught.value.code == "FK315"


@everywhere
def test_a_device_whose_float64_is_not_what_proofs_assume_is_refused(device, monkeypatch):
    check_float64(torch.device(device))
    exact = candidates_there

    def coarse(words, scales):
        found, tolerance = exact(words, scales)
        return found.float().double(), tolerance

    monkeypatch.setattr(device_gaussian, "candidates_there", coarse)
    with pytest.raises(TrainingError, match="float64 on") as caught:
        check_float64(torch.device(device))
    assert caught.value.code == "FK423"


@everywhere
def test_what_is_sent_arrives_as_it_was(device):
    numbers = np.arange(6).reshape(2, 3)
    there = sent(numbers, torch.device(device))
    numbers[:] = 0
    assert there.tolist() == [[0, 1, 2], [3, 4, 5]] and there.device.type == device
