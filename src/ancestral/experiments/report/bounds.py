"""Sections on what was learnt: the table, the bounds and their parts, and how training went."""

from __future__ import annotations

from ancestral.bounds import Estimate
from ancestral.data.density import not_comparable
from ancestral.experiments.comparison_table import note, table
from ancestral.experiments.report import charts
from ancestral.experiments.report.page import Block, Picture, Section, Table, Text
from ancestral.experiments.report.subjects import Subject, Subjects
from ancestral.training.objective import objective_of


def overview(subjects: Subjects) -> Section:
    """The lecture notes' table."""
    compared = [one.compared for one in subjects.models]
    rows = [[concept.strip(), *entries] for concept, entries in table(compared)]
    heads = ["Concept", *(one.name for one in subjects.models)]
    return Section(
        "table",
        "Comparison" if len(compared) > 1 else "At a glance",
        [Table(heads, rows, note(compared) or ""), *map(Text, not_comparable(subjects.data.notes))],
        "Entries are measured on test data that no model was trained on; ± is one standard error of the "
        "mean over them.",
    )


def likelihood(subjects: Subjects) -> Section:
    """The ELBO in its terms, and the bounds above it."""
    blocks: list[Block] = [
        Picture(
            charts.terms({one.name: one.figures["terms"] for one in subjects.models}),
            "Bars of reconstruction, matching and prior cost of each model",
            "−ELBO = reconstruction + matching + prior matching, in nats per example. Densities of real "
            "numbers can make the reconstruction negative.",
        ),
        Picture(
            charts.bounds({one.name: one.figures for one in subjects.models}),
            "Bounds on log p(x) over the number of draws of q",
            "ELBO (dotted) ≤ IWAE-k ≤ log p(x): each is a lower bound in expectation, and more draws of q "
            "bring it nearer. Bars are 95 % intervals.",
        ),
        *_gaps(subjects),
    ]
    rows = []
    for one in subjects.models:
        tighter = one.figures["log_likelihood"]
        elbo = one.figures["elbo"]
        row = [one.name, _estimate(elbo)]
        if tighter is None:
            row += ["–", "–"]
        else:
            row += [
                f"{_estimate(tighter)} (k = {tighter['samples']})",
                # Comparisons of earlier versions do not tell it.
                _estimate(tighter["above_one_sample"]) if "above_one_sample" in tighter else "–",
            ]
        rows.append([*row, _estimator(one)])
    heads = ["Model", "ELBO, nats", "IWAE-k, nats", "at least lost to q", "ELBO estimated by"]
    blocks.append(Table(heads, rows))
    return Section(
        "likelihood",
        "Likelihood",
        blocks,
        "How probable the model finds data it has not seen, and which part of the bound costs what. Where "
        "k draws of q lift the bound far above the ELBO, q misses the true posterior.",
    )


def _gaps(subjects: Subjects) -> list[Block]:
    """For each model whose q was learned: all bounds on one axis, and whose fault the ELBO's gap is."""
    return [
        Picture(
            charts.gaps(found),
            f"The {one.name}'s bounds on log p(x) on one axis, from the ELBO up",
            f"{one.name}, {found['n']} test examples: what the ELBO gains when q is fitted to each "
            "of them is what amortisation costs; the rest, up to the tightest bound, is the family of q's. "
            "Bars are 95 % intervals of what is above the ELBO on the same examples.",
        )
        for one in subjects.models
        if (found := one.figures.get("gaps")) is not None
    ]


def levels(subjects: Subjects) -> Section | None:
    """What every level of each chain costs; None where all chains have one."""
    blocks: list[Block] = []
    for one in subjects.models:
        if one.chain.T == 1:
            continue
        if one.chain.summary.continuous:
            blocks.append(Text(f"{one.name}: continuous time has no levels to tell apart."))
            continue
        matching = one.figures["matching_per_level"]
        if one.chain.summary.noising:
            source = charts.levels(matching, first=2, xlabel=f"t of {one.chain.T}")
            caption = (
                f"{one.name}: denoising matching, the KL of z_(t−1) given z_t, for t = 2 … {one.chain.T}; "
                f"prior matching at T is {one.figures['terms']['prior']:.3g} nats."
            )
        else:
            source = charts.levels(one.compared.kl_per_latent, first=1, xlabel="level t")
            caption = f"{one.name}: the KL of z_t, from z_1 beside the data to z_{one.chain.T} at the top."
        blocks.append(Picture(source, f"Costs by level of the {one.name}", caption))
    if not blocks:
        return None
    return Section(
        "levels",
        "Level by level",
        blocks,
        "A level that costs nothing is not used. In a DDPM the levels with little noise are where the bits "
        "are.",
    )


def training(subjects: Subjects) -> Section | None:
    """Curves of training; None without records."""
    records = {one.name: one.records for one in subjects.models if one.records}
    if not records:
        return None
    losses = "; ".join(f"{one.name}: {objective_of(one.chain).name}" for one in subjects.models)
    picture = Picture(
        charts.training(records), "Loss and held-out ELBO over training steps", f"Losses are {losses}."
    )
    return Section(
        "training",
        "Training",
        [picture, *_checkpoints(subjects), *_notes(subjects.models)],
        "The loss of training batches, and the ELBO of examples held out (of averaged weights).",
    )


def _checkpoints(subjects: Subjects) -> list[Block]:
    """Which weights the page is of."""
    return [Text(f"This page is of {one.name}: {one.folder.chosen.words}.") for one in subjects.models]


def _notes(models: list[Subject]) -> list[Block]:
    told = [(one.name, record) for one in models for record in one.records if record["kind"] == "note"]
    return [Text(f"{name}, step {record['step']}: {record['text']}") for name, record in told]


def _estimate(found: dict[str, float]) -> str:
    return f"{Estimate.from_json(found):.2f}"


def _estimator(one: Subject) -> str:
    found = one.figures["estimator"]
    if found["name"] == "sampled":
        return f"{found['levels']} random levels per example ({found['draws']})"
    return {"sweep": "a sweep over all levels", "path": "paths drawn from q"}[found["name"]]
