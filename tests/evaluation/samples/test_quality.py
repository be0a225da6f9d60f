"""Sample quality: each distance beside its floor, at the same counts, in a space fitted on other examples."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ancestral.bounds import Estimate
from ancestral.data import Dataset
from ancestral.data.dataset import Split
from ancestral.data.raw import Raw
from ancestral.data.sources import assemble
from ancestral.evaluation import Distances, Quality, Ruler
from ancestral.evaluation.samples import quality
from ancestral.evaluation.samples.quality import LEAST
from ancestral.sampling import draw
from tiny import MODELS, blobs, built, images, vectors


def cloud(n: int = 4000) -> Dataset:
    """A normal distribution in five dimensions, from which fresh samples can be drawn."""
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    return assemble(Raw("cloud", x.numpy().astype("float64")), validation=0.0)


def labelled() -> Dataset:
    """Images with labels: whether the spot is in the left half."""
    x = blobs(400)
    labels = (x[:, :, :4].sum(axis=(1, 2)) > x[:, :, 4:].sum(axis=(1, 2))).astype("int64")
    return assemble(Raw("blobs", x, labels, levels=17), validation=0.2)


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return Ruler.of(cloud(), n=500)


def test_a_perfect_sampler_reaches_the_floor(ruler):
    """Fresh draws of the distribution itself: within the spread that such sets have among themselves."""
    generator = torch.Generator().manual_seed(1)
    found = [ruler.measure(torch.randn(500, 5, generator=generator)).sample for _ in range(20)]
    frechet = torch.tensor([one.frechet for one in found])
    assert abs(float(frechet.mean()) - ruler.floor.frechet) < 4.0 * float(frechet.std())
    for one in [*found, ruler.floor]:
        assert abs(one.kernel.mean) < 5.0 * one.kernel.stderr
        assert min(one.precision, one.recall) > 0.85
    # No finite set is at 0.
    assert float(frechet.min()) > 0.0
    assert ruler.floor.frechet > 0.0


@pytest.mark.parametrize(
    ("spoil", "precision_falls", "recall_falls"),
    [
        (lambda x: x + 0.5, False, False),
        (lambda x: 2.0 * x, True, False),
        (lambda x: 0.5 * x, False, True),
    ],
    ids=["shifted", "too wide", "too narrow"],
)
def test_wrong_samplers_are_above_the_floor(spoil, precision_falls, recall_falls, ruler):
    found = ruler.measure(spoil(torch.randn(500, 5, generator=torch.Generator().manual_seed(2))))
    assert found.sample.frechet > 3.0 * found.floor.frechet
    assert found.sample.kernel.mean > 3.0 * found.sample.kernel.stderr
    assert (found.sample.precision < found.floor.precision - 0.2) == precision_falls
    assert (found.sample.recall < found.floor.recall - 0.2) == recall_falls


def test_the_floor_is_training_against_test_at_the_same_counts(monkeypatch):
    """And its training examples are none of those that the space was fitted on."""
    data, seen = labelled(), []
    fit = quality.feature_space

    def noted(name, fitting, spec, *, kept, seed):
        seen.append((fitting, kept))
        return fit(name, fitting, spec, kept=kept, seed=seed)

    monkeypatch.setattr(quality, "feature_space", noted)
    made = Ruler.of(data, n=40)
    ((fitting, kept),) = seen
    assert made.n == len(made.reference) == 40
    assert sorted([*rows(fitting.x), *rows(kept.x)]) == sorted(rows(data.train.x))
    assert len(kept) == len(data.train) // 4
    assert made.floor == Distances.between(made.space(kept.x[:40]), made.reference)
    assert set(rows(made.space(data.test.x))) >= set(rows(made.reference))
    of_labels = {row: int(label) for row, label in zip(rows(data.train.x), data.train.labels, strict=True)}
    assert [of_labels[row] for row in rows(fitting.x)] == fitting.labels.tolist()
    # The space is the same for every n, so that distances at different n are in the same features.
    assert torch.equal(Ruler.of(data, n=20).space(data.test.x), made.space(data.test.x))


def rows(x: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in x.flatten(1).tolist()]


def test_a_ruler_is_a_function_of_data_and_seed():
    data = labelled()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = Ruler.of(data, n=30)
    assert torch.equal(torch.random.get_rng_state(), before)
    samples = data.train.x[:30]
    assert Ruler.of(data, n=30).measure(samples) == first.measure(samples)
    other = Ruler.of(data, n=30, features="components", seed=1)
    assert not torch.equal(other.reference, Ruler.of(data, n=30, features="components", seed=2).reference)


def test_what_a_quality_says():
    data = labelled()
    made = Ruler.of(data, n=24)
    found = made.measure(data.train.x[:24]).json()
    assert (found["features"], found["dims"], found["n"]) == ("classifier", 64, 24)
    assert (
        f"a classifier of {len(data.train) - len(data.train) // 4} training examples" in found["description"]
    )
    assert 0.8 < found["accuracy"] <= 1.0
    assert found.keys() == {"features", "description", "dims", "accuracy", "n", "distance", "floor"}
    for part in ("distance", "floor"):
        assert found[part].keys() == {"frechet", "kernel", "precision", "recall"}
        assert found[part]["kernel"].keys() == {"mean", "stderr"}
    assert json.loads(json.dumps(found)) == found
    components = Ruler.of(data, n=24, features="components").measure(data.train.x[:24])
    assert (components.features, components.accuracy) == ("components", None)
    assert components == Quality(
        "components",
        components.description,
        64,
        None,
        24,
        components.sample,
        Ruler.of(data, n=24, features="components").floor,
    )
    assert isinstance(components.floor.kernel, Estimate)


def test_room():
    data = vectors(200)
    assert Ruler.room(data) == min(len(data.test), len(data.train) // 4)
    assert Ruler.of(data).n == Ruler.of(data, n=10**6).n == Ruler.room(data)
    short = replace(data, test=Split(data.test.x[:9]))
    assert Ruler.of(short).n == 9
    with pytest.raises(ValueError, match=r"there are 7 test and .* needs at least 8 and 32"):
        Ruler.of(replace(data, test=Split(data.test.x[:7])))
    with pytest.raises(ValueError, match="the number of samples to measure, is 7; it must be at least 8"):
        Ruler.of(data, n=LEAST - 1)


def test_samples_that_do_not_compare_are_refused(ruler):
    with pytest.raises(ValueError, match=r"499 samples for a ruler of 500 examples.*Draw 500"):
        ruler.measure(torch.randn(499, 5))
    samples = torch.randn(500, 5)
    samples[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"finite .* in 1 of 500 examples"):
        ruler.measure(samples)


def test_binarised_data_are_measured_as_bits():
    data = images(200, binarize="dynamic")
    made = Ruler.of(data)
    bits = data.split("train").x[: made.n]
    assert (
        made.measure(bits).sample.frechet
        < made.measure(torch.full_like(bits, 0.5, dtype=torch.float)).sample.frechet
    )


def test_samples_to_measure_are_the_same_whatever_the_batches():
    chain, done = built(MODELS["vae-mlp"], images()), []
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    first = draw(chain, 10, seed=3, batch_size=4, progress=lambda *state: done.append(state))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first.shape, done) == ((10, 1, 8, 8), [(4, 10), (8, 10), (10, 10)])
    assert torch.equal(draw(chain, 10, seed=3, batch_size=4), first)
    assert torch.equal(draw(chain, 7, seed=3, batch_size=4), first[:7])
    assert not torch.equal(first[:2], first[4:6])
    assert not torch.equal(draw(chain, 10, seed=4, batch_size=4), first)
