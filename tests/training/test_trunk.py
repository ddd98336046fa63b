"""Rows of a convolutional model by themselves: the numbers of torch, and no bit from another row."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig
from fedkit.models import build
from fedkit.native.library import library
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.placement import Block
from fedkit.privacy.randomness import Draws, Seeded
from fedkit.training import trunk_gradients as cut_gradients
from fedkit.training.choice import choose
from fedkit.training.kinds import Kinds
from fedkit.training.local import summed
from fedkit.training.tapped import tapped
from fedkit.training.trunk import cut, stages, trunk_of
from fedkit.training.trunk_compiled import CompiledConvolution
from fedkit.training.trunk_form import pool_of
from fedkit.training.trunk_gradients import cheaper, trunk_gradients
from fedkit.training.trunk_layers import Convolution, MaxPool, Relu
from fedkit.training.trunk_probe import steady
from tests.training.builders import round_plan
from tests.training.test_taps import THREE, engine, image_models, private, site

WAY = {"compiled": False}
PLACES = 70
SMALL = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 3))
IMAGE = (1, 6, 6)


@pytest.fixture(scope="module", params=["compiled", "torch"], autouse=True)
def way(request):
    """Whatever is tested here holds with compiled convolutions and without, if nothing else is said."""
    if request.param == "compiled" and library() is None:
        pytest.skip("no compiled library here")
    WAY["compiled"] = request.param == "compiled"
    return request.param


def trunk_at(model, found, shape):
    return trunk_of(model, found, shape, **WAY)


def opened(model, shape):
    found = tapped(model, shape)
    trunk = trunk_at(model, found, shape)
    assert trunk is not None
    through = stages(cut(model)[0], trunk.shapes, compiled=trunk.compiled)
    return trunk_gradients(model, found, trunk, through, summed(THREE), Seeded("places"))


def told(gradients, x, places, kept):
    """The bits that are told of the rows at some places."""
    block = Block(np.arange(len(x)), places, PLACES)
    y = torch.from_numpy(places) % 3
    found = gradients.of_block(x, y, block, 30.0)
    return [part[torch.from_numpy(kept)].contiguous().view(torch.int32) for parts in found for part in parts]


def assert_rows_apart(model, shape, seed, sizes):
    """Lots of any size, order and company tell of a row what it tells alone."""
    draw = np.random.default_rng(seed)
    x = torch.randn((PLACES, *shape), generator=torch.Generator().manual_seed(seed))
    places = draw.permutation(PLACES)
    with opened(model, shape) as gradients:
        for rows in sizes:
            at = int(draw.integers(rows))
            alone = told(gradients, x[at : at + 1], places[at : at + 1], places[at : at + 1])
            order = draw.permutation(rows)
            others = x[:rows].clone()
            company = [1.0, 1e18, math.inf, math.nan, 0.0][int(draw.integers(5))]
            others = others * company
            others[at] = x[at]
            among = told(gradients, others[torch.from_numpy(order)], places[:rows][order], places[at : at + 1])
            assert all(torch.equal(a, b) for a, b in zip(alone, among, strict=True)), (rows, at, company)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=25, deadline=None)
@given(image_models(), st.integers(0, 10**6), st.lists(st.integers(1, PLACES), min_size=3, max_size=3))
def test_no_bit_of_a_row_comes_from_another_in_any_architecture(drawn, seed, sizes):
    model, shape = drawn
    found = tapped(model, shape)
    if trunk_at(model, found, shape) is not None:
        assert_rows_apart(model, shape, seed, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 1e4, 1e9])
@pytest.mark.parametrize("groups", [0, 4])
def test_no_bit_of_a_row_comes_from_another_in_lots_of_every_size(groups, size):
    """Parameters too for which rounding is not small."""
    model = build(ModelConfig("cnn", {"groups": groups}), (1, 12, 12), 3, seed=2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(size)
    assert_rows_apart(model, (1, 12, 12), 5, range(1, PLACES + 1))


def test_threads_that_others_left_change_nothing():
    """Training sets one; a caller's setting of more is neither used nor lost."""
    found, was = tapped(SMALL, IMAGE), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert steady(SMALL, found, trunk_at(SMALL, found, IMAGE), THREE, IMAGE)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(was)


