"""How far samples are from test examples, beside the floor: how far training examples are from them.

A distance between finite sets has no absolute scale: it depends on the feature space and on the counts.
So each is told with its space, with n, and with its floor, the same distance with n training examples in
the place of n samples. A model that is perfect reaches the floor and not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.randomness import mixed
from ancestral.bounds.estimate import Estimate
from ancestral.core.entrance import Given, checked_means
from ancestral.core.spec import DataSpec
from ancestral.data.dataset import Dataset, Split
from ancestral.evaluation.samples.distances import frechet_distance, kernel_distance, precision_recall
from ancestral.evaluation.samples.features import FeatureSpace, feature_space

LEAST = 8
"""The fewest examples a distance is told of."""
_KEPT = 4
"""One training example in so many is kept from the fit of the feature space, for the floor."""
_FITTED = 50_000
"""The most training examples that a feature space is fitted on: they are in memory at once."""
_CHOICE = 7
"""Keeps the seed of the choice of examples apart from others."""


@dataclass(frozen=True)
class Distances:
    """From n examples to n test examples, in one feature space."""

    frechet: float
    """Squared Fréchet distance; biased upwards by few examples, as its floor is (no standard error)."""
    kernel: Estimate
    """Squared kernel distance, unbiased, and its standard error over blocks of examples."""
    precision: float
    """The share of the n examples that look like test examples."""
    recall: float
    """The share of test examples that look like the n examples."""

    @staticmethod
    def between(examples: Tensor, reference: Tensor) -> Distances:
        """Of features (n, d) to features (m, d)."""
        precision, recall = precision_recall(examples, reference)
        return Distances(
            frechet_distance(examples, reference), kernel_distance(examples, reference), precision, recall
        )

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "frechet": self.frechet,
            "kernel": self.kernel.json(),
            "precision": self.precision,
            "recall": self.recall,
        }


@dataclass(frozen=True)
class Quality:
    """The distances of some samples, beside their floor."""

    features: str
    """The name of the feature space."""
    description: str
    """The feature space in words."""
    dims: int
    """Its number of features."""
    accuracy: float | None
    """Of the classifier whose features they are, on examples it was not trained on; None without one."""
    n: int
    """How many samples, as many test examples, and as many training examples for the floor."""
    sample: Distances
    """Samples against test examples."""
    floor: Distances
    """Training examples against the same test examples."""

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "features": self.features,
            "description": self.description,
            "dims": self.dims,
            "accuracy": self.accuracy,
            "n": self.n,
            "distance": self.sample.json(),
            "floor": self.floor.json(),
        }


class Ruler:
    """n test examples in one feature space, which any number of sample sets are measured against.

    ``Ruler.of`` makes one; ``measure`` measures. The floor is computed once.
    """

    def __init__(
        self, space: FeatureSpace, reference: Tensor, held: Tensor, *, spec: DataSpec | None = None
    ) -> None:
        assert len(reference) == len(held)
        self.spec = DataSpec(tuple(reference.shape[1:])) if spec is None else spec
        self.space = space
        self.n = len(reference)
        self.reference = space(reference)
        self.floor = Distances.between(space(held), self.reference)

    @staticmethod
    def room(data: Dataset) -> int:
        """The most examples a ruler of these data can have: the test's, or a quarter of the training's."""
        return min(len(data.test), len(data.train) // _KEPT)

    @staticmethod
    def of(data: Dataset, *, n: int | None = None, features: str = "auto", seed: int = 0) -> Ruler:
        """A ruler of at most ``n`` test examples (as many as there are room for when left out).

        ``features`` is one of ``features.SPACES``. The test examples, the floor's training examples and the
        space are functions of the data and the seed. The space is fitted on the three quarters of the
        training examples that the floor's are not chosen from, whatever n is. ``ValueError`` where fewer
        than ``LEAST`` examples are asked for or there, or the space does not fit the data.
        """
        if n is not None:
            checks.integer("n, the number of samples to measure,", n, low=LEAST)
        room = Ruler.room(data)
        if room < LEAST:
            raise ValueError(
                f"there are {len(data.test)} test and {len(data.train)} training examples; a sample distance "
                f"needs at least {LEAST} and {LEAST * _KEPT}. Give more data, or go without it."
            )
        n = room if n is None else min(n, room)
        generator = torch.Generator().manual_seed(mixed(seed, _CHOICE))
        train = data.split("train")
        order = torch.randperm(len(train), generator=generator)
        held, fitting = order.tensor_split([len(train) // _KEPT])
        held, fitting = held[:_FITTED], fitting[:_FITTED]
        test = torch.randperm(len(data.test), generator=generator)[:n]
        kept = _rows(train, held)
        space = feature_space(features, _rows(train, fitting), data.spec, kept=kept, seed=seed)
        return Ruler(space, _rows(data.test, test).x.to("cpu"), kept.x[:n].to("cpu"), spec=data.spec)

    def measure(self, samples: Given) -> Quality:
        """The distances of ``samples``, (n, *shape) in the data's units, from the test examples.

        ``ValueError`` unless there are as many as the ruler has test examples, all finite and within the grey
        levels, of which means need not be whole: distances at other counts, or without some samples, do not
        compare.
        """
        samples = checked_means(self.spec, samples, what="the samples")
        if len(samples) != self.n:
            raise ValueError(
                f"{len(samples)} samples for a ruler of {self.n} examples; the counts must be the same, as "
                f"distances depend on them. Draw {self.n}, or make a ruler of another n."
            )
        space = self.space
        found = Distances.between(space(samples), self.reference)
        return Quality(space.name, space.description, space.dims, space.accuracy, self.n, found, self.floor)


def _rows(split: Split, index: Tensor) -> Split:
    """These rows, in memory, on the CPU."""
    return split.take(index.numpy()).to("cpu")
