"""Networks that answer with E[u|z_λ] at any time, for data that are a mixture of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion, FixedVariance
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling


@dataclass(frozen=True)
class Mixture:
    """The distribution of u: weights (k,), means (k, D) and covariances (k, D, D)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def noised(self, log_snr: float) -> MixtureSameFamily:
        """The distribution of α u + σ ε, written down for itself."""
        signal = 1.0 / (1.0 + np.exp(-log_snr))
        covariance = signal * self.covariances + (1.0 - signal) * torch.eye(self.means.shape[1])
        parts = MultivariateNormal(np.sqrt(signal) * self.means, covariance)
        return MixtureSameFamily(Categorical(self.weights), parts)


class ExactScore(nn.Module):
    """û = (z + σ² ∇ log q(z)) / α, by Tweedie's formula, answered as the target that is asked for."""

    def __init__(self, mixture: Mixture, log_snr: Tensor, prediction: str) -> None:
        super().__init__()
        self.mixture, self.prediction = mixture, prediction
        self.table = log_snr.numpy()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        T = len(self.table)
        (log_snr,) = np.interp(T * time[:1].detach().numpy(), np.arange(1, T + 1), self.table)
        with torch.enable_grad():
            # With the graph of z, so that the trace sees it.
            z = z if z.requires_grad else z.detach().requires_grad_()
            density = self.mixture.noised(float(log_snr)).log_prob(z).sum()
            (score,) = torch.autograd.grad(density, z, create_graph=True)
        alpha, sigma = (1.0 + np.exp(-log_snr)) ** -0.5, (1.0 + np.exp(log_snr)) ** -0.5
        eps = -sigma * score
        data = (z - sigma * eps) / alpha
        return {"noise": eps, "data": data, "velocity": alpha * eps - sigma * data}[self.prediction]


def exact_ddpm(
    mixture: Mixture, schedule: Schedule, *, prediction: str = "noise", levels: int | None = None
) -> Diffusion:
    """A DDPM with the exact score of u ~ ``mixture``."""
    spec = DataSpec((mixture.means.shape[1],), levels)
    network = ExactScore(mixture, schedule.log_snr, prediction)
    return Diffusion(
        network,
        schedule,
        scaling=Scaling(spec),
        parametrization=PARAMETRIZATIONS[prediction],
        variance=FixedVariance("beta"),
    )
