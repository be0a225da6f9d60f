"""``ancestral evaluate``: the bound of a run, split into its terms, with error bars."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ancestral._internal import checks
from ancestral.cli.bounds import (
    BoundOptions,
    annealing,
    check_chain,
    columns,
    more_of_bounds,
)
from ancestral.cli.estimators import (
    OdeOptions,
    check_estimator,
    check_levels,
    measured_ode,
    ode_bound,
    ode_table,
)
from ancestral.cli.options import AllLevels, CheckpointOption, Flag, say_checkpoint, say_new
from ancestral.cli.parsing import parse
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import Device

_CURVE = 500
"""The samples of a curve whose number is not given."""
_SHOWN = 4
"""Examples in a picture of posteriors."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(ThreadOptions, CheckpointOption, BoundOptions):
    """The ELBO of a run on data it was not trained on."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the data."""
    n: int | None = None
    """Only n examples, a fixed random choice that is the same for every run; by default all."""
    estimator: Literal["sweep", "sampled", "ode"] | None = None
    """ddpm: the ELBO over all levels, or from some at random; or, as a check, the likelihood of the
    probability-flow ODE (which is another model). By default sweep up to T = 100, and sampled above."""
    levels: int | AllLevels | None = None
    """sampled: random levels per example that the sum of matching terms is estimated from, by default 16;
    "all" is a sweep."""
    draws: Literal["uniform", "low-discrepancy", "importance"] | None = None
    """sampled: how these levels are drawn, by default importance: spread evenly over an estimate, from some
    of the examples, of where the terms are large."""
    ode: OdeOptions = field(default_factory=OdeOptions)
    quality: int = 0
    """Samples to draw and measure against the same number of test examples, whatever --split is (fewer where
    the data are fewer); 0 for none."""
    quality_features: Literal["auto", "pixels", "components", "classifier", "inception"] = "auto"
    """The features they are measured in; auto is the classifier where there are labels, else
    components; inception needs the extra of that name, and the network once."""
    quality_sampler: Literal["ancestral", "ddim", "dpm++2m", "dpm++2m-sde", "heun"] = "ancestral"
    """ddpm: the sampler they are drawn with."""
    quality_steps: int | None = None
    """ddpm: the number of steps the samples take; by default at most 50."""
    quality_final: Literal["mean", "draw"] | None = None
    """How the samples end: the mean of p(x|z_1), the default for images, or a draw from it, that for vectors."""
    sampler_curve: Path | None = None
    """ddpm: a .png for a plot of the sample distance of every sampler at 5, 10, 20 and 50 network calls
    (422 calls for a sample, in all), of --quality N samples each, or 500."""
    posterior_picture: Path | None = None
    """vae of 2 latent numbers: a .png for a picture of q(z|x) against the true p(z|x) of 4
    examples; told are the gaps between their ELBO and log p(x), by quadrature."""
    data: str | None = None
    """Where the data are now, if they moved; or new data of the same shape, of which all examples are read."""
    batch_size: int = 500
    """Examples at once, at most 500. The figures do not depend on it, but for --estimator ode within the
    solver's tolerance."""
    seed: int = 0
    """Decides every random draw."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""

    def __post_init__(self) -> None:
        self.check_bounds()
        self.check_threads()
        check_estimator(self)
        of_samples = (self.quality_sampler, self.quality_steps) != ("ancestral", None)
        of_both = (self.quality_features, self.quality_final) != ("auto", None)
        if self.quality == 0 and (of_samples or (of_both and self.sampler_curve is None)):
            raise ValueError("an option --quality-… is given and quality is 0; say --quality N as well.")
        if self.sampler_curve is not None:
            checks.suffix("--sampler-curve", self.sampler_curve, (".png",))
        if self.posterior_picture is not None:
            checks.suffix("--posterior-picture", self.posterior_picture, (".png",))


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Evaluate, arguments, prog="ancestral evaluate")
    from ancestral.cli.progress import example_progress
    from ancestral.data import chosen
    from ancestral.evaluation import evaluate
    from ancestral.experiments.runs import RunFolder, examples_of, load_run, pick_device

    folder = RunFolder.open(options.run, checkpoint=options.checkpoint)
    use_threads(options, options.run)
    config = folder.config
    if options.n is not None:
        checks.integer("n", options.n, low=1)
    checks.integer("seed", options.seed, low=0)
    chain = load_run(folder)
    estimator = check_levels(chain, options)
    if options.estimator == "ode":
        ode_bound(options).check(chain)
    source = config.data.source if options.data is None else options.data
    asked = examples_of(folder, options.split, source=options.data)
    data, split = asked.data, asked.splits[asked.words]
    _check_new(asked, options, source)
    ruler = _ruler(chain, data, options)
    if options.posterior_picture is not None:
        from ancestral.evaluation.posterior_picture import check_two_latents

        check_two_latents(chain)
    x = split.some(options.n).x
    check_chain(chain, x, options)
    say_checkpoint(folder)
    rest: dict[str, Any] = {"batch_size": options.batch_size, "seed": options.seed}
    chain = chain.to(pick_device(options.device))
    result: Any
    with example_progress("evaluating") as progress:
        if options.estimator == "ode":
            result = measured_ode(chain, x, options, progress)
        else:
            result = evaluate(
                chain,
                split,
                n=options.n,
                bound=options.bound,
                samples=options.samples,
                store=folder.store,
                split=asked.words,
                **estimator,
                annealing=annealing(options),
                progress=progress,
                **rest,
            )
    named = {"model": folder.name, "data": source, "split": asked.words}
    answer = {**named, "checkpoint": folder.chosen.json(), **result.json()}
    answer |= {"seed": options.seed, "examples": chosen(result.n, len(split)), "notes": list(data.notes)}
    if options.estimator == "ode":
        # The steps of its solver are common to a batch.
        answer["batch_size"] = options.batch_size
    lines: list[str] = []
    if options.estimator != "ode":
        found, lines = more_of_bounds(chain, x, result, options=options, rest=rest)
        answer |= found
    if ruler is not None:
        found, more = _samples(chain, ruler, options)
        answer |= found
        lines += more
    if options.posterior_picture is not None:
        told = _posteriors(chain, split.some(_SHOWN).x.to("cpu"), options.posterior_picture)
        answer["posteriors"] = told
        lines.append(f"  posterior gaps  {'  '.join(format(one['gap'], '.4f') for one in told)} nats")
    if options.json:
        print(json.dumps(answer))
        return
    head = f"{answer['model']} on {source} ({asked.words}, n = {result.n}, D = {result.dims})"
    table = ode_table(result) if options.estimator == "ode" else result.lines()
    notes = [f"  note            {note}" for note in data.notes]
    print("\n".join([head, *table, *lines, *notes]))


def _check_new(asked: Any, options: Evaluate, source: str) -> None:
    """Say what is read of new data. Reject what needs a training part of theirs."""
    if asked.new and (options.quality or options.sampler_curve is not None):
        raise ValueError(
            f"{source} is not the run's data and has no training part, which sample distances need. Leave "
            "--quality and --sampler-curve out, or give the run's data."
        )
    say_new(asked, source)


def _ruler(chain: Any, data: Any, options: Evaluate) -> Any:
    """What samples are measured with, or None. Options that do not fit are refused here, before any work."""
    if options.quality == 0 and options.sampler_curve is None:
        return None
    from ancestral.evaluation import Ruler
    from ancestral.experiments.runs.curve import check_few_steps
    from ancestral.experiments.runs.quality import check_count

    check_count(options.quality)
    _sampler(chain, options).check(chain)
    if options.sampler_curve is not None:
        check_few_steps(chain)
    return Ruler.of(data, n=options.quality or _CURVE, features=options.quality_features)


def _sampler(chain: Any, options: Evaluate) -> Any:
    from ancestral.sampling import Sampler, quick_sampler

    if options.quality_sampler == "ancestral" and options.quality_steps is None:
        return quick_sampler(chain)
    return Sampler.named(options.quality_sampler, options.quality_steps)


def _samples(chain: Any, ruler: Any, options: Evaluate) -> tuple[dict[str, Any], list[str]]:
    """What is found of the samples, and the same for a person."""
    from ancestral.evaluation import save_curve
    from ancestral.experiments.runs import measure_samplers, measure_samples

    found: dict[str, Any] = {}
    lines: list[str] = []
    final, seed = options.quality_final, options.seed
    if options.quality:
        measured = measure_samples(chain, ruler, sampler=_sampler(chain, options), final=final, seed=seed)
        found["sample_quality"] = measured.json()
        lines += _quality_lines(measured)
    if options.sampler_curve is not None:
        compared = measure_samplers(chain, ruler, final=final, seed=seed)
        save_curve(options.sampler_curve, compared.curve.json())
        print(f"written: {options.sampler_curve}", file=sys.stderr)
        found["sampler_curve"] = compared.json()
        lines += columns(compared.curve.table())
    return found, lines


def _posteriors(chain: Any, x: Any, path: Path) -> list[dict[str, float]]:
    """Draw q against p(z|x), and say how far apart they are."""
    from ancestral.evaluation import posterior_grids, save_posteriors

    grids = posterior_grids(chain, x)
    save_posteriors(path, {"q(z|x) on p(z|x)": grids})
    print(f"written: {path}", file=sys.stderr)
    return [grid.json() for grid in grids]


def _quality_lines(measured: Any) -> list[str]:
    """The distances of the samples, beside their floor."""
    from ancestral.bounds import Estimate

    quality = measured.json()
    found, floor = quality["distance"], quality["floor"]
    kernel, floor_kernel = (Estimate.from_json(one["kernel"]) for one in (found, floor))
    accuracy = "" if quality["accuracy"] is None else f", {quality['accuracy']:.1%} right on others"
    head = (
        f"  samples         {quality['n']} ({measured.words}; {quality['final']}) against the same number of"
    )
    return [
        f"{head} test examples; floor: the same number of training examples",
        f"  features        {quality['description']}{accuracy}",
        f"  Fréchet         {found['frechet']:12.4f}  (floor {floor['frechet']:.4f})",
        f"  kernel          {kernel:12.4f}  (floor {floor_kernel:.4f})",
        f"  precision       {found['precision']:12.4f}  (floor {floor['precision']:.4f})",
        f"  recall          {found['recall']:12.4f}  (floor {floor['recall']:.4f})",
    ]
