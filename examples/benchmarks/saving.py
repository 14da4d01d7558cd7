"""The cost of a checkpoint: how long a save holds up its caller, how fast it is written and read, and what memory it takes.

    python examples/benchmarks/saving.py                         1 GB of JAX arrays, 5 rounds
    python examples/benchmarks/saving.py --size 0.25 --json FILE

Each figure is the median of the rounds. A read is compared with a plain read of the same file just before it: after the
file was dropped from the system's cache (cold), and again (warm). The files are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.checkpoint import Writer, keep_last, read, writer
from fnlamp.effect import Effect, Runtime

LEAVES = 64
PIECE = 2**24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.0, help="gigabytes of the tree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    tree = tree_of(given.size)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rounds = [one_round(Path(folder) / str(n), tree) for n in range(given.rounds)]
    figures: dict[str, Any] = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    figures |= {"gigabytes": nbytes(tree) / 1e9, "rounds": given.rounds, "processor": processor(), "cores": os.cpu_count()}
    print(summary(figures))
    if given.json is not None:
        given.json.write_text(json.dumps({"medians": figures, "rounds": rounds}, indent=1))


def tree_of(gigabytes: float) -> dict[str, jax.Array]:
    """Arrays of random numbers."""
    count = max(1, round(gigabytes * 1e9 / 4 / LEAVES))
    return {
        f"layer{n}": jnp.asarray(np.random.default_rng(n).random(count, np.float32)).block_until_ready() for n in range(LEAVES)
    }


def nbytes(tree: dict[str, jax.Array]) -> int:
    return sum(each.nbytes for each in tree.values())


def one_round(folder: Path, tree: dict[str, jax.Array]) -> dict[str, float]:
    """Copy, save, read."""

    def body(each: Writer) -> dict[str, float]:
        return saving(each, tree) | reading(folder / "000000000001.npz")

    program = writer(folder, keep=keep_last(1)).use(lambda each: Effect.suspend(lambda: body(each)))
    found = program.run_or_raise(Runtime(log=None))
    for path in folder.iterdir():
        path.unlink()
    return found


def saving(each: Writer, tree: dict[str, jax.Array]) -> dict[str, float]:
    """Seconds of a copy alone and of `submit`, the longest stall of its caller afterwards, and the speed of the writing."""
    touch(nbytes(tree))
    copy = seconds(lambda: [np.array(leaf) for leaf in tree.values()])
    base = reset_peak()
    submit = seconds(lambda: each.submit(1, tree))
    start = last = time.perf_counter()
    stall = 0.0
    while each.busy:
        time.sleep(0.001)
        now = time.perf_counter()
        stall, last = max(stall, now - last - 0.001), now
    written = time.perf_counter() - start
    assert each.failures() == ()
    return {
        "copy seconds": copy,
        "seconds beyond the copy": submit - copy,
        "longest stall": stall,
        "write GB/s": nbytes(tree) / 1e9 / written,
        "copies in memory, saving": (peak() - base) / nbytes(tree),
    }


def reading(path: Path) -> dict[str, float]:
    """Speeds of plain reads and of `read`, and the memory beyond the arrays that it takes."""
    room = path.stat().st_size
    size = room / 1e9
    found: dict[str, float] = {}
    for state in ("cold", "warm"):
        if state == "cold":
            evict(path)
        plain = size / seconds(lambda: read_plainly(path))
        if state == "cold":
            evict(path)
        touch(2 * room)  # for the arrays, and for the system's cache
        base = reset_peak()
        ours = size / seconds(lambda: read(path).run_or_raise(Runtime(log=None)))
        found |= {f"{state} plain GB/s": plain, f"{state} GB/s": ours, f"{state} share": ours / plain}
        found[f"copies in memory, reading {state}"] = (peak() - base) / room
    touch(room)
    return found | {"warm GB/s of numpy.load": size / seconds(lambda: read_by_numpy(path))}


def read_by_numpy(path: Path) -> list[Any]:
    """All arrays, by NumPy's own reader of such files."""
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def read_plainly(path: Path) -> None:
    """As `dd` reads: into the same few bytes."""
    room = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


def evict(path: Path) -> None:
    """Drop the file from the system's cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch(size: int) -> None:
    """Use this much memory for a moment: a virtual machine may have to get it from its host, which can take seconds."""
    np.ones(size, np.uint8)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def reset_peak() -> int:
    """Start to measure the peak of this process's memory, and return the bytes it has now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return kept("VmRSS")


def peak() -> int:
    return kept("VmHWM")


def kept(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def summary(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"  {name:34}{value:10.3f}" for name, value in figures.items() if isinstance(value, float)]
    head = f"{figures['processor']}, {figures['cores']} cores; medians of {figures['rounds']} rounds"
    return "\n".join([head, *lines, "wanted: less than 0.1 seconds beyond the copy, a cold share of at least 0.6"])


if __name__ == "__main__":
    main()
