"""A process that decodes: requests come in on standard input, pixels go out on standard output.

A request is a line of JSON, {"form": …, "paths": […]}. Its answer is a line of JSON with one entry for each
path, then the pixels of the images, one after another. An entry is {"shape", "type"} and, where
there is more to say, "more": [remarks, white, unread]; or {"bad": why} or {"form": one that suits the image}.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np

from ancestral.data.readers.imagefiles.decode import Decoded, Form, OtherForm, decode
from ancestral.data.readers.imagefiles.errors import BadImage


@dataclass(frozen=True)
class Unread:
    """What is known of a file in the place of its pixels."""

    why: str | None = None
    """Why it cannot be read, where it cannot."""
    form: Form | None = None
    """A form that suits it, where the one that was given does not."""


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


def attempt(path: str, form: Form) -> Decoded | Unread:
    """The images of a file, or why there are none."""
    try:
        return decode(path, form)
    except BadImage as error:
        return Unread(why=str(error))
    except OtherForm as other:
        return Unread(form=other.form)


def read_answer(source: BinaryIO) -> list[Decoded | Unread]:
    """What ``answer`` wrote. ``EOFError`` where it ends too soon."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return [_result(entry, source) for entry in json.loads(line)]


def _entry(result: Decoded | Unread) -> dict[str, Any]:
    if isinstance(result, Decoded):
        entry: dict[str, Any] = {"shape": result.pixels.shape, "type": result.pixels.dtype.str}
        if result.remarks or result.white != 255 or result.unread:
            entry["more"] = (result.remarks, result.white, result.unread)
        return entry
    return {"bad": result.why} if result.form is None else {"form": asdict(result.form)}


def _result(entry: dict[str, Any], source: BinaryIO) -> Decoded | Unread:
    if "form" in entry:
        return Unread(form=Form(**entry["form"]))
    if "bad" in entry:
        return Unread(why=entry["bad"])
    pixels = np.empty(entry["shape"], entry["type"])
    view = pixels.reshape(-1).view(np.uint8).data
    while view:
        got = source.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        view = view[got:]
    remarks, white, unread = entry.get("more", ((), 255, 0))
    return Decoded(pixels, tuple(remarks), white, unread)
