"""Arrays handed to the Python functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ancestral
from inputs.cases import Cases

CASES = Cases("Arrays in Python")


@CASES.add("the name of a data set that is not there", answer="a ValueError with the names near it")
def unknown_name(folder: Path) -> None:
    assert isinstance(torch.zeros(1), torch.Tensor)
    with pytest.raises(ValueError, match="digits"):
        ancestral.load_data("digit")
