"""A comparison as the lecture notes' closing table, with measured entries."""

from __future__ import annotations

from typing import Any

from ancestral._internal import words
from ancestral.bounds import Estimate
from ancestral.evaluation.evaluation import ALIVE
from ancestral.experiments.compare import Compared
from ancestral.training.objective import objective_of

NAMES = {"vae": "VAE", "hvae": "hierarchical VAE", "ddpm": "DDPM"}
"""Of the kinds of models, in titles."""


_SEEDS = "  over training seeds"
"""The row that is there where models were trained with several seeds."""


def table(compared: list[Compared]) -> list[tuple[str, list[str]]]:
    """(concept, one entry per model), line by line."""
    rows = [
        (concept, [entry(one) for one in compared])
        for concept, entry in (
            ("Inference type", lambda one: one.chain.summary.inference),
            ("Latent space", _latent_space),
            ("Training loss", lambda one: objective_of(one.chain).name),
            ("Sampling path", _sampling_path),
            ("Generation speed", lambda one: words.rate(one.figures["sample_images_per_second"], "images")),
            ("Posterior approximation", lambda one: one.chain.summary.posterior),
            ("Reparameterisation", lambda one: one.chain.summary.reparameterisation),
            ("ELBO (nats)", lambda one: _with_error(one.figures["elbo"], 2)),
            (_SEEDS, _seeds),
            ("  reconstruction", lambda one: f"{one.figures['terms']['reconstruction']:.2f}"),
            (
                "  matching",
                lambda one: "–" if one.chain.T == 1 else f"{one.figures['terms']['matching']:.2f}",
            ),
            ("  prior matching", lambda one: f"{one.figures['terms']['prior']:.2f}"),
            ("bits/dim", lambda one: _with_error(one.figures["bits_per_dim"], 3)),
            ("log p(x) (nats)", lambda one: _with_error(one.figures["log_likelihood"], 2)),
            ("KL per latent", _alive),
            ("Sample distance", _distance),
            ("Parameters", lambda one: f"{one.figures['parameters']:,}"),
            ("Training speed", _training_speed),
        )
    ]
    return [row for row in rows if row[0] != _SEEDS or any(entry != "–" for entry in row[1])]


def _with_error(estimate: Any, digits: int) -> str:
    return "–" if estimate is None else f"{Estimate.from_json(estimate):.{digits}f}"


def _latent_space(one: Compared) -> str:
    dims, data = one.figures["latent_dims"], one.figures["dims"]
    summary = one.chain.summary
    if summary.noising:
        if summary.continuous:
            return f"continuous time, {dims} numbers, as the data"
        return f"{one.chain.T} levels of {dims}, as the data"
    if one.chain.T == 1:
        return f"{dims} numbers (data: {data})"
    return f"{one.chain.T} levels, {dims} numbers (data: {data})"


def _sampling_path(one: Compared) -> str:
    return "one-shot decoding" if one.chain.T == 1 else f"sequential, {one.chain.T} steps"


def _alive(one: Compared) -> str:
    if one.chain.T == 1 or one.chain.single_levels:
        return "–"
    costs = " ".join(f"{cost:.1f}" for cost in one.kl_per_latent)
    alive = sum(cost > ALIVE for cost in one.kl_per_latent)
    return f"{costs} ({alive} of {one.chain.T} alive)"


def note(compared: list[Compared]) -> str | None:
    """What the sample distances are in, of how many samples and from which samplers; None without any."""
    found = {one.kind: quality for one in compared if (quality := one.figures["sample_quality"]) is not None}
    if not found:
        return None
    quality = next(iter(found.values()))
    samplers = "; ".join(f"{kind}: {quality['words']}" for kind, quality in found.items())
    return (
        f"Sample distance: Fréchet, {quality['n']} samples ({quality['final']}s) against {quality['n']} test "
        f"examples; floor: the same number of training examples. Features: {quality['description']}. "
        f"Samplers: {samplers}."
    )


def _distance(one: Compared) -> str:
    if one.figures["sample_distance"] is None:
        return "–"
    return f"{one.figures['sample_distance']:.3g} (floor {one.figures['sample_distance_floor']:.3g})"


def _training_speed(one: Compared) -> str:
    rate = one.figures["train_images_per_second"]
    return "–" if rate is None else words.rate(rate, "images")


def paired_lines(differences: list[dict[str, Any]]) -> list[str]:
    """The paired differences of a comparison, a line each."""
    if not differences:
        return []
    n = differences[0]["n"]
    lines = [f"Paired differences of the ELBO over the same {n} test examples and noise:"]
    for found in differences:
        a, b = (NAMES[kind] for kind in found["models"])
        line = f"  {a} − {b}: {Estimate.from_json(found['elbo']):.2f} nats"
        if found["bits_per_dim"] is not None:
            line += f", {Estimate.from_json(found['bits_per_dim']):.4f} bits/dim"
        lines.append(line)
    return lines


def _seeds(one: Compared) -> str:
    found = one.figures.get("seeds")
    if found is None:
        return "–"
    return f"{Estimate.from_json(found['elbo']):.2f} (seeds {', '.join(map(str, found['seeds']))})"
