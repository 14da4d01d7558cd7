"""Compiled programs that are kept for the next process, and memory that is kept in this one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, jax.monitoring, fnlamp
folder, hits = fnlamp.keep_programs(), []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))[0, 0])
print(folder, sum("cache_hits" in event for event in hits), sum("cache_misses" in event for event in hits))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    def process(**more):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **more}
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        value, last = out.splitlines()
        return value, last.split()

    value, (folder, hits, misses) = process(FNLAMP_CACHE=str(tmp_path / "programs"))
    assert folder == str(tmp_path / "programs")
    assert (int(hits), int(misses) > 0) == (0, True)
    again, (_, hits, misses) = process(FNLAMP_CACHE=str(tmp_path / "programs"))
    assert again == value
    assert (int(hits) > 0, int(misses)) == (True, 0)


MEMORY = """
import resource, fnlamp, numpy as np
kept = fnlamp.keep_memory() if {keep} else True
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(64 * 2**20, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's C library takes this setting")
def test_memory_that_is_kept_is_not_mapped_again():
    def process(keep):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY.format(keep=keep)]
        kept, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert kept == "True"
        return int(faults)

    assert process(keep=True) < 100 < process(keep=False)
