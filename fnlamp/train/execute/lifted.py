"""Programs whose numbers are arguments: those that differ in nothing but numbers are one executable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from fnlamp.identity.numbers import Same, of_array
from fnlamp.train.execute.programs import PROGRAMS

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"})
"""Primitives that call the jaxpr in their parameters and nothing else: a compiled step is not differentiated any more."""
LOOPS = frozenset({"cond", "while", "scan", "remat2", "checkpoint"})
"""Primitives whose jaxprs are given the numbers too. In the jaxprs of any other primitive, numbers remain constants."""


def compiled(function: Callable[..., Any], donate: int, *, lift: bool) -> Callable[..., Any]:
    """The function as a program that writes into the buffers of one argument; with `lift` its numbers are arguments too."""
    return lifted(function, donate) if lift else jax.jit(function, donate_argnums=donate, keep_unused=True)


def lifted(function: Callable[..., Any], donate: int) -> Callable[..., Any]:
    """`jax.jit(function, donate_argnums=donate)`, with one executable for all functions that differ in numbers alone.

    Numbers are the scalar literals of the function's jaxpr, except 0 and those that are not finite, and the arrays that it has
    captured. The executable is a function of this function, never of what ran before: results have the same bits in any
    process. They may differ from those of `jax.jit` in the last bits, since XLA simplifies, say, a division by a constant.
    """
    found: list[Any] = []

    def run(*arguments: Any) -> Any:
        if not found:  # two threads at once find the same
            found[:] = _found(function, donate, arguments)
        program, numbers = found
        return program(numbers, *arguments)

    return run


def _found(function: Callable[..., Any], donate: int, arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """The shared program of a function for arguments like these, and the function's own numbers."""
    traced = trace(function, arguments)
    key = "lifted", traced.form, jax.tree.structure(arguments), traced.after, donate

    def program(numbers: Any, *arguments: Any) -> Any:
        return jax.tree.unflatten(traced.after, traced(numbers, jax.tree.leaves(arguments)))

    made = PROGRAMS.get(key, lambda: jax.jit(program, donate_argnums=donate + 1, keep_unused=True))
    return made, traced.numbers


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced function: `form` is equal for those that differ in nothing but `numbers`, and `after` structures its results.

    `numbers` are a vector for each dtype, and the captured arrays.
    """

    jaxpr: Jaxpr
    form: Hashable
    numbers: tuple[dict[str, Any], list[Any]]
    after: Any

    def __call__(self, numbers: Any, leaves: Sequence[Any]) -> list[Any]:
        """The leaves of the results for those of the arguments, with these numbers instead of its own."""
        return _evaluated(self.jaxpr, leaves, numbers, Counter())


def trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Traced:
    """The function as it is for arguments, or specs, like these."""
    closed, after = jax.make_jaxpr(function, return_shape=True)(*arguments)
    collected = Collected()
    form = collected.of(closed.jaxpr, closed.consts)
    return Traced(closed.jaxpr, form, collected.numbers(), jax.tree.structure(after))


def _is_number(var: Any) -> bool:
    """Whether this is a literal that becomes an argument."""
    aval: Any = var.aval
    if not isinstance(var, Literal) or aval.shape or not jnp.issubdtype(aval.dtype, np.number):
        return False
    value = np.asarray(var.val)
    return bool(value != 0 and np.isfinite(value))


def _dtype(number: Any) -> str:
    name: str = number.aval.dtype.name
    return name


@dataclass
class Collected:
    """The numbers of a jaxpr in the order in which `_evaluated` reads them, found while its identity is."""

    scalars: dict[str, list[Any]] = field(default_factory=dict)
    arrays: list[Any] = field(default_factory=list)

    def numbers(self) -> tuple[dict[str, Any], list[Any]]:
        """A vector for each dtype, and the arrays."""
        return {dtype: np.array(values, dtype) for dtype, values in self.scalars.items()}, [jnp.asarray(x) for x in self.arrays]

    def of(self, jaxpr: Jaxpr, consts: Sequence[Any], lift: bool = True) -> Hashable:
        """What is equal for jaxprs that differ in nothing but numbers."""
        names: dict[Any, int] = {}

        def defined(variables: Sequence[Any]) -> tuple[Hashable, ...]:
            names.update((variable, len(names)) for variable in variables)
            return tuple(variable.aval for variable in variables)

        def operand(variable: Any) -> Hashable:
            if not isinstance(variable, Literal):
                return names[variable]
            if not (lift and _is_number(variable)):
                return variable.aval, of_array(np.asarray(variable.val))
            self.scalars.setdefault(_dtype(variable), []).append(variable.val)
            return ("number", variable.aval)

        about: list[Hashable] = [defined(jaxpr.constvars), defined(jaxpr.invars)]
        if lift:
            self.arrays += consts
        else:
            about.append(tuple(map(Same, consts)))
        for equation in jaxpr.eqns:
            operands = tuple(map(operand, equation.invars))
            about.append((equation.primitive, operands, self.parameters(equation, lift), defined(equation.outvars)))
        return (*about, tuple(map(operand, jaxpr.outvars)))

    def parameters(self, equation: Any, lift: bool) -> Hashable:
        name = equation.primitive.name
        if name in CALLS:
            called = _called(equation)
            return self.of(called.jaxpr, called.consts, lift)
        return tuple((key, self.parameter(value, lift and name in LOOPS)) for key, value in sorted(equation.params.items()))

    def parameter(self, value: Any, lift: bool) -> Hashable:
        if isinstance(value, ClosedJaxpr):
            return self.of(value.jaxpr, value.consts, lift)
        if isinstance(value, Jaxpr):
            return self.of(value, (), lift)
        if isinstance(value, tuple | list):
            return type(value), tuple(self.parameter(each, lift) for each in value)
        if isinstance(value, float | np.ndarray | np.generic):
            return type(value), of_array(value)
        try:
            hash(value)
        except TypeError:
            return Same(value)
        return type(value), value


def _called(equation: Any) -> ClosedJaxpr:
    found: ClosedJaxpr = next(value for _, value in sorted(equation.params.items()) if isinstance(value, ClosedJaxpr))
    return found


def _evaluated(jaxpr: Jaxpr, arguments: Sequence[Any], numbers: Any, at: Counter[str]) -> list[Any]:
    """The results of the jaxpr, with these numbers instead of its own; `at` counts those that have been read."""
    scalars, arrays = numbers
    values: dict[Any, Any] = {}

    def read(variable: Any) -> Any:
        if not isinstance(variable, Literal):
            return values[variable]
        if not _is_number(variable):
            return variable.val
        dtype = _dtype(variable)
        at[dtype] += 1
        return scalars[dtype][at[dtype] - 1]

    values.update(zip(jaxpr.constvars, arrays[at["arrays"] :], strict=False))
    at["arrays"] += len(jaxpr.constvars)
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        operands = list(map(read, equation.invars))
        if equation.primitive.name in CALLS:
            out = _evaluated(_called(equation).jaxpr, operands, numbers, at)
        elif equation.primitive.name in LOOPS:
            out = _repeated(equation, operands, numbers, at)
        else:
            primitive: Any = equation.primitive
            out = primitive.bind(*operands, **equation.params)
            out = out if primitive.multiple_results else [out]
        values.update(zip(equation.outvars, out, strict=True))
    return list(map(read, jaxpr.outvars))


def _spec(variable: Any) -> Any:
    spec: Any = jax.ShapeDtypeStruct
    return spec(variable.aval.shape, variable.aval.dtype, weak_type=variable.aval.weak_type)


def _repeated(equation: Any, operands: list[Any], numbers: Any, at: Counter[str]) -> list[Any]:
    """The results of a loop or condition whose jaxprs have the numbers as their first arguments."""
    given, structure = jax.tree.flatten(numbers)
    count = len(given)

    def inner(jaxpr: Jaxpr, *arguments: Any) -> list[Any]:
        return _evaluated(jaxpr, arguments[count:], jax.tree.unflatten(structure, arguments[:count]), at)

    def opened(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(opened, value))
        if not isinstance(value, ClosedJaxpr | Jaxpr):
            return value
        jaxpr = value.jaxpr if isinstance(value, ClosedJaxpr) else value  # one class since JAX 0.11, whose jaxpr is itself
        return jax.make_jaxpr(partial(inner, jaxpr))(*given, *map(_spec, jaxpr.invars))

    params = {name: opened(value) for name, value in sorted(equation.params.items())}
    match equation.primitive.name:
        case "cond":
            operands = [operands[0], *given, *operands[1:]]
        case "while":
            of_condition = params["cond_nconsts"]
            operands = [*given, *operands[:of_condition], *given, *operands[of_condition:]]
            params |= {name: params[name] + count for name in ("cond_nconsts", "body_nconsts")}
        case "scan":
            return _scanned(params, given, operands)
        case _:
            operands, params["jaxpr"] = [*given, *operands], params["jaxpr"].jaxpr
    primitive: Any = equation.primitive
    out: list[Any] = primitive.bind(*operands, **params)
    return out


def _scanned(params: Mapping[str, Any], given: list[Any], operands: list[Any]) -> list[Any]:
    """A scan whose step has the numbers as its first arguments, by JAX's function: its parameters are others in JAX 0.11.2."""
    if "ft_in" in params:
        fixed, carried = map(len, params["ft_in"].unpack()[:2])
    else:
        fixed, carried = params["num_consts"], params["num_carry"]
    step: Any = jaxpr_as_fun(params["jaxpr"])
    end = fixed + carried

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = step(*given, *operands[:fixed], *carry, *x)
        return out[:carried], out[carried:]

    carry, out = jax.lax.scan(body, operands[fixed:end], operands[end:], params["length"], params["reverse"], params["unroll"])
    return [*carry, *out]
