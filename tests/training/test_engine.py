import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.native.library import library
from fedkit.training.choice import choose
from fedkit.training.engine import ENGINES, FAST_AT_ONCE
from fedkit.training.kinds import Kinds
from tests.training.builders import BINARY, Mixing, local_plan, privacy_plan, round_plan, site

STACK = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
RANDOM = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.1), nn.Linear(8, 1))
NORMED = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))


def chosen(model=STACK, plans=None, **changes):
    training = TrainingConfig(0.1, local_steps=1, **changes)
    return choose(training, model, BINARY, (5,), Kinds.of(plans or {"north": local_plan(privacy=privacy_plan())}))


def test_auto_takes_the_closed_form_for_a_stack_and_says_why():
    engine = chosen()
    assert engine.record() == {
        "name": "closed_form",
        "why": "the model is a stack of 2 Linear layers" + (", in compiled code" if library() else ""),
        "at_once": engine.at_once,
        "form": 3 if library() else 2,
    }
    assert engine.at_once == FAST_AT_ONCE and engine.most_workers > 1000


def test_auto_taps_a_private_model_of_other_layers_and_says_why():
    assert chosen(NORMED).record() == {
        "name": "taps",
        "why": "the model trains 3 layers of LayerNorm, Linear" + (", in compiled code" if library() else ""),
        "at_once": 1,
    } | ({"form": 3} if library() else {})


def test_auto_falls_back_to_the_reference_and_says_why():
    engine = chosen(RANDOM)
    assert (engine.name, engine.at_once) == ("reference", 1)
    assert engine.why == "1 (Dropout) draws at random"
    plain = chosen(NORMED, {"north": local_plan()})
    assert (plain.name, plain.why) == ("reference", "so few sites train as fast one after another")


def test_a_model_that_the_probe_refuses_is_the_references_to_refuse():
    engine = chosen(Mixing())
    assert engine.name == "reference" and "it mixes or remembers records" in engine.why
    with pytest.raises(TrainingError, match=r"engine=taps .* mixes or remembers") as caught:
        chosen(Mixing(), engine="taps")
    assert caught.value.code == "FK417"


def test_an_engine_is_forced_or_refused_never_replaced():
    assert chosen(engine="reference").name == "reference"
    assert chosen(engine="closed_form").name == "closed_form"
    with pytest.raises(TrainingError, match=r"engine=closed_form .* LayerNorm") as caught:
        chosen(NORMED, engine="closed_form")
    assert caught.value.code == "FK417" and "training.engine=auto" in caught.value.remedy
    assert chosen(NORMED, engine="taps").name == chosen(engine="taps").name == "taps"
    with pytest.raises(TrainingError, match=r"engine=taps cannot train this model: 1 \(Dropout\)") as caught:
        chosen(RANDOM, engine="taps")
    assert caught.value.code == "FK417"
    with pytest.raises(TrainingError, match="privacy is none"):
        chosen(engine="taps", plans={"north": local_plan()})


def test_lots_too_large_for_exact_sums_in_one_are_tapped_in_blocks():
    plans = {"north": local_plan(privacy=privacy_plan(max_lot=5000, lot_size=4000.0))}
    assert chosen(plans=plans).name == "taps"
    with pytest.raises(TrainingError, match="exact sums of 5120 places") as caught:
        chosen(plans=plans, engine="closed_form")
    assert caught.value.code == "FK417"


def test_a_large_model_trains_privately_without_rows_gradients_and_takes_five_times_a_plain_ones_memory():
    large, plain = nn.Sequential(nn.Linear(5, 4000), nn.ReLU(), nn.Linear(4000, 4000)), {"north": local_plan()}
    assert chosen(nn.Sequential(*large, nn.Linear(4000, 1))).name == "closed_form"
    large = nn.Sequential(*large, nn.LayerNorm(4000), nn.Linear(4000, 1))
    assert chosen(large).name == "taps"
    assert chosen(large, plain, memory_gb=0.2).most_workers == 1
    with pytest.raises(TrainingError, match=r"memory_gb=0.2 is below one model in training, 0.896 GB") as caught:
        chosen(large, memory_gb=0.2)
    assert caught.value.code == "FK418" and "training.memory_gb=0.95 " in caught.value.remedy
    # Gradients of four rows, copied.
    assert [chosen(large, memory_gb=gb, engine="reference").most_workers for gb in (1.7, 3.2, 3.3)] == [1, 1, 2]


def test_the_reference_holds_no_more_rows_of_records_than_the_largest_lot_has_or_the_probe():
    wide = nn.Sequential(nn.Linear(5, 500), nn.ReLU(), nn.Linear(500, 500), nn.Linear(500, 1))

    def most(**changes):
        plans = {"north": local_plan(privacy=privacy_plan(**changes))}
        return chosen(wide, plans, memory_gb=2.0, engine="reference").most_workers

    # 256 rows take 790 MB, 48 take 160 MB, and three, as many as the probe counts for, 24 MB.
    assert (most(max_lot=3000), most(max_lot=48), most(max_lot=2)) == (2, 13, 88)
    assert most(max_lot=48, unit="patient") == 2


