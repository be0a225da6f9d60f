"""Few-step samplers for a DDPM: DDIM, DPM-Solver++(2M), its SDE form, and Heun, beside the ancestral one.

``solvers`` has the mathematics, ``grids`` the levels that are visited, ``sampler`` what a user calls. A
sampler changes p, so it has no ELBO: evaluation never uses one.
"""

from ancestral.samplers.sampler import SAMPLERS, SPACINGS, Sampler, draw, trajectory

__all__ = ["SAMPLERS", "SPACINGS", "Sampler", "draw", "trajectory"]
