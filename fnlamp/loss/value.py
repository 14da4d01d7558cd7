"""The types of losses and metrics, and what they return."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree, describe, wide
from fnlamp.elsewhere import LOSS, METRIC, VALUE, Elsewhere
from fnlamp.fault import DtypeMismatch, FaultError, NotDifferentiable, ShapeMismatch
from fnlamp.given import function, shown, text
from fnlamp.loss.arguments import nan_unless


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
    step is not taken, and `check_prediction` says why. `terms` are the losses that it is a sum of, each reported by its name.
    """

    apply: Callable[[Any, Any], LossValue]
    name: str
    check: Callable[[Any, Any], None] = _no_check
    check_prediction: Callable[[Any], None] = _no_check
    suspects: Callable[[Any], Array] | None = None
    terms: tuple[Term, ...] = ()

    _elsewhere = LOSS

    def __post_init__(self) -> None:
        function("Loss: apply", self.apply, "a function (prediction, target) -> LossValue")
        text("Loss: name", self.name)
        for name in ("check", "check_prediction"):
            function(f"Loss: {name}", getattr(self, name), "a function that raises a FaultError")
        if self.suspects is not None:
            function("Loss: suspects", self.suspects, "a function prediction -> boolean, or None")
        if not isinstance(self.terms, tuple) or not all(isinstance(term, Term) for term in self.terms):
            raise TypeError(f"Loss: terms are made by loss.sum, got {shown(self.terms)}")

    def __call__(self, prediction: Tree, target: Tree) -> LossValue:
        return checked_value(self.name, self.apply(prediction, target), prediction, target)

    def __repr__(self) -> str:
        return self.name


class Term(NamedTuple):
    """One of the losses of a sum: its name, its factor, and the loss, which is given the whole prediction and target."""

    name: str
    weight: float
    loss: Loss


@dataclass(frozen=True)
class Metric(Elsewhere):
    """Sums over the rows of a batch, and what their totals come to: a metric that is not a mean, such as an F1 score.

    `sums(prediction, target)` is a tree of arrays whose shapes do not depend on the batch size; the trees of all batches are
    added up on the device, without rounding errors and counts exactly. `result(sums)` makes a number or an array of the totals:
    the same tree, as NumPy arrays in float64. Called with a prediction and a target, a metric gives their result.
    `check(prediction_spec, target)` raises a `FaultError` for targets that it cannot take. Sums of NaN mean bad input.

    >>> def moments(prediction, target):
    ...     error = prediction - target
    ...     return {"rows": len(error), "sum": error.sum(), "squares": jnp.square(error).sum()}
    >>> def spread(sums):
    ...     return np.sqrt(sums["squares"] / sums["rows"] - (sums["sum"] / sums["rows"]) ** 2)
    >>> Metric(moments, spread, "spread")(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.zeros(4))
    1.118...
    """

    sums: Callable[[Any, Any], Tree]
    result: Callable[[Any], Any]
    name: str
    check: Callable[[Any, Any], None] = _no_check

    _elsewhere = METRIC

    def __post_init__(self) -> None:
        function("Metric: sums", self.sums, "a function (prediction, target) -> tree of sums")
        function("Metric: result", self.result, "a function of the sums over all batches")
        text("Metric: name", self.name)
        function("Metric: check", self.check, "a function that raises a FaultError")

    def __call__(self, prediction: Tree, target: Tree) -> float | np.ndarray[Any, Any]:
        return self.figure(jax.tree.map(np.asarray, self.measure(prediction, target)))

    def measure(self, prediction: Tree, target: Tree) -> Tree:
        """The sums of a batch as arrays.  Fails: `DtypeMismatch` for anything but real numbers in them."""
        sums = self.sums(prediction, target)
        try:
            arrays = jax.tree.map(jnp.asarray, sums)
        except (TypeError, ValueError):
            raise TypeError(f"{self.name}: expected a tree of arrays as the sums, got {shown(sums)}") from None
        if any(jnp.iscomplexobj(x) or not jnp.issubdtype(x.dtype, jnp.number) for x in jax.tree.leaves(arrays)):
            raise FaultError(DtypeMismatch("sums of real numbers", describe(arrays), where=self.name))
        return arrays

    def figure(self, sums: Tree) -> float | np.ndarray[Any, Any]:
        """The result of sums over all batches, which are NumPy arrays: a float, or an array."""
        made = self.result(jax.tree.map(lambda x: np.asarray(x, np.float64), sums))
        found = np.asarray(made)
        if found.dtype.kind not in "biuf":
            raise TypeError(f"{self.name}: result returned {shown(made)}, expected a number or an array of numbers")
        return found if found.ndim else float(found)

    def __repr__(self) -> str:
        return self.name


