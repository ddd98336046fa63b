import pytest
import torch
from torch import nn

from fedkit.training.stack import POINTWISE, altered, linear_stack

MAKE = {
    nn.LeakyReLU: lambda: nn.LeakyReLU(0.2),
    nn.ELU: lambda: nn.ELU(0.7),
    nn.GELU: lambda: nn.GELU("tanh"),
    nn.Softplus: lambda: nn.Softplus(2.0, 5.0),
    nn.ReLU: lambda: nn.ReLU(inplace=True),
}


class Own(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.mean()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 1)

    def forward(self, x):
        return self.inner(x - x.mean(0))


def hooked():
    model = nn.Sequential(nn.Linear(4, 1))
    model[0].register_forward_hook(lambda *_: None)
    return model


def tied():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 1))


def frozen():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    return model


def buffered():
    model = nn.Sequential(nn.Linear(4, 1))
    model.register_buffer("seen", torch.zeros(1))
    return model


@pytest.mark.parametrize("kind", POINTWISE)
def test_derivatives_are_autograds_bit_for_bit(kind):
    module = MAKE.get(kind, kind)()
    function = POINTWISE[kind](module)
    x = torch.cat([torch.linspace(-6, 6, 201), torch.zeros(3), torch.tensor([30.0, -30.0])])
    leaf = x.clone().requires_grad_()
    seeds = torch.randn(len(x), generator=torch.Generator().manual_seed(0))
    expected = module(leaf * 1.0)
    expected.backward(seeds)
    y = function.forward(x)
    assert torch.equal(y, expected.detach())
    assert torch.equal(function.backward(seeds, x, y), leaf.grad)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)), "LayerNorm is neither"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1)), "Dropout is neither"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 1)), "Softmax is neither"),
        (lambda: Own(4, 1), "Own is neither"),
        (Wrapped, "Wrapped is neither"),
        (hooked, "hooks"),
        (tied, "share parameters"),
        (frozen, "frozen"),
        (buffered, "buffers"),
        (lambda: nn.Sequential(nn.Linear(4, 1).double()), "float32"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 1)), "begins with ReLU"),
        (lambda: nn.Sequential(nn.Linear(4, 2)), "widths"),
        (lambda: nn.Sequential(), "no Linear"),
    ],
)
def test_what_is_no_stack_is_refused_with_the_reason(model, why):
    found = linear_stack(model(), (4,), 1)
    assert isinstance(found, str) and why in found


def test_a_linear_layer_over_more_than_one_dimension_is_no_stack():
    assert "not flattened" in linear_stack(nn.Sequential(nn.Linear(4, 1), nn.Flatten()), (1, 4), 4)
    assert len(linear_stack(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), (2, 2), 1)) == 1


def test_a_forward_put_on_a_module_is_seen():
    model = nn.Sequential(nn.Linear(4, 1))
    model[0].forward = lambda x: x.sum(1, keepdim=True)
    assert "forward of its own" in linear_stack(model, (4,), 1)


def test_another_method_put_on_a_module_is_seen_too():
    """A convolution's forward is another method's, which a module may have of its own as well."""
    layer = nn.Conv2d(1, 2, 3)
    assert not altered(layer)
    layer._conv_forward = lambda x, weight, bias: nn.functional.conv2d(x, weight, bias) * 2
    assert altered(layer)


def test_parametrised_weights_are_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 1)))
    assert isinstance(linear_stack(model, (4,), 1), str)
