"""Spaces to measure samples in: pixels, principal components, a classifier's last hidden layer, Inception's.

Each is fitted on training examples, then centred on their mean and divided by one number, so that the
average feature has variance 1 over them: distances do not depend on the data's units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.core.spec import DataSpec
from ancestral.data.dataset import Split
from ancestral.evaluation.samples.classifier import accuracy, trained_classifier
from ancestral.parts.scaling import Scaling

SPACES = ("auto", "pixels", "components", "classifier", "inception")
"""The names of feature spaces; ``auto`` is the classifier where there are labels, else components."""

_COMPONENTS = 64
_WIDEST = 2048
"""Up to this many entries, components are those of all training examples; above, of so many examples."""
_STATISTICS = 10_000
"""Training examples that a space is centred and scaled with."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A map from examples in the data's units, (n, *shape), to features (n, ``dims``), float64."""

    name: str
    """``pixels``, ``components``, ``classifier`` or ``inception``."""
    description: str
    """The same in words, with what it was fitted on."""
    dims: int
    accuracy: float | None
    """A classifier's share of right labels on training examples kept from it; None without one."""
    raw: Callable[[Tensor], Tensor]
    """Features before centring and scaling, of one batch on the CPU."""
    centre: Tensor
    scale: Tensor

    @torch.no_grad()
    def __call__(self, x: Tensor, *, batch_size: int = 1024) -> Tensor:
        """The features of x, (n, *shape) in the data's units, computed in batches on the CPU."""
        checks.integer("batch_size", batch_size, low=1)
        return torch.cat(
            [(self.raw(part.cpu()).double() - self.centre) / self.scale for part in x.split(batch_size)]
        )


def feature_space(
    name: str, fitting: Split, spec: DataSpec, *, kept: Split | None = None, seed: int = 0
) -> FeatureSpace:
    """The space called ``name`` (see ``SPACES``), fitted on training examples.

    ``kept`` are labelled examples that a classifier's accuracy is told on. ``ValueError`` for another
    name, a classifier without labels of two classes, or training examples that are all alike.
    """
    checks.one_of("features", name, SPACES)
    labelled = fitting.labels is not None and len(fitting.labels.unique()) > 1
    if name == "auto":
        name = "classifier" if labelled else "components"
    if name == "classifier":
        if not labelled:
            raise ValueError(
                "features is 'classifier', and the training data have no labels of two or more classes. Use "
                "'components' or 'pixels', or data with labels."
            )
        return _classifier_space(fitting, spec, kept, seed)
    if name == "inception":
        return _inception_space(fitting, spec)
    # In float64, as all that follows; real vectors are standardised entry by entry.
    x = fitting.x.to("cpu")
    scaling = Scaling(spec).double().fit(x)
    if name == "pixels":
        what = "all pixels" if spec.is_image else "all entries, each over its standard deviation"
        return _scaled("pixels", what, lambda x: scaling(x).flatten(1), x)
    return _component_space(scaling, x)


def _classifier_space(fitting: Split, spec: DataSpec, kept: Split | None, seed: int) -> FeatureSpace:
    assert fitting.labels is not None
    x = fitting.x.to("cpu")
    network = trained_classifier(x, fitting.labels, spec, seed=seed)
    share = None
    if kept is not None and kept.labels is not None:
        share = accuracy(network, kept.x.to("cpu"), kept.labels)
    what = f"last hidden layer of a classifier of {len(fitting):,} training examples"
    return _scaled("classifier", what, network.features, x, share=share)


def _inception_space(fitting: Split, spec: DataSpec) -> FeatureSpace:
    """The 2,048 features of the Inception network that published Fréchet distances are in, by torch-fidelity.

    Its weights come from the network, once. Published figures are of 50,000 samples against all of the
    training examples, and are neither centred nor scaled: ours are, as everywhere here, so compare with the
    floor.
    """
    if not spec.is_image or spec.shape[0] not in (1, 3) or spec.levels is None:
        raise ValueError(
            "features is 'inception', and it reads grey or colour images of whole numbers only. Use "
            "'components' or 'pixels'."
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError(
            "features is 'inception', and torch-fidelity is not installed. Install it: "
            "pip install 'ancestral[inception]'."
        ) from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except OSError as error:
        raise ValueError(
            f"Inception's weights cannot be fetched ({error}). They are needed once, from the network; use "
            "'components' or 'pixels' without."
        ) from error
    top = spec.levels - 1

    def features(x: Tensor) -> Tensor:
        pixels = (x.double().clamp(0, top) / top * 255.0).round().to(torch.uint8).expand(-1, 3, -1, -1)
        found: Tensor = network(pixels.contiguous())[0]
        return found

    what = "2,048 features of Inception v3 (torch-fidelity)"
    return _scaled("inception", what, features, fitting.x.to("cpu"))


def _component_space(scaling: Scaling, x: Tensor) -> FeatureSpace:
    vectors = principal_components(lambda part: scaling(part).flatten(1), x)
    what = f"first {vectors.shape[1]} principal components of {len(x):,} training examples"
    return _scaled("components", what, lambda part: scaling(part).flatten(1) @ vectors, x)


@torch.no_grad()
def principal_components(flat: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The first min(D, 64) principal directions of x as columns, (D, ≤ 64), float64.

    ``flat`` maps a batch of x to (n, D) float64. Directions in which x does not vary are left out. For D
    above 2,048 the first 2,048 examples stand for all, so that the eigenproblem stays small. A column's
    entry of largest size is positive.
    """
    dims = flat(x[:1].cpu()).shape[1]
    if dims > _WIDEST:
        rows = flat(x[:_WIDEST].cpu())
        rows = rows - rows.mean(dim=0)
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ vectors / values.clamp(min=torch.finfo(values.dtype).tiny).sqrt()
    else:
        values, vectors = torch.linalg.eigh(_scatter(flat, x, dims))
    varies = values > len(values) * torch.finfo(values.dtype).eps * values.max()
    vectors = vectors[:, varies].flip(1)[:, :_COMPONENTS]
    if vectors.shape[1] == 0:
        raise ValueError(
            "the training examples are all alike, so they have no principal components; give others."
        )
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * largest.sign()


def _scatter(flat: Callable[[Tensor], Tensor], x: Tensor, dims: int) -> Tensor:
    """Σ (u − ū)(u − ū)ᵀ over the examples, (D, D), in two passes of bounded memory."""
    parts = [part.cpu() for part in x.split(4096)]
    mean = torch.stack([flat(part).sum(dim=0) for part in parts]).sum(dim=0) / len(x)
    scatter = torch.zeros(dims, dims, dtype=mean.dtype)
    for part in parts:
        rows = flat(part) - mean
        scatter += rows.T @ rows
    return scatter


def _scaled(
    name: str, description: str, raw: Callable[[Tensor], Tensor], x: Tensor, *, share: float | None = None
) -> FeatureSpace:
    """The space of ``raw`` features, centred and scaled by their statistics over training examples x."""
    with torch.no_grad():
        found = torch.cat([raw(part.cpu()).double() for part in x[:_STATISTICS].split(1024)])
    scale = found.var(dim=0, unbiased=False).mean().sqrt()
    if not scale > 0:
        raise ValueError("the training examples are all alike in these features; give others.")
    return FeatureSpace(name, description, found.shape[1], share, raw, found.mean(dim=0), scale)
