"""Which examples are trained on, evaluated and scored."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import ancestral
from ancestral.data import Reading, load_data
from commands import call
from inputs.cases import Cases

CASES = Cases("Which examples are used")
QUIET = ("--evaluate-every", 0, "--sample-every", 0, "--checkpoint-every", 0, "--device", "cpu")
MLP = ("--model.network", "mlp", "--model.hidden", 16, "--model.latent-dims", 2)


def trained(kind: str, data: object, *options: object, out: str = "r", steps: int = 40) -> dict[str, Any]:
    answer = call(
        "train",
        kind,
        "--data",
        data,
        "--out",
        out,
        "--steps",
        steps,
        "--batch-size",
        16,
        *QUIET,
        *options,
        "--json",
    )
    assert answer.status == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def told(*arguments: object) -> dict[str, Any]:
    answer = call(*arguments, "--json")
    assert answer.status == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def scored(*arguments: object, out: str = "scores.csv") -> list[dict[str, str]]:
    answer = call("score", *arguments, "--out", out, "--shown", 0)
    assert answer.status == 0, answer.err
    with open(out, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(path: str, x: np.ndarray, names: str = "a,b,c") -> None:
    np.savetxt(path, x, fmt="%.5f", delimiter=",", header=names, comments="")


def sorted_by_class(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8×8 from flat to noisy, stored class by class."""
    rng = np.random.default_rng(0)
    x = [np.clip(rng.normal(100, 1 + 9 * k, (n, 8, 8)), 0, 255).astype(np.uint8) for k in range(8)]
    return np.concatenate(x), np.repeat(np.arange(8), n)


@CASES.add(
    "an array stored class by class, evaluated with --n",
    answer="a random choice of the whole split with a fixed seed: within 3 standard errors of all",
)
def sorted_array(folder: Path) -> None:
    x, y = sorted_by_class(100)
    np.savez("sorted.npz", x=x, y=y)
    trained("vae", "sorted.npz", *MLP)
    every, some = told("evaluate", "r"), told("evaluate", "r", "--n", 60)
    assert (every["n"], some["n"]) == (160, 60)
    assert some["examples"] == {"n": 60, "of": 160, "seed": 2}
    assert every["examples"] == {"n": 160, "of": 160, "seed": None}
    difference = abs(some["elbo"]["mean"] - every["elbo"]["mean"])
    assert difference < 3 * max(some["elbo"]["stderr"], every["elbo"]["stderr"])
    assert told("evaluate", "r", "--n", 60)["elbo"] == some["elbo"]


@CASES.add("a table sorted by its label, evaluated with --n", answer="as for arrays")
def sorted_table(folder: Path) -> None:
    x, y = sorted_by_class(100)
    table("sorted.csv", np.c_[x.reshape(800, 64)[:, :3].astype(float), y], "a,b,c,kind")
    trained("vae", "sorted.csv", "--label", "kind")
    every, some = told("evaluate", "r"), told("evaluate", "r", "--n", 60)
    difference = abs(some["elbo"]["mean"] - every["elbo"]["mean"])
    assert difference < 3 * max(some["elbo"]["stderr"], every["elbo"]["stderr"])


@CASES.add("the choices of --n 20 and of --n 30", answer="the 20 are among the 30")
def nested_choices(folder: Path) -> None:
    table("people.csv", np.random.default_rng(0).normal(size=(300, 3)))
    trained("vae", "people.csv")
    few, more = (scored("r", "--n", n) for n in (20, 30))
    assert len(few) == 20
    assert {row["row"] for row in few} < {row["row"] for row in more}
    scores = {row["row"]: float(row["nats"]) for row in more}
    assert len(scores) == 30


