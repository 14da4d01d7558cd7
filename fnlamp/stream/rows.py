"""Specs of batches that are joined or cut: pairs of them, rows of one kind, other numbers of rows."""

from __future__ import annotations

from collections.abc import Callable

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe
from fnlamp.fault import FaultError, ShapeMismatch


def check_pairs(*specs: Tree) -> None:
    """Raises: `ValueError` for batches that are nested too deeply for functions of trees, which recurse."""
    level, depth = specs, 1
    while level := tuple(part for outer in level if isinstance(outer, tuple) for part in outer):
        depth += 1
        if depth > 400:
            raise ValueError(
                "zip makes pairs of batches, nested to at most 400 levels, got more: "
                "make them flat after each zip, as in s.zip(t).map(lambda pair: (*pair[0], pair[1]))"
            )


def check_like(one: Tree, other: Tree, where: str) -> None:
    """Fails: `ShapeMismatch` unless batches of both differ in their numbers of rows alone."""

    def per_row(spec: Tree) -> Tree:  # texts in the same structure, for graphs have no equality
        return tree.map(lambda leaf: describe(array_spec(leaf.shape[1:], leaf.dtype)), spec)

    if not tree.equal(per_row(one), per_row(other)):
        raise FaultError(ShapeMismatch(describe(one), describe(other), where=where))


def check_rows(spec: Tree, where: str) -> None:
    """Fails: `ShapeMismatch` unless all arrays of a batch have as many rows: others cannot be cut or joined row by row."""
    if len({leaf.shape[:1] for leaf in tree.leaves(spec)}) > 1:
        raise FaultError(ShapeMismatch("batches of arrays with the same number of rows", describe(spec), where=where))


def of_rows(spec: Tree, rows: Callable[[int], int]) -> Tree:
    return tree.map(lambda leaf: array_spec((rows(leaf.shape[0]), *leaf.shape[1:]), leaf.dtype), spec)
