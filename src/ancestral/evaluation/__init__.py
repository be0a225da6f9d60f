"""Evaluation: bounds with error bars, distances of samples beside their floor, and pictures.

Bounds are always in fp32 or better; nothing is evaluated in training mode.
"""

from ancestral.evaluation.amortisation import Fitting, fitted_elbo
from ancestral.evaluation.annealing import Annealing, annealed
from ancestral.evaluation.bidirectional import Bidirectional, bidirectional
from ancestral.evaluation.bounds import Evaluation, default_levels, evaluate
from ancestral.evaluation.estimate import Estimate
from ancestral.evaluation.gap import Gaps, bound_gaps, save_gaps
from ancestral.evaluation.importance import Curve, importance_curve, log_likelihood
from ancestral.evaluation.latents import Reconstructions, interpolate, reconstruct, walk
from ancestral.evaluation.pictures import save_comparison, save_picture, save_rows, save_trajectory
from ancestral.evaluation.posterior_picture import PosteriorGrid, posterior_grids, save_posteriors
from ancestral.evaluation.quality import Distances, Quality, Ruler
from ancestral.evaluation.sampling_curve import SamplerCurve, sampler_curve, save_curve
from ancestral.evaluation.scores import Scores, scores

__all__ = [
    "Annealing",
    "Bidirectional",
    "Curve",
    "Distances",
    "Estimate",
    "Evaluation",
    "Fitting",
    "Gaps",
    "PosteriorGrid",
    "Quality",
    "Reconstructions",
    "Ruler",
    "SamplerCurve",
    "Scores",
    "annealed",
    "bidirectional",
    "bound_gaps",
    "default_levels",
    "evaluate",
    "fitted_elbo",
    "importance_curve",
    "interpolate",
    "log_likelihood",
    "posterior_grids",
    "reconstruct",
    "sampler_curve",
    "save_comparison",
    "save_curve",
    "save_gaps",
    "save_picture",
    "save_posteriors",
    "save_rows",
    "save_trajectory",
    "scores",
    "walk",
]
