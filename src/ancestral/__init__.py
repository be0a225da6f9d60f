"""Markov chains of latents with an ELBO: VAEs, hierarchical VAEs and DDPMs as one family.

Names are loaded when they are first used, so that ``import ancestral`` is quick and needs torch, numpy
and safetensors only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ancestral.build import build_chain as build_chain
    from ancestral.chain import BottomUpChain as BottomUpChain
    from ancestral.chain import Chain as Chain
    from ancestral.config import DataConfig as DataConfig
    from ancestral.config import DDPMConfig as DDPMConfig
    from ancestral.config import FlowConfig as FlowConfig
    from ancestral.config import HVAEConfig as HVAEConfig
    from ancestral.config import LikelihoodConfig as LikelihoodConfig
    from ancestral.config import RunConfig as RunConfig
    from ancestral.config import TrainingConfig as TrainingConfig
    from ancestral.config import VAEConfig as VAEConfig
    from ancestral.data import Dataset as Dataset
    from ancestral.data import load_data as load_data
    from ancestral.diffusion import DDPM as DDPM
    from ancestral.diffusion import ContinuousDDPM as ContinuousDDPM
    from ancestral.diffusion import LearnedSchedule as LearnedSchedule
    from ancestral.diffusion import LogLinear as LogLinear
    from ancestral.elbo import Elbo as Elbo
    from ancestral.elbo import Loss as Loss
    from ancestral.elbo import Reweighting as Reweighting
    from ancestral.evaluation import Evaluation as Evaluation
    from ancestral.evaluation import Ruler as Ruler
    from ancestral.evaluation import evaluate as evaluate
    from ancestral.evaluation import log_likelihood as log_likelihood
    from ancestral.evaluation import save_picture as save_picture
    from ancestral.hierarchical import LadderHVAE as LadderHVAE
    from ancestral.hierarchical import MarkovHVAE as MarkovHVAE
    from ancestral.marginal import MarginalChain as MarginalChain
    from ancestral.objectives import Objective as Objective
    from ancestral.runs import fit as fit
    from ancestral.runs import load_run as load_run
    from ancestral.runs import measure_samples as measure_samples
    from ancestral.runs import resume_run as resume_run
    from ancestral.runs import train_run as train_run
    from ancestral.samplers import Sampler as Sampler
    from ancestral.samplers import draw as draw
    from ancestral.scaling import Scaling as Scaling
    from ancestral.schedules import Schedule as Schedule
    from ancestral.spec import DataSpec as DataSpec
    from ancestral.summary import Summary as Summary
    from ancestral.training import train as train
    from ancestral.vae import VAE as VAE

_HOMES = {
    "build": ["build_chain"],
    "chain": ["BottomUpChain", "Chain"],
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
    "data": ["Dataset", "load_data"],
    "diffusion": ["ContinuousDDPM", "DDPM", "LearnedSchedule", "LogLinear"],
    "elbo": ["Elbo", "Loss", "Reweighting"],
    "evaluation": ["Evaluation", "Ruler", "evaluate", "log_likelihood", "save_picture"],
    "hierarchical": ["LadderHVAE", "MarkovHVAE"],
    "marginal": ["MarginalChain"],
    "objectives": ["Objective"],
    "runs": ["fit", "load_run", "measure_samples", "resume_run", "train_run"],
    "samplers": ["Sampler", "draw"],
    "scaling": ["Scaling"],
    "schedules": ["Schedule"],
    "spec": ["DataSpec"],
    "summary": ["Summary"],
    "training": ["train"],
    "vae": ["VAE"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ancestral' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ancestral.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
