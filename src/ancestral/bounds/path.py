"""The ELBO along whole paths, and swept over all levels of a chain with closed-form q(z_t|x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral._internal.block import block_size
from ancestral.bounds.base import Bounded, DrawnBound, Summed
from ancestral.bounds.pieces import Done, rows_at_once, slices
from ancestral.core import walk
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.elbo import Elbo


@dataclass(frozen=True, eq=False)
class ElboBounded(Bounded):
    """An ELBO with its terms."""

    reconstruction: Tensor
    """−log p(x|z_1), (n,)."""
    prior: Tensor
    """KL( q(z_T|x) ‖ p(z_T) ), (n,)."""
    matching: Summed
    """The matching terms of t = 2 … T, (T − 1,)."""

    @staticmethod
    def of(elbos: list[Elbo]) -> ElboBounded:
        """The mean of independent estimates of one batch's ELBO."""
        count = len(elbos)
        totals = torch.stack([elbo.total for elbo in elbos], dim=1)

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).mean(dim=0) if count > 1 else values[0]

        return ElboBounded(
            nats=totals.mean(dim=1) if count > 1 else totals[:, 0],
            replicates=totals if count > 1 else None,
            draw_error=None,
            reconstruction=mean([elbo.reconstruction for elbo in elbos]),
            prior=mean([elbo.prior for elbo in elbos]),
            matching=Summed.of(sum(elbo.matching for elbo in elbos) / count),  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class PathBound(DrawnBound):
    """The ELBO from ``samples`` paths drawn from q for each example."""

    name = "path"

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> ElboBounded:
        """As ``Bound``, with a bounded number of paths in memory."""
        x, condition = batch.x, chain.condition(batch)
        h = walk.features_of(chain, x, condition)
        parts = [
            walk.elbo_terms(chain, x, h=h, samples=some.stop - some.start, condition=condition)
            for some in slices(self.samples, rows_at_once(chain, x) // block_size(len(x)))
        ]
        terms = {t: torch.cat([part[t] for part in parts], dim=1) for t in parts[0]}
        totals = -torch.stack(list(terms.values())).sum(dim=0)
        matching = [terms[t - 1].mean(dim=1) for t in range(2, chain.T + 1)]
        return ElboBounded(
            nats=totals.mean(dim=1),
            replicates=totals if self.samples > 1 else None,
            draw_error=None,
            reconstruction=terms[0].mean(dim=1),
            prior=terms[chain.T].mean(dim=1),
            matching=Summed.of(torch.stack(matching, dim=1) if matching else totals.new_zeros(len(x), 0)),
        )

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return f"ELBO, {self.samples} path{'' if self.samples == 1 else 's'}"


@dataclass(frozen=True)
class SweepBound(DrawnBound):
    """The ELBO over all levels of a chain with closed-form q(z_t|x), ``samples`` times for each example."""

    name = "sweep"

    def check(self, chain: Chain) -> None:
        """As ``Bound``: there must be levels to sweep over."""
        if not chain.single_levels:
            raise ValueError(
                f"a sweep over the levels of a {type(chain).__name__}: its q(z_t|x) has no closed form, and its "
                "ELBO is of whole paths. Leave it out."
            )
        if chain.continuous:
            raise ValueError(
                f"a sweep over the levels of a {type(chain).__name__}: continuous time has no levels to sweep "
                "over. Give a number of random levels."
            )

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> ElboBounded:
        """As ``Bound``."""
        condition = chain.condition(batch)
        h = walk.features_of(chain, batch.x, condition)
        elbos = []
        for index in range(self.samples):
            elbos.append(chain.elbo_of(batch.x, h=h, condition=condition))
            done((index + 1) / self.samples)
        return ElboBounded.of(elbos)

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return f"ELBO, {self.samples} sweep{'' if self.samples == 1 else 's'} over all levels"
