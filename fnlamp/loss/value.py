"""The type of losses, their values, and their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree, describe, wide
from fnlamp.elsewhere import LOSS, VALUE, Elsewhere
from fnlamp.fault import DtypeMismatch, FaultError, NotDifferentiable, ShapeMismatch
from fnlamp.given import function, shown, text


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LossValue(Elsewhere):
    """A weighted sum and the sum of its weights; two add up component by component."""

    total: Array
    weight: Array
    _elsewhere = VALUE

    @property
    def mean(self) -> Array:
        """`total / weight`; 0 if both are 0, as for a batch of ignored rows; NaN for any other weight that is not above 0.

        >>> values = [LossValue(jnp.array(t), jnp.array(w)) for t, w in [(6.0, 3.0), (0.0, 0.0), (jnp.nan, 0.0), (1.0, -1.0)]]
        >>> [float(value.mean) for value in values]
        [2.0, 0.0, nan, nan]
        """
        total, weight = jnp.asarray(self.total), jnp.asarray(self.weight)
        some = weight > 0
        meant = some | ((weight == 0) & (total == 0))
        # NaN is added, not selected: a gradient that waits for the total slows an MLP of 2 million parameters by 2 %.
        flaw = jax.lax.stop_gradient(jnp.where(meant, 0, jnp.nan).astype(total.dtype))
        return jnp.where(some, total, jnp.zeros_like(total)) / jnp.where(some, weight, jnp.ones_like(weight)) + flaw


def _no_check(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Loss(Elsewhere):
    """A function `(prediction, target) -> LossValue`, with checks of concrete numbers that run before the first step.

    `check(prediction_spec, target)` and `check_prediction(prediction)` run on a first batch and raise a `FaultError`; plain
    functions without them are losses too. `suspects(prediction)`, a boolean, runs in every training step: if it is true, the
    step is not taken, and `check_prediction` says why.
    """

    apply: Callable[[Any, Any], LossValue]
    name: str
    check: Callable[[Any, Any], None] = _no_check
    check_prediction: Callable[[Any], None] = _no_check
    suspects: Callable[[Any], Array] | None = None

    _elsewhere = LOSS

    def __post_init__(self) -> None:
        function("Loss: apply", self.apply, "a function (prediction, target) -> LossValue")
        text("Loss: name", self.name)
        for name in ("check", "check_prediction"):
            function(f"Loss: {name}", getattr(self, name), "a function that raises a FaultError")
        if self.suspects is not None:
            function("Loss: suspects", self.suspects, "a function prediction -> boolean, or None")

    def __call__(self, prediction: Tree, target: Tree) -> LossValue:
        return checked_value(self.name, self.apply(prediction, target))

    def __repr__(self) -> str:
        return self.name


Metric: TypeAlias = Callable[[Any, Any], LossValue]
"""`(prediction, target) -> LossValue`, averaged over an epoch; it need not be differentiable."""

PEERS = {"torch", "torchmetrics", "keras", "tensorflow", "flax", "equinox", "sklearn"}


def as_loss(loss: Loss | Metric, what: str = "loss") -> Loss:
    """A plain function as a `Loss` with the function's name.

    Raises: `TypeError` for anything but a function, for a maker of losses that was not called, and for another library's loss.

    >>> as_loss(loss.mse)
    Traceback (most recent call last):
    TypeError: loss: fnlamp.loss.mse makes a loss; write loss.mse()
    """
    if isinstance(loss, Loss):
        return loss
    expected = f"{what}: expected a loss such as fnlamp.loss.mse(), or a function (prediction, target) -> LossValue"
    if isinstance(loss, str) or not callable(loss):
        raise TypeError(f"{expected}, got {loss!r}")
    name = getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, type):
        raise TypeError(f"{expected}, got the class {name}")
    module = str(getattr(loss, "__module__", None) or type(loss).__module__)
    if module.startswith("fnlamp.loss"):
        raise TypeError(f"{what}: fnlamp.loss.{name} makes a loss; write loss.{name}()")
    if module.split(".")[0] in PEERS:
        raise TypeError(f"{expected}, got {name} of {module.split('.')[0]}, which returns no weight")
    return Loss(loss, name)


def checked_value(name: str, value: Any) -> LossValue:
    """Check the value of a loss or metric: two real scalars, in at least float32.

    Raises: `TypeError` for anything but a `LossValue`.  Fails: `ShapeMismatch` for arrays in it, before they can broadcast;
    `DtypeMismatch` for complex numbers.

    >>> checked_value("square", jnp.ones(()))
    Traceback (most recent call last):
    TypeError: square returned a number, expected LossValue(total, weight); for a mean m over n rows return LossValue(m * n, n)
    """
    if not isinstance(value, LossValue):
        hint = "for a mean m over n rows return LossValue(m * n, n)"
        if isinstance(value, Loss):
            got, hint = f"the loss {value}", f"call it: {value}()(prediction, target)"
        elif isinstance(value, tuple | list) and len(value) == 2:
            got, hint = "a tuple of two", "return LossValue(total, weight)"
        elif np.shape(value) == () if isinstance(value, int | float | jax.Array | np.ndarray | np.generic) else False:
            got = "float" if isinstance(value, float) and type(value) is float else "a number"
        elif isinstance(value, jax.Array | np.ndarray):
            got, hint = describe(value), "for one loss per row return LossValue(jnp.sum(losses), losses.size)"
        else:
            got = type(value).__name__
        raise TypeError(f"{name} returned {got}, expected LossValue(total, weight); {hint}")
    try:
        total, weight = jnp.asarray(value.total), jnp.asarray(value.weight)
    except (TypeError, ValueError):
        got = f"LossValue({shown(value.total)}, {shown(value.weight)})"
        raise TypeError(f"{name} returned {got}, expected two numbers: a total and a weight") from None
    if total.shape or weight.shape:
        got = f"total {list(total.shape)}, weight {list(weight.shape)}"
        raise FaultError(ShapeMismatch("a scalar total and a scalar weight", got, "sum over the batch", where=name))
    if jnp.iscomplexobj(total) or jnp.iscomplexobj(weight):
        raise FaultError(DtypeMismatch("a real total and weight", describe((total, weight)), where=name))
    return LossValue(total.astype(wide(total)), weight.astype(wide(weight)))


# ------------------------------------------------------------------------------- arguments of losses


def arrays(name: str, prediction: Any, target: Any) -> tuple[Array, Array]:
    """Prediction and target, each one array of real numbers.

    Fails: `ShapeMismatch` for a tuple or dict; `DtypeMismatch` for anything but an array of real numbers.
    """
    return _array(name, "prediction", prediction), _array(name, "target", target)


def _array(name: str, what: str, x: Any) -> Array:
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


# ------------------------------------------------------------------------------- differentiation


def differentiable(value: Array, params: Tree, loss: str) -> Array:
    """`value`.  Fails: `NotDifferentiable`, if its gradient with respect to `params` is zero everywhere by construction.

    JAX keeps such zeros symbolic, so the test costs nothing at run time and sees through jit, scan and stop_gradient.

    >>> def share(w):
    ...     return differentiable(jnp.mean(jnp.argmax(w, axis=-1) == 0), w, "accuracy")
    >>> jax.grad(share)(jnp.ones((2, 3)))
    Traceback (most recent call last):
    fnlamp.fault.FaultError: NotDifferentiable: the gradient of accuracy is zero everywhere: ...
    """
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise FaultError(NotDifferentiable(loss))

    @jax.custom_jvp
    def first(x: Array, anchor: Array) -> Array:
        return x

    def rule(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        if isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
            raise FaultError(NotDifferentiable(loss))
        return primals[0], tangents[0]

    first.defjvp(rule, symbolic_zeros=True)
    # JAX skips the rule if all tangents are zero, so a parameter, whose tangent is not, is passed too.
    result: Array = first(value, leaves[0])
    return result
