"""Checks of arguments, at the call: a wrong one is the caller's bug, and the error names it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import describe

P = ParamSpec("P")
R = TypeVar("R")


def whole(name: str, given: Any, least: int | None = 1) -> int:
    """The argument as an `int`, also from NumPy's and JAX's integer types.  Raises: `TypeError`, `ValueError`, which name it.

    With `least=None`, any whole number is valid.

    >>> whole("batch_size", np.int64(32))
    32
    >>> whole("batch_size", 2.5)
    Traceback (most recent call last):
    TypeError: batch_size is a whole number of 1 or more, got 2.5 (float)
    """
    try:
        if isinstance(given, bool | np.bool_):
            raise TypeError
        number = operator.index(given)
    except TypeError:
        bound = "" if least is None else f" of {least} or more"
        hint = f"; write {int(given)}" if isinstance(given, float) and given.is_integer() else ""
        raise TypeError(f"{name} is a whole number{bound}, got {shown(given)}{hint}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}; it needs a whole number of {least} or more")
    return number


def number(
    name: str, given: Any, expected: str = "a number", holds: Callable[[float], bool] = math.isfinite, hint: str = ""
) -> float:
    """A finite number for which `holds`, as a Python float.  Raises: `TypeError` or `ValueError`, which name the argument.

    >>> number("dropout: rate", np.float32(0.5), "a probability below 1", lambda rate: 0 <= rate < 1)
    0.5
    >>> number("dropout: rate", 50, "a probability below 1", lambda rate: 0 <= rate < 1, "write 0.5 for 50 %")
    Traceback (most recent call last):
    ValueError: dropout: rate is a probability below 1, got 50; write 0.5 for 50 %
    """
    plain = None
    if getattr(given, "shape", ()) == () and not isinstance(given, str | bytes | bool | np.bool_):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            plain = float(given)
    advice = f"; {hint}" if hint else ""
    if plain is None:
        raise TypeError(f"{name} is {expected}, got {shown(given)}{advice}")
    if not (math.isfinite(plain) and holds(plain)):
        raise ValueError(f"{name} is {expected}, got {given}{advice}")
    return plain


def flag(name: str, given: Any) -> bool:
    """The argument as a `bool`.  Raises: `TypeError` for anything else, although Python would treat it as true or false.

    >>> flag("shuffle", "no")
    Traceback (most recent call last):
    TypeError: shuffle is True or False, got 'no' (str)
    """
    if not isinstance(given, bool | np.bool_):
        raise TypeError(f"{name} is True or False, got {shown(given)}")
    return bool(given)


def text(name: str, given: Any, what: str = "a str") -> str:
    """The argument, a string.  Raises: `TypeError` for anything else."""
    return str(instance(name, given, str, what))


def instance(name: str, given: Any, kind: Any, what: str) -> Any:
    """The argument, an instance of `kind`.  Raises: `TypeError` for anything else, also for the class itself.

    >>> instance("key", "a", int, "a whole number")
    Traceback (most recent call last):
    TypeError: key is a whole number, got 'a' (str)
    """
    if not isinstance(given, kind):
        raise TypeError(f"{name} is {what}, got {shown(given)}")
    return given


def several(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """The strings.  Raises: `TypeError`, also for a single string, which would count as a sequence of characters.

    >>> several("columns", ["length", "width"])
    ('length', 'width')
    """
    if isinstance(given, str | bytes):
        raise TypeError(f"{name} is a sequence of strings, got a single one; give [{given!r}]")
    if isinstance(given, dict) or not hasattr(given, "__iter__"):
        raise TypeError(f"{name} is a sequence of strings, got {shown(given)}")
    found = tuple(given)
    for each in found:
        if not isinstance(each, str):
            raise TypeError(f"{name} is a sequence of strings, got {each!r} in it")
    return found


def dtype_of(name: str, given: Any, kind: Any = jnp.floating, what: str = "a floating-point dtype, such as jnp.float32") -> Any:
    """The dtype.  Raises: `TypeError` for anything else; `ValueError` for a dtype of another kind.

    >>> dtype_of("dtype", "float16")
    dtype('float16')
    """
    known = None
    with contextlib.suppress(TypeError, ValueError):
        known = None if given is None else jnp.dtype(given)
    if known is None or known.kind == "O":
        raise TypeError(f"{name} is {what}, got {shown(given)}")
    if not jnp.issubdtype(known, kind):
        raise ValueError(f"{name} is {what}, got {known}")
    return known


def path_of(given: str | PathLike[str], name: str = "path") -> str:
    """The path as text.  Raises: `TypeError` for anything else, also for bytes.

    >>> import pathlib
    >>> path_of(pathlib.PurePosixPath("data") / "train.csv")
    'data/train.csv'
    """
    found: Any = fspath(given) if isinstance(given, PathLike) else given
    if not isinstance(found, str):
        hint = "; os.fsdecode makes a str of it" if isinstance(found, bytes) else ""
        raise TypeError(f"{name}: a path is a str or a pathlib.Path, got {shown(found)}{hint}")
    return found


def function(name: str, given: Any, what: str) -> Any:
    """The argument, a callable.  Raises: `TypeError` for anything else."""
    if not callable(given):
        raise TypeError(f"{name} is {what}, got {shown(given)}")
    return given


def arguments(hint: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function's error for wrong arguments, such as another library's, say what to write."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        required = [name for name, p in signature.parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        usage = f"{function.__name__}({', '.join([*required, '...'])})"

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                given = ", ".join([*(_short(a) for a in args), *(f"{k}={_short(v)}" for k, v in kwargs.items())])
                got = f"got {function.__name__}({given}): {error}"
                raise TypeError(f"{function.__name__}: expected {usage}, {got}; {hint}") from None
            return function(*args, **kwargs)

        return checked

    return decorate


def shown(given: Any) -> str:
    """A short form of the argument, and its type."""
    return f"{_short(given)} ({type(given).__name__})"


def _short(given: Any) -> str:
    text = describe(given) if hasattr(given, "shape") else repr(given)
    return text if len(text) <= 60 else text[:57] + "..."
