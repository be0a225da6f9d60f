"""Small chains whose importance-weighted objectives are tested, and the gradient of one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.config import HVAEConfig, ModelConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.objectives import Loss
from tiny import built, vectors
from toys import Affine, BottomUpGaussian, Joint, TopDownGaussian, randn, spd

TOYS = {"one level": (TopDownGaussian, (4, 2))} | {
    kind.__name__: (kind, (4, 3, 2)) for kind in (TopDownGaussian, BottomUpGaussian)
}
each_toy = pytest.mark.parametrize("name", TOYS)
TINY: dict[str, ModelConfig] = {
    "vae": VAEConfig(hidden=(3,), latent_dims=2, dropout=0.0),
    "bottom-up": HVAEConfig(levels=2, posterior="bottom-up", hidden=(3,), latent_dims=(2, 1), dropout=0.0),
    "ladder": HVAEConfig(levels=2, width=3, latent_dims=(2, 1), dropout=0.0),
}
"""For vectors of two numbers; a ladder's q and p share all of the stream."""


def toy(name: str, **off: float) -> tuple[Chain, MultivariateNormal]:
    """A linear-Gaussian chain, its q off as asked, and the law of its data."""
    kind, sizes = TOYS[name]
    T = len(sizes) - 1
    joint = Joint(T, torch.zeros(sizes[-1]), torch.eye(sizes[-1]))
    for t in range(T - 1, -1, -1):
        law = Affine(randn(sizes[t], sizes[t + 1], seed=t), randn(sizes[t], seed=t + 9), spd(sizes[t], t))
        joint = joint.extend(t, [t + 1], law)
    data = joint.marginal(0)(torch.zeros(1, 0))
    return kind(joint, T, **off), MultivariateNormal(data.loc[0], data.covariance_matrix[0])


def tiny(model: ModelConfig, data=None) -> tuple[Chain, Tensor]:
    """A model with no parameter at zero, and a few of its data."""
    data = vectors() if data is None else data
    torch.manual_seed(0)
    chain = built(model, data).double()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / math.sqrt(max(parameter.shape, default=1)))
    x = data.train.x[:4]
    return chain, x.double() if x.is_floating_point() else x


def gradient(chain: Chain, loss: Loss) -> Tensor:
    """The gradient of all parameters, flat."""
    gradients = torch.autograd.grad(loss.value, list(chain.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])