def test_a_machine_whose_libraries_break_the_promise_gets_no_trunk(monkeypatch):
    """A product that looks at how many were made before it."""
    product, calls = torch.mm, iter(range(10**9))

    def uneven(a, b, *, out):
        product(a, b, out=out)
        return out.mul_(1.0 + 2.0**-22 * (next(calls) % 2))

    found = tapped(SMALL, IMAGE)
    trunk = trunk_of(SMALL, found, IMAGE, compiled=False)
    assert steady(SMALL, found, trunk, THREE, IMAGE)
    monkeypatch.setattr(torch, "mm", uneven)
    assert not steady(SMALL, found, trunk, THREE, IMAGE)
    plans = {"north": private("north")}
    chosen = choose(compose(None, ["training.engine=taps"]).training, SMALL, THREE, IMAGE, Kinds.of(plans))
    assert chosen.in_form(1).train.__self__.trunk is None
    monkeypatch.setattr(torch, "mm", product)
    chosen = choose(compose(None, ["training.engine=taps"]).training, SMALL, THREE, IMAGE, Kinds.of(plans))
    assert chosen.in_form(1).train.__self__.trunk == trunk


def test_a_row_that_joins_moves_the_sum_by_its_own_integers_and_no_more(monkeypatch):
    """Parameters for which rounding is not small, and rows of 1e18 beside."""
    monkeypatch.setattr(cut_gradients, "cheaper", lambda *_: True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e4)
        model[3].weight.mul_(1e4)
    x, y = torch.randn(16, *IMAGE), torch.arange(16) % 3
    x[3], x[7] = x[3] * 1e18, math.nan

    class Fixed(Draws):
        """One draw of places for all sixteen rows, of which those from ``first`` on are there."""

        first = 0

        def permutation(self, n):
            return np.random.default_rng(5).permutation(n)[self.first :]

    found = tapped(model, IMAGE)
    trunk = trunk_at(model, found, IMAGE)

    def summed_rows(first, last):
        places = Fixed(bytes(32))
        places.first = first
        through = stages(cut(model)[0], trunk.shapes, compiled=trunk.compiled)
        with trunk_gradients(model, found, trunk, through, summed(THREE), places) as gradients:
            return gradients.of_records(x[first:last], y[first:last], 1.0, Seeded("lots"), max_lot=16, lot_size=8.0)

    own = summed_rows(15, 16)
    moved = summed_rows(0, 16) - summed_rows(0, 15)
    assert 0.5 * G < moved.double().norm() <= slack(len(moved)) * G
    # Its own term, but that every product's sum is rounded to the lattice.
    assert (moved - own).abs().max() <= 1


def test_a_convolution_gives_what_torchs_gives(way):
    draw = random.Random(0)
    torch.manual_seed(0)
    tried = 0
    while tried < 150:
        signal = draw.random() < 0.3
        pick = (
            (lambda low, high: (draw.randint(low, high),))
            if signal
            else (lambda low, high: (draw.randint(low, high), draw.randint(low, high)))
        )
        inputs, outputs = draw.choice([1, 2, 8, 9]), draw.choice([1, 3, 8, 10])
        kernel, stride, padding, dilation, sizes = pick(1, 4), pick(1, 3), pick(0, 4), pick(1, 2), pick(3, 9)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if any(size + 2 * p < r for size, p, r in zip(sizes, padding, reach, strict=True)):
            continue
        tried += 1
        kind = nn.Conv1d if signal else nn.Conv2d
        layer = kind(inputs, outputs, kernel, stride, padding, dilation, bias=draw.random() < 0.5)
        x = torch.randn(5, inputs, *sizes, requires_grad=True)
        expected = layer(x)
        error = torch.randn_like(expected)
        expected.backward(error)
        shapes = (inputs, *sizes), tuple(expected.shape[1:])
        if way == "compiled":
            ours = CompiledConvolution(layer, *shapes, ((1, 1), (1, 1)), relu=False, first=False)
        else:
            ours = Convolution(layer, *shapes, first=False)

        def image(t, signal=signal):
            return (t.unsqueeze(2) if signal else t).permute(0, 2, 3, 1)

        with torch.no_grad():
            ours.begin(5, 5)
            found = ours.forward(image(x.detach()), 0)
            rows = torch.zeros(5, *ours.tells[0])
            slope = ours.backward(image(error), 0, [rows.unbind(0)])
            assert torch.allclose(found, image(expected), atol=1e-4)
            assert torch.allclose(slope, image(x.grad), atol=1e-4)
            weight, *bias = ours.told_as_parameters(rows.sum(0).flatten())
            assert torch.allclose(weight.view_as(layer.weight), layer.weight.grad, atol=1e-3)
            assert (layer.bias is None and not bias) or torch.allclose(bias[0], layer.bias.grad, atol=1e-3)


