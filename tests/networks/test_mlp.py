from __future__ import annotations

import pytest
import torch
from torch import nn

from ancestral.networks import MLP


def test_a_plain_mlp_is_the_sequence_of_its_layers():
    net = MLP(784, 50, hidden=(200, 200), activation="tanh")
    kinds = [type(layer) for layer in net]
    assert isinstance(net, nn.Sequential)
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert type(net).forward is nn.Sequential.forward


def test_names_do_not_depend_on_dropout():
    plain = MLP(3, 2, hidden=(4, 5)).state_dict().keys()
    assert plain == MLP(3, 2, hidden=(4, 5), dropout=0.5).state_dict().keys()


def test_no_hidden_layer_is_a_linear_map():
    net = MLP(3, 2, hidden=()).double()
    a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(net(a + b), net(a) + net(b) - net(torch.zeros_like(a)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("relu", lambda x: x.clamp(min=0)),
        ("tanh", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
    ],
)
def test_value_by_hand_with_and_without_residuals(name, function):
    x = torch.randn(7, 3, dtype=torch.float64)
    for residual in (False, True):
        net = MLP(3, 2, hidden=(4, 4), activation=name, residual=residual).double()
        (w0, b0), (w1, b1), (w2, b2) = ((m.weight, m.bias) for m in net.modules() if isinstance(m, nn.Linear))
        h = function(x @ w0.T + b0)
        h = function(h @ w1.T + b1) + (h if residual else 0)
        torch.testing.assert_close(net(x), h @ w2.T + b2)


def test_zero_last_starts_at_zero_and_learns(unreached):
    net = MLP(3, 2, hidden=(8, 8), zero_last=True)
    x = torch.randn(5, 3)
    assert torch.equal(net(x), torch.zeros(5, 2))
    assert unreached(net, lambda: net(x)) == []


def test_dropout_acts_in_training_only():
    net = MLP(3, 2, hidden=(64,), dropout=0.5)
    x = torch.randn(5, 3)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_user_mistakes():
    with pytest.raises(ValueError, match=r"activation is 'sillu'.*Did you mean 'silu'"):
        MLP(3, 2, hidden=(4,), activation="sillu")
    with pytest.raises(ValueError, match="a width in hidden is 0"):
        MLP(3, 2, hidden=(4, 0))
    with pytest.raises(ValueError, match="dropout is 1;"):
        MLP(3, 2, hidden=(4,), dropout=1.0)
    with pytest.raises(ValueError, match="out_features is 0"):
        MLP(3, 0, hidden=())
