"""The loop: what a step computes, what it leaves alone, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ancestral.config import TrainingConfig, VAEConfig
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.distributions import standard_normal
from ancestral.experiments.build import build_chain
from ancestral.objectives import Loss, Objective
from ancestral.training import StepRecord, TrainingDiverged, TrainingState, train
from ancestral.training.loop import looked_at
from tiny import MODELS, TRAINING, built, images, vectors, with_dropout


def state(data: Dataset, training: TrainingConfig = TRAINING) -> TrainingState:
    torch.manual_seed(0)
    return TrainingState(built(with_dropout(MODELS["vae-mlp"]), data), training)


def losses(training: TrainingConfig = TRAINING) -> list[float]:
    data = images()
    return [float(record.loss) for record in train(state(data, training), data)]


def test_a_step_is_a_function_of_the_seed():
    assert losses() == losses()
    assert losses()[0] != losses(replace(TRAINING, seed=1))[0]


def test_a_step_does_not_depend_on_what_the_caller_draws():
    data = images()
    one, plain = state(data), losses()
    drawn = []
    for record in train(one, data):
        torch.manual_seed(record.step)
        torch.rand(record.step)
        drawn.append(float(record.loss))
    assert drawn == plain


@pytest.mark.parametrize("stop", [2, 100])
def test_the_callers_random_state_comes_back(stop):
    data = images(binarize="dynamic")
    one = state(data)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    for record in train(one, data):
        assert not torch.equal(torch.random.get_rng_state(), before)
        if record.step == stop:
            break
    assert torch.equal(torch.random.get_rng_state(), before)


def test_records_count_steps_and_images():
    data = images()
    records = list(train(state(data), data))
    assert [record.step for record in records] == list(range(1, TRAINING.steps + 1))
    assert [record.images_seen for record in records] == [16 * n for n in range(1, TRAINING.steps + 1)]
    assert all(sum(float(t) for t in r.terms.values()) == pytest.approx(float(r.loss)) for r in records)
    assert not any(record.loss.requires_grad for record in records)
    assert not list(train(state(data, replace(TRAINING, steps=1)), data))[1:]


def test_dropout_is_on_while_training_only():
    data = images()
    one = state(data)
    one.chain.eval()
    for _ in train(one, data):
        assert one.chain.training


class Own(Objective):
    """The loss that a chain of these tests computes itself."""

    name = "own"

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        assert isinstance(chain, Recorder)
        return chain.loss(batch.x)


class Recorder(Chain):
    """A chain without latents to speak of, whose loss is w · its batch's first entries, scaled."""

    def __init__(self, spec, *, slope: float = 1.0) -> None:
        super().__init__(1, spec)
        self.w = nn.Parameter(torch.ones(2, 1))
        self.slope = slope
        self.batches: list[Tensor] = []
        self.grads: list[Tensor] = []

    def q_top(self, h):
        return standard_normal(len(h), (1,), self.w)

    def p_top(self, n):
        return standard_normal(n, (1,), self.w)

    def p_step(self, state, t):
        return standard_normal(len(state), self.spec.shape, self.w)

    def loss(self, x: Tensor) -> Loss:
        self.batches.append(x.clone())
        if self.w.grad is not None:
            self.grads.append(self.w.grad.clone())
        value = self.slope * self.w.sum() + 5.0
        return Loss(value, {"only": value.detach()})