MetricLike: TypeAlias = Metric | Callable[[Any, Any], Any]
"""A `Metric`, a loss, or a function `(prediction, target)` that returns a `LossValue` or one number per row."""

PEERS = {"torch", "torchmetrics", "keras", "tensorflow", "flax", "equinox", "sklearn"}


def as_loss(loss: Loss | Callable[[Any, Any], Any], what: str = "loss") -> Loss:
    """A plain function as a `Loss` with the function's name; it returns a `LossValue`, or an array of one number per row.

    Raises: `TypeError` for anything but a function, for a maker of losses that was not called, and for another library's loss.

    >>> as_loss(lambda prediction, target: jnp.abs(prediction - target))(jnp.array([1.0, 5.0]), jnp.zeros(2)).mean
    Array(3., dtype=float32)
    >>> as_loss(loss.mse)
    Traceback (most recent call last):
    TypeError: loss: fnlamp.loss.mse makes a loss or a metric; write loss.mse()
    """
    if isinstance(loss, Loss):
        return loss
    expected = f"{what}: expected a loss such as fnlamp.loss.mse(), or a function (prediction, target) -> LossValue"
    if isinstance(loss, Metric):
        raise TypeError(f"{expected}, got the metric {loss}, which is given as metrics={{{loss.name!r}: ...}}")
    if isinstance(loss, str) or not callable(loss):
        raise TypeError(f"{expected}, got {loss!r}")
    name = getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, type):
        raise TypeError(f"{expected}, got the class {name}")
    module = str(getattr(loss, "__module__", None) or type(loss).__module__)
    if module.startswith("fnlamp.loss") and vars(sys.modules["fnlamp.loss"]).get(name) is loss:
        raise TypeError(f"{what}: fnlamp.loss.{name} makes a loss or a metric; write loss.{name}()")
    if module.split(".")[0] in PEERS:
        raise TypeError(f"{expected}, got {name} of {module.split('.')[0]}, which returns no weight")
    return Loss(loss, name)


def as_metric(metric: MetricLike, what: str = "metric") -> Metric:
    """A loss, or a function that returns a `LossValue` or one number per row, as the `Metric` of its mean.

    Raises: `TypeError` as `as_loss`.

    >>> as_metric(lambda prediction, target: jnp.abs(prediction - target) < 1)(jnp.array([0.5, 5.0]), jnp.zeros(2))
    0.5
    """
    if isinstance(metric, Metric):
        return metric
    loss = as_loss(metric, what)

    def sums(prediction: Tree, target: Tree) -> LossValue:
        value = loss(prediction, target)
        flawed = jnp.isnan(value.mean)  # a batch without a mean, as of a negative weight, would be hidden in the sums
        if loss.suspects is not None:
            flawed = flawed | loss.suspects(prediction)
        return LossValue(nan_unless(~flawed, value.total), value.weight)

    return Metric(sums, mean_of, loss.name, loss.check)


def mean_of(sums: Any) -> float:
    """The mean of a `LossValue` on the host; NaN without weight."""
    return float(sums.total / sums.weight) if sums.weight else math.nan


def checked_value(name: str, value: Any, *given: Tree) -> LossValue:
    """Check the value of a loss or metric: two real scalars, in at least float32.

    If the prediction and the target are `given`, an array of one number per row is their sum and their count.
    Raises: `TypeError` for anything else.  Fails: `ShapeMismatch` for other arrays, before they can broadcast; `DtypeMismatch`
    for complex numbers.

    >>> checked_value("square", jnp.ones(()))
    Traceback (most recent call last):
    TypeError: square returned a number, expected LossValue(total, weight); for a mean m over n rows return LossValue(m * n, n)
    """
    if given and isinstance(value, jax.Array | np.ndarray) and value.ndim:
        value = _by_row(name, value, given)
    if not isinstance(value, LossValue):
        raise TypeError(_not_a_value(name, value))
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


def _by_row(name: str, each: Any, given: tuple[Tree, ...]) -> LossValue:
    """The sum and the count of one number per row, or per position of the rows."""
    if jnp.iscomplexobj(each):
        raise FaultError(DtypeMismatch("one real number per row", describe(each), where=name))
    for tree in given:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
        if shapes and not any(shape[: each.ndim] == each.shape for shape in shapes):
            expected = f"LossValue(total, weight), or one number per row, of shape {list(shapes[0][:1])}"
            hint = "do prediction and target have one shape, or do they broadcast?" if each.ndim > 1 else ""
            raise FaultError(ShapeMismatch(expected, describe(each), hint, where=name))
    return LossValue(jnp.sum(each.astype(wide(each))), each.size)


def _not_a_value(name: str, value: Any) -> str:
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
    return f"{name} returned {got}, expected LossValue(total, weight); {hint}"


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
