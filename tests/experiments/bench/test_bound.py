"""The verdict on constructed numbers, and the parts that it is made of."""

from __future__ import annotations

import time

import pytest
import torch

from ancestral.experiments.bench import Ceilings, Floors, Work, arithmetic_floor
from ancestral.experiments.bench.host import host_share, share_of

CPU = torch.device("cpu")
CEILINGS = Ceilings(
    products={"fp32": 100.0, "bf16": 400.0},
    convolutions={"fp32": 80.0, "bf16": 300.0},
    convolution_steps={"fp32": 50.0, "bf16": 200.0},
    bandwidth=10.0,
    call=1e-6,
)


@pytest.mark.parametrize(
    ("floors", "bound", "share"),
    [
        (Floors(10.0, arithmetic=6.0, memory=3.0, host=1.0), "arithmetic", 0.6),
        (Floors(10.0, arithmetic=3.0, memory=6.0, host=1.0), "memory", 0.6),
        (Floors(10.0, arithmetic=1.0, memory=3.0, host=8.0), "host", 0.8),
        # All far from the step: still the one that is the least far.
        (Floors(10.0, arithmetic=0.2, memory=0.1, host=0.0), "arithmetic", 0.02),
    ],
)
def test_the_largest_floor_bounds(floors, bound, share):
    assert floors.bound == bound
    assert floors.share == pytest.approx(share)
    assert floors.sentence().startswith(f"Bound by {'the ' if bound == 'host' else ''}{bound}")
    assert f"{share:.0%}" in floors.sentence()
    assert floors.json()["by"] == bound
    assert floors.json()["share"] == floors.share


def test_the_verdict_follows_the_machine():
    """The same work on a machine of a hundredth of the bandwidth is bound by memory."""
    work, moved, host = Work(products=400, convolutions=100), 20.0, 0.5
    arithmetic = arithmetic_floor(work, CEILINGS, "fp32")
    for bandwidth, bound in ((10.0, "arithmetic"), (0.1, "memory")):
        floors = Floors(10.0, arithmetic=arithmetic, memory=moved / bandwidth, host=host)
        assert floors.bound == bound


def test_products_and_convolutions_have_ceilings_of_their_own():
    work = Work(products=400, convolutions=100)
    assert arithmetic_floor(work, CEILINGS, "fp32") == 400 / 100 + 100 / 50
    assert arithmetic_floor(work, CEILINGS, "bf16") == 400 / 400 + 100 / 200


def test_shares_stay_shares():
    assert share_of(2.0, busy=1.5) == 0.25
    assert share_of(2.0, busy=2.1) == 0.0
    assert share_of(2.0, busy=-0.1) == 1.0


def test_the_host_is_what_does_not_compute():
    a = torch.randn(400, 400)

    def sleeping():
        time.sleep(0.01)
        return a @ a

    busy = host_share(lambda: a @ a, CPU, call=0.0)
    idle = host_share(sleeping, CPU, call=0.0)
    assert busy < 0.5 < idle <= 1.0
    # An operation that costs nothing but its call is the host's.
    one = torch.ones(1)
    assert host_share(one.neg_, CPU, call=0.0) < host_share(one.neg_, CPU, call=1.0) == 1.0


def test_the_profiler_is_silent(capfd):
    host_share(lambda: torch.ones(2) + 1, CPU, call=0.0)
    assert capfd.readouterr() == ("", "")
