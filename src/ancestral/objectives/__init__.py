"""Training objectives: what a trainer minimises of a chain. Evaluation does not depend on them."""

from ancestral.core.chain import Chain
from ancestral.models.diffusion import GaussianDiffusion
from ancestral.objectives.base import Loss, Objective
from ancestral.objectives.diffusion import Hybrid, OneLevel, Simple
from ancestral.objectives.elbo import NegativeElbo, RandomLevels
from ancestral.objectives.importance import DReG, Few, FirstFew, Iwae

__all__ = [
    "DReG",
    "Few",
    "FirstFew",
    "Hybrid",
    "Iwae",
    "Loss",
    "NegativeElbo",
    "Objective",
    "OneLevel",
    "RandomLevels",
    "Simple",
    "default_objective",
]


def default_objective(chain: Chain) -> Objective:
    """What a chain is trained with where nothing else is said: the negative ELBO.

    Of a diffusion model from one level per example, of another chain with closed-form q(z_t|x) from one
    random level, of any other from one path.
    """
    if isinstance(chain, GaussianDiffusion):
        return OneLevel(chain)
    return RandomLevels() if chain.single_levels else NegativeElbo()