@CASES.add(
    "test images that are also training images",
    answer="a note with their number from data, train and evaluate; --deduplicate removes them from training",
)
def copies(folder: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 8, 8)).astype(np.uint8)
    os.makedirs("twice")
    for i in range(240):
        Image.fromarray(pictures[i % 60]).save(f"twice/{i:03}.png")
    facts = told("data", "twice")
    (note,) = [note for note in facts["notes"] if "value for value" in note]
    data = load_data("twice")
    known = {x.numpy().tobytes() for x in data.train.x}
    count = sum(x.numpy().tobytes() in known for x in data.test.x)
    assert count > 40
    assert f"{count} of 48 test examples" in note
    trained("vae", "twice", *MLP, steps=3)
    assert note in told("evaluate", "r")["notes"]
    assert note in call("evaluate", "r").out
    removed = load_data("twice", deduplicate=True)
    assert torch.equal(removed.test.x, data.test.x)
    held = {x.numpy().tobytes() for x in removed.test.x}
    assert not any(x.numpy().tobytes() in held for x in removed.train.x)
    assert removed.validation is None or not any(x.numpy().tobytes() in held for x in removed.validation.x)
    gone = len(data.train) - len(removed.train)
    assert any(f"{gone} training examples" in note for note in removed.notes)
    trained("vae", "twice", *MLP, "--deduplicate", "--validation", 0, "--batch-size", 4, out="d", steps=3)
    assert json.loads(Path("d/config.json").read_text())["data"]["deduplicate"] is True
    assert told("evaluate", "d")["n"] == 48


@CASES.add("binarised data with copies", answer="copies of the grey levels are counted, and not of bits")
def copies_of_grey_levels(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (100, 1, 3)).astype(np.uint8)
    np.save("grey.npy", x)
    assert not [note for note in load_data("grey.npy", binarize="threshold").notes if "value for" in note]


@CASES.add("the least likely row of a table", answer="scores name its row in the file, from 0")
def row_of_an_outlier(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (200, 3))
    x[123] = 40.0
    table("people.csv", x)
    trained("vae", "people.csv")
    rows = scored("r", "--split", "all")
    assert len(rows) == 200
    assert {int(row["row"]) for row in rows} == set(range(200))
    assert (rows[-1]["row"], rows[-1]["index"]) == ("123", "123")
    nats = [float(row["nats"]) for row in rows]
    assert nats == sorted(nats, reverse=True)
    (split,) = [name for name in ("train", "validation", "test") if _in(name, 123)]
    assert rows[-1]["split"] == split
    one = told("score", "r", "--split", split, "--out", "a.csv", "--shown", 0)
    assert one["least_likely"]["row"] == 123


def _in(split: str, row: int) -> bool:
    part = getattr(load_data("people.csv"), split)
    return row in part.rows.tolist()


@CASES.add("--key with a column of names", answer="the names stand beside the scores; they are not modelled")
def key_column(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"p{i:03},{a:.4f},{b:.4f}" for i, (a, b) in enumerate(rng.normal(size=(100, 2)))]
    Path("people.csv").write_text("\n".join(["name,a,b", *rows]) + "\n")
    trained("vae", "people.csv", "--key", "name", steps=3)
    found = scored("r", "--split", "all")
    assert all(row["key"] == f"p{int(row['row']):03}" for row in found)
    assert json.loads(Path("r/config.json").read_text())["spec"]["columns"] == ["a", "b"]
    answer = call("train", "vae", "--data", "people.csv", "--key", "nam", "--out", "x")
    assert answer.status == 2
    assert "'nam'" in answer.message
    assert "'name'" in answer.message


