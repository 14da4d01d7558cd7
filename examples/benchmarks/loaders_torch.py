"""PyTorch's DataLoader and Grain, on the data that fnlamp's loader reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

Epoch = Callable[[int], object]
START = "forkserver"
"""Torch's way to start workers. A plain fork is unsafe with JAX's threads; workers are kept, so the start is not timed."""


def over_arrays(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, batch_size: int, workers: int) -> Epoch:
    """Shuffled epochs of a TensorDataset."""
    rows = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return _epochs(_loader(rows, batch_size, workers), len(x))


def over_images(images: Dataset[Any], *, batch_size: int, workers: int) -> Epoch:
    """Shuffled epochs of a data set of `(image, label)`, which the default collation converts to tensors."""
    return _epochs(_loader(images, batch_size, workers), len(images))


def by_grain(images: Any, *, batch_size: int, workers: int) -> Epoch:
    """Shuffled epochs of a data set, by worker processes that are kept; the last batch is filled with rows of the next epoch.

    Grain treats this as one long epoch: at the start of a round it has a few batches ready, which only favours Grain.
    """
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain reads its own flags, which are not set
    batches = len(images) // batch_size
    rows = grain.MapDataset.source(images).seed(0).shuffle().repeat().batch(batch_size)
    ahead = rows.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator: Iterator[Any] = iter(ahead)

    def epoch(number: int) -> None:
        for _ in range(batches):
            image, label = next(iterator)
            assert len(image) == len(label) == batch_size

    return epoch


def _loader(rows: Dataset[Any], batch_size: int, workers: int) -> DataLoader[Any]:
    stay: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": START} if workers else {}
    return DataLoader(rows, batch_size=batch_size, shuffle=True, num_workers=workers, **stay)


def _epochs(loader: DataLoader[Any], rows: int) -> Epoch:
    def epoch(number: int) -> None:
        seen = 0
        for features, target in loader:
            assert len(features) == len(target)
            seen += len(target)
        assert seen == rows

    return epoch
