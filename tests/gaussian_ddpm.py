"""DDPMs with a linear network on Gaussian data, and their ELBO in closed form, term by term.

The formulas are worked out here from the betas alone, apart from the library's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion, Gamma, variance_of
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling


@dataclass(frozen=True)
class Levels:
    """β, α, ᾱ and β̃ as Ho et al. write them, indexed by t with an entry for t = 0."""

    beta: Tensor
    bar: Tensor
    tilde: Tensor

    @staticmethod
    def of(betas: Tensor) -> Levels:
        beta = torch.cat([torch.zeros(1), betas.to(torch.get_default_dtype())])
        bar = torch.cumprod(1.0 - beta, dim=0)
        before = torch.cat([torch.ones(1), bar[:-1]])
        tilde = beta * (1.0 - before) / (1.0 - bar).clamp(min=1e-300)
        return Levels(beta, bar, tilde)

    def mean_weights(self, t: int) -> tuple[Tensor, Tensor]:
        """The weights of x_0 and x_t in the mean of q(x_{t−1}|x_t, x_0)."""
        rest = 1.0 - self.bar[t]
        return (
            self.bar[t - 1].sqrt() * self.beta[t] / rest,
            (1.0 - self.beta[t]).sqrt() * (1.0 - self.bar[t - 1]) / rest,
        )

    def log_variance(self, t: int, variance: str, share: float) -> Tensor:
        """log σ_t² of the reverse process; ``share`` is where "learned" lies between the two ends."""
        high = self.beta[t].log()
        if t > 1:
            low = self.tilde[t].log()
        else:
            low = torch.minimum(self.tilde[2], self.beta[1]).log() if variance == "learned" else high
        return {"beta": high, "posterior": low, "learned": low + share * (high - low)}[variance]


class LinearDenoiser(nn.Module):
    """û = K_t z + k_t, answered as the target that the DDPM asks for.

    With ``off`` = 1 it is the best there is for data N(mean, covariance): E[u|z_t].
    """

    def __init__(
        self,
        levels: Levels,
        mean: Tensor,
        covariance: Tensor,
        *,
        off: float = 1.0,
        prediction: str = "noise",
        share: float | None = None,
    ) -> None:
        super().__init__()
        self.levels, self.prediction, self.share = levels, prediction, share
        self.T = len(levels.bar) - 1
        gains = [torch.zeros_like(covariance)]
        for bar in levels.bar[1:]:
            noisy = bar * covariance + (1.0 - bar) * torch.eye(len(mean))
            gains.append(off * bar.sqrt() * torch.linalg.solve(noisy, covariance).T)
        self.K = nn.Parameter(torch.stack(gains))
        shift = mean - (self.K @ mean) * levels.bar.sqrt()[:, None]
        self.k = nn.Parameter(shift.detach())

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        t = (time * self.T).round().long()
        data = (self.K[t] @ z[..., None])[..., 0] + self.k[t]
        bar = self.levels.bar[t][:, None]
        signal, noise = bar.sqrt(), (1.0 - bar).sqrt()
        eps = (z - signal * data) / noise
        if self.prediction == "mean":
            weights = [self.levels.mean_weights(i) for i in t.tolist()]
            c0, ct = (torch.stack(w)[:, None] for w in zip(*weights, strict=True))
            out = c0 * data + ct * z
        else:
            out = {"noise": eps, "data": data, "velocity": signal * eps - noise * data}[self.prediction]
        if self.share is None:
            return out
        return torch.cat([out, torch.full_like(out, math.log(self.share / (1.0 - self.share)))], dim=1)


class ExactDenoiser(nn.Module):
    """The noise E[ε|z] for data N(mean, covariance), at any log-SNR: it reads a time as its chain tells it.

    ``schedule`` is a ``Schedule``, whose time is t / T, or a ``Gamma``, whose time is affine in log-SNR.
    """

    def __init__(
        self, schedule: Schedule | Gamma, mean: Tensor, covariance: Tensor, *, share: float | None = None
    ) -> None:
        super().__init__()
        values, self.vectors = torch.linalg.eigh(covariance)
        self.values, self.mean, self.share = values, mean, share
        self.log_snr = None if isinstance(schedule, Gamma) else schedule.log_snr
        self.line = (schedule.start, schedule.width) if isinstance(schedule, Gamma) else None
        self.scale = nn.Parameter(torch.ones(()))

    def gamma(self, time: Tensor) -> Tensor:
        if self.line is not None:
            return self.line[0] + self.line[1] * time
        # Between two levels a time is that of the log-SNR between them.
        assert self.log_snr is not None
        at = time * len(self.log_snr) - 1.0
        below = at.floor().long().clamp(0, len(self.log_snr) - 2)
        low, high = self.log_snr[below], self.log_snr[below + 1]
        return -(low + (at - below) * (high - low))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        bar = torch.sigmoid(-self.gamma(time))[:, None]
        off = (z - bar.sqrt() * self.mean) @ self.vectors
        out = self.scale * (((1.0 - bar).sqrt() / (bar * self.values + 1.0 - bar) * off) @ self.vectors.T)
        if self.share is None:
            return out
        return torch.cat([out, torch.full_like(out, math.log(self.share / (1.0 - self.share)))], dim=1)


@dataclass(frozen=True)
class Terms:
    """Expected costs, in nats: reconstruction, matching for t = 2 … T, prior, and the simple loss."""

    reconstruction: Tensor
    matching: Tensor
    prior: Tensor
    squared_noise_errors: Tensor
    """E‖ε − ε̂‖² for t = 1 … T."""

    @property
    def total(self) -> float:
        """The expected ELBO."""
        return float(-(self.reconstruction + self.matching.sum() + self.prior))


def expected_terms(chain: Diffusion, mean: Tensor, covariance: Tensor) -> Terms:
    """The exact expectation of each term over u ~ N(mean, covariance) in the network's units, and over q.

    With covariance 0 it is the expectation for one given example. Needs a ``LinearDenoiser``.
    """
    net = chain.network
    assert isinstance(net, LinearDenoiser)
    levels, D, T = net.levels, len(mean), net.T
    share = 0.0 if net.share is None else net.share
    errors = []  # E‖u − û‖² at t = 1 … T
    for t in range(1, T + 1):
        signal, noise = levels.bar[t].sqrt(), (1.0 - levels.bar[t]).sqrt()
        rest = torch.eye(D) - signal * net.K[t]
        bias = (rest @ mean - net.k[t]).square().sum()
        errors.append(bias + (rest @ covariance @ rest.T).trace() + noise**2 * net.K[t].square().sum())
    data_error = torch.stack(errors).detach()
    matching = []
    for t in range(2, T + 1):
        log_var = levels.log_variance(t, chain.variance.name, share)
        ratio = levels.tilde[t] / log_var.exp()
        c0 = levels.mean_weights(t)[0]
        matching.append(0.5 * (D * (ratio - 1.0 - ratio.log()) + c0**2 * data_error[t - 1] / log_var.exp()))
    first = levels.log_variance(1, chain.variance.name, share)
    scale = chain.scaling.scale.log().sum()
    bar = levels.bar[T]
    second = mean.square().sum() + covariance.trace()
    return Terms(
        reconstruction=0.5 * (D * (math.log(2 * math.pi) + first) + data_error[0] / first.exp()) + scale,
        matching=torch.stack(matching) if matching else torch.zeros(0),
        prior=0.5 * (bar * second + D * (-bar - torch.log1p(-bar))),
        squared_noise_errors=data_error * levels.bar[1:] / (1.0 - levels.bar[1:]),
    )


def model_distribution(chain: Diffusion, levels_kept: list[int]) -> MultivariateNormal:
    """Of the samples when only ``levels_kept``, falling from T, are visited: Gaussian, by recursion.

    For all levels it is p(x) itself. For a fixed variance only: the one of the step that is taken.
    """
    net = chain.network
    assert isinstance(net, LinearDenoiser)
    bar, eye = net.levels.bar, torch.eye(net.K.shape[1])
    mean, covariance = torch.zeros(len(eye)), eye
    for t, s in zip(levels_kept, [*levels_kept[1:], 0], strict=True):
        step = 1.0 - bar[t] / bar[s]
        c0 = bar[s].sqrt() * step / (1.0 - bar[t])
        ct = (bar[t] / bar[s]).sqrt() * (1.0 - bar[s]) / (1.0 - bar[t])
        narrow = chain.variance.name == "posterior" and s > 0
        variance = step * (1.0 - bar[s]) / (1.0 - bar[t]) if narrow else step
        a = (c0 * net.K[t] + ct * eye).detach()
        mean = a @ mean + c0 * net.k[t].detach()
        covariance = a @ covariance @ a.T + variance * eye
    scale = chain.scaling.scale
    return MultivariateNormal(chain.scaling.inverse(mean), scale[:, None] * covariance * scale)


def gaussian_ddpm(
    schedule: Schedule,
    mean: Tensor,
    covariance: Tensor,
    *,
    off: float = 1.0,
    prediction: str = "noise",
    variance: str = "posterior",
    share: float = 0.3,
    scaling: Scaling | None = None,
) -> Diffusion:
    """A DDPM with the best linear network for u ~ N(mean, covariance), or one ``off`` it by a factor."""
    levels = Levels.of(schedule.betas)
    network = LinearDenoiser(
        levels,
        mean,
        covariance,
        off=off,
        prediction=prediction,
        share=share if variance == "learned" else None,
    )
    return Diffusion(
        network,
        schedule,
        scaling=Scaling(DataSpec((len(mean),))) if scaling is None else scaling,
        parametrization=PARAMETRIZATIONS[prediction],
        variance=variance_of(variance),
    )
