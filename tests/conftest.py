"""Settings of every test, and the fixtures that several files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib: no test opens a window

import pytest
import torch

torch.set_num_threads(1)  # the suite is run in several processes, one core each


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start each test from the same random numbers, whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default type of new tensors for one test: closed forms are compared at 1e-9."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
