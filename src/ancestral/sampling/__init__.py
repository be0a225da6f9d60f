"""Sampling: samplers, the levels that they visit, and the engine that draws with them.

``solvers`` has the mathematics, ``grids`` the levels that are visited, ``samplers`` the samplers, and
``engine`` draws: seeds, micro-batches, precision, compilation.

A new sampler is a subclass of ``FewSteps`` that defines ``name`` and ``step``, or of ``Sampler`` that defines
``name``, ``steps`` and ``states``. ``draw`` takes it as ``sampler``.
"""

from ancestral.sampling.engine import (
    COMPILES,
    PRECISIONS,
    Trajectory,
    computing,
    device_of,
    draw,
    preview,
    trajectory,
    usual_final,
)
from ancestral.sampling.samplers import (
    SAMPLERS,
    SPACINGS,
    Ancestral,
    Ddim,
    DpmSolver,
    End,
    FewSteps,
    Heun,
    Sampler,
    quick_sampler,
)

__all__ = [
    "COMPILES",
    "PRECISIONS",
    "SAMPLERS",
    "SPACINGS",
    "Ancestral",
    "Ddim",
    "DpmSolver",
    "End",
    "FewSteps",
    "Heun",
    "Sampler",
    "Trajectory",
    "computing",
    "device_of",
    "draw",
    "preview",
    "quick_sampler",
    "trajectory",
    "usual_final",
]
