"""The chain that options name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor

from ancestral.config import HVAEConfig, ModelConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.core.spec import DataSpec
from ancestral.experiments.build.autoencoders import build_ladder, build_markov, build_vae
from ancestral.experiments.build.diffusion import build_ddpm
from ancestral.experiments.build.settled import settled
from ancestral.networks.dropout import drop_channels_
from ancestral.parts.scaling import Scaling
from ancestral.training.objective import build_objective


def build_chain(
    config: ModelConfig, spec: DataSpec, *, train: Given | Iterable[Tensor] | None = None
) -> Chain:
    """The chain that ``config`` describes, for data of ``spec``, with fresh weights.

    ``train``, (n, *shape), whole or in pieces, are the training examples as the model sees them
    (``Dataset.seen``): they set the standardisation and the centre. Leave it out where weights, which carry
    these, are loaded afterwards. Options whose defaults depend on the data are settled by the number of training
    examples; ``chain.config`` has them. Weights are drawn with torch's global generator.
    """
    scaling = Scaling(spec)
    n = None
    if isinstance(train, Tensor | np.ndarray):
        scaling.fit(train)
        n = len(train)
    elif train is not None:
        pieces = _Counted(train)
        scaling.fit(pieces)
        n = pieces.n
    config = settled(config, spec, n)
    chain = _built(config, spec, scaling)
    if config.dropout_of == "channels":
        drop_channels_(chain)
    # Options that do not fit the chain raise here, before any training.
    build_objective(config, chain).check(chain)
    chain.config = config
    return chain


class _Counted:
    """Pieces of the training examples, and in ``n`` how many examples they were once they are read."""

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self.pieces = pieces
        self.n = 0

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self.pieces:
            self.n += len(piece)
            yield piece


def _built(config: ModelConfig, spec: DataSpec, scaling: Scaling) -> Chain:
    if isinstance(config, VAEConfig):
        return build_vae(config, spec, scaling)
    if isinstance(config, HVAEConfig):
        return (
            build_ladder(config, spec, scaling)
            if config.posterior == "top-down"
            else build_markov(config, spec, scaling)
        )
    return build_ddpm(config, spec, scaling)
