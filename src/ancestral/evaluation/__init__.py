"""Evaluation: bounds with error bars, distances of samples beside their floor, and pictures.

Bounds are always in fp32 or better; nothing is evaluated in training mode.
"""

from ancestral.evaluation.bidirectional import Bidirectional, bidirectional
from ancestral.evaluation.evaluation import Evaluation, Tighter, evaluate
from ancestral.evaluation.gap import Gaps, bound_gaps, save_gaps
from ancestral.evaluation.latents import Reconstructions, interpolate, latent_walk, reconstruct
from ancestral.evaluation.pictures import save_comparison, save_picture, save_rows, save_trajectory
from ancestral.evaluation.posterior_picture import PosteriorGrid, posterior_grids, save_posteriors
from ancestral.evaluation.samples.quality import Distances, Quality, Ruler
from ancestral.evaluation.samples.sampling_curve import SamplerCurve, sampler_curve, save_curve
from ancestral.evaluation.scores import Scored, Scores, scored, scores

__all__ = [
    "Bidirectional",
    "Distances",
    "Evaluation",
    "Gaps",
    "PosteriorGrid",
    "Quality",
    "Reconstructions",
    "Ruler",
    "SamplerCurve",
    "Scored",
    "Scores",
    "Tighter",
    "bidirectional",
    "bound_gaps",
    "evaluate",
    "interpolate",
    "latent_walk",
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
    "scored",
    "scores",
]
