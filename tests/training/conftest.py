import pytest

from fedkit.config.experiment import ModelConfig
from fedkit.models import build


@pytest.fixture
def logistic():
    return build(ModelConfig("logistic"), (5,), 1, 0)


@pytest.fixture
def mlp():
    return build(ModelConfig("mlp", {"hidden": [6]}), (5,), 1, 0)
