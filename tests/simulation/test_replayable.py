import dataclasses
import json
from pathlib import Path

import pytest

from fedkit.config.experiment import PrivacyConfig, TrainingConfig
from fedkit.errors import RunError
from fedkit.privacy.plan import SiteFacts, make_plan
from fedkit.simulation.replayable import check_plans


@pytest.mark.parametrize(("share", "taken"), [(1.0, True), (1 - 5e-7, True), (1 - 5e-6, False), (0.5, False)])
def test_a_plan_may_state_a_hair_less_than_its_cost_of_today_and_no_more(share, taken):
    privacy = PrivacyConfig("record_dp", noise_multiplier=1.2, delta=1e-5, max_grad_norm=1.0, sample_rate=0.1)
    plan = make_plan(SiteFacts("north", 303, True, "record", 0.25), privacy, TrainingConfig(0.1, local_steps=5), 4)
    entry = json.loads(json.dumps(dataclasses.asdict(plan))) | {"epsilon": plan.epsilon * share}
    manifest = {"plan": {"north": entry}, "num_rounds": 4}
    if taken:
        check_plans(Path("run"), manifest)
        return
    with pytest.raises(RunError, match="its noise costs") as caught:
        check_plans(Path("run"), manifest)
    assert caught.value.code == "FK616"
