"""Every option of a run, typed, with its default and its bounds: the one place they are stated.

Plain frozen dataclasses: the command line is generated from them, config.json is a dump of them, and
nothing here imports torch, so help texts come at once. ``build`` turns a model's options into a chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ancestral import checks

LikelihoodName = Literal[
    "auto", "gaussian", "bernoulli", "discretized-gaussian", "discretized-logistic"
]
"""The law p(x|z_1) of a VAE: auto is bernoulli for 2 levels, discretized-logistic for more, gaussian
for real numbers."""
SigmaName = Literal["fixed", "shared", "per-dimension", "predicted"]
Binarize = Literal["none", "dynamic", "threshold"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class DataConfig:
    """Where the data come from and what is done to them before a model sees them."""

    source: str = "digits"
    """digits, swiss-roll, moons, a folder of IDX files, or a .npy or .npz file."""
    binarize: Binarize = "none"
    """dynamic draws every training image's bits anew each time it is seen; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split held out to watch training (at most 1,000 examples); 0 holds out none."""

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.one_of("binarize", self.binarize, ("none", "dynamic", "threshold"))
        checks.number("validation", self.validation, low=0.0, high=0.5)
