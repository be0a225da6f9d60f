"""Denoising diffusion: the chain, what its network predicts, and its losses."""

from ancestral.diffusion.continuous import ContinuousDDPM
from ancestral.diffusion.ddpm import DDPM, VARIANCES
from ancestral.diffusion.draws import SAMPLINGS
from ancestral.diffusion.learned import LearnedSchedule
from ancestral.diffusion.losses import LOSSES
from ancestral.diffusion.noising import LogLinear
from ancestral.diffusion.targets import PREDICTIONS, Coefficients, Prediction

__all__ = [
    "DDPM",
    "LOSSES",
    "PREDICTIONS",
    "SAMPLINGS",
    "VARIANCES",
    "Coefficients",
    "ContinuousDDPM",
    "LearnedSchedule",
    "LogLinear",
    "Prediction",
]
