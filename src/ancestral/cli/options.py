"""Parsing of a command's options from its dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import tyro

from ancestral.config import Binarize, DataConfig, Device

T = TypeVar("T")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
AllLevels = Literal["all"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data, and how they are prepared."""

    data: str
    """digits, swiss-roll, moons, a folder of IDX files, or a .npy or .npz file."""
    binarize: Binarize = "none"
    """dynamic draws the bits of a training image anew each time; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split that is only watched (at most 1,000 examples); 0 for none."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""

    @property
    def data_config(self) -> DataConfig:
        """The data's options, checked."""
        return DataConfig(self.data, self.binarize, self.validation)


def parse(kind: type[T], arguments: list[str], *, prog: str) -> T:
    """An instance of ``kind`` from a command line; help and misspelt options end the process here."""
    return tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