def test_what_is_called_for_many_rows_gives_the_same_bits_wherever_a_number_stands():
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, -1e-42, 1e18, -1.0]
    functions = (
        lambda x: torch.relu(x),
        lambda x: torch.relu_(x.clone()),
        lambda x: torch.ops.aten.threshold_backward(torch.full_like(x, -2.5), x, 0),
        lambda x: torch.ops.aten.threshold_backward(x, torch.ones_like(x), 0),
    )
    for function in functions:
        for value in values:
            found = torch.cat([function(torch.full((n,), value)) for n in range(1, 131)])
            assert len(found.view(torch.int32).unique()) == 1, value


def test_a_compiled_convolution_gives_what_torchs_gives_behind_pools_of_any_form(way):
    if way == "torch":
        pytest.skip("nothing is compiled")
    draw = random.Random(1)
    torch.manual_seed(1)
    tried = 0
    while tried < 200:
        inputs, outputs, images = draw.choice([1, 2, 3, 8, 9]), draw.choice([1, 3, 8, 17, 24]), draw.randint(1, 3)
        kernel, stride, padding, dilation, size = ((draw.randint(a, b), draw.randint(a, b)) for a, b in (
            (1, 4), (1, 2), (0, 3), (1, 2), (1, 3)
        ))  # fmt: skip
        apart, sides = [n + draw.randint(0, 1) for n in size], (draw.randint(4, 12), draw.randint(4, 12))
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=draw.random() < 0.5)
        reach = [(d * (k - 1) + 1) + (n - 1) * s for k, d, n, s in zip(kernel, dilation, size, stride, strict=True)]
        if any(side + 2 * p < r for side, p, r in zip(sides, padding, reach, strict=True)):
            continue
        tried += 1
        relu = draw.random() < 0.7
        x = torch.randn(images, inputs, *sides, requires_grad=True)
        expected = nn.functional.max_pool2d(layer(x), size, apart)
        expected = torch.relu(expected) if relu else expected
        error = torch.randn_like(expected)
        expected.backward(error)
        pool = pool_of(nn.MaxPool2d(size, tuple(apart)))
        assert pool is not None
        ours = CompiledConvolution(layer, (inputs, *sides), tuple(expected.shape[1:]), pool, relu=relu, first=False)
        with torch.no_grad():
            ours.begin(images, images)
            found = ours.forward(x.detach().permute(0, 2, 3, 1), 0)
            rows = torch.full((images, *ours.tells[0]), math.nan)
            slope = ours.backward(error.permute(0, 2, 3, 1), 0, [rows.unbind(0)])
            assert torch.allclose(found, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
            assert torch.allclose(slope, x.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
            weight, *bias = ours.told_as_parameters(rows.sum(0).flatten())
            assert torch.allclose(weight.view_as(layer.weight), layer.weight.grad, rtol=1e-4, atol=1e-4)
            assert (layer.bias is None and not bias) or torch.allclose(bias[0], layer.bias.grad, rtol=1e-4, atol=1e-4)


def test_what_is_no_number_stays_none_through_a_compiled_pool(way):
    """A row that holds such a thing counts as 0, which its gradient must show."""
    if way == "torch":
        pytest.skip("nothing is compiled")
    layer = nn.Conv2d(1, 3, 3, padding=1)
    ours = CompiledConvolution(layer, (1, 4, 4), (3, 2, 2), ((2, 2), (2, 2)), relu=True, first=True)
    for at in range(16):
        x = torch.randn(1, 4, 4, 1)
        x.view(-1)[at] = math.nan
        with torch.no_grad():
            ours.begin(1, 1)
            seen = ours.forward(x, 0)
        expected = torch.relu(nn.functional.max_pool2d(layer(x.permute(0, 3, 1, 2)), 2)).permute(0, 2, 3, 1)
        assert torch.equal(seen.isnan(), expected.isnan()) and seen.isnan().any()


def test_rows_of_another_shape_or_beyond_the_room_are_refused(way):
    if way == "torch":
        pytest.skip("nothing is compiled")
    ours = CompiledConvolution(nn.Conv2d(1, 3, 3), (1, 6, 6), (3, 2, 2), ((2, 2), (2, 2)), relu=True, first=False)
    ours.begin(4, 2)
    for x, first in ((torch.zeros(2, 6, 6, 1), 3), (torch.zeros(2, 6, 5, 1), 0), (torch.zeros(2, 6, 6, 1).double(), 0)):
        with pytest.raises(ValueError, match="rows"):
            ours.forward(x, first)
    with pytest.raises(ValueError, match="rows"):
        ours.backward(torch.zeros(2, 3, 2, 2), 0, [])


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_before_relu_is_relu_before_pooling_ties_and_all(padding, ceil, way):
    """Small whole numbers: most windows have a largest number twice, many have none above zero."""
    chain = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, padding=padding, ceil_mode=ceil)]
    model = nn.Sequential(*chain, nn.Flatten(), nn.LazyLinear(3))
    x = torch.randint(-1, 2, (6, 1, 9, 9), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        chain[0].weight.copy_(torch.randint(-1, 2, chain[0].weight.shape))
        chain[0].bias.zero_()
        model(x)
    found = tapped(model, (1, 9, 9))
    trunk = trunk_at(model, found, (1, 9, 9))
    through = stages(cut(model)[0], trunk.shapes, compiled=trunk.compiled)
    one = way == "compiled" and not (padding or ceil)
    expected = [CompiledConvolution] if one else [Convolution, MaxPool, Relu]
    assert [type(stage) for stage in through] == expected
    y = torch.arange(6) % 3
    with trunk_gradients(model, found, trunk, through, summed(THREE), Seeded("p")) as gradients:
        (weight,), *_ = gradients.of_block(x, y, Block(np.arange(6), np.arange(6), 6), 6.0)
        ours = through[0].told_as_parameters(weight.sum(0))[0]
    model.zero_grad()
    summed(THREE)(model(x), y).backward()
    assert torch.allclose(ours.view_as(chain[0].weight), chain[0].weight.grad, rtol=1e-5, atol=1e-5)


def test_a_sites_bits_are_its_own_whichever_sites_share_the_room(monkeypatch):
    """The room for rows is one for all sites of a call: what it holds of the last one must not show."""
    monkeypatch.setattr(cut_gradients, "cheaper", lambda *_: True)
    model = build(ModelConfig("cnn"), (1, 8, 8), 3, seed=4)
    sites = [site(f"s{k}", n, (1, 8, 8), k) for k, n in enumerate((40, 7, 0, 25))]
    sites[0].train.x[::3] *= 1e18
    plan = round_plan(model, {s.name: private(s.name, 6, sample_rate=0.3, max_lot=34) for s in sites})
    taps = engine(model, (1, 8, 8), THREE, **WAY)
    assert taps.trunk is not None
    whole, _ = taps.train(model, THREE, sites, plan, {})
    for mine, here in zip(whole, sites, strict=True):
        ((alone,), _) = taps.train(model, THREE, [here], plan, {})
        assert np.array_equal(mine.delta, alone.delta)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 3)), (4,)),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)), (2, 6, 6)),
        (nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()), (1, 6, 6)),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), (1, 6, 6)),
        (nn.Sequential(nn.Conv2d(1, 3, 5), nn.Flatten(2), nn.Flatten(), nn.Linear(12, 3)), (1, 6, 6)),
    ],
)
def test_what_has_no_trunk_is_trained_in_blocks(model, shape):
    assert trunk_at(model, tapped(model, shape), shape) is None


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_frozen_convolution_gives_what_torchs_gives_whatever_stands_around_its_images(monkeypatch, mode):
    monkeypatch.setattr(cut_gradients, "cheaper", lambda *_: True)
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3, padding=1, padding_mode=mode).requires_grad_(False)
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    x, y = torch.randn(5, *IMAGE), torch.arange(5) % 3
    with opened(model, IMAGE) as gradients:
        ours = gradients.of_records(x, y, 1e3, Seeded("lots"), max_lot=8, lot_size=5.0) * (1e3 / G)
    summed(THREE)(model(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert torch.allclose(ours.float(), expected, rtol=1e-3, atol=1e-3)


def test_a_trunk_is_taken_where_empty_places_cost_more(way):
    for shape, taken in (((1, 28, 28), True), ((1, 4, 4), False)):
        model = build(ModelConfig("cnn", {"groups": 0}), shape, 3, seed=0)
        found = tapped(model, shape)
        # What is compiled costs little beside its multiplications.
        assert cheaper(trunk_at(model, found, shape), found, 32.0, 60) == (taken or way == "compiled")


@pytest.mark.parametrize(("wide", "piece"), [(8, 8), (200, 2), (800, None)])
def test_wide_layers_take_fewer_rows_at_once_and_the_widest_stay_in_blocks(wide, piece):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, wide, 3), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 1, 30, 30))
    trunk = trunk_of(model, tapped(model, (1, 30, 30)), (1, 30, 30), compiled=False)
    assert (trunk and trunk.piece) == piece
