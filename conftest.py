"""Names that docstrings may use without importing them. Pages of the documentation import what they use."""

from __future__ import annotations

import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import fault, loss, nn, optim, stream
from fnlamp.arrays import array_spec
from fnlamp.effect import Effect, Runtime
from fnlamp.layer import table
from fnlamp.mode import Eval, Train
from fnlamp.train import supervised


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Many tests build the same small programs; XLA compiles each of them once a session."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored; tests send it to themselves."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _names(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.clear()  # the session has one of these
    if request.node.path.suffix == ".md":
        return
    doctest_namespace.update(
        {"jax": jax, "jnp": jnp, "np": np, "nn": nn, "loss": loss, "optim": optim, "fault": fault, "stream": stream},
        Eval=Eval,
        Train=Train,
        table=table,
        Effect=Effect,
        Runtime=Runtime,
        supervised=supervised,
        key=jax.random.key(0),
        spec=array_spec((32, 784), jnp.float32),
    )
