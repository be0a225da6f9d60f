"""The probability-flow ODE of a DDPM (Song et al. 2021, eq. 13), with its network as the score.

With α = √ᾱ, σ = √(1 − ᾱ), λ = log(α²/σ²) the log-SNR and û = û(z, λ) the network's prediction of the data,
the ODE whose solutions have the marginals of q is dz/dλ = (dα/dλ) û + (dσ/dλ) (z − α û)/σ. As
dα/dλ = ½ α σ² and dσ/dλ = −½ σ α²,

    dz/dλ = ½ α (û − α z).

In λ its right side is continuous for any schedule: between two levels t is interpolated in λ, as for the
Karras grid (``grids``), and what a time between two levels means is up to the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ancestral.models.diffusion.chain import GaussianDiffusion
from ancestral.models.diffusion.parametrization import ClosedForms


class ProbabilityFlow:
    """dz/dλ, from level 1 (λ = ``start``) up to level T (λ = ``end``).

    ``ValueError`` for a chain of one level, and for one that predicts the mean of a step between two levels.
    """

    def __init__(self, chain: GaussianDiffusion) -> None:
        if chain.T < 2:
            raise ValueError(
                "the chain has T = 1 level, and an ODE goes from level 1 to level T; T must be > 1."
            )
        if not chain.parametrization.between_levels:
            raise ValueError(
                "prediction is 'mean', which is that of a step between two levels and not defined between "
                "them, where an ODE asks for it. Train with prediction noise, data or velocity."
            )
        self.chain = chain
        # Falling in t, and searched in rising order.
        self.log_snr = chain.log_snr(torch.arange(1, chain.T + 1, device=next(chain.parameters()).device))
        self.start, self.end = float(self.log_snr[0]), float(self.log_snr[-1])

    def __call__(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """dz/dλ at z, (n, *shape), and one λ: one network call."""
        snr = log_snr.to(self.log_snr)
        signal, noise = torch.sigmoid(snr).sqrt(), torch.sigmoid(-snr).sqrt()
        alpha = signal.to(z.dtype)
        time = self.chain.noising.time(self.level(snr).reshape(1)).to(z.dtype)
        target, _ = self.chain.ask(z, time.expand(len(z)))
        # Of the closed forms, the three targets that are left read these two only.
        none = torch.zeros_like(alpha)
        k = ClosedForms(alpha, noise.to(z.dtype), none, none, (none, none), time)
        return 0.5 * alpha * (self.chain.parametrization.to_data(target, z, k) - alpha * z)

    def level(self, log_snr: Tensor) -> Tensor:
        """t in [1, T] at one log-SNR, float64; linear between two levels."""
        above = torch.searchsorted(-self.log_snr, -log_snr).clamp(1, self.chain.T - 1)
        high, low = self.log_snr[above - 1], self.log_snr[above]
        return above + ((high - log_snr) / (high - low)).clamp(0.0, 1.0)
