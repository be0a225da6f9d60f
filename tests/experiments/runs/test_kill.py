"""Real processes, killed at random moments and gone on with until they are done."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from ancestral.experiments.runs import RunFolder
from commands import finished, start, wait_for
from tiny import saved_images

STEPS = 18
OPTIONS = (
    *("--steps", STEPS, "--batch-size", 16, "--seed", 3, "--device", "cpu"),
    # Saving takes longer than a step, so that many kills fall into it.
    *("--checkpoint-every", 1, "--log-every", 1, "--evaluate-every", 6, "--sample-every", 4, "--keep", 2),
)
MODELS = {
    "vae": ("--model.width", 8, "--model.latent-dims", 4, "--model.dropout", 0.2),
    "ddpm": ("--model.T", 6, "--model.channels", 8, "--model.blocks", 1),
}


def contents(folder: Path) -> dict[str, bytes]:
    """What a run leaves that is a function of its configuration, but for unfinished files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "timing.jsonl"]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not any(part.startswith(".incomplete-") for part in path.relative_to(folder).parts)
    }


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, or −1."""
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=-1)


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_is_killed_again_and_again_is_the_uninterrupted_one(model, tmp_path):
    data, log = saved_images(tmp_path), tmp_path / "log"
    begin = ("train", model, "--data", data, *OPTIONS, *MODELS[model], "--out")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finished(start(*begin, whole, log=log)) == 0, log.read_text()
    rng, killed, halfway = random.Random(0), 0, 0
    # From before there is a folder to the last steps; every other time within the writing of a checkpoint.
    for turn, step in enumerate([-2, -1, 0, *sorted(rng.sample(range(1, STEPS), 7))]):
        again = ("train", "--resume", parts) if (parts / "config.json").exists() else (*begin, parts)
        process = start(*again, log=log)
        assert wait_for(process, lambda step=step: step == -2 or newest(parts) >= step), log.read_text()
        if turn % 2:
            wait_for(process, lambda: any(parts.glob("checkpoints/.incomplete-*")))
        time.sleep(rng.uniform(0.0, 0.002 if turn % 2 else 0.03))
        process.kill()
        killed += finished(process) == -signal.SIGKILL
        halfway += any(parts.glob("checkpoints/.incomplete-*"))
    assert killed >= 5
    assert halfway >= 1
    assert finished(start("train", "--resume", parts, log=log)) == 0, log.read_text()
    assert RunFolder.open(parts).step == STEPS
    assert not any(parts.glob("checkpoints/.incomplete-*"))
    ours, theirs = contents(parts), contents(whole)
    assert sorted(name for name in theirs if name.startswith("samples")) == [
        f"samples/step-{step:08d}.png" for step in (4, 8, 12, 16, STEPS)
    ]
    assert ours == theirs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_says_how_to_go_on(number, tmp_path):
    """It takes the step it is in to its end and saves, though no checkpoint was due."""
    data, log = saved_images(tmp_path), tmp_path / "log"
    options = (
        "--data",
        data,
        "--steps",
        400,
        "--batch-size",
        16,
        "--log-every",
        100,
        "--checkpoint-every",
        0,
    )
    begin = ("train", "vae", *options, "--model.network", "mlp", "--model.hidden", 8, "--out")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finished(start(*begin, whole, log=log)) == 0, log.read_text()
    process = start(*begin, parts, log=log)
    assert wait_for(process, (parts / "metrics.jsonl").exists), log.read_text()
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finished(process) == 130
    step = newest(parts)
    assert 0 < step < 60
    assert f"stopped after step {step}. Resume with: ancestral train --resume {parts}" in log.read_text()
    assert finished(start("train", "--resume", parts, log=log)) == 0, log.read_text()
    ours, theirs = contents(parts), contents(whole)
    stopped = f"checkpoints/step-{step:08d}/"
    assert {name: body for name, body in ours.items() if not name.startswith(stopped)} == theirs