@CASES.add("the least likely of some pictures", answer="scores name its file")
def file_of_an_outlier(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for k in ("cat", "dog"):
        os.makedirs(f"pics/{k}")
    for i in range(80):
        p = np.clip(rng.normal(128, 5, (8, 8)), 0, 255) if i != 33 else rng.integers(0, 256, (8, 8))
        Image.fromarray(p.astype(np.uint8)).save(f"pics/{'cat' if i % 2 else 'dog'}/{i:02}.png")
    trained("vae", "pics", *MLP, steps=100)
    rows = scored("r", "--split", "all")
    assert len(rows) == 80
    assert (rows[-1]["file"], rows[-1]["class"]) == (os.path.join("cat", "33.png"), "cat")
    os.makedirs("new")
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("new/one.png")
    (one,) = scored("r", "--data", "new")
    assert (one["file"], told("evaluate", "r", "--data", "new")["n"]) == ("one.png", 1)


@CASES.add("a new table for a run, --data", answer="all its rows are scored and evaluated, even a single one")
def new_table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    table("people.csv", rng.normal(size=(200, 3)))
    new = rng.normal(size=(20, 3))
    table("new.csv", new)
    trained("vae", "people.csv")
    rows = scored("r", "--data", "new.csv")
    assert sorted(int(row["row"]) for row in rows) == list(range(20))
    found = told("evaluate", "r", "--data", "new.csv")
    assert (found["n"], found["split"]) == (20, "all")
    table("one.csv", new[7:8])
    (one,) = scored("r", "--data", "one.csv")
    assert one["row"] == "0"
    answer = call("score", "r", "--data", "new.csv", "--split", "train", "--out", "a.csv")
    assert answer.status == 2
    assert "--split" in answer.message or "split is train" in answer.message


@CASES.add("a new table with its columns in another order", answer="columns are found by name")
def columns_by_name(folder: Path) -> None:
    rng = np.random.default_rng(0)
    table("people.csv", rng.normal(size=(100, 3)) * [1, 10, 100])
    new = rng.normal(size=(20, 3)) * [1, 10, 100]
    table("new.csv", new)
    table("moved.csv", np.c_[new[:, 2], np.arange(20), new[:, 0], new[:, 1]], "c,id,a,b")
    trained("vae", "people.csv")
    first, second = (scored("r", "--data", name) for name in ("new.csv", "moved.csv"))
    assert [(row["row"], row["nats"]) for row in first] == [(row["row"], row["nats"]) for row in second]
    table("few.csv", new[:, :2], "a,b")
    answer = call("score", "r", "--data", "few.csv", "--out", "a.csv")
    assert answer.status == 2
    assert "'c'" in answer.message


@CASES.add("the run's own data at another place, --data", answer="the run's test part, as before")
def moved_data(folder: Path) -> None:
    table("people.csv", np.random.default_rng(0).normal(size=(100, 3)))
    trained("vae", "people.csv", steps=3)
    before = told("evaluate", "r")
    os.rename("people.csv", "elsewhere.csv")
    after = told("evaluate", "r", "--data", "elsewhere.csv")
    assert (after["n"], after["split"], after["elbo"]) == (20, "test", before["elbo"])


@CASES.add("a picture replaced by one with the same size and time", answer="it is read anew")
def replaced_file(folder: Path) -> None:
    os.makedirs("pics")
    for i in range(10):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(f"pics/{i}.bmp")
    before = load_data("pics")
    stat = os.stat("pics/3.bmp")
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save("pics/3.bmp")
    os.utime("pics/3.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    now = os.stat("pics/3.bmp")
    assert (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = load_data("pics")
    parts = [[split.x for split in (d.train, d.validation, d.test)] for d in (before, after)]
    highest = [max(int(x.max()) for x in part) for part in parts]
    assert highest == [9, 200]


@CASES.add("evaluate and score with another --batch-size", answer="the same figures but for rounding")
def batch_sizes(folder: Path) -> None:
    options = {"vae": MLP, "hvae": ("--model.levels", 2, "--model.width", 4, "--model.latent-dims", 2)}
    options |= {"ddpm": ("--model.channels", 4, "--model.blocks", 1, "--model.T", 120)}
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (150, 8, 8)).astype(np.uint8))
    for kind, chosen in options.items():
        trained(kind, "x.npy", *chosen, out=kind, steps=2)
        found = []
        for size in (500, 7, 1):
            for stored in Path(kind, "measurements").glob("*"):
                stored.unlink()
            found.append(told("evaluate", kind, "--batch-size", size))
        for other in found[1:]:
            assert other["elbo"]["mean"] == pytest.approx(found[0]["elbo"]["mean"], rel=1e-6)
            assert other["elbo"]["stderr"] == pytest.approx(found[0]["elbo"]["stderr"], rel=1e-4)
        assert found[0]["seed"] == 0


@CASES.add("load_data(tensor)", answer="a data set, split as a file with the same values is")
def tensor_in_memory(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 17, (100, 8, 8)).astype(np.uint8)
    np.savez("x.npz", x=x, levels=17)
    file = load_data("x.npz")
    for given in (x, torch.from_numpy(x), torch.from_numpy(x)[:, None]):
        data = load_data(given, levels=17)
        assert data.spec == file.spec == ancestral.DataSpec((1, 8, 8), 17)
        assert torch.equal(data.train.x, file.train.x)
        assert torch.equal(data.test.x, file.test.x)
    colour = load_data(torch.zeros(20, 3, 4, 5, dtype=torch.uint8).random_(0, 256))
    assert colour.spec.shape == (3, 4, 5)


@CASES.add("load_data((x, y)) and load_data({'x_train': …})", answer="examples with labels, and a test part")
def pairs_in_memory(folder: Path) -> None:
    x, y = torch.randn(50, 3), torch.arange(50) % 2
    data = load_data((x, y))
    assert data.spec == ancestral.DataSpec((3,), None)
    assert data.test.labels is not None
    parts = load_data({"x_train": x, "x_test": x[:7] + 1, "y_train": y, "y_test": y[:7]})
    assert (len(parts.test), parts.test_origin) == (7, "given with the data")
    with pytest.raises(ValueError, match="0 to 255"):
        load_data(torch.rand(50, 1, 8, 8))
    with pytest.raises(TypeError, match="list"):
        load_data([1, 2, 3])  # type: ignore[arg-type]


@CASES.add(
    "fit(chain, DataLoader)", answer="trains in the loader's batches; floats for integers are an error"
)
def data_loader(folder: Path) -> None:
    data = load_data("digits")
    chain = ancestral.build_chain(ancestral.VAEConfig(network="mlp"), data.spec, train=data.seen())
    loader = DataLoader(TensorDataset(data.train.x, data.train.labels), batch_size=50, shuffle=True)
    training = ancestral.TrainingConfig(steps=30, evaluate_every=0)
    fitted = ancestral.fit(chain, loader, training, out="r", device="cpu")
    assert (fitted.step, fitted.records[-1]["images_seen"]) == (30, 1500)
    assert ancestral.evaluate(fitted.chain, data.test).elbo.mean > -300
    with pytest.raises(ValueError, match="0 to 16"):
        ancestral.fit(chain, DataLoader(data.train.x / 16, batch_size=50), training, device="cpu")
    with pytest.raises(ValueError, match="DataLoader"):
        ancestral.fit(chain, loader, training, out="r", device="cpu")
    assert call("info", "r").status == 0
    assert call("sample", "r", "--n", 2, "--out", "s.npy").status == 0
    assert told("evaluate", "r", "--data", "digits", "--n", 10)["n"] == 10


@CASES.add(
    "a run that Python made with build_chain and fit(…, out=…)",
    answer="every command accepts it",
)
def run_made_in_python(folder: Path) -> None:
    os.makedirs("pics")
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(f"pics/{i}.png")
    data = load_data("pics", reading=Reading(channels=1), validation=0.2)
    chain = ancestral.build_chain(
        ancestral.VAEConfig(network="mlp", hidden=(16,), latent_dims=2), data.spec, train=data.seen()
    )
    training = ancestral.TrainingConfig(steps=4, batch_size=8, evaluate_every=2)
    ancestral.fit(chain, data, training, out="r", device="cpu")
    found = told("evaluate", "r")
    assert found["elbo"]["mean"] == pytest.approx(ancestral.evaluate(chain, data.test).elbo.mean, rel=1e-6)
    assert len(scored("r", "--split", "all")) == 60
    assert call("sample", "r", "--n", 2, "--out", "s.npy").status == 0
    assert call("info", "r").status == 0
    assert call("train", "--resume", "r", "--steps", 6).status == 0
    assert told("info", "r")["step"] == 6
    config = json.loads(Path("r/config.json").read_text())
    assert (config["data"]["source"], config["data"]["channels"]) == ("pics", 1)


@CASES.add(
    "a run that Python made from arrays in memory", answer="commands that need the data ask for a file"
)
def run_from_memory(folder: Path) -> None:
    x = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = load_data(x)
    chain = ancestral.build_chain(
        ancestral.VAEConfig(network="mlp", hidden=(16,), latent_dims=2), data.spec, train=data.seen()
    )
    ancestral.fit(
        chain, data, ancestral.TrainingConfig(steps=4, batch_size=8, evaluate_every=0), out="r", device="cpu"
    )
    assert call("sample", "r", "--n", 2, "--out", "s.npy").status == 0
    answer = call("evaluate", "r")
    assert answer.status == 2
    assert "--data FILE" in answer.message
    np.save("x.npy", x[:, 0].numpy())
    assert told("evaluate", "r", "--data", "x.npy")["n"] == 12
    assert call("train", "--resume", "r", "--data", "x.npy", "--steps", 6).status == 0
