import pytest
import torch

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import MODELS, build


def test_logistic_equals_a_seeded_torch_linear_bit_for_bit():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        expected = torch.nn.Linear(13, 1)
    model = build(ModelConfig("logistic"), (13,), 1, 42)
    assert torch.equal(model.weight, expected.weight)
    assert torch.equal(model.bias, expected.bias)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("shape", "outputs"), [((7,), 1), ((2, 3), 4), ((2, 5, 4), 3)])
def test_every_model_answers_n_by_outputs(name, shape, outputs):
    if name == "cnn" and len(shape) != 3:
        pytest.skip("it takes images only")
    model = build(ModelConfig(name), shape, outputs, 0)
    assert model(torch.zeros(5, *shape)).shape == (5, outputs)


def test_building_leaves_torchs_generator_as_found():
    before = torch.random.get_rng_state()
    build(ModelConfig("mlp", {"hidden": [4]}), (3,), 1, 7)
    assert torch.equal(before, torch.random.get_rng_state())


def test_mlp_has_the_hidden_widths_asked_for():
    model = build(ModelConfig("mlp", {"hidden": [8, 5]}), (3,), 2, 0)
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(8, 3), (5, 8), (2, 5)]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("logistik"),
        ModelConfig("mlp", {"widths": [3]}),
        ModelConfig("mlp", {"hidden": [0]}),
        ModelConfig("mlp", {"hidden": "32"}),
    ],
)
def test_bad_models_are_refused_with_a_code(config):
    with pytest.raises(TrainingError) as caught:
        build(config, (3,), 1, 0)
    assert caught.value.code == "FK402"


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(TrainingError, match="logistik") as caught:
        build(ModelConfig("logistik"), (3,), 1, 0)
    assert "did you mean logistic?" in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_first_values_has_the_shapes_of_one_with_them(name, monkeypatch):
    def drawn(*_args, **_kwargs):
        raise AssertionError("values were drawn")

    shape = (1, 8, 8) if name == "cnn" else (13,)
    whole = build(ModelConfig(name), shape, 1, 42)
    for method in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, method, drawn)
    bare = build(ModelConfig(name), shape, 1, 42, values=False)
    assert {n: p.shape for n, p in bare.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}


def test_a_model_of_others_is_always_given_its_first_values():
    made = build(ModelConfig("own"), (3,), 1, 42, {"own": lambda shape, outputs: torch.nn.Linear(*shape, outputs)})
    bare = build(
        ModelConfig("own"), (3,), 1, 42, {"own": lambda shape, outputs: torch.nn.Linear(*shape, outputs)}, values=False
    )
    assert torch.equal(made.weight, bare.weight)
