"""Shared by test files: the value or the failure of a run, and marks for packages that come with the extra `parity`."""

from importlib.util import find_spec
from typing import Any

import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.effect import Effect, Runtime


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