class Drawing(Recorder):
    """Notes what a step draws."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.drawn: list[float] = []

    def loss(self, x: Tensor) -> Loss:
        self.drawn.append(float(torch.rand(())))
        return super().loss(x)


def test_every_step_of_every_seed_draws_its_own_numbers():
    data, drawn = vectors(), []
    for seed in (0, 0, 1):
        chain = Drawing(data.spec)
        for _ in train(TrainingState(chain, replace(TRAINING, seed=seed, steps=30), Own()), data):
            pass
        drawn.append(chain.drawn)
    assert drawn[0] == drawn[1]
    assert len({*drawn[0], *drawn[2]}) == 60


def test_each_epoch_shows_every_example_once():
    data = vectors()
    chain = Recorder(data.spec)
    n = len(data.train)
    for _ in train(TrainingState(chain, replace(TRAINING, batch_size=n // 3, steps=20), Own()), data):
        pass
    seen = torch.cat(chain.batches)
    assert len(seen) > 5 * n
    for epoch in seen[: 5 * n].split(n):
        assert torch.equal(epoch.sort(dim=0).values, data.train.x.sort(dim=0).values)
    assert not torch.equal(seen[:n], seen[n : 2 * n])


@pytest.mark.parametrize(("slope", "norm"), [(0.5, 0.5), (40.0, 1.5)])
def test_the_gradient_per_dimension_is_clipped(slope, norm):
    """The loss is slope (w_1 + w_2) over D = 2 dimensions, so its gradient's norm is slope √2 / 2."""
    data = vectors()
    chain = Recorder(data.spec, slope=slope * 2**0.5)
    records = list(train(TrainingState(chain, replace(TRAINING, clip=1.5, steps=3), Own()), data))
    assert [float(record.gradient_norm) for record in records] == pytest.approx([slope] * 3)
    assert [float(record.loss) for record in records[:1]] == pytest.approx([2 * slope * 2**0.5 + 5])
    assert [float(grad.norm()) for grad in chain.grads[1:]] == pytest.approx([norm] * 2, rel=1e-4)


class Broken(Recorder):
    """A chain that breaks at one step: a term, the loss alone, or only its gradient."""

    def __init__(self, spec, *, at: int, what: str, value: float) -> None:
        super().__init__(spec)
        self.at, self.what, self.bad = at, what, value
        self.before: dict[str, Tensor] = {}

    def loss(self, x: Tensor) -> Loss:
        loss = super().loss(x)
        if len(self.batches) < self.at:
            return loss
        self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
        bad = torch.tensor(self.bad)
        if self.what == "gradient":
            # √w at w = 0 is 0 and has slope ∞.
            return Loss((self.w - self.w.detach()).abs().sqrt().sum(), {"fine": torch.zeros(())})
        terms = {"fine": torch.zeros(()), "matching": torch.zeros(()), "prior": torch.zeros(())}
        if self.what in terms:
            terms[self.what] = bad
        return Loss(loss.value * bad, terms)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("matching", "the matching term"),
        ("prior", "the prior term"),
        ("", "the loss"),
        ("gradient", "the gradient"),
    ],
)
def test_divergence_stops_before_the_weights(what, named, value):
    data = vectors()
    chain = Broken(data.spec, at=5, what=what, value=value)
    one, taken = TrainingState(chain, replace(TRAINING, log_every=50), Own()), []
    with pytest.raises(TrainingDiverged, match=f"diverged at step 5: {named} is not finite") as caught:
        taken.extend(train(one, data))
    assert (caught.value.step, caught.value.term) == (5, named)
    assert [record.step for record in taken] == [1, 2, 3, 4]
    assert one.step == 4
    assert all(torch.equal(p, chain.before[name]) for name, p in chain.named_parameters())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in one.tensors().values())


def test_on_a_gpu_steps_are_looked_at_of_which_something_is_made():
    spans = {"log_every": 4, "evaluate_every": 5, "sample_every": 0, "checkpoint_every": 7}
    config = replace(TRAINING, steps=11, **spans)
    assert [step for step in range(1, 12) if looked_at(config, step)] == [4, 5, 7, 8, 10, 11]


def test_a_batch_that_is_too_large_is_refused():
    data = vectors()
    with pytest.raises(ValueError, match=r"batch_size is 1000 and the data have 51 .*at most 51"):
        next(train(state(data, replace(TRAINING, batch_size=1000)), data))


def test_data_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"for vectors of 2 .*the data are grey images of 8 × 8"):
        next(train(state(vectors()), images()))


def test_steps_lower_the_loss():
    """Some hundred steps on one batch of points: the loss falls below that of a normal of the data."""
    data = vectors(400)
    training = replace(TRAINING, steps=300, batch_size=64, learning_rate=5e-3)
    torch.manual_seed(0)
    one = TrainingState(build_chain(VAEConfig(hidden=(32,)), data.spec, train=data.train.x), training)
    records: list[StepRecord] = list(train(one, data))
    first, last = (sum(float(r.loss) for r in part) / 20 for part in (records[:20], records[-20:]))
    covariance = torch.cov(data.train.x.double().T)
    entropy = 0.5 * float(torch.logdet(2 * torch.pi * torch.e * covariance))
    assert first > entropy + 1.0
    assert entropy - 0.1 < last < entropy + 0.25