@pytest.mark.parametrize("plans", [None, {"north": local_plan()}])
def test_a_model_without_parameters_has_an_engine_and_is_refused_in_words_where_it_is_trained(plans):
    nothing = nn.Sequential(nn.Identity())
    engine = chosen(nothing, plans)
    assert engine.name == "reference" and engine.most_workers > 1
    kinds = plans or {"north": local_plan(privacy=privacy_plan())}
    with pytest.raises(TrainingError, match="nothing in the model is trainable"):
        engine.train(nothing, BINARY, [site()], round_plan(nothing, kinds), {})


def test_what_is_frozen_of_a_model_takes_no_sums_and_no_noise():
    large = nn.Sequential(nn.Linear(5, 4000), nn.ReLU(), nn.Linear(4000, 4000), nn.Linear(4000, 1))
    large[2].requires_grad_(False)
    assert chosen(large, memory_gb=0.2).name == "taps"


def test_clients_at_once_follow_from_the_memory_budget_and_its_bound():
    wide = nn.Sequential(nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1))
    small, large = chosen(wide, memory_gb=0.01).at_once, chosen(wide, memory_gb=0.1).at_once
    assert 1 <= small < large and abs(large - 10 * small) <= 10
    assert chosen(wide, memory_gb=0.1, max_clients_at_once=3).at_once == 3
    assert chosen(wide, memory_gb=0.01, max_clients_at_once=10**6).at_once == small


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_budget_below_one_model_is_an_error_that_names_enough(engine):
    wide = nn.Sequential(nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1))
    with pytest.raises(TrainingError, match=r"memory_gb=1e-05 is below one model") as caught:
        chosen(wide, engine=engine, memory_gb=1e-5)
    assert caught.value.code == "FK418"
    enough = float(caught.value.remedy.split("=")[1].split()[0])
    assert chosen(wide, {"north": local_plan()}, engine="reference", memory_gb=enough).name == "reference"


def test_a_budget_for_one_model_but_no_site_falls_back_where_that_takes_less():
    wide = nn.Sequential(nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1))
    found = chosen(wide, {"north": local_plan()}, memory_gb=1e-4)
    assert found.name == "reference" and found.why.startswith("one site takes")


@pytest.mark.parametrize("engine", ["auto", "reference", "closed_form", "taps"])
def test_no_engine_takes_more_than_the_budget_in_private_training_and_the_error_names_enough(engine):
    wide = nn.Sequential(nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1))
    with pytest.raises(TrainingError, match=r"one site takes .* GB, training.memory_gb is 0.00042") as caught:
        chosen(wide, memory_gb=4.2e-4, engine=engine)
    assert caught.value.code == "FK418" and "reference" not in str(caught.value.remedy)
    enough = float(caught.value.remedy.split("=")[1])
    found = chosen(wide, memory_gb=enough, engine=engine)
    assert found.name == ("closed_form" if engine == "auto" else engine) and found.most_workers == 1
    with pytest.raises(TrainingError, match="one site takes"):
        chosen(wide, memory_gb=enough / 1.2, engine=engine)


@pytest.mark.slow
def test_the_memory_of_a_chunk_is_within_its_estimate(tmp_path):
    """Peak memory of a fresh process, with and without 40 more sites at once."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process' peak")
    script = """
import sys, torch
from torch import nn
from fedkit.training.cohort import Cohort
from fedkit.training.engine_memory import bytes_of_stack as _bytes
from fedkit.training.stack import linear_stack
from tests.training.builders import BINARY, Mixing, local_plan, privacy_plan, round_plan, site
torch.set_num_threads(1)
count = int(sys.argv[1])
model = nn.Sequential(nn.Linear(5, 700), nn.ReLU(), nn.Linear(700, 300), nn.ReLU(), nn.Linear(300, 1))
layers = linear_stack(model, (5,), 1)
sites = [site(f"s{k}", 60, k) for k in range(count)]
plans = {s.name: local_plan(2, optimizer="adam", privacy=privacy_plan(s.name, steps=2, max_lot=18)) for s in sites}
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
Cohort(layers, count).train(model, BINARY, sites, round_plan(model, plans, mu=0.1), {})
status = dict(line.split(":") for line in open("/proc/self/status"))
print(1024 * int(status["VmHWM"].split()[0]), _bytes(layers, 18))
"""
    peaks = []
    for count in (2, 42):
        done = subprocess.run([sys.executable, "-c", script, str(count)], capture_output=True, text=True, check=True)
        peak, each = map(int, done.stdout.split())
        peaks.append(peak)
    assert 0.3 * 40 * each < peaks[1] - peaks[0] < 40 * each
