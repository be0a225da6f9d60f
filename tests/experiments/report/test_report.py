"""``ancestral report``: one page that loads nothing, of each kind of run and of a comparison."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ancestral.cli.compare import Compare
from ancestral.cli.parsing import parse
from ancestral.cli.train import TrainDDPM, TrainHVAE, TrainVAE
from ancestral.config import (
    DataConfig,
    DDPMConfig,
    FlowConfig,
    HVAEConfig,
    LikelihoodConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.experiments.report.command import compare_command, train_command
from ancestral.experiments.runs import RunFolder
from commands import call
from tiny import saved_images, saved_vectors

SHORT = ("--steps", 4, "--batch-size", 8, "--validation", 0.2, "--device", "cpu", "--sample-every", 0)
TINY = {
    "vae": ("--model.network", "mlp", "--model.hidden", 8, "--model.latent-dims", 3),
    "hvae": ("--model.levels", 2, "--model.width", 4, "--model.latent-dims", 2),
    "ddpm": ("--model.T", 12, "--model.blocks", 1, "--model.channels", 4),
}
COMMON = {"table", "likelihood", "training", "nearest", "reconstructions", "data", "reproduce"}
OF_IMAGES = {"samples", "walk"}


class Reader(HTMLParser):
    """What is in a page: ids of sections, addresses, text, and whether tags are closed."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and tag == "section":
                self.sections.append(value)
            if name in ("src", "href"):
                self.addresses.append(value)
            if name == "style":
                self.addresses += re.findall(r"url\((.*?)\)", value)
            assert name != "alt" or value

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path: Path) -> Reader:
    page = Reader(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3_000_000
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address[:80]
        assert not address.startswith("#") or address[1:] in page.sections
    return page


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("source", [saved_images, saved_vectors], ids=["images", "vectors"])
def test_a_run(kind, source, tmp_path):
    run = tmp_path / "run"
    options = ("--model.T", 12, "--model.width", 8) if on_vectors(kind, source) else TINY[kind]
    trained = call("train", kind, *options, "--data", source(tmp_path), "--out", run, *SHORT)
    assert trained.status == 0, trained.err
    answer = call("report", run, "--quality", 0, "--importance-samples", 4, "--json")
    assert answer.status == 0, answer.err
    facts = json.loads(answer.out)
    size = (run / "report.html").stat().st_size
    folder = RunFolder.open(run)
    chosen = {"name": "best", "step": folder.best.step, "best": folder.best.step, "last": folder.step}
    assert facts == {"report": str(run / "report.html"), "bytes": size, "checkpoint": chosen}
    assert f"best checkpoint, step {folder.best.step}" in answer.err
    page = read(run / "report.html")
    assert set(page.sections) >= COMMON
    images = source is saved_images
    assert (set(page.sections) >= OF_IMAGES) == images
    assert ({"plane", "columns"} <= set(page.sections)) != images
    assert ("levels" in page.sections) == (kind != "vae")
    assert ("denoising" in page.sections) == (kind == "ddpm")
    assert "distances" not in page.sections
    assert "At a glance" in page.text
    # Where q was learned, whose fault the ELBO's gap is.
    assert ("fitted to each of them is what amortisation costs" in page.text) == (kind != "ddpm")
    config = json.loads((run / "config.json").read_text())
    assert config["content"] in page.text
    # The figures are those that evaluate gives.
    told = json.loads(call("evaluate", run, "--n", 1000, "--json", *levels(kind)).out)["elbo"]
    assert f"{told['mean']:.2f} ± {told['stderr']:.2f}".replace("-", "−")[1:] in page.text.replace("-", "−")


def on_vectors(kind, source):
    """Whether the network is a ddpm's residual mlp, which has no channels."""
    return kind == "ddpm" and source is saved_vectors


def levels(kind):
    return ("--estimator", "sweep") if kind == "ddpm" else ()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "out"
    small = [
        word.replace("--model.", f"--{kind}.") if isinstance(word, str) else word
        for kind, options in TINY.items()
        for word in options
    ]
    answer = call(
        "compare",
        "--data",
        "digits",
        "--out",
        out,
        *small,
        "--steps",
        3,
        "--n",
        40,
        "--quality",
        100,
        "--importance-samples",
        4,
        "--device",
        "cpu",
    )
    assert answer.status == 0, answer.err
    return out, answer


def test_a_comparison_ends_with_its_report(comparison):
    out, answer = comparison
    assert answer.err.strip().splitlines()[-1] == f"written: {out / 'report.html'}"
    page = read(out / "report.html")
    assert set(page.sections) == COMMON | OF_IMAGES | {"levels", "distances", "denoising"}
    figures = json.loads((out / "comparison.json").read_text())["models"]
    for kind, name in (("vae", "VAE"), ("hvae", "hierarchical VAE"), ("ddpm", "DDPM")):
        assert name in page.text
        assert f"{figures[kind]['parameters']:,}" in page.text
        assert f"{figures[kind]['bits_per_dim']['mean']:.3f}" in page.text
        also = figures[kind]["sample_quality_also"]
        assert [figures[kind]["sample_quality"]["features"], *(one["features"] for one in also)] == [
            "classifier",
            "components",
        ]
    # What the page says makes it again is what made it.
    assert f"ancestral compare --data digits --out {out}" in page.text
    gaps = {kind: figures[kind]["gaps"] for kind in figures}
    assert gaps["ddpm"] is None
    for kind in ("vae", "hvae"):
        assert gaps[kind]["n"] == 16
        assert gaps[kind]["bounds"][0]["name"] == "ELBO"
        assert {one["name"] for one in gaps[kind]["bounds"]} == {
            "ELBO",
            "ELBO, q fitted",
            "IWAE-2",
            "IWAE-4",
        }


@pytest.mark.parametrize("kind", TINY)
def test_a_report_measures_nothing_that_was_evaluated(kind, tmp_path, monkeypatch):
    run = tmp_path / "run"
    trained = call("train", kind, *TINY[kind], "--data", saved_images(tmp_path), "--out", run, *SHORT)
    assert trained.status == 0, trained.err
    bound = ("--estimator", "sweep") if kind == "ddpm" else ("--bound", "iwae", "--samples", 64)
    told = json.loads(call("evaluate", run, "--json", *bound).out)

    def measured(*arguments, **options):
        raise AssertionError("a bound was measured again")

    monkeypatch.setattr("ancestral.evaluation.store.bounded_of", measured)
    first = call("report", run)
    assert first.status == 0, first.err
    assert f"{told['elbo']['mean']:.2f}".replace("-", "−") in read(run / "report.html").text.replace("-", "−")
    # A second report draws no samples either.
    monkeypatch.setattr("ancestral.experiments.runs.measuring.draw", measured)
    monkeypatch.setattr("ancestral.experiments.runs.measuring.bound_gaps", measured)
    again = call("report", run)
    assert again.status == 0, again.err


def test_a_comparisons_report_is_made_anew_without_measuring(comparison, tmp_path):
    out, _ = comparison
    before = (out / "comparison.json").read_bytes()
    answer = call("report", out, "--out", tmp_path / "page.html")
    assert answer.status == 0, answer.err
    assert (tmp_path / "page.html").read_text() == (out / "report.html").read_text()
    assert (out / "comparison.json").read_bytes() == before


def test_mistakes(comparison, tmp_path):
    out, _ = comparison
    for arguments, words in (
        ([tmp_path / "no"], "no run"),
        ([out, "--n", 3], "have been measured"),
        ([out / "vae", "--out", tmp_path / "a.pdf"], "must end in .html"),
        ([out / "vae", "--quality", 3], "at least 8"),
        ([out / "vae", "--data", "moons"], "same shape"),
    ):
        answer = call("report", *arguments)
        assert answer.status == 2
        assert words in answer.message
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "comparison.json").write_text("{")
    answer = call("report", broken)
    assert answer.status == 2
    assert "cannot be read" in answer.message
    assert not list(tmp_path.glob("*.html"))


