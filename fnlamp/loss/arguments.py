"""Arguments of losses and metrics, and the faults that they share."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, describe
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.logits import Logits


def arrays(name: str, prediction: Any, target: Any) -> tuple[Array, Array]:
    """Prediction and target, each one array of real numbers.

    Fails: `ShapeMismatch` for a tuple or dict; `DtypeMismatch` for anything but an array of real numbers.
    """
    return _array(name, "prediction", prediction), _array(name, "target", target)


def _array(name: str, what: str, x: Any) -> Array:
    x = x.array() if isinstance(x, Logits) else x
    if isinstance(x, dict | tuple | list):
        key = repr(next(iter(x))) if isinstance(x, dict) and x else 0
        parts = ", ".join(f"{part}[{key}]" if part == what else part for part in ("prediction", "target"))
        hint = f"give it one part: lambda prediction, target: {name}({parts})"
        if isinstance(x, list):
            hint = f"convert it: jnp.asarray({what})"
        raise FaultError(ShapeMismatch(f"one array as the {what}", f"{type(x).__name__} {describe(x)}", hint, where=name))
    if not isinstance(x, jax.Array | np.ndarray | np.generic):
        hint = f"convert the {what} to a NumPy array"
        raise FaultError(DtypeMismatch(f"an array as the {what}", type(x).__name__, hint, where=name))
    if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool) or jnp.iscomplexobj(x):
        raise FaultError(DtypeMismatch(f"real numbers as the {what}", describe(x), where=name))
    return jnp.asarray(x)


def refuse(name: str, expected: str, got: Any, hint: str = "") -> NoReturn:
    """Fails: `ShapeMismatch`."""
    raise FaultError(ShapeMismatch(expected, describe(got), hint, where=name))


def nan_unless(sound: Array, x: Array) -> Array:
    """`x`, or NaN if not `sound`; by a division, so that `jax_debug_nans` sees no NaN unless one is meant."""
    return jnp.where(sound, x, jnp.zeros_like(x)) / sound.astype(x.dtype)


def weights_of(given: Any, name: str) -> np.ndarray[Any, Any] | None:
    """A host copy of weights in float64: building a program allocates nothing on a device, and ignores later changes.

    Raises: `TypeError` for anything but numbers; `ValueError` for negative, NaN or infinite weights, and if all are 0.
    """
    if given is None:
        return None
    if hasattr(given, "to_numpy"):
        raise TypeError(f"{name} is a {type(given).__name__}, whose order is that of its index; give .sort_index().to_numpy()")
    try:
        weights = np.array(given)
        weights = weights if weights.dtype == bool else weights.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is one number per class, in the order of the classes, got {given!r}") from error
    if weights.dtype == bool or (weights.ndim != 1 if "class" in name else weights.ndim > 1):
        raise ValueError(f"{name} is one number per class, in the order of the classes, got {describe(weights)}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"{name} are finite, not negative and not all 0, got {weights.tolist()}")
    return weights


def makes_a_loss(name: str) -> str:
    """The hint for `loss.name(prediction, target)`."""
    return f"loss.{name} makes a loss, which is then called: loss.{name}()(prediction, target)"
