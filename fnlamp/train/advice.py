"""What a person should know about a compiled step before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fnlamp.arrays import describe, platform

CANONICAL = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""Images NHWC, kernel HWIO, output NHWC, as JAX counts axes: batch and feature first, then space."""


def advice(jaxpr: Any) -> tuple[str, ...]:
    """A line for what makes this step needlessly slow on this platform.

    On the CPU, inside a loop, XLA has fast code only for convolutions in the canonical layout; any other, and every gradient
    that JAX derives from a convolution is another, runs 10 to 20 times slower (jax issue 12868).
    """
    if platform() != "cpu":
        return ()
    slow = [equation for equation in equations(jaxpr) if _is_slow(equation)]
    if not slow:
        return ()
    images, kernel = (describe(variable.aval) for variable in slow[0].invars[:2])
    count = f"{len(slow)} {'convolution' if len(slow) == 1 else 'convolutions'}"
    return (
        f"slow: {count} of jax.lax, such as {images} by {kernel}, for which XLA has no fast code in a loop on the CPU; "
        "nn.conv2d and nn.conv_pool have, gradients too",
    )


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, those of the programs inside it too."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from equations(inner)


def _is_slow(equation: Any) -> bool:
    if equation.primitive.name != "conv_general_dilated":
        return False
    layout = equation.params["dimension_numbers"]
    return len(layout.lhs_spec) == 4 and tuple(map(tuple, layout)) != CANONICAL
