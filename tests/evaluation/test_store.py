"""Measurements in a folder: read where they are complete and of the same weights and examples, else made again."""

from __future__ import annotations

import json

import pytest
import torch

from ancestral.bounds import IwaeBound, elbo_bound
from ancestral.evaluation import evaluate
from ancestral.evaluation.store import Store, measure
from tiny import MODELS, built, images


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A chain, its data, a store, and a list to which every run of the loop adds the bounds that it computed."""
    data = images()
    chain = built(MODELS["vae-mlp"], data)
    computed = []

    from ancestral.evaluation import store as module

    plain = module.bounded_of

    def counting(chain, x, bounds, **options):
        computed.append([bound.name for bound in bounds])
        return plain(chain, x, bounds, **options)

    monkeypatch.setattr(module, "bounded_of", counting)
    return chain, data.test.x, Store(tmp_path / "measurements", "weights-1"), computed


def bounds_of(chain, samples=4):
    return [elbo_bound(chain), IwaeBound(samples)]


def test_what_is_stored_is_read_to_the_bit(case):
    chain, x, store, computed = case
    first = measure(chain, x, bounds_of(chain), store=store)
    again = measure(chain, x, bounds_of(chain), store=store)
    assert computed == [["path", "iwae"]]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.found.nats, b.found.nats)
        assert a.found.estimate == b.found.estimate
        assert (a.estimator, a.words, a.calls, a.seed, a.n) == (b.estimator, b.words, b.calls, b.seed, b.n)
    assert torch.equal(first[1].found.curve.effective, again[1].found.curve.effective)


def test_only_what_is_missing_is_computed(case):
    chain, x, store, computed = case
    alone = measure(chain, x, [elbo_bound(chain)], store=store)
    both = measure(chain, x, bounds_of(chain), store=store)
    assert computed == [["path"], ["iwae"]]
    assert torch.equal(alone[0].found.nats, both[0].found.nats)


@pytest.mark.parametrize(
    "other",
    [{"n": 5}, {"seed": 1}, {"split": "validation"}],
    ids=["n", "seed", "split"],
)
def test_another_key_is_another_measurement(other, case):
    chain, x, store, computed = case
    measure(chain, x, [elbo_bound(chain)], store=store)
    measure(chain, x, [elbo_bound(chain)], store=store, **other)
    assert len(computed) == 2


def test_other_weights_and_examples_are_measured_again(case):
    chain, x, store, computed = case
    measure(chain, x, [elbo_bound(chain)], store=store)
    measure(chain, x, [elbo_bound(chain)], store=Store(store.folder, "weights-2"))
    measure(chain, x.flip(0), [elbo_bound(chain)], store=store)
    assert len(computed) == 3


def test_enough_takes_larger_measurements_of_the_same_examples(case):
    chain, x, store, computed = case
    measure(chain, x, bounds_of(chain, samples=8), store=store)
    found = measure(chain, x, bounds_of(chain, samples=4), store=store, n=5, enough=True)
    assert len(computed) == 1
    assert [one.n for one in found] == [len(x), len(x)]
    assert found[1].estimator["samples"] == 8
    measure(chain, x, bounds_of(chain, samples=16), store=store, n=5, enough=True)
    assert len(computed) == 2, "fewer samples are not enough"


def test_enough_never_mixes_bounds_of_different_examples(case):
    chain, x, store, computed = case
    measure(chain, x, [elbo_bound(chain)], store=store)
    measure(chain, x, [IwaeBound(4)], store=store, n=7)
    found = measure(chain, x, bounds_of(chain), store=store, n=5, enough=True)
    assert len(computed) == 3
    assert [one.n for one in found] == [5, 5]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_file_is_measured_again(suffix, damage, case, caplog):
    chain, x, store, computed = case
    first = measure(chain, x, [elbo_bound(chain)], store=store)[0]
    (file,) = store.folder.glob(f"*{suffix}")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:20])
    else:
        file.unlink()
    again = measure(chain, x, [elbo_bound(chain)], store=store)[0]
    assert len(computed) == 2
    assert torch.equal(first.found.nats, again.found.nats)
    told = [record for record in caplog.records if str(store.folder) in record.getMessage()]
    assert bool(told) is not (suffix == ".json" and damage == "removed")


def test_a_folder_that_cannot_be_written_is_told_and_costs_no_figure(case, tmp_path, caplog):
    chain, x, _, _ = case
    (tmp_path / "file").write_text("")
    found = measure(chain, x, [elbo_bound(chain)], store=Store(tmp_path / "file" / "below", "weights"))
    assert found[0].n == len(x)
    assert str(tmp_path / "file" / "below") in caplog.text


def test_evaluate_reads_from_the_store(case):
    chain, x, store, computed = case
    first = evaluate(chain, x, bound="iwae", samples=8, store=store)
    again = evaluate(chain, x, bound="iwae", samples=8, store=store)
    assert len(computed) == 1
    assert json.dumps(first.json()) == json.dumps(again.json())


def test_another_batch_size_is_the_same_measurement(case):
    chain, x, store, computed = case
    (first,) = measure(chain, x, [elbo_bound(chain)], store=store)
    (again,) = measure(chain, x, [elbo_bound(chain)], store=store, batch_size=3)
    assert len(computed) == 1
    assert torch.equal(first.found.nats, again.found.nats)
