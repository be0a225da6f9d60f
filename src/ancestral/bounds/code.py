"""Bits per dimension: the code length that a bound on log p(x) of integers promises."""

from __future__ import annotations

import math

from ancestral.bounds.estimate import Estimate
from ancestral.core.chain import Chain
from ancestral.core.elbo import check_code_length


def code_length(chain: Chain, nats: Estimate) -> Estimate | None:
    """−``nats`` / (D log 2), the mean of bits per dimension; None where p(x|z_1) is a density.

    ``ValueError`` for a mean below 0 by more than four standard errors.
    """
    if not chain.discrete:
        return None
    check_code_length(nats.mean, nats.stderr, dims=chain.spec.dims)
    return nats.scaled(-1.0 / (chain.spec.dims * math.log(2.0)))
