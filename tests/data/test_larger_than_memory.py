"""A data set larger than the memory there is: hashed, trained on and evaluated from its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COUNT = 320_000
"""Images of 32×32 bytes: 312 MiB."""
HEADROOM = 160
"""MiB of private memory (a mapped file is none) that may be added to what the imports take."""

SCRIPT = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch._dynamo
from ancestral import TrainingConfig, VAEConfig, build_chain, evaluate, fit
from ancestral.data import Rows, content_hash, load_data, sources

def private():
    return int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

limit = private() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sources.MAPPED_ABOVE = 2**20
data = load_data(sys.argv[1])
assert isinstance(data.train.x, Rows)
content_hash(data)
config = VAEConfig(network="mlp", hidden=(16,), latent_dims=2)
chain = build_chain(config, data.spec, train=data.seen())
assert chain.scaling.centre.max() > chain.scaling.centre.min()
training = TrainingConfig(steps=50, batch_size=64, evaluate_every=0)
assert fit(chain, data, training, device="cpu").finished
assert evaluate(chain, data.test.x[:4000], batch_size=100).n == 4000
# The limit is one: what reads the file into memory fails.
sources.MAPPED_ABOVE = 2**40
try:
    load_data(sys.argv[1])
except (RuntimeError, MemoryError) as error:
    print("refused:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such limit, or no /proc")
def test_a_data_set_larger_than_memory_trains_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    # Sparse: black but for a few.
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(COUNT, 32, 32))
    x[::1000] = np.random.default_rng(0).integers(0, 256, (COUNT // 1000, 32, 32), dtype=np.uint8)
    assert path.stat().st_size > 1.9 * HEADROOM * 2**20
    command = [sys.executable, "-c", SCRIPT, str(path), str(HEADROOM)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("refused: "), ended.stdout
