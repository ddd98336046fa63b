import threading

import pytest
import torch

from fedkit.training import streams
from fedkit.training.lots import Lots
from fedkit.training.streams import Beside, Sent, ahead
from tests.training.builders import local_plan, privacy_plan, round_plan, site
from tests.training.test_on_device import mlp

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


def made(number, d=31):
    plan = round_plan(mlp(), {"north": local_plan(privacy=privacy_plan())}, number=number)
    return Lots(site(seed=number), plan, d, lambda plan: 20)


@everywhere
@pytest.mark.parametrize("together", [1, 100, 10**6])
def test_each_site_has_the_draws_that_it_has_by_itself(device, together, monkeypatch):
    monkeypatch.setattr(streams, "_AHEAD", together)
    device = torch.device(device)
    with ahead([lambda number=number: made(number) for number in range(9)], Beside(device)) as drawn:
        for number in range(9):
            lots, windows = drawn.next_site()
            found, alone = list(windows), made(number).draw(6, device)
            assert lots.privacy.steps == 6
            assert torch.equal(torch.cat([each.noise for each in found]), alone.noise)
            records = [lot for each in found for lot in each.records]
            assert all(torch.equal(*pair) for pair in zip(records, alone.records, strict=True))


def test_what_fails_while_drawing_fails_where_it_is_used_and_ends_the_threads():
    before, broken = threading.active_count(), made(2)
    broken.draw = lambda steps, device: 1 / 0
    with ahead([lambda: made(1), lambda: broken], Beside(torch.device("cpu"))) as drawn:
        assert len(list(drawn.next_site()[1])) == 1
        windows = drawn.next_site()[1]
        with pytest.raises(ZeroDivisionError):
            next(windows)
    assert threading.active_count() == before


def test_few_sites_are_in_memory_at_once():
    begun = []

    def maker(number):
        return lambda: begun.append(number) or made(number)

    with ahead([maker(number) for number in range(20)], Beside(torch.device("cpu"))) as drawn:
        drawn.next_site()
        assert len(begun) <= streams._THREADS + 1


@everywhere
def test_what_is_sent_is_what_it_was(device):
    values = torch.arange(5.0, device=device)
    sent = Sent(values)
    values.zero_()
    assert sent.arrived().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
