"""Multilayer perceptrons: what a VAE on vectors or small images needs, and the head of larger networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.dropout import Dropout

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


class _Residual(nn.Sequential):
    """x + f(x), for an f that keeps the width."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return x + out


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (n, in_features) to (n, out_features).

    It is an ``nn.Sequential`` and costs what one costs. ``hidden`` gives the widths in between; empty, the
    network is one linear layer. ``dropout`` follows each activation. With ``residual``, a hidden layer
    that keeps the width adds its input: h + act(W h + b). With ``zero_last`` the network starts as the
    constant 0.

    Raises ``ValueError`` for widths below 1, an unknown activation, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int],
        activation: str = "silu",
        dropout: float = 0.0,
        residual: bool = False,
        zero_last: bool = False,
    ) -> None:
        checks.integer("in_features", in_features, low=1)
        checks.integer("out_features", out_features, low=1)
        for width in hidden:
            checks.integer("a width in hidden", width, low=1)
        checks.one_of("activation", activation, _ACTIVATIONS)
        checks.number("dropout", dropout, low=0.0, below=1.0)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        widths = [in_features, *hidden]
        for i, (before, after) in enumerate(pairwise(widths)):
            layer: OrderedDict[str, nn.Module] = OrderedDict()
            layer[f"linear{i}"] = nn.Linear(before, after)
            layer[f"act{i}"] = _ACTIVATIONS[activation]()
            if dropout > 0:
                layer[f"dropout{i}"] = Dropout(dropout)
            if residual and before == after:
                layers[f"residual{i}"] = _Residual(layer)
            else:
                layers.update(layer)
        last = nn.Linear(widths[-1], out_features)
        if zero_last:
            zero_(last)
        layers["last"] = last
        super().__init__(layers)


def zero_(layer: nn.Linear | nn.Conv2d) -> None:
    """Set a layer's weight and bias to 0, so that it starts as the constant 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
