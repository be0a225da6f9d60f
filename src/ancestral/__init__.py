"""Markov chains of latents with an ELBO: VAEs, hierarchical VAEs and DDPMs as one family.

Names are loaded when they are first used, so that ``import ancestral`` is quick and needs torch, numpy
and safetensors only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ancestral.bounds import log_likelihood as log_likelihood
    from ancestral.config import DataConfig as DataConfig
    from ancestral.config import DDPMConfig as DDPMConfig
    from ancestral.config import FlowConfig as FlowConfig
    from ancestral.config import HVAEConfig as HVAEConfig
    from ancestral.config import LikelihoodConfig as LikelihoodConfig
    from ancestral.config import RunConfig as RunConfig
    from ancestral.config import TrainingConfig as TrainingConfig
    from ancestral.config import VAEConfig as VAEConfig
    from ancestral.core.batch import Batch as Batch
    from ancestral.core.chain import BottomUpChain as BottomUpChain
    from ancestral.core.chain import Chain as Chain
    from ancestral.core.elbo import Elbo as Elbo
    from ancestral.core.marginal import MarginalChain as MarginalChain
    from ancestral.core.spec import DataSpec as DataSpec
    from ancestral.core.summary import Summary as Summary
    from ancestral.data import Dataset as Dataset
    from ancestral.data import load_data as load_data
    from ancestral.evaluation import Evaluation as Evaluation
    from ancestral.evaluation import Ruler as Ruler
    from ancestral.evaluation import evaluate as evaluate
    from ancestral.evaluation import save_picture as save_picture
    from ancestral.experiments.build import build_chain as build_chain
    from ancestral.experiments.runs import fit as fit
    from ancestral.experiments.runs import load_run as load_run
    from ancestral.experiments.runs import measure_samples as measure_samples
    from ancestral.experiments.runs import resume_run as resume_run
    from ancestral.experiments.runs import train_run as train_run
    from ancestral.models import VAE as VAE
    from ancestral.models import LadderHVAE as LadderHVAE
    from ancestral.models import MarkovHVAE as MarkovHVAE
    from ancestral.models.diffusion import ContinuousDiffusion as ContinuousDiffusion
    from ancestral.models.diffusion import Diffusion as Diffusion
    from ancestral.models.diffusion import LearnedSchedule as LearnedSchedule
    from ancestral.models.diffusion import LogLinear as LogLinear
    from ancestral.models.diffusion.schedules import Schedule as Schedule
    from ancestral.objectives import Objective as Objective
    from ancestral.parts import DataDistribution as DataDistribution
    from ancestral.parts import Likelihood as Likelihood
    from ancestral.parts import Posterior as Posterior
    from ancestral.parts import Prior as Prior
    from ancestral.parts import ScaleLikelihood as ScaleLikelihood
    from ancestral.parts import Scaling as Scaling
    from ancestral.sampling import FewSteps as FewSteps
    from ancestral.sampling import Sampler as Sampler
    from ancestral.sampling import draw as draw
    from ancestral.training import train as train

_HOMES = {
    "bounds": ["log_likelihood"],
    "config": [
        "DDPMConfig",
        "DataConfig",
        "FlowConfig",
        "HVAEConfig",
        "LikelihoodConfig",
        "RunConfig",
        "TrainingConfig",
        "VAEConfig",
    ],
    "core.batch": ["Batch"],
    "core.chain": ["BottomUpChain", "Chain"],
    "core.elbo": ["Elbo"],
    "core.marginal": ["MarginalChain"],
    "core.spec": ["DataSpec"],
    "core.summary": ["Summary"],
    "data": ["Dataset", "load_data"],
    "evaluation": ["Evaluation", "Ruler", "evaluate", "save_picture"],
    "experiments.build": ["build_chain"],
    "experiments.runs": ["fit", "load_run", "measure_samples", "resume_run", "train_run"],
    "models": ["LadderHVAE", "MarkovHVAE", "VAE"],
    "models.diffusion": ["ContinuousDiffusion", "Diffusion", "LearnedSchedule", "LogLinear"],
    "models.diffusion.schedules": ["Schedule"],
    "objectives": ["Objective"],
    "parts": ["DataDistribution", "Likelihood", "Posterior", "Prior", "ScaleLikelihood", "Scaling"],
    "sampling": ["FewSteps", "Sampler", "draw"],
    "training": ["train"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ancestral' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ancestral.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
