"""Sections for vectors: densities in the plane, and the columns of a table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ancestral.evaluation import scores
from ancestral.experiments.report import charts
from ancestral.experiments.report.page import Block, Picture, Section
from ancestral.experiments.report.samples import extent_of
from ancestral.experiments.report.subjects import Subject, Subjects

_SIDE = 56
_DRAWS, _LEVELS = 64, 256
_POINTS = 600
_COLUMNS = 12
_CORRELATED = 40
ROWS = 1000


def plane(subjects: Subjects, samples: dict[str, Tensor]) -> Section | None:
    """Each model's density over points of the data, and its samples; None unless the data are in the
    plane."""
    data = subjects.data
    if data.spec.is_image or data.spec.dims != 2:
        return None
    extent = extent_of(data)
    points = data.test.some(_POINTS).x.to("cpu").double().numpy()
    grids = {one.name: _density(one, extent) for one in subjects.models}
    sets = {
        "test data": points,
        **{name: x[:_POINTS].double().numpy() for name, x in samples.items()},
    }
    blocks: list[Block] = [
        Picture(
            charts.densities(grids, extent, points),
            "Densities of the models under points of the data",
            f"exp of a lower bound on log p(x): IWAE-{_DRAWS}, for a DDPM the ELBO from {_LEVELS} random "
            "levels. Points are test data. Darker is denser, on one scale.",
        ),
        Picture(charts.scatters(sets, extent), "Test data and samples", f"{len(points)} points each."),
    ]
    return Section("plane", "Density over the plane", blocks)


def columns(subjects: Subjects, samples: dict[str, Tensor]) -> Section | None:
    """Marginals and correlations of columns, of data and samples; None for images and single numbers."""
    data = subjects.data
    if data.spec.is_image:
        return None
    names = data.columns or tuple(f"column {i + 1}" for i in range(data.spec.dims))
    count = min(ROWS, len(data.test))
    sets = {"test data": data.test.some(count).x.to("cpu").double().numpy()}
    sets |= {name: x[:count].double().numpy() for name, x in samples.items()}
    shown = list(range(min(_COLUMNS, len(names))))
    few = "" if len(shown) == len(names) else f", the first {len(shown)} of {len(names)} columns"
    blocks: list[Block] = [
        Picture(
            charts.marginals(sets, names, shown),
            "Histograms of the columns",
            f"{count} rows each{few}; the range is that of 99 % of the test data.",
        )
    ]
    if len(names) > 1:
        some = range(min(_CORRELATED, len(names)))
        blocks.append(
            Picture(
                charts.correlations(
                    {name: values[:, : len(some)] for name, values in sets.items()}, [names[i] for i in some]
                ),
                "Correlation matrices of data and samples",
                _worst(sets, names),
            )
        )
    return Section(
        "columns",
        "Columns",
        blocks,
        "Samples here are draws from p(x|z_1), as ancestral sample writes them before it rounds whole numbers.",
    )


def _worst(sets: dict[str, np.ndarray], names: tuple[str, ...]) -> str:
    """Which correlation each model misses most."""
    with np.errstate(invalid="ignore", divide="ignore"):
        truth, *others = (np.nan_to_num(np.corrcoef(values, rowvar=False)) for values in sets.values())
    told = []
    for name, found in zip(list(sets)[1:], others, strict=True):
        miss = np.abs(found - truth)
        i, j = np.unravel_index(miss.argmax(), miss.shape)
        told.append(f"{name}: {names[i]} with {names[j]}, {found[i, j]:.2f} for {truth[i, j]:.2f}")
    return f"Furthest off: {'; '.join(told)}."


def _density(one: Subject, extent: list[float]) -> np.ndarray:
    """exp of the bound on a grid, (rows from below, columns)."""
    grid = torch.cartesian_prod(
        *(torch.linspace(extent[i], extent[i + 1], _SIDE, dtype=torch.float64) for i in (2, 0))
    ).flip(1)
    x: Tensor = grid.to(torch.float64 if one.chain.spec.double else torch.float32)
    if one.chain.summary.noising:
        found = scores(one.chain, x, levels=min(_LEVELS, 4 * one.chain.T), batch_size=2000)
    else:
        found = scores(one.chain, x, bound="iwae", samples=_DRAWS, batch_size=2000)
    return found.nats.exp().reshape(_SIDE, _SIDE).numpy()
