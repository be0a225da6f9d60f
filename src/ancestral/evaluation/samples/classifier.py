"""A small classifier of the training labels, whose last hidden layer is a space to measure samples in."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from ancestral._internal.randomness import own_randomness, reseed
from ancestral.core.spec import DataSpec
from ancestral.parts.scaling import Scaling

_FEATURES = 64
_SIDE = 32
"""Larger images are averaged down to at most this side, so that the cost does not grow with them."""
_BATCH, _STEPS, _EPOCHS, _RATE = 128, 800, 40, 2e-3
"""The budget: whichever of steps and epochs is the smaller."""
_SEED = 6
_REMEMBERED = 4
_trained: dict[str, Classifier] = {}
"""Classifiers of this process by the fingerprint of what they were trained on."""


class Classifier(nn.Module):
    """Class scores of x, (n, *shape) in the data's units, through ``features``."""

    def __init__(self, spec: DataSpec, classes: int, scaling: Scaling) -> None:
        super().__init__()
        self.spec = spec
        self.scaling = scaling
        self.body = _convolutions(spec.shape) if spec.is_image else _dense(spec.dims)
        self.head = nn.Linear(_FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, (n, 64)."""
        u = self.scaling(x)
        if self.spec.is_image:
            height, width = u.shape[2:]
            if max(height, width) > _SIDE:
                u = functional.adaptive_avg_pool2d(u, (min(height, _SIDE), min(width, _SIDE)))
        hidden: Tensor = self.body(u)
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, (n, classes)."""
        scores: Tensor = self.head(self.features(x))
        return scores


def trained_classifier(x: Tensor, labels: Tensor, spec: DataSpec, *, seed: int = 0) -> Classifier:
    """A classifier of x, (n, *shape) in the data's units, trained on ``labels``, (n,), counted from 0.

    At most 800 steps of batch 128 and at most 40 epochs of AdamW, on the CPU: some seconds. A function of
    its arguments on one machine with one number of threads; what was trained in this process for the same
    arguments is given back. The caller's random state is left as it was.
    """
    x, labels = x.cpu(), labels.cpu()
    key = _fingerprint(x, labels, spec, seed)
    if key not in _trained:
        while len(_trained) >= _REMEMBERED:
            del _trained[next(iter(_trained))]
        _trained[key] = _train(x, labels, spec, seed)
    return _trained[key]


@torch.no_grad()
def accuracy(classifier: Classifier, x: Tensor, labels: Tensor) -> float:
    """The share of x, (n, *shape), that is given its label."""
    right = [
        classifier(part).argmax(dim=1) == truth
        for part, truth in zip(x.cpu().split(1024), labels.cpu().split(1024), strict=True)
    ]
    return torch.cat(right).double().mean().item()


def _train(x: Tensor, labels: Tensor, spec: DataSpec, seed: int) -> Classifier:
    cpu = torch.device("cpu")
    steps = min(_STEPS, _EPOCHS * max(1, len(x) // _BATCH))
    with own_randomness(cpu), torch.enable_grad():
        reseed(cpu, seed, _SEED)
        classifier = Classifier(spec, int(labels.max()) + 1, Scaling(spec).fit(x))
        optimiser = torch.optim.AdamW(classifier.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for index in _batches(len(x), steps):
            loss = functional.cross_entropy(classifier(x[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval().requires_grad_(False)


def _batches(n: int, steps: int) -> list[Tensor]:
    """Row numbers of ``steps`` batches: epoch after epoch, each in a new order."""
    size = min(_BATCH, n)
    epochs = -(-steps // (n // size))
    return [batch for _ in range(epochs) for batch in torch.randperm(n).split(size) if len(batch) == size][
        :steps
    ]


def _convolutions(shape: tuple[int, ...]) -> nn.Sequential:
    channels, height, width = shape[0], min(shape[1], _SIDE), min(shape[2], _SIDE)
    # Small images are halved once, larger ones twice.
    first = 2 if min(height, width) > 16 else 1
    for stride in (first, 2):
        height, width = -(-height // stride), -(-width // stride)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=first, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(32 * height * width, _FEATURES),
        nn.SiLU(),
    )


def _dense(dims: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dims, 128), nn.SiLU(), nn.Linear(128, _FEATURES), nn.SiLU())


def _fingerprint(x: Tensor, labels: Tensor, spec: DataSpec, seed: int) -> str:
    digest = hashlib.sha256(repr((spec.shape, spec.levels, seed, x.dtype, labels.dtype)).encode())
    for tensor in (x, labels):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
