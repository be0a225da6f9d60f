"""Data sets larger than the memory there is: read, hashed, trained on and evaluated from files."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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


ROWS, COLUMNS = 800_000, 100
"""Of the table: 305 MiB of float32."""
TABLE_HEADROOM = 240
"""MiB, as above, with Arrow's threads and what it reads ahead."""

TABLE_SCRIPT = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch._dynamo, pyarrow.compute, pyarrow.csv, pyarrow.parquet
from ancestral import TrainingConfig, VAEConfig, build_chain, evaluate, fit
from ancestral.data import Rows, load_data, sources
from ancestral.data.readers import tables

def private():
    return int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

limit = private() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sources.MAPPED_ABOVE = 2**20
data = load_data(sys.argv[1])
assert isinstance(data.train.x, Rows)
chain = build_chain(VAEConfig(network="mlp", hidden=(16,), latent_dims=2), data.spec, train=data.seen())
training = TrainingConfig(steps=50, batch_size=64, evaluate_every=0)
assert fit(chain, data, training, device="cpu").finished
assert evaluate(chain, data.test.x[:4000], batch_size=100).n == 4000
# The limit is one: the same table does not fit into memory.
tables.CACHED_ABOVE = 2**60
try:
    load_data(sys.argv[1])
except MemoryError as error:
    print("refused:", error)
"""


def written_table(path: Path) -> Path:
    """A table of as many rows and columns, CSV or Parquet by its name."""
    names = [f"c{i}" for i in range(COLUMNS)]
    digits = np.random.default_rng(0).integers(0, 10, (1_000, COLUMNS))
    if path.suffix == ".csv":
        lines = "".join(",".join(map(str, row)) + "\n" for row in digits.tolist())
        with path.open("w") as file:
            file.write(",".join(names) + "\n")
            for _ in range(ROWS // len(digits)):
                file.write(lines)
    else:
        group = pa.table({name: digits[:, i] / 7 for i, name in enumerate(names)})
        with pq.ParquetWriter(path, group.schema) as writer:
            for _ in range(ROWS // len(digits) // 20):
                writer.write_table(pa.concat_tables([group] * 20))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such limit, or no /proc")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_larger_than_memory_trains_from_the_cache(form: str, tmp_path: Path) -> None:
    path = written_table(tmp_path / f"table.{form}")
    command = [sys.executable, "-c", TABLE_SCRIPT, str(path), str(TABLE_HEADROOM)]
    # Arrow's allocator takes 1 GiB of addresses, of which it would say that all of it is in use.
    environment = {"ANCESTRAL_CACHE": str(tmp_path / "cache"), "MIMALLOC_ARENA_EAGER_COMMIT": "0"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **environment}
    )
    assert ended.returncode == 0, ended.stderr
    (entry,) = (tmp_path / "cache").iterdir()
    assert (entry / "train_x.npy").stat().st_size > 1.2 * TABLE_HEADROOM * 2**20
    shutil.rmtree(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("refused: "), ended.stdout


PICTURES = 1_700
"""Of 256×256 in colour: 319 MiB."""


def plain_png(blue: int, side: int = 256) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (0, 0, blue)).save(file, "png")
    return file.getvalue()


HUB_SCRIPT = """
import re, sys
from pathlib import Path
import torch._dynamo, pyarrow.compute, datasets
from ancestral.data import Reading, Rows, load_data, sources

def used():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

sources.MAPPED_ABOVE = 2**20
# A first one, so that all that is imported is.
load_data("hf:" + sys.argv[2])
peaks = [used()]
data = load_data("hf:" + sys.argv[1], reading=Reading(progress=lambda done, total: peaks.append(used())))
assert isinstance(data.train.x, Rows)
assert len(peaks) > 10
assert data.train.x.shape[1:] == (3, 256, 256)
print(max(peaks) - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no /proc")
def test_a_data_set_of_hugging_faces_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    """Told by what is in use, as the library's threads take addresses by the gigabyte."""
    pytest.importorskip("datasets")
    for name, count in (("large", PICTURES), ("small", 9)):
        (tmp_path / name).mkdir()
        cells = [{"bytes": plain_png(i % 256), "path": None} for i in range(count)]
        pq.write_table(pa.table({"image": cells}), tmp_path / name / "train.parquet")
    command = [sys.executable, "-c", HUB_SCRIPT, str(tmp_path / "large"), str(tmp_path / "small")]
    environment = {**os.environ, "ANCESTRAL_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    shutil.rmtree(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < PICTURES * 256 * 256 * 3 / 2**20 / 2


FOLDER_SCRIPT = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch._dynamo, PIL.Image
from ancestral import TrainingConfig, VAEConfig, build_chain, evaluate, fit
from ancestral.data import Rows, load_data, sources

def private():
    return int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

limit = private() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sources.MAPPED_ABOVE = 2**20
data = load_data(sys.argv[1], validation=0.0)
assert isinstance(data.train.x, Rows)
assert data.train.x.shape[1:] == (3, 128, 128)
chain = build_chain(VAEConfig(network="mlp", hidden=(4,), latent_dims=2), data.spec, train=data.seen())
training = TrainingConfig(steps=10, batch_size=4, evaluate_every=0, sample_every=0)
assert fit(chain, data, training, device="cpu").finished
assert evaluate(chain, data.test.x[:20], batch_size=4).n == 20
# The limit is one: the same images do not fit into memory.
sources.MAPPED_ABOVE = 2**40
try:
    load_data(sys.argv[1])
except (RuntimeError, MemoryError) as error:
    print("refused:", error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such limit, or no /proc")
def test_a_folder_of_images_larger_than_memory_trains_from_the_cache(tmp_path: Path) -> None:
    """Small files that become 319 MiB of pixels; the processes that decode them are under the limit too."""
    (tmp_path / "pictures").mkdir()
    for number in range(4 * PICTURES):
        (tmp_path / "pictures" / f"{number:04}.png").write_bytes(plain_png(number % 256, 128))
    command = [sys.executable, "-c", FOLDER_SCRIPT, str(tmp_path / "pictures"), str(TABLE_HEADROOM)]
    environment = {**os.environ, "ANCESTRAL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    shutil.rmtree(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("refused: "), ended.stdout
