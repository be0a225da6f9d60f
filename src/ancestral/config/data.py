"""Options of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ancestral import checks
from ancestral.config.strict import STRICT

Binarize = Literal["none", "dynamic", "threshold"]


@dataclass(frozen=True)
class DataConfig:
    """Where the data come from, and what is done to them before a model sees them."""

    source: str
    """digits, swiss-roll, moons, a folder of IDX files, or a .npy or .npz file."""
    binarize: Binarize = "none"
    """dynamic draws the bits of a training image anew each time; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split that is only watched (at most 1,000 examples); 0 for none."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.one_of("binarize", self.binarize, get_args(Binarize))
        checks.number("validation", self.validation, low=0.0, high=0.5)
