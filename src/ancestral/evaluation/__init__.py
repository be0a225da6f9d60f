"""Evaluation: bounds with error bars, distances of samples beside their floor, and pictures.

Bounds are always in fp32 or better; nothing is evaluated in training mode.
"""

from ancestral.evaluation.bounds import Estimate, Evaluation, default_levels, evaluate, log_likelihood
from ancestral.evaluation.pictures import save_comparison, save_picture, save_trajectory
from ancestral.evaluation.posterior_picture import PosteriorGrid, posterior_grids, save_posteriors
from ancestral.evaluation.quality import Distances, Quality, Ruler
from ancestral.evaluation.sampling_curve import SamplerCurve, sampler_curve, save_curve

__all__ = [
    "Distances",
    "Estimate",
    "Evaluation",
    "PosteriorGrid",
    "Quality",
    "Ruler",
    "SamplerCurve",
    "default_levels",
    "evaluate",
    "log_likelihood",
    "posterior_grids",
    "sampler_curve",
    "save_comparison",
    "save_curve",
    "save_picture",
    "save_posteriors",
    "save_trajectory",
]
