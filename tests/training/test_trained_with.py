"""Whose an objective is: the trainer's, with what it remembers; and what ``fit`` and its like train with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ancestral.config import DataConfig, RunConfig
from ancestral.core.chain import Chain
from ancestral.experiments.runs import RunFolder, fit, load_run, resume_run, train_run
from ancestral.experiments.runs.fitting import initial_chain
from ancestral.experiments.runs.loading import load_configured
from ancestral.objectives import (
    DReG,
    Few,
    FirstFew,
    Iwae,
    NegativeElbo,
    Objective,
    Simple,
)
from ancestral.training import TrainingState, load_checkpoint, train
from ancestral.training.checkpoint import save_checkpoint
from tiny import MODELS, TRAINING, built, images, saved_images

LEVELS = replace(MODELS["ddpm"], sampling="importance")
KEPT = ["draws.counts", "draws.squares"]


def test_an_objective_is_no_part_of_a_chain():
    data = images()
    chain = built(LEVELS, data)
    names = set(chain.state_dict())
    state = TrainingState(chain, TRAINING)
    for _ in train(state, data):
        pass
    assert set(chain.state_dict()) == names
    assert not any("draws" in name for name, _ in chain.named_buffers())
    assert not any(isinstance(module, Objective) for module in chain.modules())
    assert sorted(state.objective.state_dict()) == KEPT
    tensors = state.tensors()
    assert sorted(name for name in tensors if name.startswith("objective/")) == [
        f"objective/{name}" for name in KEPT
    ]
    assert not any("draws" in name for name in tensors if not name.startswith("objective/"))
    assert float(tensors["objective/draws.counts"].sum()) > 16
    # What remembers nothing has no such section.
    plain = TrainingState(built(MODELS["ddpm"], data), TRAINING)
    assert not any(name.startswith("objective/") for name in plain.tensors())


def run_of_levels(folder, out, *, until: int | None = None) -> None:
    """Train, or go on with, a run with importance sampling of levels, for at most so many steps."""
    config = RunConfig(DataConfig(saved_images(folder)), LEVELS, replace(TRAINING, precision="fp32"))
    taken = [0]

    def should_stop() -> bool:
        taken[0] += 1
        return taken[0] == until

    if out.exists():
        resume_run(out, device="cpu", should_stop=should_stop)
    else:
        train_run(config, out, device="cpu", should_stop=should_stop)


def newest(out) -> dict[str, torch.Tensor]:
    return load_checkpoint(RunFolder.open(out).checkpoints[-1])[0]


def test_a_checkpoint_has_what_an_objective_remembers(tmp_path):
    run_of_levels(tmp_path, tmp_path / "whole")
    for until in (1, 3, 2, None):
        run_of_levels(tmp_path, tmp_path / "parts", until=until)
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert sorted(name for name in whole if name.startswith("objective/")) == [
        f"objective/{name}" for name in KEPT
    ]
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (
        tmp_path / "parts" / "metrics.jsonl"
    ).read_bytes()


def before(out) -> None:
    """Turn the newest checkpoint of a run into one of version 0.1: the history is in the model."""
    path = RunFolder.open(out).checkpoints[-1]
    tensors, facts = load_checkpoint(path)
    renamed = {name.replace("objective/", "model/", 1): tensor for name, tensor in tensors.items()}
    assert {f"model/{name}" for name in KEPT} <= renamed.keys()
    save_checkpoint(
        path.parent,
        facts["step"],
        renamed,
        images_seen=facts["images_seen"],
        decisions=facts["decisions"],
    )


def test_a_checkpoint_of_before_is_read(tmp_path):
    run_of_levels(tmp_path, tmp_path / "whole")
    run_of_levels(tmp_path, tmp_path / "parts", until=3)
    weights = load_run(tmp_path / "parts").state_dict()
    before(tmp_path / "parts")
    read = load_run(tmp_path / "parts").state_dict()
    assert weights.keys() == read.keys()
    assert all(torch.equal(weights[name], read[name]) for name in weights)
    run_of_levels(tmp_path, tmp_path / "parts")
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_objective_is_refused():
    data = images()
    plain = TrainingState(built(MODELS["ddpm"], data), TRAINING)
    with pytest.raises(ValueError, match=r"of another objective: draws.squares is missing"):
        TrainingState(built(LEVELS, data), TRAINING).restore(plain.tensors(), 0)


# What fit trains with -------------------------------------------------------------------------------


def losses(chain: Chain, data, objective: Objective | None = None) -> tuple[list[float], torch.Tensor]:
    """The losses of a run of ``fit``, and the weights at its end."""
    fitted = fit(chain, data, TRAINING, objective=objective, device="cpu")
    found = [record["loss"] for record in fitted.records if record["kind"] == "train"]
    return found, torch.cat([p.detach().flatten() for p in fitted.chain.parameters()])


def vae(**options) -> Chain:
    torch.manual_seed(0)
    return built(replace(MODELS["vae-mlp"], **options), images())


class Doubled(NegativeElbo):
    """A user's own objective."""

    def loss(self, chain, batch):
        loss = super().loss(chain, batch)
        return replace(loss, value=2.0 * loss.value)


