"""Write docs/speed.md from benchmarks/results/*.json; with --check, only say whether it is what they give.

python benchmarks/table.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "speed.md"
Record = dict[str, Any]

_HEAD = """# Speed, measured

Made by `benchmarks/table.py` from `benchmarks/results/*.json`; to change it, run the commands below and then
that. Each pair was taken in turns, A B A B …, in one run on one machine, each side in a process of its own
(where nothing else is said). A ratio is the median over the rounds, with the lowest and the highest.

- images/s: ours over theirs, more is better.
- MiB: the most that a process holds while it works beyond what it held after its imports; ours over theirs,
  less is better.
- s: theirs over ours, more is better.
- Parameters, and FLOPs of an image (for training, forward and backward), are counted: ours / theirs.
- "As shipped" is how a peer's users run it; "at its best" is the fastest of its combinations of channels-last
  memory and bf16 autocast, or that one under torch.compile; which, stands in parentheses.
- Whether bf16 helps is the machine's: processors with AMX, and AMD's with AVX512-BF16, multiply it three to
  four times as fast as fp32; others with AVX512-BF16 may take twice as long, and then both sides are fp32.
"""


def page(results: Path = RESULTS) -> str:
    """The text of docs/speed.md."""
    parts = [_HEAD]
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            # Of gpu_check.py, with more about the run than its figures.
            pairs = [record for record in found["figures"] if "peer" in record]
            if pairs:
                parts.append(_section("A short run on a GPU", pairs, _pairs(pairs)))
            continue
        records: list[Record] = found
        if any(record.get("name") == "scaling" for record in records):
            parts.append(_section("How cost grows", records, _scaling(records)))
        elif all("peer" in record for record in records):
            parts.append(_section(_title(records), records, _pairs(records)))
    return "\n".join(parts)


def _title(records: Sequence[Record]) -> str:
    name: str = records[0]["name"]
    return name.partition(":")[0]


def _section(title: str, records: Sequence[Record], body: Iterable[str]) -> str:
    lines = [f"## {title}", ""]
    commands = dict.fromkeys(record["command"] for record in records if "command" in record)
    if commands:
        lines += [*(f"    .venv-bench/bin/{command}" for command in commands), ""]
    for machine in dict.fromkeys(record["machine"] for record in records):
        rounds = {record.get("rounds", 0) for record in records if record["machine"] == machine}
        most = (
            f"; {'up to ' if len(rounds - {0, 1}) > 1 else ''}{max(rounds)} rounds" if max(rounds) > 1 else ""
        )
        version = records[0].get("our_version")
        of = f"ancestral {version} on " if version else ""
        lines.append(f"{of}{machine}{most}.")
    lines += dict.fromkeys(record["note"] for record in records if "note" in record)
    return "\n".join([*lines, "", *body, ""])


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [line(headings), line(["---"] * len(headings)), *(line(row) for row in rows)]


def _pairs(records: Sequence[Record]) -> list[str]:
    rows = []
    for record in records:
        unit = record["unit"]
        rows.append(
            [
                record["name"],
                f"{record['peer']} ({record['peer_version']})",
                f"{_figure(record.get('ours'))} {unit}",
                f"{_figure(record.get('theirs'))} {unit}",
                _ratio(record),
                _both(record.get("parameters"), 1e6, "M"),
                _both(record.get("flops"), 1e9, "G"),
            ]
        )
    body = _table(["what", "peer", "ours", "theirs", "ratio", "parameters", "FLOPs"], rows)
    for record in records:
        if "curves" in record:
            body += [
                "",
                f"{record['distance']}, {record['calls']} network calls.",
                "",
                *_curves(record["curves"]),
            ]
    return body


def _ratio(record: Record) -> str:
    if record["ratio"] is None:
        return "not reached"
    if record["low"] == record["high"]:
        return f"**{record['ratio']:.2f}**"
    return f"**{record['ratio']:.2f}** ({record['low']:.2f} … {record['high']:.2f})"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _both(values: Sequence[float | None] | None, scale: float, unit: str) -> str:
    if values is None:
        return "–"
    return " / ".join("–" if value is None else f"{value / scale:.3g} {unit}" for value in values)


def _curves(curves: dict[str, list[Record]]) -> list[str]:
    rows = [
        [side, f"{point['seconds']:,.0f}", f"{point['images']:,}", f"{point['distance']:.4g}"]
        for side, points in curves.items()
        for point in points
    ]
    return _table(["side", "seconds", "images", "distance"], rows)


def _scaling(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            f"{record['model']}, {record['what']}",
            record["against"],
            ", ".join(f"{value:,}" for value in record["values"]),
            *(f"{record[f'{part}_exponent']:.2f}" for part in ("seconds", "memory", "flops")),
        ]
        for record in records
    ]
    fit = "Exponents p of cost = c · size^p, fitted in log-log: nothing may grow faster than the FLOPs."
    headings = ["what", "against", "values", "time", "peak memory", "FLOPs"]
    return [fit, "", *_table(headings, rows)]


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/speed.md is not what benchmarks/results gives; run: python benchmarks/table.py")


if __name__ == "__main__":
    main()
