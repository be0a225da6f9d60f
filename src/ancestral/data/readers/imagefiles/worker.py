"""A process that decodes: requests come in on standard input, pixels go out on standard output.

A request is a line of JSON, {"form": …, "paths": […]}. Its answer is a line of JSON with one entry for each
path, then the pixels of the images, one after another. An entry is {"shape", "remarks"}, {"bad": why} or
{"colour": true}.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ancestral.data.readers.imagefiles.decode import BadImage, Decoded, Form, FoundColour, decode


@dataclass(frozen=True)
class Refused:
    """What is known of an image in the place of its pixels."""

    why: str | None
    """Why it cannot be read; None for one in colour where grey ones were expected."""


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides when to stop
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        request = json.loads(line)
        answer(request["paths"], Form(**request["form"]), sink)
        sink.flush()


def answer(paths: list[str], form: Form, sink: BinaryIO) -> None:
    """Write the answer to one request."""
    results = [attempt(path, form) for path in paths]
    sink.write(json.dumps([_entry(result) for result in results]).encode() + b"\n")
    for result in results:
        if isinstance(result, Decoded):
            sink.write(np.ascontiguousarray(result.pixels).data)


def attempt(path: str, form: Form) -> Decoded | Refused:
    """The image of a file, or why there is none."""
    try:
        return decode(path, form)
    except BadImage as error:
        return Refused(str(error))
    except FoundColour:
        return Refused(None)


def read_answer(source: BinaryIO) -> list[Decoded | Refused]:
    """What ``answer`` wrote. ``EOFError`` where it ends too soon."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return [_result(entry, source) for entry in json.loads(line)]


def _entry(result: Decoded | Refused) -> dict[str, Any]:
    if isinstance(result, Decoded):
        return {"shape": result.pixels.shape, "remarks": result.remarks}
    return {"colour": True} if result.why is None else {"bad": result.why}


def _result(entry: dict[str, Any], source: BinaryIO) -> Decoded | Refused:
    if "shape" not in entry:
        return Refused(entry.get("bad"))
    pixels = np.empty(entry["shape"], np.uint8)
    view = pixels.reshape(-1).data
    while view:
        got = source.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        view = view[got:]
    return Decoded(pixels, tuple(entry["remarks"]))
