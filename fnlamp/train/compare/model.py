"""In what two models, optimizers and schedules differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe, spec_after
from fnlamp.identity import differences
from fnlamp.layer import Init, Layer
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.optim.schedule import table as factors_of
from fnlamp.train.compare.words import Differing, differing, named
from fnlamp.train.explain.memory import slots_of
from fnlamp.train.supervised import Supervised


def of_model(models: tuple[Supervised, Supervised], made: tuple[Init, Init] | None) -> Iterator[Differing]:
    """Layers by path, the loss, and what else the model has."""
    one, other = models
    if made is None:
        yield from _of_layer("model", one.layer, other.layer)
    else:
        yield from _of_layers("", (one.layer, made[0]), (other.layer, made[1]))
    for field in fields(Supervised):
        if field.name != "layer":
            yield from named(field.name, getattr(one, field.name), getattr(other, field.name))


def _of_layers(path: str, one: tuple[Layer, Init], other: tuple[Layer, Init]) -> list[Differing]:
    """The parts of a layer that differ; the layer itself only if none of its parts does."""
    parts = [{name: (layer, init) for name, layer, init in made.parts} for _, made in (one, other)]
    found: list[Differing] = []
    for name in parts[0] | parts[1] if all(parts) else ():
        inside = f"{path}/{name}" if path else name
        if name in parts[0] and name in parts[1]:
            found += _of_layers(inside, parts[0][name], parts[1][name])
        else:
            found.append(Differing(f"layer {inside}", *(str(part[name][0]) if name in part else "nothing" for part in parts)))
    return found or list(_of_layer(f"layer {path}" if path else "model", one[0], other[0]))


def _of_layer(where: str, one: Layer, other: Layer) -> Iterator[Differing]:
    if str(one) != str(other):
        yield Differing(where, str(one), str(other))
        return
    seen = set()
    for function in ("apply", "init"):  # both read the layer's arguments: each is shown once
        for each in differing(f"{where}, {one}", getattr(one, function), getattr(other, function)):
            key = each.where.rpartition(".")[2], each.one, each.other
            if key not in seen:
                seen.add(key)
                yield each


def of_arrays(optimizers: tuple[Optimizer, Optimizer], made: tuple[Init, Init]) -> Iterator[Differing]:
    """Parameters and layer state by path that are missing or of another shape or dtype; parts of the optimizer's state."""
    yield from _of_specs("parameter", made[0].params, made[1].params)
    yield from _of_specs("layer state", made[0].state, made[1].state)
    names = [_slots(optimizer, init) for optimizer, init in zip(optimizers, made, strict=True)]
    if names[0] != names[1]:
        yield Differing("state of the optimizer", *(", ".join(each) or "nothing" for each in names))


def _slots(optimizer: Optimizer, made: Init) -> list[str]:
    return list(slots_of(spec_after(lambda params: optimizer.init(params, made.tags), made.params), made.params))


def _of_specs(what: str, one: Tree, other: Tree) -> Iterator[Differing]:
    ours, theirs = tree.paths(one), tree.paths(other)
    for path in ours | theirs:
        texts = [describe(leaves[path]) if path in leaves else "nothing" for leaves in (ours, theirs)]
        if texts[0] != texts[1]:
            yield Differing(f"{what} {path}", *texts)


def of_optimizer(optimizers: tuple[Optimizer, Optimizer], made: tuple[Init, Init] | None) -> Iterator[Differing]:
    """The rule, its numbers for each parameter, and what else its functions read."""
    one, other = optimizers
    if str(one) != str(other):
        yield Differing("optimizer", str(one), str(other))
    if made is not None:
        yield from _of_numbers(optimizers, made)
    if str(one) == str(other):
        compared = [field.name for field in fields(Optimizer) if field.name not in ("name", "init", "numbers", "rates")]
        for name in compared if made is not None else [*compared, "numbers"]:
            yield from differing(f"{one}, {name}", getattr(one, name), getattr(other, name))


def _of_numbers(optimizers: tuple[Optimizer, Optimizer], made: tuple[Init, Init]) -> Iterator[Differing]:
    numbers = [
        {path: np.asarray(leaf) for path, leaf in tree.paths(optimizer.numbers(init.params, init.tags)).items()}
        for optimizer, init in zip(optimizers, made, strict=True)
    ]
    same_parameters = list(tree.paths(made[0].params)) == list(tree.paths(made[1].params))
    for name in numbers[0] | numbers[1]:
        one, other = (found.get(name) for found in numbers)
        if one is not None and other is not None and np.array_equal(one, other):
            continue
        single = [value is None or len(set(value.tolist())) <= 1 for value in (one, other)]
        if all(single):
            if _one_of(one) != _one_of(other):
                yield Differing(f"{name} of {optimizers[0 if one is not None else 1]}", _one_of(one), _one_of(other))
        elif same_parameters and one is not None and other is not None and len(one) == len(tree.leaves(made[0].params)):
            for path, ours, theirs in zip(tree.paths(made[0].params), one, other, strict=True):
                if ours != theirs:
                    yield Differing(f"{name} of {path}", f"{ours:g}", f"{theirs:g}")
        else:
            yield Differing(f"{name} of {optimizers[0]}", _range(one), _range(other))


def _one_of(values: Any) -> str:
    return "nothing" if values is None or not values.size else f"{float(values[0]):g}"


def _range(values: Any) -> str:
    return _one_of(values) if values is None or not values.size else f"{values.min():g} to {values.max():g}"


def of_schedule(one: Schedule, other: Schedule, steps: int) -> Iterator[Differing]:
    """The first step with another factor; if there is none, the functions' code or what they read."""
    pairs = differences(one, other)
    if not pairs:
        return
    steps = min(steps, 2**31)
    if steps:
        at, ours = factors_of(one, steps)
        _, theirs = factors_of(other, steps)
        unequal = np.flatnonzero(ours != theirs)
        if unequal.size:
            first = unequal[0]
            where = f"schedule, {unequal.size:,} of {steps:,} steps, the first is step {at[first]:,}"
            yield Differing(where, f"{ours[first]:.6g}", f"{theirs[first]:.6g}")
            return
    yield from differing(f"schedule, with the same factors at all {steps:,} steps" if steps else "schedule", one, other)
