"""docs/speed.md is what the recorded results give, and every figure of a record is in it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAIR = {
    "name": "Sorting, 10 numbers",
    "peer": "bogosort, as shipped",
    "peer_version": "1.2",
    "ratio": 2.345,
    "low": 2.0,
    "high": 2.5,
    "ours": 1234.4,
    "theirs": 0.5264,
    "unit": "images/s",
    "machine": "Quick 9000, 2 threads, torch 9",
    "our_version": "0.1.0",
    "parameters": [1_614_305, 1_623_169],
    "flops": [2.47e9, None],
    "rounds": 9,
    "command": "python benchmarks/sorting.py",
}
GROWTH = {
    "name": "scaling",
    "model": "ddpm",
    "what": "training step",
    "against": "batch",
    "values": [8, 16],
    "seconds_exponent": 0.987,
    "memory_exponent": 0.5,
    "flops_exponent": 1.0,
    "machine": "Quick 9000",
}


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_results_give(table):
    assert (ROOT / "docs" / "speed.md").read_text(encoding="utf-8") == table.page()


def test_a_record_is_a_row(table, tmp_path):
    memory = {**PAIR, "name": "Sorting, 10 numbers: peak memory", "ratio": 0.5, "low": 0.5, "high": 0.5}
    (tmp_path / "sorting.json").write_text(json.dumps([PAIR, memory]))
    text = table.page(tmp_path)
    row = (
        "| Sorting, 10 numbers | bogosort, as shipped (1.2) | 1,234 images/s | 0.526 images/s "
        "| **2.35** (2.00 … 2.50) | 1.61 M / 1.62 M | 2.47 G / – |"
    )
    assert row.replace("2.35", f"{2.345:.2f}") in text
    assert "| **0.50** |" in text
    assert "    .venv-bench/bin/python benchmarks/sorting.py" in text
    assert "ancestral 0.1.0 on Quick 9000, 2 threads, torch 9; 9 rounds." in text
    assert text.count("## ") == 1


def test_a_goal_that_was_not_reached_is_told(table, tmp_path):
    point = {"seconds": 60.0, "images": 6400, "distance": 12.3456}
    record = {
        **{key: value for key, value in PAIR.items() if key not in ("ours", "low", "high")},
        "ratio": None,
        "unit": "s",
        "distance": "Fréchet",
        "calls": 20,
        "curves": {"theirs": [point], "ours": []},
    }
    (tmp_path / "time.json").write_text(json.dumps([record]))
    text = table.page(tmp_path)
    assert "| not reached |" in text
    assert "| theirs | 60 | 6,400 | 12.35 |" in text


def test_growth_is_a_table_of_exponents(table, tmp_path):
    (tmp_path / "scaling.json").write_text(json.dumps([GROWTH]))
    assert "| ddpm, training step | batch | 8, 16 | 0.99 | 0.50 | 1.00 |" in table.page(tmp_path)
    # What is neither a pair nor growth has a page of its own.
    (tmp_path / "other.json").write_text(json.dumps([{"model": "vae"}]))
    assert table.page(tmp_path).count("## ") == 1


def test_a_short_run_on_a_gpu_has_a_section(table, tmp_path):
    (tmp_path / "gpu_check.json").write_text(json.dumps({"figures": [PAIR, {"name": "equal"}], "tests": {}}))
    text = table.page(tmp_path)
    assert "## A short run on a GPU" in text
    assert text.count("bogosort") == 1
    (tmp_path / "gpu_check.json").write_text(json.dumps({"figures": []}))
    assert "##" not in table.page(tmp_path)
