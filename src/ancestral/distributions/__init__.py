"""Distributions that torch.distributions does not have, or not in the form a chain needs."""

from ancestral.distributions import kl as kl
from ancestral.distributions.base import Factorised, Shape, full_precision, soft_clamp
from ancestral.distributions.bernoulli import Bernoulli
from ancestral.distributions.discretized import DiscretizedLogistic, DiscretizedNormal
from ancestral.distributions.flow import FlowNormal, NormalizingFlow
from ancestral.distributions.mixture import DiscretizedLogisticMixture, NormalMixture
from ancestral.distributions.normal import DiagonalNormal, FullNormal, gaussian, refine, standard_normal
from ancestral.distributions.scaled import ScaledNormal

__all__ = [
    "Bernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "Factorised",
    "FlowNormal",
    "FullNormal",
    "NormalMixture",
    "NormalizingFlow",
    "ScaledNormal",
    "Shape",
    "full_precision",
    "gaussian",
    "refine",
    "soft_clamp",
    "standard_normal",
]
