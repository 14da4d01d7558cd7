"""The speed of batches from memory and from folders of images, compared with PyTorch's DataLoader and Grain."""

from __future__ import annotations

import importlib.util
import statistics
from typing import Any

import loaders_torch
import numpy as np
from generated import Array, Decoded, jpeg_folder, rows_in_memory
from paired import Contestant, Finding, Rounds, ratios, take_turns
from reading import value
from terms import Given, Outcome

from fnlamp import data, stream
from fnlamp.effect import Effect

WORKERS = 2


def _epoch(loader: Any, rows: int) -> None:
    """All batches of one epoch, on the host."""

    def consume(batches: stream.BatchStream) -> int:
        seen = 0
        for features, target in stream.items(batches):
            assert len(features) == len(target)
            seen += len(target)
        return seen

    assert value(loader.use(lambda batches: Effect.suspend(lambda: consume(batches)))) == rows


def memory(given: Given) -> Outcome:
    """Batches of 128 of 60,000 rows of 784 numbers, shuffled: float32, and bytes."""
    floats, labels = rows_in_memory(int(60_000 * given.scale))
    of_each = [_from_memory(given, dtype, floats, labels) for dtype in ("float32", "uint8")]
    rates = {name: rate for outcome in of_each for name, rate in outcome.figures["rows per second"].items()}
    seconds = {name: rounds for outcome in of_each for name, rounds in outcome.figures["seconds"].items()}
    return Outcome([f for outcome in of_each for f in outcome.findings], {"rows per second": rates, "seconds": seconds})


def _from_memory(given: Given, dtype: str, floats: Array, labels: Array) -> Outcome:
    x = floats if dtype == "float32" else (256 * floats).astype(np.uint8)
    rows = data.array_dataset(x, labels)
    others = {
        f"{dtype}: torch, {workers} workers": loaders_torch.over_arrays(x, labels, batch_size=128, workers=workers)
        for workers in (0, WORKERS)
    }

    def ours(number: int) -> None:
        _epoch(data.loader(rows, batch_size=128, shuffle=True, seed=number), len(x))

    us = f"{dtype}: fnlamp"
    seconds = take_turns({us: ours, **others}, given.rounds)
    findings = [
        Finding.of(f"batches of 128 from memory, against {name}", "times as fast", ratios(seconds[name], seconds[us]), 8.0)
        for name in others
    ]
    return Outcome(findings, _rates(seconds, len(x)))


def jpeg64(given: Given) -> Outcome:
    """10,000 images of 64x64."""
    return _images(given, 10_000, 64)


def jpeg224(given: Given) -> Outcome:
    """2,000 images of 224x224."""
    return _images(given, 2_000, 224)


def _images(given: Given, count: int, size: int) -> Outcome:
    """Shuffled batches of 64 decoded images, by two worker processes that are kept between epochs.

    Both loaders get the same data sets: a plain one that uses Pillow, and fnlamp's own.
    """
    root = jpeg_folder(given.work, max(128, int(count * given.scale)), size)
    files = sorted(root.glob("*/*.jpg"))
    codes = {"plain Pillow": Decoded(files), "image_folder": value(data.image_folder(root))}
    options = {"batch_size": 64, "workers": WORKERS}
    peers: dict[str, Contestant] = {f"torch, {code}": loaders_torch.over_images(codes[code], **options) for code in codes}
    if given.grain and importlib.util.find_spec("grain"):
        peers["grain, plain Pillow"] = loaders_torch.by_grain(codes["plain Pillow"], **options)

    def rounds(workers: Any) -> Rounds:
        def ours(images: Any) -> Contestant:
            return lambda number: _epoch(
                data.loader(images, batch_size=64, shuffle=True, seed=number, workers=workers), len(files)
            )

        contestants = {f"fnlamp, {code}": ours(images) for code, images in codes.items()}
        return take_turns({**contestants, **peers}, given.rounds, pause=0.2)

    seconds = value(data.processes(WORKERS).use(lambda workers: Effect.suspend(lambda: rounds(workers))))
    what = f"{len(files):,} JPEG images of {size}x{size}, {WORKERS} workers"
    findings = [
        Finding.of(
            f"{what}, {code}, against torch",
            "times as fast",
            ratios(seconds[f"torch, {code}"], seconds[f"fnlamp, {code}"]),
            1.0,
            note="the aim is 1.2",
        )
        for code in codes
    ]
    return Outcome(findings, {**_rates(seconds, len(files)), "bytes an image": round(_bytes(files) / len(files))})


def _bytes(files: list[Any]) -> int:
    return sum(path.stat().st_size for path in files)


def _rates(seconds: Rounds, rows: int) -> dict[str, Any]:
    return {"rows per second": {name: round(rows / statistics.median(s)) for name, s in seconds.items()}, "seconds": seconds}
