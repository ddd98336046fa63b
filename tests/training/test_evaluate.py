import numpy as np
import pytest
import torch
from torch import nn

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.training.evaluate import predict
from fedkit.types import Examples, Task
from tests.training.builders import BINARY, examples


def test_scores_are_probabilities_of_the_given_parameters(logistic):
    parameters = np.arange(6, dtype=np.float32) / 10
    rows = examples(9)
    found = predict(logistic, parameters, BINARY, rows)
    expected = 1 / (1 + np.exp(-(rows.x @ parameters[:5] + parameters[5]).astype(np.float64)))
    assert found.scores.dtype == np.float64
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.y is rows.y


def test_multiclass_scores_sum_to_one_and_regression_is_raw():
    task = Task("multiclass", ("a", "b", "c"))
    model = build(ModelConfig("mlp"), (5,), 3, 0)
    scores = predict(model, pack(model), task, examples(7)).scores
    assert scores.shape == (7, 3)
    np.testing.assert_allclose(scores.sum(1), 1.0)
    linear = build(ModelConfig("logistic"), (5,), 1, 0)
    rows = examples(7, kind="regression")
    raw = predict(linear, pack(linear), Task("regression", (), (0, 9)), rows).scores
    np.testing.assert_allclose(raw, linear(torch.tensor(rows.x)).detach().numpy()[:, 0], atol=1e-6)


def test_predicting_leaves_the_model_and_torch_as_found():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    before, random = pack(model), torch.random.get_rng_state()
    a = predict(model, before * 2, BINARY, examples(9)).scores
    b = predict(model, before * 2, BINARY, examples(9)).scores
    assert np.array_equal(a, b)
    assert np.array_equal(pack(model), before)
    assert model.training and not model[1].training
    assert torch.equal(random, torch.random.get_rng_state())


def test_tied_parameters_are_set_everywhere():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 1))
    model[1].weight = model[0].weight
    flat = pack(model) * 0
    assert np.all(predict(model, flat, BINARY, examples(3)).scores == 0.5)


def test_no_rows_give_no_scores(logistic):
    empty = Examples(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert predict(logistic, pack(logistic), BINARY, empty).scores.shape == (0,)


def test_bad_parameters_are_refused(logistic):
    with pytest.raises(TrainingError, match="shape"):
        predict(logistic, np.zeros(7, np.float32), BINARY, examples(3))
    with pytest.raises(TrainingError, match="finite"):
        predict(logistic, np.full(6, np.nan, np.float32), BINARY, examples(3))
