import pytest
import torch

from fedkit.training.captured import captured

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_what_is_recorded_reads_what_is_there_when_it_is_called(device):
    x = torch.ones(5, device=device)
    double = captured(lambda: x * 2, torch.device(device))
    for value in (1.0, 3.0, -2.0):
        x.fill_(value)
        assert double().tolist() == [2 * value] * 5


@gpu
def test_a_function_that_looks_at_a_value_cannot_be_recorded():
    x = torch.ones(5, device="cuda")
    with pytest.raises(RuntimeError):
        captured(lambda: x * float(x.sum()), torch.device("cuda"))
    torch.cuda.synchronize()
    assert float((x * 2).sum()) == 10.0
