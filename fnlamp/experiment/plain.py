"""Configs as JSON: each setting at its dotted path, with where its value is from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from os import PathLike, fspath
from typing import Any, Final

import numpy as np

from fnlamp.arrays import describe
from fnlamp.config import Resolved
from fnlamp.given import shown

MOST: Final = 100
"""Numbers of an array, or items of a list, above which it is described instead."""
DEEPEST: Final = 8
LONGEST: Final = 10_000
"""Characters of a text."""
HIDDEN: Final = "(not recorded)"
_SECRET: Final = re.compile(
    r"(^|[^a-z])(passw(or)?d|passphrase|secret|credentials?|bearer|(api|access|private|secret)[_-]?key|"
    r"(api|auth|access|refresh|hf|github|wandb|bot)[_-]?token)([^a-z]|$)|(^|[.-])token$",
    re.IGNORECASE,
)


def secret(name: str) -> bool:
    """Whether something of this name is likely to be a secret, which is never recorded.

    >>> [secret(name) for name in ("api_key", "HF_TOKEN", "db.password", "max_tokens", "key_size", "pad_token")]
    [True, True, True, False, False, False]
    """
    return _SECRET.search(name) is not None


def settings_of(config: Any) -> dict[str, dict[str, Any]]:
    """The settings of a config by path, as JSON.  Raises: `TypeError` for anything but a config."""
    if isinstance(config, Resolved):
        return {
            each.path: {
                **_stored(each.path, each.value),
                "source": each.source.value,
                "option": each.option,
                "formula": each.formula,
                "needs": list(each.needs),
                "origin": each.origin,
            }
            for each in config.settings.values()
        }
    given = {"source": "given", "option": "", "formula": "", "needs": [], "origin": ""}
    return {path: {**_stored(path, value), **given} for path, value in _flat(config, "", 0)}


def checked_config(config: Any) -> Any:
    """Raises: `TypeError` for anything but a config."""
    if config is None or isinstance(config, Resolved | Mapping) or (is_dataclass(config) and not isinstance(config, type)):
        return config
    raise TypeError(f"experiment: config is what config.resolve yields, a dataclass or a dict, got {shown(config)}")


def _flat(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    children: dict[str, Any] | None = None
    if depth < DEEPEST and is_dataclass(value) and not isinstance(value, type):
        children = {each.name: getattr(value, each.name, None) for each in fields(value)}
    elif depth < DEEPEST and isinstance(value, Mapping):
        children = {str(name): each for name, each in value.items()}
    if children is None or (path and not children):
        if depth or value is not None:
            yield path, value
        return
    for name, each in children.items():
        yield from _flat(each, f"{path}.{name}" if path else name, depth + 1)


def _stored(path: str, value: Any) -> dict[str, Any]:
    if secret(path):
        return {"value": HIDDEN, "type": type(value).__name__}
    return {"value": plain(value), "type": type(value).__name__}


def plain(value: Any, depth: int = 0) -> Any:
    """A value as strict JSON: what JSON has stays, NaN and infinity are texts, anything else becomes a text that names it.

    >>> import pathlib
    >>> plain({"path": pathlib.PurePosixPath("a/b"), "rate": math.nan, "dtype": np.dtype("float32"), "act": math.sin})
    {'path': 'a/b', 'rate': 'nan', 'dtype': 'float32', 'act': 'math.sin'}
    """
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, PathLike):
        found = fspath(value)
        return _text(found if isinstance(found, str) else repr(found))
    array = hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)
    return _array(value) if array else _composed(value, depth)


def _array(value: Any) -> Any:
    if hasattr(value, "tolist") and 0 <= math.prod(value.shape) <= MOST and getattr(value.dtype, "kind", "") in "biuf":
        return plain(value.tolist(), 0)
    return describe(value)


def _composed(value: Any, depth: int) -> Any:
    if isinstance(value, np.dtype):
        return value.name
    named: Any = isinstance(value, type) or (isinstance(value, Callable) and hasattr(value, "__qualname__"))  # type: ignore[arg-type]
    if named:
        return f"{value.__module__}.{value.__qualname__}"
    if depth < DEEPEST and isinstance(value, Mapping) and len(value) <= MOST:
        return {str(name): HIDDEN if secret(str(name)) else plain(each, depth + 1) for name, each in value.items()}
    if depth < DEEPEST and isinstance(value, Sequence | Set) and not isinstance(value, bytes) and len(value) <= MOST:
        return [plain(each, depth + 1) for each in value]
    try:
        text = repr(value)
    except Exception:  # the caller's class may have a `__repr__` that raises
        return f"<{type(value).__name__}, whose repr failed>"
    return _text(re.sub(r" at 0x[0-9a-f]+", "", text))  # an address differs from run to run


def _text(text: str) -> str:
    """JSON has no lone surrogates, which names of files in Python may have."""
    short = text if len(text) <= LONGEST else text[:LONGEST] + "..."
    return short.encode("utf-8", "backslashreplace").decode()
