"""Settings of the process that make programs start and run faster. None takes effect unless called."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import jax

FOLDER = "FNLAMP_CACHE"
"""The environment variable with the folder of compiled programs."""


def keep_programs(folder: str | Path | None = None) -> Path:
    """Store compiled programs in a folder, so that the next process does not compile them again.

    The folder is the argument, else the environment variable `FNLAMP_CACHE`, else `~/.cache/fnlamp`; it is created when the
    first program is stored, and may be deleted at any time. Call this before the first program is run. It applies to all of
    JAX in this process. JAX distinguishes programs by their text, the versions, and the hardware.

    >>> import tempfile
    >>> folder = keep_programs(tempfile.mkdtemp())
    """
    chosen = Path(folder or os.environ.get(FOLDER) or Path.home() / ".cache" / "fnlamp").expanduser()
    settings = {
        "jax_compilation_cache_dir": str(chosen),
        "jax_persistent_cache_min_compile_time_secs": 0.0,  # by default JAX skips programs that compile fast,
        "jax_persistent_cache_min_entry_size_bytes": -1,  # as most programs of small models do
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    return chosen


def keep_memory() -> bool:
    """Keep freed memory in the process instead of returning it to the system; returns whether this system supports it.

    A compiled program allocates its temporary memory again for each run. Large blocks return to the system when freed, and are
    then mapped and zeroed page by page again: a third of the time of a training step of some hundred megabytes. With this
    setting the process keeps its peak memory to the end. It applies to the whole process; only Linux's C library supports it.

    Reference: mallopt(3), M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX.

    >>> keep_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20), (arena_max, 1))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)