def test_fit_uses_the_objective_that_is_given():
    data = images()
    plain, plain_weights = losses(vae(), data)
    for objective, options in (
        (NegativeElbo(), {"beta": 4.0}),
        (NegativeElbo(beta=4.0), {}),
        (NegativeElbo(2, beta=4.0, free_bits=0.3, kl_warmup=3), {}),
        (DReG(3), {}),
        (Few(Iwae(4), backward=2), {"free_bits": 2.0}),
        (FirstFew(Iwae(4), Iwae(2), steps=3), {}),
    ):
        given, weights = losses(vae(**options), data, objective)
        same = objective.name == "negative ELBO"
        assert (given == plain) is same
        assert torch.equal(weights, plain_weights) is same
    doubled, _ = losses(vae(), data, Doubled())
    assert doubled[0] == pytest.approx(2.0 * plain[0])
    # Of a diffusion model too.
    torch.manual_seed(0)
    chain = built(replace(MODELS["ddpm"], variance="posterior"), data)
    fitted = fit(chain, data, TRAINING, objective=Simple(chain, min_snr=3.0), device="cpu")
    assert all(set(r["terms"]) == {"min-snr"} for r in fitted.records if r["kind"] == "train")


def weighted(beta: float, records) -> None:
    for record in records:
        terms = record["terms"]
        expected = terms["reconstruction"] + beta * (terms["matching"] + terms["prior"])
        assert record["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", ["vae-mlp", "bottom-up"])
def test_a_chain_is_trained_as_its_options_say_whoever_trains_it(model, tmp_path):
    """With beta = 4 by ``fit``, by ``TrainingState`` and by ``train_run``: the same losses, step by step."""
    config = RunConfig(
        DataConfig(saved_images(tmp_path)),
        replace(MODELS[model], beta=4.0),
        replace(TRAINING, precision="fp32"),
    )
    data = load_configured(config.data)
    by_run = train_run(config, tmp_path / "run", device="cpu").records
    by_fit = fit(initial_chain(config, data), data, config.training, device="cpu").records
    state = TrainingState(initial_chain(config, data), config.training)
    assert state.objective.name == "negative ELBO, re-weighted (beta = 4)"
    by_state = [float(record.loss) for record in train(state, data)]
    found = [[r for r in records if r["kind"] == "train"] for records in (by_run, by_fit)]
    for records in found:
        weighted(4.0, records)
        assert any(r["terms"]["prior"] + r["terms"]["matching"] > 1e-3 for r in records)
        assert [r["loss"] for r in records] == by_state
    # The bound that is reported has no weights.
    held_out = next(r for r in by_run if r["kind"] == "validation")
    assert -held_out["elbo"]["mean"] == pytest.approx(sum(held_out["terms"].values()), rel=1e-5)
