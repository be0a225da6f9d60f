"""Losses, gradients and bounds of small chains are the numbers that were recorded.

After a change that is meant to change them: ANCESTRAL_GOLDEN=write pytest tests/golden -n 0
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from golden.cases import CASES, measure
from golden.tape import tape

FILE = Path(__file__).with_name("golden.json")
RELATIVE = 1e-10
NEGLIGIBLE = 1e-6
"""What is smaller than this share of its group's largest is compared on the scale of that share: it may be
a difference of large numbers, or 0 but for rounding."""


@pytest.fixture(scope="module")
def recorded():
    if os.environ.get("ANCESTRAL_GOLDEN") == "write":
        found = {name: measure(name) for name in CASES}
        FILE.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return json.loads(FILE.read_text())


def leaves(tree, path=""):
    """All numbers of a tree of dicts and lists, by their paths."""
    if isinstance(tree, dict):
        return {k: v for key, below in tree.items() for k, v in leaves(below, f"{path}/{key}").items()}
    if isinstance(tree, list):
        return leaves(dict(enumerate(tree)), path)
    return {path: tree}


def differences(recorded, found):
    """Sentences on the numbers of a chain that differ, or that only one of the two has."""
    said = []
    for group in sorted(recorded.keys() | found.keys()):
        old, new = leaves(recorded.get(group, {})), leaves(found.get(group, {}))
        said += [f"{group}{path} is in one only" for path in sorted(old.keys() ^ new.keys())]
        least = NEGLIGIBLE * max(map(abs, old.values()), default=0.0)
        for path in sorted(old.keys() & new.keys()):
            a, b = old[path], new[path]
            if not abs(a - b) <= RELATIVE * max(abs(a), least):
                said.append(f"{group}{path} was {a!r} and is {b!r}: {(b - a) / (a or least):.1e} more")
    return said


@pytest.mark.parametrize("name", CASES)
def test_chain_gives_the_recorded_numbers(name, recorded):
    found = measure(name)
    assert all(map(math.isfinite, leaves(found).values()))
    assert differences(recorded[name], found) == []


def test_same_chains_are_recorded(recorded):
    assert list(recorded) == list(CASES)


def test_every_parameter_has_a_gradient(recorded):
    # A parameter without one would not be watched.
    for numbers in recorded.values():
        assert all(square > 0 for square in numbers["gradient_squares"].values())


def scaled(tree, at, by, path=""):
    """The same tree with the number at the path ``at`` multiplied."""
    if isinstance(tree, dict):
        return {key: scaled(below, at, by, f"{path}/{key}") for key, below in tree.items()}
    if isinstance(tree, list):
        return [scaled(below, at, by, f"{path}/{i}") for i, below in enumerate(tree)]
    return tree * by if path == at else tree


def test_small_change_of_any_number_is_noticed(recorded):
    for numbers in recorded.values():
        assert differences(numbers, numbers) == []
        for group in numbers:
            largest = max(map(abs, leaves(numbers[group]).values()))
            for path, value in leaves(numbers[group]).items():
                if abs(value) > NEGLIGIBLE * largest:
                    (said,) = differences(numbers, scaled(numbers, f"/{group}{path}", 1 + 1e-9))
                    assert said.startswith(f"{group}{path} was {value!r}")


def test_missing_number_and_nan_are_noticed(recorded):
    numbers = recorded["markov"]
    assert differences(numbers, {**numbers, "loss": math.nan})
    assert differences(numbers, {**numbers, "terms": {}})
    assert differences(numbers, {k: v for k, v in numbers.items() if k != "elbo"})


def test_tape_ignores_the_order_of_shapes_and_the_function_that_asks():
    x = torch.empty(2, 3, dtype=torch.float64)
    with tape("a"):
        first = [torch.randn_like(x), torch.rand(4), torch.randn(2, 3, dtype=torch.float64)]
    with tape("a"):
        again = [torch.rand((4,), generator=torch.Generator()), torch.randn(x.shape, out=x.clone())]
        again.append(x.clone().normal_())
    torch.testing.assert_close([first[1], first[0], first[2]], again, rtol=0, atol=0)
    assert not torch.equal(first[0], first[2])
    with tape("b"):
        assert not torch.equal(first[0], torch.randn_like(x))


def test_draw_beside_the_tape_is_an_error():
    with pytest.raises(AssertionError, match="not on the tape"), tape("a"):
        torch.bernoulli(torch.ones(2))
    with pytest.raises(AssertionError, match="beside the tape"), tape("a"):
        torch.nn.functional.dropout(torch.ones(2))
