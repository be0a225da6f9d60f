"""Evaluation: bounds with error bars, and pictures. Always fp32 or better, never in training mode."""

from ancestral.evaluation.bounds import Estimate, Evaluation, default_levels, evaluate, log_likelihood
from ancestral.evaluation.pictures import save_comparison, save_picture, save_trajectory

__all__ = [
    "Estimate",
    "Evaluation",
    "default_levels",
    "evaluate",
    "log_likelihood",
    "save_comparison",
    "save_picture",
    "save_trajectory",
]
