"""Shared by test files: the outcome of a run, what JAX compiles, equal bytes, and marks for packages of the extra `parity`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.effect import Effect, Runtime
from fnlamp.train.execute.programs import BODIES, PROGRAMS


def value(program: Effect[Any, Any], runtime: Runtime | None = None) -> Any:
    """The value of a run that succeeds."""
    outcome = program.run(runtime)
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def fault(program: Effect[Any, Any], runtime: Runtime | None = None) -> Any:
    """The failure of a run."""
    outcome = program.run(runtime)
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def needs(package: str) -> pytest.MarkDecorator:
    """The mark of a test that needs a package of the extra `parity`."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} comes with the extra parity")


def same_bytes(a: Any, b: Any) -> None:
    """Two trees of the same structure, dtypes, shapes and bytes."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, np.asarray(x).tobytes()) == (y.dtype, y.shape, np.asarray(y).tobytes())


@contextmanager
def compiling(note: Callable[[str], str | None]) -> Iterator[list[str]]:
    """Of each message of JAX about what it compiles, what `note` makes of it; as in a new process, without programs."""
    noted: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (made := note(record.getMessage())) is not None:
                noted.append(made)

    logger, listener = logging.getLogger("jax"), Listener()
    logger.addHandler(listener)
    logger.propagate = False
    PROGRAMS.clear()
    BODIES.clear()
    with jax.log_compiles():
        yield noted
    logger.removeHandler(listener)
    logger.propagate = True


def lowered(message: str) -> str | None:
    """The name of a program that is lowered."""
    return message.split()[1] if message.startswith("Compiling ") else None


def compiled(message: str) -> str | None:
    """The name of a program that XLA has compiled."""
    return message.split()[4] if message.startswith("Finished XLA compilation") else None
