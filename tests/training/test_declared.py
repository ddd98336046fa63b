import pytest
import torch

from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig
from fedkit.data.load import load_dataset
from fedkit.errors import PrivacyError, TrainingError
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.training.model import declared_model
from fedkit.training.plan import declared_plans, local_plans

PRIVATE = [
    ["privacy.noise=secure"],
    ["privacy.evaluation.share=0.3", "privacy.evaluation.every=4"],
    pytest.param(
        ["privacy.evaluation.noise_multiplier=8", "privacy.evaluation.share=null", "data.split.test_fraction=0.03"],
        marks=pytest.mark.slow,
    ),
    # A sampling rate of its own for each site: four searches for noise.
    pytest.param(["privacy.sample_rate=null", "training.batch_size=16"], marks=pytest.mark.slow),
    ["data.records={cleveland: 303, hungary: 294, switzerland: 123, va: 200}", "data.split.test_fraction=0.96"],
]


@pytest.mark.parametrize("overrides", PRIVATE)
def test_plans_of_the_declaration_are_those_of_a_private_run(overrides):
    config = compose("heart_disease", overrides)
    read = local_plans(config, load_dataset(config.data, private=True))
    declared = declared_plans(config)
    assert dict(declared.sites) == dict(read.sites)
    assert list(declared.sites) == list(read.sites)
    assert (declared.specs, declared.remarks) == (read.specs, read.remarks)
    assert declared.notes == tuple(note for note in read.notes if "out of training" in note)
    assert declared.tested == ()


def test_a_site_plans_for_itself_as_for_all():
    config = compose("heart_disease", ["privacy.evaluation.share=0.3"])
    alone = declared_plans(config, ["hungary"])
    assert dict(alone.sites) == {"hungary": declared_plans(config).sites["hungary"]}


def test_without_privacy_the_weights_are_unknown():
    config = compose("heart_disease", ["privacy=none"])
    plans = declared_plans(config)
    assert list(plans.sites) == list(config.data.records)
    assert all(plan.weight is None and plan.privacy is None for plan in plans.sites.values())
    assert plans.specs == ()


def test_a_site_without_a_declared_count_has_no_plan():
    with pytest.raises(PrivacyError, match="declares no count of north") as caught:
        declared_plans(compose("heart_disease"), ["cleveland", "north"])
    assert caught.value.code == "FK310"


def test_sites_that_are_all_too_small_are_an_error():
    config = compose("heart_disease", ["data.split.test_fraction=0.99"])
    with pytest.raises(TrainingError) as caught:
        declared_plans(config)
    assert caught.value.code == "FK409"


@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_the_declared_model_is_that_of_the_table(model):
    config = compose("heart_disease", [f"model={model}"])
    dataset = load_dataset(config.data, private=True)
    read = build(config.model, dataset.input_shape, dataset.task.num_outputs, config.seed)
    assert (pack(declared_model(config)) == pack(read)).all()


def test_an_installed_model_is_built_by_its_name_and_ours_is_never_replaced():
    from dataclasses import replace

    config = compose("heart_disease")
    own = replace(config, model=ModelConfig("ours", {"width": 3}))

    def ours(input_shape, num_outputs, width):
        return torch.nn.Sequential(torch.nn.Linear(input_shape[0], width), torch.nn.Linear(width, num_outputs))

    assert len(pack(declared_model(own, {"ours": ours}))) == 13 * 3 + 3 + 3 + 1
    assert len(pack(declared_model(config, {"logistic": ours}))) == 14
    with pytest.raises(TrainingError, match="did you mean ours"):
        declared_model(replace(config, model=ModelConfig("our")), {"ours": ours})


def test_a_model_of_another_shape_is_refused_before_any_row():
    from dataclasses import replace

    config = replace(compose("heart_disease"), model=ModelConfig("wide"))
    with pytest.raises(TrainingError) as caught:
        declared_model(config, {"wide": lambda shape, outputs: torch.nn.Linear(shape[0], 7)})
    assert caught.value.code == "FK412"
