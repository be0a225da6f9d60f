"""A chain of the user's own goes through all of it: fit, a run folder, evaluate, sample."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import ancestral
from ancestral import Batch, BottomUpChain, Chain, TrainingConfig, evaluate, fit, load_run, log_likelihood
from ancestral.data import Split
from ancestral.data.raw import Raw
from ancestral.data.sources import assemble
from ancestral.evaluation.store import Store
from commands import call
from tiny import MODELS, TRAINING, built, images, vectors, with_dropout

TRAIN = TrainingConfig(
    steps=300, batch_size=64, learning_rate=0.03, evaluate_every=100, sample_every=200, checkpoint_every=150
)
DATA = vectors(2000)


def normal(mean: Tensor, log_sigma: Tensor) -> Independent:
    return Independent(Normal(mean, log_sigma.exp().expand_as(mean)), 1)


class TwoLevels(Chain):
    """x ← z_1 ← z_2 with linear-Gaussian laws both ways: its best bound is the entropy of a Gaussian."""

    def __init__(self, spec) -> None:
        super().__init__(2, spec)
        d = spec.dims
        self.encode, self.back = nn.Linear(d, 2), nn.Linear(d + 2, 2)
        self.down, self.decode = nn.Linear(2, 2), nn.Linear(2, d)
        self.widths = nn.Parameter(torch.zeros(4, 1))

    def q_top(self, h):
        return normal(self.encode(h), self.widths[0])

    def q_step(self, state, h, t):
        return normal(self.back(torch.cat([state, h], dim=1)), self.widths[1])

    def p_top(self, n):
        return normal(torch.zeros(n, 2), torch.zeros(1))

    def p_step(self, state, t):
        return (
            normal(self.decode(state), self.widths[2]) if t == 1 else normal(self.down(state), self.widths[3])
        )


class Upwards(BottomUpChain):
    """The same with the Markov q."""

    def __init__(self, spec) -> None:
        super().__init__(2, spec)
        d = spec.dims
        self.encode, self.up, self.down = nn.Linear(d, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.decode = nn.Linear(2, d)
        self.widths = nn.Parameter(torch.zeros(4, 1))

    def q_first(self, h):
        return normal(self.encode(h), self.widths[0])

    def q_up(self, z, t):
        return normal(self.up(z), self.widths[1])

    def p_top(self, n):
        return normal(torch.zeros(n, 2), torch.zeros(1))

    def p_step(self, state, t):
        return (
            normal(self.decode(state), self.widths[2]) if t == 1 else normal(self.down(state), self.widths[3])
        )


def made(kind: type[Chain]) -> Chain:
    torch.manual_seed(0)
    return kind(DATA.spec)


@pytest.mark.parametrize("kind", [TwoLevels, Upwards])
def test_an_own_chain_is_trained_measured_and_sampled(kind, tmp_path):
    out = tmp_path / "run"
    records = []
    fitted = fit(made(kind), DATA, TRAIN, out=out, device="cpu", report=records.append)
    assert fitted.finished
    assert (
        fitted.records
        == records
        == [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    )
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        "step-00000200.png",
        "step-00000300.png",
    ]

    chain = load_run(out, chain=kind(DATA.spec))
    assert all(torch.equal(a, b) for a, b in zip(chain.parameters(), fitted.chain.parameters(), strict=True))
    result = evaluate(chain, DATA.test.x, bound="iwae", samples=50)
    # The data are Gaussian up to the draw: no bound beats −entropy, and this family contains it.
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * torch.cov(DATA.train.x.double().T)))
    assert -entropy - 1.0 < result.elbo.mean < -entropy + 4 * result.elbo.stderr
    assert result.bits_per_dim is None
    assert len(result.matching_per_level) == 1
    assert result.log_likelihood is not None
    assert result.log_likelihood.mean > result.elbo.mean
    assert log_likelihood(chain, DATA.test.x[:3], samples=10).shape == (3,)

    samples = chain.sample(4000)
    assert samples.shape == (4000, 2)
    torch.testing.assert_close(samples.mean(dim=0), DATA.train.x.mean(dim=0), atol=0.3, rtol=0)


def test_an_own_chain_is_gone_on_with(tmp_path):
    training = replace(TRAIN, steps=30, checkpoint_every=8)
    fit(made(TwoLevels), DATA, training, out=tmp_path / "whole", device="cpu")
    stops = iter([False] * 12 + [True])
    first = fit(
        made(TwoLevels), DATA, training, out=tmp_path / "run", device="cpu", should_stop=lambda: next(stops)
    )
    assert (first.step, first.finished) == (13, False)
    again = fit(TwoLevels(DATA.spec), DATA, training, out=tmp_path / "run", device="cpu")
    assert (again.step, again.finished) == (30, True)
    name = "checkpoints/step-00000030/state.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_commands_say_what_they_cannot_do_with_it(tmp_path):
    out = tmp_path / "run"
    fit(made(TwoLevels), DATA, replace(TRAIN, steps=2), out=out, device="cpu")
    assert json.loads(call("info", out, "--json").out)["kind"] == "custom"
    for command in (
        ["evaluate", out],
        ["train", "--resume", out],
        ["sample", out, "--out", tmp_path / "a.png"],
    ):
        answer = call(*command)
        assert answer.status == 2
        assert f"{out} is a run of a chain built in Python" in answer.message
        assert "load_run(path, chain=chain)" in answer.message
    with pytest.raises(ValueError, match="built in Python"):
        load_run(out)


def test_a_folder_is_of_one_run(tmp_path):
    out, training = tmp_path / "run", replace(TRAIN, steps=2)
    fit(made(TwoLevels), DATA, training, out=out, device="cpu")
    for data, options in ((DATA, replace(training, steps=3)), (vectors(100), training)):
        with pytest.raises(ValueError, match="holds a run with other training options or data"):
            fit(made(TwoLevels), data, replace(options, batch_size=32), out=out, device="cpu")
    with pytest.raises(ValueError, match="of another model"):
        fit(made(Upwards), DATA, training, out=out, device="cpu")
    with pytest.raises(ValueError, match="of another model"):
        load_run(out, chain=made(Upwards))


def test_what_does_not_fit_leaves_nothing_behind(tmp_path):
    out = tmp_path / "run"
    for chain, data, training, device, message in (
        (
            made(TwoLevels),
            images(),
            TRAIN,
            "cpu",
            "the chain is for .* 2 real numbers, and the data are grey images",
        ),
        (made(TwoLevels), DATA, replace(TRAIN, batch_size=9999), "cpu", "batch_size is 9999"),
        (made(TwoLevels), DATA, TRAIN, "gpu", "device is 'gpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(chain, data, training, out=out, device=device)
        assert not out.exists()


class Classes(Chain):
    """p(x|z, y) and q(z|x, y), with two classes y."""

    conditional = True

    def __init__(self, spec) -> None:
        super().__init__(1, spec)
        d = spec.dims
        self.encode, self.decode = nn.Linear(d + 1, 2), nn.Linear(3, d)
        self.widths = nn.Parameter(torch.zeros(2, 1))

    def features(self, x, condition):
        return torch.cat([x, condition[:, None].float()], dim=1)

    def q_top(self, h):
        return normal(self.encode(h), self.widths[0])

    def p_top(self, n, condition):
        return normal(torch.zeros(n, 2), torch.zeros(1))

    def p_step(self, state, t):
        return normal(
            self.decode(torch.cat([state.z, state.condition[:, None].float()], dim=1)), self.widths[1]
        )


def test_a_chain_with_conditions_is_trained_with_the_labels(tmp_path):
    splits = {
        name: Split(part.x, (part.x[:, 0] > 3).long())
        for name in ("train", "validation", "test")
        if (part := getattr(DATA, name)) is not None
    }
    data = replace(DATA, **splits)
    training = TrainingConfig(steps=4, batch_size=64, evaluate_every=2, sample_every=2)
    fitted = fit(made(Classes), data, training, out=tmp_path / "run", device="cpu")
    assert [record["step"] for record in fitted.records if record["kind"] == "validation"] == [2, 4]
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2

    # Results follow the labels that go with the examples.
    first = data.test[:20]
    flipped = Split(first.x, 1 - first.labels)
    assert evaluate(fitted.chain, first).elbo != evaluate(fitted.chain, flipped).elbo
    store = Store(tmp_path / "measured", "these weights")
    plain, other = (evaluate(fitted.chain, part, store=store).elbo for part in (first, flipped))
    assert plain != other
    assert evaluate(fitted.chain, first, store=store).elbo == plain
    batch = Batch(first.x, first.labels)
    assert log_likelihood(fitted.chain, batch, samples=10).shape == (20,)

    # Without labels there is an error that says so, and not one from inside the chain.
    for call_without in (
        lambda: evaluate(fitted.chain, data.test.x),
        lambda: log_likelihood(fitted.chain, data.test.x, samples=10),
        lambda: fit(made(Classes), DATA, training, device="cpu"),
    ):
        with pytest.raises(ValueError, match="labels"):
            call_without()
    with pytest.raises(ValueError, match="condition"):
        ancestral.draw(fitted.chain, 3)


def test_fit_leaves_the_callers_random_state(tmp_path):
    data = images(binarize="dynamic")
    chain = built(with_dropout(MODELS["vae-mlp"]), data)
    before = torch.random.get_rng_state()
    for out in (None, tmp_path / "run"):
        fit(chain, data, TRAINING, out=out, device="cpu")
        assert torch.equal(torch.random.get_rng_state(), before)


def test_the_names_are_public():
    for name in ("Chain", "BottomUpChain", "MarginalChain", "fit", "evaluate", "load_run", "load_data"):
        assert name in ancestral.__all__
        assert getattr(ancestral, name) is not None


class OfClasses(Chain):
    """A linear-Gaussian chain whose p and q are moved by the class of the example."""

    conditional = True

    def __init__(self, spec, classes) -> None:
        super().__init__(1, spec)
        self.encode, self.decode = nn.Linear(spec.dims + classes, 2), nn.Linear(2 + classes, spec.dims)
        self.widths, self.classes = nn.Parameter(torch.zeros(2, 1)), classes

    def one_hot(self, labels):
        return nn.functional.one_hot(labels, self.classes).float()

    def features(self, x, condition):
        return torch.cat([x, self.one_hot(condition)], dim=1)

    def q_top(self, h):
        return normal(self.encode(h), self.widths[0])

    def p_top(self, n, condition):
        return normal(torch.zeros(n, 2), torch.zeros(1))

    def p_step(self, state, t):
        return normal(self.decode(torch.cat([state.z, self.one_hot(state.condition)], dim=1)), self.widths[1])


def test_a_chain_of_classes_is_trained_evaluated_and_drawn_from_with_the_labels(tmp_path):
    """Vectors that are far apart between classes: only who sees the labels can tell where one lies."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    x = 4.0 * labels[:, None] + rng.normal(size=(600, 2))
    data = assemble(Raw("classes", x.astype(np.float32), labels), validation=0.2)
    fitted = fit(OfClasses(data.spec, 3), data, TRAIN, out=tmp_path / "run")
    assert [r["step"] for r in fitted.records if r["kind"] == "validation"] == [100, 200, 300]
    assert (tmp_path / "run" / "samples").exists()
    right = evaluate(fitted.chain, data.test).elbo
    wrong = Split(data.test.x, (data.test.labels + 1) % 3)
    assert evaluate(fitted.chain, wrong).elbo.mean < right.mean - 3
    drawn = ancestral.draw(fitted.chain, 90, seed=0, condition=torch.arange(90) % 3)
    means = torch.stack([drawn[torch.arange(90) % 3 == k].mean() for k in range(3)])
    torch.testing.assert_close(means, torch.tensor([0.0, 4.0, 8.0]), atol=1.0, rtol=0.0)
    with pytest.raises(ValueError, match="label"):
        evaluate(fitted.chain, data.test.x)
