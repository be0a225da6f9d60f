"""Ceilings and steps: rates are what was done over the time it took."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from ancestral.config import DataConfig, RunConfig
from ancestral.experiments.bench import Ceilings, Sizes, measure_ceilings, measure_run, this_machine
from ancestral.experiments.bench.ceilings import best_time
from ancestral.experiments.bench.machine import processor
from ancestral.experiments.bench.measure import times_of
from tiny import MODELS, TRAINING, saved_images

CPU = torch.device("cpu")
SMALL = Sizes(matrix=64, images=2, channels=4, side=8, copied=1 << 16)
ONES = dict.fromkeys(("fp32", "bf16"), 1e9)
CEILINGS = Ceilings(ONES, ONES, ONES, bandwidth=1e9, call=1e-6)


def test_every_ceiling_is_measured():
    found = measure_ceilings(CPU, seconds=0.01, sizes=SMALL)
    for rates in (found.products, found.convolutions, found.convolution_steps):
        assert rates.keys() == {"fp32", "bf16"}
        assert all(1e5 < rate < 1e15 for rate in rates.values())
    assert 1e6 < found.bandwidth < 1e14
    assert 1e-8 < found.call < 1e-2


def test_the_best_of_several_is_told():
    pauses = iter([0.0, 0.03, 0.001, 0.03])
    assert 0.001 <= best_time(lambda: time.sleep(next(pauses)), CPU, seconds=0.0) < 0.02


def test_how_many_calls_are_timed():
    assert len(times_of(lambda: None, CPU, seconds=0.0, least=4, most=9)) == 4
    assert len(times_of(lambda: None, CPU, seconds=60.0, least=4, most=9)) == 9
    times = times_of(lambda: time.sleep(0.01), CPU, seconds=0.035, least=1, most=99)
    assert 2 <= len(times) <= 4
    assert all(taken >= 0.01 for taken in times)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_measured(precision, tmp_path):
    training = replace(TRAINING, precision=precision, steps=4)
    config = RunConfig(DataConfig(saved_images(tmp_path), validation=0.2), MODELS["ddpm"], training)
    found = measure_run(config, CPU, CEILINGS, seconds=0.01)
    assert found.precision == precision
    assert len(found.seconds) >= 5
    assert min(found.seconds) <= found.spread[0] <= found.step <= found.spread[1] <= max(found.seconds)
    facts = found.json()
    assert facts["images_per_second"] == pytest.approx(16 / found.step)
    assert facts["flops_per_second"] == pytest.approx(found.work.total / found.step)
    assert facts["share_of_products"] == pytest.approx(found.work.total / found.step / 1e9)
    # At ceilings of 1 GFLOP/s and 1 GB/s, seconds are billions of operations and of bytes.
    assert facts["share_of_ceiling"] * found.step == pytest.approx(found.work.total / 1e9)
    assert found.floors.memory == pytest.approx(found.moved / 1e9)
    assert 0 <= found.floors.host <= found.step
    assert 0 <= found.memory < 1 << 31


def test_measuring_draws_nothing_of_the_callers(tmp_path):
    config = RunConfig(DataConfig(saved_images(tmp_path)), MODELS["vae-mlp"], TRAINING)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    measure_run(config, CPU, CEILINGS, seconds=0.01)
    assert torch.equal(torch.rand(2), expected)


def test_the_machine_in_words():
    first = "processor\t: 0\nmodel name\t: Quick 9000\nflags\t\t: fpu avx2 amx_bf16 avx512f\n"
    text = f"{first}\nprocessor\t: 1\nmodel name\t: Other\n"
    assert processor(text) == ("Quick 9000", ("amx_bf16", "avx512f", "avx2"))
    assert processor("") == ("", ())
    machine = this_machine(CPU)
    assert machine.torch == torch.__version__
    assert str(machine.cores) in str(machine)
    assert machine.device in str(machine)
