"""How long a save holds the steps of a sharded training: gathered into one file, and in shards.

    fnlamp launch -n 4 examples/benchmarks/shards.py                 0.25 GB in 64 arrays, 5 rounds
    fnlamp launch -n 2 examples/benchmarks/shards.py --size 1

The arrays are cut over all devices of all processes. `held` is the time until the next step may overwrite them, `written`
until the save is whole; each is the median of the rounds, in process 0. Needs the extra `orbax`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnlamp.checkpoint import Writer, keep_last, writer
from fnlamp.checkpoint.shards import Shards
from fnlamp.effect import Effect, Runtime
from fnlamp.scale import Cluster, await_call, cluster, gathered

LEAVES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=0.25, help="gigabytes of the arrays, in all")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cluster(deadline=60.0).use(lambda here: measured(here, given.size, given.rounds)).run_or_raise(Runtime(log=None))


def measured(here: Cluster, size: float, rounds: int) -> Effect[None, Any]:
    """Print the medians of both forms."""
    folder = here.meet("folder", tempfile.mkdtemp())[0]
    leads = not here.process

    def body(each: Writer) -> None:
        arrays = await_call(lambda: made(size), here, "the arrays")
        for name, save in (("one file", one_file), ("in shards", in_shards)):
            times = [save(each, here, step, arrays) for step in range(1, rounds + 1)]
            held, written = (statistics.median(column) for column in zip(*times, strict=True))
            if leads:
                print(f"{name}: held {held:.3f} s, written after {written:.3f} s, of {here.processes} processes")

    open_writer = writer(Path(folder), keep=keep_last(1), leads=leads)
    return open_writer.use(lambda each: Effect.suspend(lambda: body(each)))


def made(size: float) -> dict[str, jax.Array]:
    """Arrays of random numbers, cut over all devices."""
    mesh = Mesh(jax.devices(), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))  # type: ignore[no-untyped-call]
    count = max(1, round(size * 1e9 / 4 / LEAVES / 1024 / len(mesh.devices))) * len(mesh.devices)

    def all_of(key: jax.Array) -> dict[str, jax.Array]:
        return {f"layer{n}": jax.random.uniform(jax.random.fold_in(key, n), (count, 1024), jnp.float32) for n in range(LEAVES)}

    arrays: dict[str, jax.Array] = jax.jit(all_of, out_shardings=rows)(jax.random.key(0))
    return arrays


def one_file(each: Writer, here: Cluster, step: int, arrays: Any) -> tuple[float, float]:
    here.meet("one file")
    start = time.perf_counter()
    found = gathered(arrays, here)
    if not here.process:
        each.submit(step, found)
    return finished(each, here, start)


def in_shards(each: Writer, here: Cluster, step: int, arrays: Any) -> tuple[float, float]:
    form = Shards(here.meet("shards", os.urandom(8).hex())[0], here.process, here.processes)
    if not here.process:
        form.prepare(each.folder)
    here.meet("the folder")
    start = time.perf_counter()
    each.submit(100 + step, arrays, form=form)
    return finished(each, here, start)


def finished(each: Writer, here: Cluster, start: float) -> tuple[float, float]:
    held = time.perf_counter() - start
    each.wait()
    for fault in each.failures():
        print(fault)
    written = time.perf_counter() - start
    here.meet("written", deadline=600.0)
    return held, written


if __name__ == "__main__":
    main()
