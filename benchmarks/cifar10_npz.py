"""Write CIFAR-10 as the .npz that --data takes: x_train, y_train, x_test, y_test, the images (N, 32, 32, 3).

python benchmarks/cifar10_npz.py FOLDER OUT.npz

FOLDER holds either the original's binary batches (data_batch_1.bin … data_batch_5.bin, test_batch.bin), or
class folders of pictures, train/CLASS/… and test/CLASS/…; pictures that were stored as JPEG are not the
original's values, and figures on them are no figures on CIFAR-10.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in a binary batch: its class, then the three channels' rows."""


def batches(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and classes (N,) of binary batches, in the order of the files."""
    records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, RECORD) for file in files])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same of folders of pictures, one for each class; classes and pictures in the order of names."""
    from PIL import Image

    images, labels = [], []
    for label, kind in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(path for path in kind.iterdir() if path.is_file()):
            with Image.open(file) as picture:
                images.append(np.asarray(picture.convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels, np.uint8)


def write(folder: Path, out: Path) -> None:
    """Read whichever of the two the folder holds, and write the .npz."""
    train = sorted(folder.glob("data_batch_*.bin"))
    if train:
        (x, y), (x_test, y_test) = batches(train), batches([folder / "test_batch.bin"])
    else:
        (x, y), (x_test, y_test) = pictures(folder / "train"), pictures(folder / "test")
    np.savez(out, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    print(f"{out}: {len(x):,} training images of {x.shape[1:]}, {len(x_test):,} test images")


def main() -> None:
    """Read the folder, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write(options.folder, options.out)


if __name__ == "__main__":
    main()
