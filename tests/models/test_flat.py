import numpy as np
import pytest
import torch
from torch import nn

from fedkit.errors import TrainingError
from fedkit.models import flat


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_pack_and_unpack_are_inverse():
    a, b = model(), model()
    flat.unpack(b, flat.pack(a))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert list(flat.shapes(a)) == [name for name, _ in a.named_parameters()]


def test_pack_is_a_copy():
    a = model()
    packed = flat.pack(a)
    packed[:] = 9
    assert not np.any(flat.pack(a) == 9)


def test_tied_parameters_travel_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert flat.pack(tied).shape == (16 + 4 + 4,)


def test_a_wrong_size_is_refused():
    with pytest.raises(TrainingError, match=r"\(3,\)") as caught:
        flat.unpack(nn.Linear(2, 1), np.zeros(4, dtype=np.float32))
    assert caught.value.code == "FK401"


def test_unpack_takes_read_only_arrays():
    values = np.ones(3, dtype=np.float32)
    values.flags.writeable = False
    target = nn.Linear(2, 1)
    flat.unpack(target, values)
    assert np.array_equal(flat.pack(target), values)


def test_attached_parameters_follow_the_flat_tensor_and_leave_frozen_ones_out():
    a = model()
    a[0].bias.requires_grad_(False)
    before = flat.pack(a)
    values = flat.attach(a)
    assert len(values) == len(before) - 4
    assert np.array_equal(flat.pack(a), before)
    values.add_(1.0)
    moved = flat.pack(a) - before
    assert np.count_nonzero(moved) == len(values)


def test_double_precision_parameters_are_refused():
    with pytest.raises(TrainingError, match="float64"):
        flat.attach(nn.Linear(2, 1).double())


def test_attached_parameters_are_given_their_values_whether_or_not_all_are_trainable():
    for frozen in (False, True):
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        module[0].bias.requires_grad_(not frozen)
        values = np.arange(11, dtype=np.float32)
        values.flags.writeable = False
        attached = flat.attach(module, values)
        assert flat.pack(module).tolist() == values.tolist()
        attached += 1
        assert (flat.pack(module) - values).sum() == (9 if frozen else 11)
        assert values.tolist() == list(range(11))
    with pytest.raises(TrainingError, match="FK401"):
        flat.attach(nn.Linear(3, 2), np.zeros(3, np.float32))


def test_views_of_a_packed_model_share_its_memory():
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    values = np.arange(8, dtype=np.float32)
    found = flat.views(module, values)
    assert {name: view.shape for name, view in found.items()} == {"weight": (2, 3), "bias": (2,)}
    assert all(np.shares_memory(view, values) for view in found.values())
