"""Which checkpoint of a run a command reads."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import torch

from ancestral.experiments.runs.held_out import HeldOut
from commands import call
from inputs.cases import Cases
from tiny import saved_images

CASES = Cases("Checkpoints")

_SMALL = ("--batch-size", 16, "--validation", 0.2, "--device", "cpu", "--sample-every", 0, "--keep", 1)


def _overfitted(folder: Path, *options: object) -> Path:
    """A run of 60 steps whose held-out ELBO is best after 20, and worse at each evaluation from then on."""
    judge = HeldOut._judge

    def judged(self: HeldOut, nats: torch.Tensor, step: int) -> object:
        return judge(self, -torch.ones(nats.shape) * abs(step - 20) - 0.01 * torch.arange(len(nats)), step)

    with mock.patch.object(HeldOut, "_judge", judged):
        answer = call(
            *(
                "train",
                "vae",
                "--data",
                saved_images(folder),
                "--out",
                folder / "run",
                "--steps",
                60,
                *_SMALL,
            ),
            *("--evaluate-every", 10, "--checkpoint-every", 10, "--model.network", "mlp", *options),
        )
    assert answer.status == 0, answer.err
    return folder / "run"


def _evaluated(run: Path, *options: object) -> dict[str, object]:
    answer = call("evaluate", run, "--split", "validation", "--device", "cpu", "--json", *options)
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


@CASES.add(
    "a run that overfits, without an option",
    answer="the checkpoint with the best held-out ELBO is stored beside the last, and read",
)
def best_by_default(folder: Path) -> None:
    run = _overfitted(folder)
    info = json.loads(call("info", run, "--json").out)
    assert (info["best"]["step"], info["step"]) == (20, 60)
    found = _evaluated(run)
    chosen = {"name": "best", "step": info["best"]["step"], "best": info["best"]["step"], "last": 60}
    assert found["checkpoint"] == info["checkpoint"] == chosen
    last = _evaluated(run, "--checkpoint", "last")
    assert last["checkpoint"] == {**chosen, "name": "last", "step": 60}
    assert found["elbo"] != last["elbo"]
    stored = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert stored == [f"step-{info['best']['step']:08d}", "step-00000060"]


@CASES.add("--checkpoint with a step that is not stored", answer="an error with the steps that are")
def a_step_that_is_not_stored(folder: Path) -> None:
    run = _overfitted(folder)
    best = json.loads(call("info", run, "--json").out)["best"]["step"]
    for command in (("evaluate", run), ("sample", run, "--out", folder / "x.npy"), ("report", run)):
        answer = call(*command, "--checkpoint", 55)
        assert (answer.status, answer.out) == (2, "")
        assert f"55, and {run} has no checkpoint of that step" in answer.message
        assert f"{best}, 60" in answer.message
    assert not (folder / "x.npy").exists()


@CASES.add("--checkpoint latest", answer="an error that lists best, last and a step")
def a_name_that_is_none(folder: Path) -> None:
    run = _overfitted(folder)
    answer = call("evaluate", run, "--checkpoint", "latest")
    assert answer.status == 2
    assert "'latest'; it must be best, last, or the number of a step" in answer.message


@CASES.add(
    "--checkpoint best and no validation part", answer="an error; without the option, the last is read"
)
def no_validation_part(folder: Path) -> None:
    run = _overfitted(folder, "--validation", 0)
    answer = call("evaluate", run, "--checkpoint", "best")
    assert answer.status == 2
    assert "--checkpoint last" in answer.message
    answer = call("evaluate", run, "--device", "cpu", "--json")
    assert json.loads(answer.out)["checkpoint"] == {"name": "last", "step": 60, "best": None, "last": 60}
    assert "last checkpoint, step 60" in answer.err


@CASES.add(
    "--stop-early without a number",
    answer="3: training stops after three held-out ELBOs that are worse than the best, and the run can be resumed",
)
def stopping_early(folder: Path) -> None:
    run = _overfitted(folder, "--stop-early")
    info = json.loads(call("info", run, "--json").out)
    assert info["training"]["stop_early"] == 3
    assert (info["step"], info["steps"]) == (50, 60)
    assert info["stopped_early"] == {"step": 50, "best": 20}
    assert not info["finished"]


@CASES.add("--stop-early with --evaluate-every 0", answer="an error: nothing is evaluated before the end")
def stopping_early_without_evaluations(folder: Path) -> None:
    out = folder / "run"
    answer = call(
        *("train", "vae", "--data", saved_images(folder), "--out", out, "--stop-early", 2),
        *("--evaluate-every", 0, *_SMALL),
    )
    assert answer.status == 2
    assert "stop_early is 2 and evaluate_every is 0" in answer.message
    assert not out.exists()
