"""What hierarchies of latents have in common: at least two levels, and a posterior for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from ancestral.parts.posteriors import DiagonalPosterior, Posterior


def posteriors_of(laws: Sequence[Posterior] | None, latents: Sequence[int]) -> nn.ModuleList:
    """The laws of z_1 … z_T, diagonal where none are given."""
    made = [DiagonalPosterior(latent) for latent in latents] if laws is None else list(laws)
    if [law.latent for law in made] != list(latents):
        raise ValueError(
            f"laws are over {[law.latent for law in made]} entries, and z_1 … z_T have {list(latents)}; give "
            "one for each level, of its size."
        )
    return nn.ModuleList(made)


def families_of(laws: Iterable[nn.Module], *, spatial: bool = False) -> str:
    """What the families of q are called, level by level where they differ.

    ``spatial`` latents have a distribution at each position: entries of different positions are independent.
    """
    names = [str(law.name) for law in laws]
    if len(set(names)) > 1:
        return ", ".join(f"z_{t} {name}" for t, name in enumerate(names, 1))
    joint = spatial and not all(isinstance(law, DiagonalPosterior) for law in laws)
    return f"{names[0]} per level{' and position' if joint else ''}"


def at_least_two_levels(T: int) -> None:
    """A hierarchy has at least two levels; one is a VAE."""
    if T < 2:
        raise ValueError(f"{T} latent level(s); a hierarchical VAE has at least 2. For one level, use a VAE.")
