import pytest
from torch import nn

from fedkit.errors import TrainingError
from fedkit.training.model import check_output
from tests.training.builders import BINARY


class Silent(nn.Module):
    def forward(self, x):
        raise ValueError


def test_a_model_that_fails_without_a_word_is_one_error_all_the_same():
    with pytest.raises(TrainingError, match=r"cannot take examples of shape \(5,\): ValueError") as caught:
        check_output(Silent(), (5,), BINARY)
    assert caught.value.code == "FK411"
