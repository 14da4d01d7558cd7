"""The time of XLA's collectives between local processes (gloo on a CPU) and between the devices of one process.

    python examples/benchmarks/collectives.py                                   2 and 4 processes; 2, 4 and 8 devices
    python examples/benchmarks/collectives.py --processes 2 --devices 2 --sizes 1000 --rounds 3 --json out.json

A size is the bytes of the whole array in float32: what an all-reduce adds up, an all-gather gives to each device, and a
reduce-scatter takes from each. A round is the mean time of some calls, on the first process; the median of the rounds is
shown, and the least, which other programs on the machine disturb less. The rate is that of a ring in the least time: each
device sends 2 (n - 1) / n of the array for an all-reduce, and (n - 1) / n for the other two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHARES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
"""How often a device sends (n - 1) / n of the array."""
PATIENCE = 600
"""Seconds after which processes that are not done are ended."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--devices", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4_096, 1 << 20, 1 << 24, 1 << 26], help="bytes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        print(json.dumps(work(**given.worker)))
        return
    found: dict[str, Any] = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "seconds": {}}
    print(f"{found['processor']}, {found['cores']} cores", flush=True)
    for kind, counts in (("processes", given.processes), ("devices", given.devices)):
        for count in counts:
            found["seconds"][f"{count} {kind}"] = seconds = run(kind, count, given.sizes, given.rounds)
            print(table(f"{count} {kind}", count, seconds), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


def run(kind: str, count: int, sizes: list[int], rounds: int) -> dict[str, Any]:
    """The seconds of each collective by size, measured by new processes."""
    workers, devices = (count, 1) if kind == "processes" else (1, count)
    address = f"127.0.0.1:{free_port()}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    started = []
    for rank in range(workers):
        task = {"rank": rank, "workers": workers, "address": address, "sizes": sizes, "rounds": rounds}
        command = [sys.executable, __file__, "--worker", json.dumps(task)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        lines = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise RuntimeError(f"{count} {kind}: a process ended with {[process.returncode for process in started]}")
    measured: dict[str, Any] = json.loads(lines[0].splitlines()[-1])
    return measured


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def work(rank: int, workers: int, address: str, sizes: list[int], rounds: int) -> dict[str, Any]:
    """One process: the seconds of each collective by size. Checks each result once."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding

    lax: Any = jax.lax
    distributed: Any = jax.distributed
    spec: Any = jax.sharding.PartitionSpec
    if workers > 1:
        distributed.initialize(address, workers, rank)
    mesh, whole, parts = jax.make_mesh((jax.device_count(),), ("d",)), spec(), spec("d")
    count = jax.device_count()

    def program(function: Any, out: Any) -> Any:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=parts, out_specs=out, check_vma=False))

    programs = {
        "all-reduce": program(lambda x: lax.psum(x[0], "d"), whole),
        "all-gather": program(lambda x: lax.all_gather(x, "d", tiled=True), whole),
        "reduce-scatter": program(lambda x: lax.psum_scatter(x[0], "d", tiled=True), parts),
    }
    found: dict[str, Any] = {name: {} for name in programs}
    for size in sizes:
        length = max(size // (4 * count), 1) * count
        for name, collective in programs.items():
            shape = (length,) if name == "all-gather" else (count, length)
            ones = lambda index, shape=shape: np.ones(shape, np.float32)[index]  # noqa: E731
            x = jax.make_array_from_callback(shape, NamedSharding(mesh, parts), ones)
            y = collective(x)
            expected = 1 if name == "all-gather" else count
            assert all(bool(jnp.all(shard.data == expected)) for shard in y.addressable_shards), name
            taken = [timed(collective, x) for _ in range(rounds)]
            found[name][str(4 * length)] = {"median": statistics.median(taken), "least": min(taken)}
    if workers > 1:
        distributed.shutdown()
    return found


def timed(collective: Any, x: Any) -> float:
    """The mean seconds of a call, over 2 to 20 calls of about 32 MiB in all; every process makes as many."""
    calls = max(2, min(20, (1 << 25) // x.nbytes))
    began = time.perf_counter()
    for _ in range(calls):
        collective(x).block_until_ready()
    taken: float = (time.perf_counter() - began) / calls
    return taken


def table(title: str, count: int, seconds: dict[str, Any]) -> str:
    lines = [f"\n{title}", f"  {'':16}{'bytes':>12}{'ms, median':>12}{'least':>10}{'GB/s sent':>12}"]
    for name, sizes in seconds.items():
        for size, taken in sizes.items():
            rate = SHARES[name] * (count - 1) / count * int(size) / taken["least"] / 1e9
            middle, least = 1000 * taken["median"], 1000 * taken["least"]
            lines.append(f"  {name:16}{int(size):>12,}{middle:>12.2f}{least:>10.2f}{rate:>12.2f}")
    return "\n".join(lines)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
