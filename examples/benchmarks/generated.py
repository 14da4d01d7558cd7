"""The files of the loading benchmark: real ones if a folder has them, else generated from a seed in the same sizes."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

IDX = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}
"""MNIST's files and the shapes of their arrays, all uint8."""
CSV = "mnist_test.csv.gz"
COLUMNS = 28 * 28


def mnist_files(mnist: Path | None, work: Path, scale: float) -> tuple[dict[str, Path], str]:
    """The four IDX files, and their origin."""
    if mnist is not None and all((mnist / name).exists() for name in IDX):
        return {name: mnist / name for name in IDX}, "MNIST"
    for seed, (name, shape) in enumerate(IDX.items()):
        if not (work / name).exists():
            rows = max(16, int(shape[0] * scale))
            values = _strokes(rows, seed) if len(shape) == 3 else np.random.default_rng(seed).integers(0, 10, rows, np.uint8)
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (work / name).write_bytes(gzip.compress(header + values.tobytes(), 6))
    return {name: work / name for name in IDX}, "generated, in MNIST's sizes"


def csv_file(mnist: Path | None, work: Path, scale: float) -> tuple[Path, str]:
    """A label and 784 pixels in each of 10,000 rows, packed with gzip, and its origin."""
    if mnist is not None and (mnist / CSV).exists():
        return mnist / CSV, "MNIST"
    path = work / CSV
    if not path.exists():
        rows = max(16, int(10_000 * scale))
        names = [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)]
        labels = np.random.default_rng(0).integers(0, 10, (rows, 1), np.uint8)
        table = np.concatenate([labels, _strokes(rows, 0).reshape(rows, COLUMNS)], axis=1)
        text = "\n".join([",".join(["label", *names]), *(",".join(map(str, row)) for row in table.tolist()), ""])
        path.write_bytes(gzip.compress(text.encode(), 6))
    return path, "generated, in the size of MNIST's test set"


def _strokes(rows: int, seed: int) -> Array:
    """Bright strokes on black, about as many and as compressible as those of handwritten digits."""
    rng = np.random.default_rng(seed)
    grid = np.arange(28, dtype=np.float32)
    images = np.zeros((rows, 28, 28), np.uint8)
    for begin in range(0, rows, 1000):
        part = images[begin : begin + 1000]
        y, x, slope = (rng.uniform(low, high, (len(part), 3, 1, 1)) for low, high in ((8, 20), (8, 20), (-1.5, 1.5)))
        across, along = grid[None, None, :, None] - y, grid[None, None, None, :] - x
        distance = np.abs(across - slope * along).min(axis=1)
        near = (np.abs(grid[:, None] - 13.5) < 10) & (np.abs(grid[None, :] - 13.5) < 8)
        value = np.clip(2.2 - distance, 0, 1) * 255 - rng.integers(0, 40, part.shape)
        part[:] = np.where(near, np.clip(value, 0, 255), 0)
    return images


def jpeg_folder(work: Path, count: int, size: int) -> Path:
    """A folder of ten classes with `count` JPEG images in all: smooth noise in all octaves, as in photographs."""
    from PIL import Image

    root = work / f"jpeg-{count}-{size}"
    if root.exists():
        return root
    made = Path(f"{root}-unfinished")
    shutil.rmtree(made, ignore_errors=True)
    rng = np.random.default_rng(size)
    for label in range(10):
        (made / f"class-{label}").mkdir(parents=True)
    for number in range(count):
        image, side = np.full((size, size, 3), 128, np.float32), 2
        while side <= size:
            # Most of the noise is common to the three colours.
            noise = 0.8 * rng.integers(-128, 128, (side, side, 1)) + 0.3 * rng.integers(-128, 128, (side, side, 3))
            small = Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8))
            octave = small.resize((size, size), Image.Resampling.BICUBIC)
            image += (np.asarray(octave, np.float32) - 128) * (0.9 * (2 / side) ** 0.65)
            side *= 2
        picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        picture.save(made / f"class-{number % 10}" / f"{number:06}.jpg", quality=90)
    made.rename(root)
    return root


class Decoded:
    """The images of files, decoded by Pillow on access: the usual plain code."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [os.fspath(path) for path in files]
        self.labels = [int(path.parent.name.rpartition("-")[2]) for path in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        from PIL import Image

        with Image.open(self.files[index]) as image:
            return np.array(image.convert("RGB")), self.labels[index]


def rows_in_memory(rows: int) -> tuple[Array, Array]:
    """Float32 features and int32 labels; 60,000 rows have the size of MNIST's training set."""
    rng = np.random.default_rng(0)
    return rng.random((rows, COLUMNS), np.float32), rng.integers(0, 10, rows, np.int32)


def mapped_file(work: Path, gigabytes: float) -> tuple[Path, Path]:
    """An NPY file of float32 rows, larger than the memory that it may take, and one of their labels."""
    rows = int(gigabytes * 1e9) // (4 * COLUMNS)
    features, labels = work / f"features-{rows}.npy", work / f"labels-{rows}.npy"
    if not labels.exists():
        shape = np.lib.format.header_data_from_array_1_0(np.empty((0, COLUMNS), np.float32)) | {"shape": (rows, COLUMNS)}
        found = []
        with features.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, shape)
            for block in _blocks(rows):
                file.write(block.data)
                found.append(block[:, :10].argmax(axis=1).astype(np.int32))
        np.save(labels, np.concatenate(found))
    return features, labels


def _blocks(rows: int) -> Iterator[Array]:
    rng = np.random.default_rng(0)
    for begin in range(0, rows, 20_000):
        yield rng.random((min(20_000, rows - begin), COLUMNS), np.float32)
