import pytest
import torch

from fedkit.training import programs
from fedkit.training.programs import Programs


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(programs, "_PAYS", -1.0)


X, Y = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
VALUES, REST = {"w": torch.tensor([2.0, 3.0])}, {"frozen": torch.tensor(0.5)}


def counting(make):
    calls = []

    def gradient(values, rest, x, y):
        calls.append(1)
        return make(values, rest, x, y, len(calls))

    return gradient, calls


def test_after_three_batches_that_agree_the_models_code_is_not_called_again():
    gradient, calls = counting(lambda v, r, x, y, _: {"w": (v["w"][:, None] * x * y).sum(1) + r["frozen"]})
    made = Programs()
    for k in range(9):
        rest = {"frozen": torch.tensor(0.5 + k)}
        found = made.run(gradient, VALUES, rest, X + k, Y)
        assert torch.equal(found["w"], (VALUES["w"][:, None] * (X + k)).sum(1) + rest["frozen"])
    # The first and its recording, then three that are compared.
    assert len(calls) == 2 + 3
    made.run(gradient, VALUES, REST, X[:, :2], Y[:, :2])
    assert len(calls) == 5 + 2, "another shape is another program"


def test_one_that_gave_other_bits_is_never_used():
    gradient, calls = counting(lambda v, r, x, y, count: {"w": v["w"] * float(count)})
    made = Programs()
    for _ in range(6):
        found = made.run(gradient, VALUES, REST, X, Y)
        assert torch.equal(found["w"], VALUES["w"] * float(len(calls))) or len(calls) == 2
    assert len(calls) >= 6


def test_what_cannot_be_recorded_goes_on_as_it_is():
    gradient, calls = counting(lambda v, r, x, y, _: {"w": v["w"] * float(x.sum().item())})
    made = Programs()
    for k in range(6):
        assert torch.equal(made.run(gradient, VALUES, REST, X + k, Y)["w"], VALUES["w"] * float((X + k).sum()))
    assert len(calls) >= 6


def test_what_comes_seldom_is_not_recorded(monkeypatch):
    monkeypatch.setattr(programs, "_PAYS", 1e9)
    gradient, calls = counting(lambda v, r, x, y, _: {"w": v["w"]})
    made = Programs()
    for _ in range(9):
        made.run(gradient, VALUES, REST, X, Y)
    assert len(calls) == 9
