"""The objective that options name."""

from __future__ import annotations

from ancestral.config import DDPMConfig, HVAEConfig, ModelConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.objectives import (
    DReG,
    Few,
    FirstFew,
    Hybrid,
    Iwae,
    NegativeElbo,
    Objective,
    OneLevel,
    Simple,
    default_objective,
)


def build_objective(config: ModelConfig, chain: Chain) -> Objective:
    """The objective that ``config`` describes, for a chain that was built from it."""
    if isinstance(config, DDPMConfig):
        return _of_diffusion(config, chain)
    objective = _of_samples(config, config.training_samples)
    if config.samples_warmup:
        first = _of_samples(config, config.first_samples)
        return FirstFew(objective, first, steps=config.samples_warmup)
    return objective


def _of_samples(config: VAEConfig | HVAEConfig, samples: int) -> Objective:
    """With this many samples per example, and the gradient through fewer of them where options say so."""
    if config.objective == "elbo":
        return NegativeElbo(
            samples,
            beta=config.beta,
            free_bits=config.free_bits,
            kl_warmup=config.kl_warmup,
            kl_balance=isinstance(config, HVAEConfig) and config.kl_balance,
        )
    weighted = Iwae(samples) if config.objective == "iwae" else DReG(samples)
    backward = config.backward_samples
    return weighted if backward is None or backward >= samples else Few(weighted, backward=backward)


def _of_diffusion(config: DDPMConfig, chain: Chain) -> Objective:
    if config.loss == "vlb":
        return OneLevel(chain, sampling=config.sampling)
    if config.loss == "hybrid":
        return Hybrid(chain, sampling=config.sampling)
    return Simple(chain, sampling=config.sampling, min_snr=config.gamma if config.loss == "min-snr" else None)


def objective_of(chain: Chain) -> Objective:
    """The objective of a chain: what the options it was built from name, or the default for its kind."""
    return default_objective(chain) if chain.config is None else build_objective(chain.config, chain)
