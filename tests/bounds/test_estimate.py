"""An estimate as text, and back from a report's JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ancestral.bounds import Estimate
from ancestral.bounds.errors import DrawError

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (".4f", "12.3456 ± 0.0123"),
        (".2f", "12.35 ± 0.01"),
        ("12.4f", "     12.3456 ± 0.0123"),
        ("<12.4f", "12.3456      ± 0.0123"),
        ("+.2f", "+12.35 ± 0.01"),
        ("09.3f", "00012.346 ± 0.012"),
        (".3g", "12.3 ± 0.0123"),
        ("", "12.346 ± 0.012"),
        ("10", "    12.346 ± 0.012"),
        ("_<10", "12.346____ ± 0.012"),
    ],
)
def test_a_format_is_for_both_numbers_and_its_width_for_the_mean(spec, text):
    assert format(Estimate(12.345612, 0.012345), spec) == text


@pytest.mark.parametrize(
    ("mean", "stderr", "text"),
    [
        (-99.0, 1.0, "-99.0 ± 1.0"),
        (-99.0, 0.0996, "-99.00 ± 0.10"),
        (1234.56, 12.3, "1235 ± 12"),
        (123456.7, 1234.5, "123457 ± 1234"),
        (1.0, 0.00012345, "1.00000 ± 0.00012"),
        (0.5, 0.0, "0.5 ± 0"),
        (1.0, 1e-200, "1 ± 1e-200"),
        (INF, 1.0, "inf ± 1.0"),
        (-INF, NAN, "-inf ± –"),
        (NAN, INF, "nan ± inf"),
        (1 / 3, NAN, "0.333333 ± –"),
    ],
)
def test_without_digits_the_error_has_two(mean, stderr, text):
    assert f"{Estimate(mean, stderr)}" == str(Estimate(mean, stderr)) == text


def test_the_error_of_one_example_is_unknown():
    found = Estimate.of(torch.tensor([-3.5]))
    assert math.isnan(found.stderr)
    assert json.loads(json.dumps(found.json())) == {"mean": -3.5, "stderr": None}
    assert not Estimate.from_json(found.json()).known
    assert str(found) == "-3.5 ± –"
    assert f"{found:8.2f}" == "   -3.50 ± –"
    assert DrawError(4.0, 4.0).stderrs(torch.tensor([1.0]))[1] == 2.0
    assert math.isnan(DrawError(4.0, 4.0).stderrs(torch.tensor([1.0]))[0])


def test_what_is_not_finite_has_a_format_too():
    assert f"{Estimate(-INF, NAN):8.2f}" == "    -inf ± –"


@pytest.mark.parametrize("spec", ["d", "four", ".2s", "4.4.4f"])
def test_a_format_that_is_none_of_a_number(spec):
    with pytest.raises(ValueError, match="not a format of an estimate"):
        format(Estimate(1.0, 0.1), spec)


@pytest.mark.parametrize("estimate", [Estimate(1.5, 0.25), Estimate(1.5, 0.25, 0.125)])
def test_from_its_json(estimate):
    there = json.loads(json.dumps({**estimate.json(), "samples": 5}))
    assert Estimate.from_json(there) == estimate
