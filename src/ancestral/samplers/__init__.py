"""Few-step samplers for a DDPM: DDIM, DPM-Solver++(2M), its SDE form, and Heun, beside the ancestral one.

``solvers`` has the mathematics, ``grids`` the levels that are visited, ``sampler`` what a user calls, and
``engine`` how networks are computed meanwhile: in which precision, and compiled or not. A sampler changes p,
so it has no ELBO: evaluation never uses one.
"""

from ancestral.samplers.engine import COMPILES, PRECISIONS, computing
from ancestral.samplers.sampler import SAMPLERS, SPACINGS, Sampler, batch, draw, trajectory

__all__ = [
    "COMPILES",
    "PRECISIONS",
    "SAMPLERS",
    "SPACINGS",
    "Sampler",
    "batch",
    "computing",
    "draw",
    "trajectory",
]
