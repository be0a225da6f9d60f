"""Measurements of a run, stored beside its checkpoints: what was measured once is read afterwards.

Each is a pair of files with one name: ``NAME.json`` says of which weights and examples it is and how it was
computed, and ``NAME.safetensors`` has the bound of every example. Files are written whole or not at all, the
JSON last, so that a measurement is complete where its JSON is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.atomic import replacing, write_text_atomically
from ancestral._internal.tensors import load_tensors
from ancestral.bounds import Bound
from ancestral.bounds.stored import flattened, restored
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.data import Examples, Split, chosen, examples_hash
from ancestral.evaluation.loop import BLOCK, Measurement, Progress, bounded_of, entered

FORMAT = 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """One measurement in a store."""

    path: Path
    facts: dict[str, Any]

    @property
    def key(self) -> dict[str, Any]:
        """What it is of."""
        return dict(self.facts["key"])

    def tensors(self) -> dict[str, Tensor] | None:
        """Its tensors; None, with a warning, where they cannot be read."""
        try:
            return load_tensors(self.path.with_suffix(".safetensors"))
        except (OSError, SafetensorError) as error:
            _LOG.warning("%s cannot be read (%s); it is measured again", self.path, error)
            return None

    def measurement(self) -> Measurement | None:
        """The bound that it is; None, with a warning, where it cannot be read."""
        tensors, facts = self.tensors(), self.facts
        if tensors is None:
            return None
        try:
            return Measurement(
                restored(tensors, facts["found"]),
                facts["estimator"],
                facts["words"],
                facts["calls"],
                facts["seconds"],
                facts["key"]["seed"],
            )
        except (KeyError, TypeError) as error:
            _LOG.warning("%s is incomplete (%s); it is measured again", self.path, error)
            return None


@dataclass(frozen=True)
class Store:
    """The measurements of one set of weights in a folder."""

    folder: Path
    weights: str
    """A digest of the weights, as their checkpoint has it."""

    def find(self, key: dict[str, Any]) -> Stored | None:
        """What was stored under ``key``; None where nothing is."""
        return self._read(self._path(key), key)

    def keep(
        self, key: dict[str, Any], facts: dict[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> None:
        """Store facts, ready for JSON, and tensors under ``key``, which names its kind as ``what``.

        Where the folder cannot be written, a warning is logged.
        """
        path = self._path(key)
        text = json.dumps({"format": FORMAT, "weights": self.weights, "key": key, **facts}, indent=1)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if tensors is not None:
                with replacing(path.with_suffix(".safetensors")) as temporary:
                    save_file(tensors, temporary)
            write_text_atomically(path, text + "\n")
        except OSError as error:
            _LOG.warning("%s: the measurement is not stored (%s)", path, error.strerror or error)

    def find_bound(self, key: dict[str, Any]) -> Measurement | None:
        """The measurement of a bound that was stored under ``key``."""
        stored = self.find(key)
        return None if stored is None else stored.measurement()

    def keep_bound(self, key: dict[str, Any], measured: Measurement) -> None:
        """Store the measurement of a bound under ``key``."""
        tensors, facts = flattened(measured.found)
        described = {
            "estimate": measured.found.estimate.json(),
            "estimator": measured.estimator,
            "words": measured.words,
            "calls": measured.calls,
            "seconds": measured.seconds,
            "found": facts,
        }
        self.keep(key, described, tensors)

    def all(self) -> Iterator[Stored]:
        """Everything that is stored of these weights."""
        for path in sorted(self.folder.glob("*.json")):
            stored = self._read(path)
            if stored is not None:
                yield stored

    def _path(self, key: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps([self.weights, key], sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key['what']}-{digest[:16]}.json"

    def _read(self, path: Path, key: dict[str, Any] | None = None) -> Stored | None:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            ours = facts["format"] == FORMAT and facts["weights"] == self.weights
            return Stored(path, dict(facts)) if ours and key in (None, facts["key"]) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s cannot be read (%s); it is measured again", path, error)
            return None


def measure(
    chain: Chain,
    x: Split | Examples | Given,
    bounds: Sequence[Bound],
    *,
    store: Store | None,
    n: int | None = None,
    split: str = "test",
    seed: int = 0,
    batch_size: int = BLOCK,
    enough: bool = False,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Each bound on ``n`` of x (``Split.some``; None for all): read from ``store``, or measured and stored.

    With ``enough``, a stored bound of the same kind from at least as many examples and samples does as well.
    ``split`` is what the examples are called. Raises as ``loop.bounded``.
    """
    checks.integer("batch_size", batch_size, low=1)
    for bound in bounds:
        bound.check(chain)
    examples = entered(chain, x)
    whole = examples if isinstance(examples, Split) else Split(examples)
    some = whole.some(n)
    if store is None:
        return bounded_of(chain, some, bounds, batch_size=batch_size, seed=seed, progress=progress)
    digest = _digest(chain, some)
    keys = [
        {
            "what": bound.name,
            "split": split,
            "n": len(some),
            "chosen": chosen(len(some), len(whole)),
            "examples": digest,
            "seed": seed,
            "block": BLOCK,
            "bound": bound.json(),
        }
        for bound in bounds
    ]
    found = [store.find_bound(key) for key in keys]
    if enough and None in found:
        found = _at_least(chain, store, whole, keys, bounds) or found
    missing = [index for index, one in enumerate(found) if one is None]
    if missing:
        measured = bounded_of(
            chain,
            some,
            [bounds[index] for index in missing],
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        for index, one in zip(missing, measured, strict=True):
            store.keep_bound(keys[index], one)
            found[index] = one
    return [one for one in found if one is not None]


def _at_least(
    chain: Chain,
    store: Store,
    x: Split,
    keys: Sequence[dict[str, Any]],
    bounds: Sequence[Bound],
) -> list[Measurement | None] | None:
    """Stored bounds of the same kinds, all of the same examples, with no fewer examples, samples and levels.

    None where there is no such set, as bounds of different examples do not belong into one table.
    """
    found, everything = [], list(store.all())
    for key, bound in zip(keys, bounds, strict=True):
        by_size: dict[int, Stored] = {}
        for stored in everything:
            if _suffices(stored.key, key, bound):
                by_size.setdefault(stored.key["n"], stored)
        found.append(by_size)
    for n in sorted(set.intersection(*map(set, found)), reverse=True):
        if n > len(x):
            continue
        digest = _digest(chain, x.some(n))
        enough = [by_size[n] for by_size in found]
        if all(stored.key["examples"] == digest for stored in enough):
            return [stored.measurement() for stored in enough]
    return None


def _suffices(there: dict[str, Any], key: dict[str, Any], bound: Bound) -> bool:
    """Whether what is stored is of the kind that ``key`` asks for, and from as many numbers."""
    return (
        "bound" in there
        and there["what"] == key["what"]
        and there["split"] == key["split"]
        and there["n"] >= key["n"]
        and all(
            there["bound"].get(name, 0) >= value
            for name, value in bound.json().items()
            if name in ("samples", "levels", "temperatures", "leapfrog")
        )
    )


def _digest(chain: Chain, x: Split) -> str:
    """Of the examples, and of their labels where the chain is conditioned on them."""
    labels = x.labels if chain.conditional else None
    return examples_hash(x.x) + ("" if labels is None else f" {examples_hash(labels)}")
