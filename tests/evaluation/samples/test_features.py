"""Feature spaces: what they are of the data, their units, and a classifier that learnt its labels."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ancestral.core.spec import DataSpec
from ancestral.data.dataset import Split
from ancestral.evaluation.samples import classifier, features
from ancestral.evaluation.samples.classifier import accuracy, trained_classifier
from ancestral.evaluation.samples.features import feature_space, principal_components
from tiny import images, vectors
from toys import randn

IMAGE = DataSpec((1, 8, 8), 17)


def labelled(n: int, *, seed: int, side: int = 8, channels: int = 1) -> Split:
    """Noise with a brighter upper or lower half; the label says which."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 10, (n, channels, side, side), generator=generator)
    labels = torch.randint(0, 2, (n,), generator=generator)
    half = torch.arange(side)[:, None] >= side // 2
    x += 4 * (half == labels.bool()[:, None, None, None])
    return Split(x.to(torch.uint8), labels)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No test profits from what another trained."""
    monkeypatch.setattr(classifier, "_trained", {})


@pytest.mark.parametrize("name", ["pixels", "components", "classifier"])
def test_features_are_centred_and_of_variance_one_on_average(name):
    fitting = labelled(200, seed=0)
    space = feature_space(name, fitting, IMAGE)
    found = space(fitting.x)
    assert (found.shape, found.dtype) == ((200, space.dims), torch.float64)
    assert space.name == name
    assert float(found.mean(dim=0).abs().max()) < 1e-5
    assert float(found.var(dim=0, unbiased=False).mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("name", ["pixels", "components", "classifier"])
def test_features_do_not_depend_on_the_batch(name):
    fitting = labelled(100, seed=0)
    space = feature_space(name, fitting, IMAGE)
    whole = space(fitting.x)
    for batch_size in (1, 7, 1000):
        torch.testing.assert_close(space(fitting.x, batch_size=batch_size), whole, rtol=1e-5, atol=1e-5)


def test_pixels_keep_distances_up_to_one_unit():
    x = images().train.x
    space = feature_space("pixels", Split(x), IMAGE)
    flat = x.flatten(1).double()
    ratio = torch.cdist(space(x), space(x)) / torch.cdist(flat, flat).clamp(min=1e-9)
    away = ~torch.eye(len(x), dtype=torch.bool)
    torch.testing.assert_close(ratio[away], ratio[0, 1].expand(int(away.sum())), rtol=1e-9, atol=0.0)


def test_samples_need_not_be_whole_numbers():
    x = images().train.x
    for name in ("pixels", "components"):
        space = feature_space(name, Split(x), IMAGE)
        torch.testing.assert_close(space(x.double()), space(x))
        assert not torch.equal(space(x.float() + 0.25), space(x))


@pytest.mark.parametrize("name", ["pixels", "components"])
def test_the_units_of_vectors_do_not_matter(name):
    """Entry by entry: a column in other units, with another zero, is the same feature."""
    x = vectors(dims=4).train.x.double()
    moved = x * torch.tensor([1.0, 1000.0, 0.01, -5.0]) + torch.tensor([0.0, 3.0, -2.0, 7.0])
    spec = DataSpec((4,))
    found = []
    for y in (x, moved):
        u = feature_space(name, Split(y), spec)(y)
        found.append(torch.cdist(u, u))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def same_axes(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close((a * b).sum(dim=0).abs(), torch.ones(a.shape[1], dtype=a.dtype))


def flat(part: Tensor) -> Tensor:
    return part.double().flatten(1)


def test_components_are_those_of_scikit_learn():
    x = randn(300, 100, seed=0).double() * torch.linspace(3.0, 0.1, 100) + 2.0
    found = principal_components(flat, x)
    assert found.shape == (100, 64)
    torch.testing.assert_close(found.T @ found, torch.eye(64, dtype=torch.float64))
    expected = PCA(64, svd_solver="full").fit(x.numpy())
    same_axes(found, torch.from_numpy(expected.components_).T)
    # The sign is settled: the largest entry of each is positive.
    assert (found.gather(0, found.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_components_of_wide_data_are_the_same_by_way_of_the_examples(monkeypatch):
    x = randn(40, 90, seed=1).double() * torch.linspace(3.0, 0.1, 90)
    narrow = principal_components(flat, x)
    # 40 examples vary in 39 directions, however many entries they have.
    assert narrow.shape == (90, 39)
    monkeypatch.setattr(features, "_WIDEST", 60)
    wide = principal_components(flat, x)
    torch.testing.assert_close(wide, narrow)


def test_components_of_many_examples_come_in_parts():
    """More than are in memory at once, with a mean that is far from 0."""
    x = randn(9000, 3, seed=2).double() * torch.tensor([1.0, 2.0, 3.0]) + 50.0
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    assert values[0] < values[1] < values[2]
    same_axes(principal_components(flat, x), vectors.flip(1))


def test_auto_is_the_classifier_where_there_are_labels():
    fitting = labelled(60, seed=0)
    assert feature_space("auto", fitting, IMAGE).name == "classifier"
    assert feature_space("auto", Split(fitting.x), IMAGE).name == "components"
    one_class = Split(fitting.x, torch.zeros(60, dtype=torch.long))
    assert feature_space("auto", one_class, IMAGE).name == "components"


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (20, 3), (50, 1), (1, 2)])
def test_the_classifier_learns(side, channels):
    """Images of any size; of more than 32, averages. One pixel is the lower half, brighter or not."""
    fitting, kept = (labelled(400, seed=seed, side=side, channels=channels) for seed in (0, 1))
    spec = DataSpec((channels, side, side), 17)
    space = feature_space("classifier", fitting, spec, kept=kept)
    assert space.accuracy is not None
    assert space.accuracy > (0.95 if side > 1 else 0.65)
    network = trained_classifier(fitting.x, fitting.labels, spec)
    right = (network(kept.x).argmax(dim=1) == kept.labels).double().mean()
    assert space.accuracy == accuracy(network, kept.x, kept.labels) == float(right)


def test_the_classifier_learns_vectors():
    x = randn(500, 3, seed=3)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    kept = Split(x[400:], labels[400:])
    space = feature_space("classifier", Split(x[:400], labels[:400]), DataSpec((3,)), kept=kept)
    assert space.accuracy is not None
    assert space.accuracy > 0.85


def test_the_classifier_is_a_function_of_data_and_seed(monkeypatch):
    fitting = labelled(100, seed=0)
    assert fitting.labels is not None
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = trained_classifier(fitting.x, fitting.labels, IMAGE)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trained_classifier(fitting.x.clone(), fitting.labels.clone(), IMAGE) is first
    monkeypatch.setattr(classifier, "_trained", {})
    torch.manual_seed(2)
    again = trained_classifier(fitting.x, fitting.labels, IMAGE)
    assert again is not first
    assert torch.equal(again(fitting.x), first(fitting.x))
    other = trained_classifier(fitting.x, fitting.labels, IMAGE, seed=1)
    assert not torch.equal(other(fitting.x), first(fitting.x))
    swapped = trained_classifier(fitting.x, 1 - fitting.labels, IMAGE)
    assert accuracy(swapped, fitting.x, fitting.labels) < 0.1
    for seed in range(2, 8):
        trained_classifier(fitting.x[:20], fitting.labels[:20], IMAGE, seed=seed)
    assert len(classifier._trained) == classifier._REMEMBERED


@pytest.mark.parametrize(("n", "steps"), [(50, 40), (128, 40), (300, 80), (128 * 100, 800)])
def test_the_budget_of_the_classifier(n, steps, monkeypatch):
    """40 epochs, or 800 steps where they are fewer; batches of one size, each example once an epoch."""
    taken: list[Tensor] = []
    kept = classifier._batches

    def noted(count: int, budget: int) -> list[Tensor]:
        taken.extend(kept(count, budget))
        return taken[:1]

    monkeypatch.setattr(classifier, "_batches", noted)
    trained_classifier(torch.rand(n, 2), torch.arange(n) % 2, DataSpec((2,)))
    assert len(taken) == steps
    assert {len(batch) for batch in taken} == {min(n, 128)}
    epoch = torch.cat(taken[: n // min(n, 128)])
    assert len(epoch.unique()) == len(epoch) > n - 128


def test_mistakes():
    fitting = labelled(20, seed=0)
    with pytest.raises(ValueError, match="features is 'incepton'; it must be one of auto, pixels"):
        feature_space("incepton", fitting, IMAGE)
    with pytest.raises(ValueError, match="the training data have no labels of two or more classes"):
        feature_space("classifier", Split(fitting.x), IMAGE)
    alike = Split(torch.full((20, 1, 8, 8), 3, dtype=torch.uint8))
    for name in ("pixels", "components"):
        with pytest.raises(ValueError, match="the training examples are all alike"):
            feature_space(name, alike, IMAGE)


class StandIn(torch.nn.Module):
    """For torch-fidelity's network, with what it takes and gives; its weights need the network."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **rest):
        super().__init__()
        assert features_list == ["2048"]
        assert feature_extractor_weights_path is None

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.ndim == 4
        assert x.shape[1] == 3
        return (x.flatten(2).double().mean(dim=2).repeat(1, 4),)


@pytest.fixture
def fidelity(monkeypatch):
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_sees_bytes_in_three_channels(channels, fidelity):
    data = images(60, channels=channels)
    space = feature_space("inception", data.train, data.spec)
    assert (space.name, space.dims) == ("inception", 12)
    x = data.test.x[:5]
    mean = (x.double() / 16 * 255).round().flatten(2).mean(dim=2).expand(-1, 3).repeat(1, 4)
    torch.testing.assert_close(space(x), (mean - space.centre) / space.scale)


def test_inception_without_the_package_or_the_network(fidelity, monkeypatch):
    data = images(60)

    def unreachable(*arguments):
        raise OSError("no route to host")

    fidelity.FeatureExtractorInceptionV3 = unreachable
    with pytest.raises(ValueError, match=r"weights cannot be fetched .no route"):
        feature_space("inception", data.train, data.spec)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match="ancestral\\[inception\\]"):
        feature_space("inception", data.train, data.spec)
    points = vectors(60)
    with pytest.raises(ValueError, match="images of whole numbers only"):
        feature_space("inception", points.train, points.spec)