CONFIGS = [
    RunConfig(DataConfig("digits"), VAEConfig(), TrainingConfig()),
    RunConfig(
        DataConfig(
            "my pictures", binarize="dynamic", image_size=32, channels=1, skip_bad=True, augment=("flip",)
        ),
        VAEConfig(
            hidden=(20, 30),
            network="mlp",
            beta=0.5,
            q="iaf",
            flow=FlowConfig(transforms=3),
            likelihood=LikelihoodConfig(kind="bernoulli"),
        ),
        TrainingConfig(steps=7, learning_rate=1e-4),
    ),
    RunConfig(
        DataConfig("digits", validation=0.0),
        HVAEConfig(levels=4, kl_balance=True, kl_warmup=9),
        TrainingConfig(seed=3),
    ),
    RunConfig(
        DataConfig("digits"),
        DDPMConfig(T=50, channels=(4, 8), loss="simple", fourier=(3, 4)),
        TrainingConfig(),
    ),
    RunConfig(DataConfig("digits"), DDPMConfig(T="continuous"), TrainingConfig()),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model.kind)
def test_the_command_that_is_told_makes_the_same_run(config):
    program, name, kind, *rest = shlex.split(train_command(config, "runs/a b"))
    assert (program, name, kind) == ("ancestral", "train", config.model.kind)
    options = parse({"vae": TrainVAE, "hvae": TrainHVAE, "ddpm": TrainDDPM}[kind], rest, prog="")
    assert options.out == Path("runs/a b")
    assert RunConfig(options.data_config, options.model, options.training) == config


def test_the_command_of_a_comparison():
    models = [HVAEConfig(levels=2), DDPMConfig(T=9)]
    data, training = DataConfig("moons", validation=0.2), TrainingConfig(batch_size=9)
    program, name, *rest = shlex.split(compare_command(data, models, training, "out"))
    options = parse(Compare, rest, prog="")
    assert (program, name, options.models) == ("ancestral", "compare", ("hvae", "ddpm"))
    assert (options.data_config, options.training) == (data, training)
    assert [options.hvae, options.ddpm] == models
    assert dataclasses.asdict(options.vae) == dataclasses.asdict(VAEConfig())
