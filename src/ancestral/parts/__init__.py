"""Parts of models: modules that map numbers to distributions, and the scaling of the data.

A new part is a subclass of ``Likelihood`` (what a decoder says to p(x|z_1)), ``DataDistribution`` (a mean and
a sigma to p(x|z_1), for ``ScaleLikelihood`` and for diffusion models), ``Posterior`` or ``Prior``.
"""

from ancestral.parts.likelihoods import (
    SIGMAS,
    BernoulliLikelihood,
    DataDistribution,
    DiscretizedGaussianLikelihood,
    DiscretizedLogisticData,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    DiscretizedNormalData,
    GaussianLikelihood,
    Likelihood,
    NormalData,
    ScaleLikelihood,
)
from ancestral.parts.posteriors import DiagonalPosterior, FlowPosterior, FullPosterior, Posterior
from ancestral.parts.priors import GaussianMixturePrior, Prior, StandardNormalPrior
from ancestral.parts.scaling import Scaling

__all__ = [
    "SIGMAS",
    "BernoulliLikelihood",
    "DataDistribution",
    "DiagonalPosterior",
    "DiscretizedGaussianLikelihood",
    "DiscretizedLogisticData",
    "DiscretizedLogisticLikelihood",
    "DiscretizedLogisticMixtureLikelihood",
    "DiscretizedNormalData",
    "FlowPosterior",
    "FullPosterior",
    "GaussianLikelihood",
    "GaussianMixturePrior",
    "Likelihood",
    "NormalData",
    "Posterior",
    "Prior",
    "ScaleLikelihood",
    "Scaling",
    "StandardNormalPrior",
]
