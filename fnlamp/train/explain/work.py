"""The floating-point operations of a program, counted in its jaxpr, with every iteration of its loops.

XLA's own count has the body of a loop once. Here a product or a convolution is two operations for each multiplication with its
addition, positions in the padding left out; any other operation is one for each floating-point number that it makes, and a
reduction one for each that it reads. Moving, selecting and converting numbers is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from fnlamp.arrays import is_float


class Work(NamedTuple):
    """Floating-point operations; `least` if a loop ends by a condition, whose body is counted once."""

    flops: int = 0
    least: bool = False

    def __str__(self) -> str:
        return ("at least " if self.least else "") + _in_units(self.flops)

    def times(self, count: int) -> Work:
        """This much, `count` times."""
        return Work(self.flops * count, self.least)

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(self.flops + other.flops, self.least or other.least)


_MOVES: Final = frozenset(
    (
        *("reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "rev", "split", "concatenate", "pad", "iota"),
        *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "select_n", "sort", "copy", "copy_p"),
        *("convert_element_type", "bitcast_convert_type", "reduce_precision", "real", "imag", "stop_gradient"),
        *("optimization_barrier", "device_put"),
    )
)
"""Primitives that compute no number."""


def work_of(jaxpr: Any) -> Work:
    """The work of a jaxpr, of those inside it too; what its outputs do not depend on is none, as XLA leaves it out."""
    jaxpr, total = getattr(jaxpr, "jaxpr", jaxpr), Work()
    for equation in used(jaxpr, jaxpr.outvars)[0]:
        total = total.plus(_of(equation))
    return total


def used(jaxpr: Any, outputs: list[Any]) -> tuple[list[Any], list[bool]]:
    """The equations that outputs of a jaxpr may depend on, and for each input whether they may.

    A program inside it counts as depending on all of its inputs.

    >>> jaxpr = jax.make_jaxpr(lambda x, y: (2 * x, 3 * y))(1.0, 1.0).jaxpr
    >>> used(jaxpr, jaxpr.outvars[:1])[1]
    [True, False]
    """
    needed, equations = {variable for variable in outputs if not hasattr(variable, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars) or equation.effects:
            needed.update(variable for variable in equation.invars if not hasattr(variable, "val"))
            equations.append(equation)
    return equations, [variable in needed for variable in jaxpr.invars]


def _of(equation: Any) -> Work:
    name, inner = equation.primitive.name, list(inside(equation))
    if name == "scan":
        return work_of(equation.params["jaxpr"]).times(equation.params["length"])
    if name == "while":
        return Work(sum(work_of(each).flops for each in inner), least=True)
    if name == "cond":
        return max((work_of(branch) for branch in equation.params["branches"]), key=lambda work: work.flops)
    if name == "dot_general":
        return Work(2 * _size(equation.outvars[0]) * _contracted(equation))
    if name == "conv_general_dilated":
        return Work(_convolution(equation))
    if name.startswith("conv2d"):  # nn's, of any of its forms
        return Work(equation.params["geometry"].flops)
    if name.startswith("scatter"):
        return Work(_floats(equation.invars[2]) if name != "scatter" else 0)
    if inner and not name.startswith(("reduce", "cum")):  # a call
        total = Work()
        for each in inner:
            total = total.plus(work_of(each))
        return total
    if name in _MOVES:
        return Work()
    if name.startswith(("reduce", "arg", "cum")):
        return Work(sum(map(_floats, equation.invars)))
    return Work(sum(map(_floats, equation.outvars)))


def inside(equation: Any) -> Iterator[Any]:
    """The programs that an operation calls."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "eqns") or hasattr(each, "jaxpr"):
                yield each


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _floats(variable: Any) -> int:
    return _size(variable) if hasattr(variable.aval, "dtype") and is_float(variable.aval) else 0


def _contracted(equation: Any) -> int:
    (left, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return math.prod(shape[axis] for axis in left)


def _convolution(equation: Any) -> int:
    images, kernel, out = (variable.aval.shape for variable in (*equation.invars, equation.outvars[0]))
    params = equation.params
    images_at, kernel_at, out_at = params["dimension_numbers"]
    pairs = 1
    for axis, (low, _) in enumerate(params["padding"]):
        length, taps, made = images[images_at[2 + axis]], kernel[kernel_at[2 + axis]], out[out_at[2 + axis]]
        hole = params["lhs_dilation"][axis]
        at = np.arange(made)[:, None] * params["window_strides"][axis] + np.arange(taps) * params["rhs_dilation"][axis] - low
        pairs *= int(((at >= 0) & (at <= (length - 1) * hole) & (at % hole == 0)).sum())
    total: int = 2 * out[out_at[0]] * out[out_at[1]] * kernel[kernel_at[1]] * pairs
    return total


def _in_units(flops: float) -> str:
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if flops >= size:
            return f"{flops / size:,.4g} {unit}"
    return f"{flops / 1e6:,.4g} MFLOP" if flops else "0 MFLOP"
