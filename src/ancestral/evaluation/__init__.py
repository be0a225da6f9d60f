"""Evaluation: bounds with error bars, and pictures. Always fp32 or better, never in training mode."""

from ancestral.evaluation.bounds import Estimate, Evaluation, evaluate, log_likelihood
from ancestral.evaluation.pictures import save_picture, save_trajectory

__all__ = [
    "Estimate",
    "Evaluation",
    "evaluate",
    "log_likelihood",
    "save_picture",
    "save_trajectory",
]
