"""Denoising diffusion: the chain in T levels and in continuous time, and the parts that it is made of."""

from ancestral.models.diffusion.chain import Diffusion, GaussianDiffusion, Prediction
from ancestral.models.diffusion.continuous import ContinuousDiffusion
from ancestral.models.diffusion.denoiser import Denoised, Denoiser, NoiseLevel
from ancestral.models.diffusion.draws import SAMPLINGS, LevelDraws
from ancestral.models.diffusion.learned import LearnedSchedule
from ancestral.models.diffusion.noising import FixedNoising, Gamma, LogLinear, Noising
from ancestral.models.diffusion.parametrization import (
    PARAMETRIZATIONS,
    ClosedForms,
    DataPrediction,
    MeanPrediction,
    NoisePrediction,
    Parametrization,
    VelocityPrediction,
)
from ancestral.models.diffusion.schedules import Schedule
from ancestral.models.diffusion.variance import FixedVariance, LearnedVariance, ReverseVariance, variance_of

__all__ = [
    "PARAMETRIZATIONS",
    "SAMPLINGS",
    "ClosedForms",
    "ContinuousDiffusion",
    "DataPrediction",
    "Denoised",
    "Denoiser",
    "Diffusion",
    "FixedNoising",
    "FixedVariance",
    "Gamma",
    "GaussianDiffusion",
    "LearnedSchedule",
    "LearnedVariance",
    "LevelDraws",
    "LogLinear",
    "MeanPrediction",
    "NoiseLevel",
    "NoisePrediction",
    "Noising",
    "Parametrization",
    "Prediction",
    "ReverseVariance",
    "Schedule",
    "VelocityPrediction",
    "variance_of",
]
