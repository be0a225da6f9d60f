"""The README's Python runs as it stands, and what it shows of a chain of one's own is true."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parent.parent / "README.md"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["samples"].shape == (64, 1, 8, 8)
    # Better than independent pixels, and with log p(x) above the bound.
    result = names["result"]
    assert result.bits_per_dim.mean < 2.42
    assert result.log_likelihood.mean > result.elbo.mean

    ancestral = names["ancestral"]
    data = ancestral.load_data("digits", binarize="threshold")
    assert names["bits"].spec == data.spec
    trained = ancestral.evaluate(names["own"], data.test.x).bits_per_dim
    # Below the bits that each pixel takes by itself, and a code length.
    assert 0.3 < trained.mean < 0.75
    chain = names["MyVAE"](data.spec)
    before = ancestral.evaluate(chain, data.test.x).elbo.mean
    ancestral.fit(chain, data, ancestral.TrainingConfig(steps=200, learning_rate=1e-2))
    after = ancestral.evaluate(chain, data.test.x, bound="iwae", samples=20)
    assert after.elbo.mean > before + 5.0
    assert after.log_likelihood.mean > after.elbo.mean
    assert set(torch.unique(chain.sample(8)).tolist()) <= {0, 1}


def test_every_file_the_readme_points_to_exists():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / target).exists(), target
