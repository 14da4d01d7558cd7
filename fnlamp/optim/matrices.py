"""Parameters as matrices, by the axes and blocks that their tags say."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.tag import Matrix


def to_matrices(x: Array, matrix: Matrix) -> Array:
    """The array as matrices.  Shape: `(each blocks, inputs, outputs / blocks)`."""
    each, inputs = (math.prod(x.shape[axis] for axis in axes) for axes in (matrix.each, matrix.inputs))
    flat = jnp.transpose(x, _order(matrix)).reshape(each, inputs, matrix.blocks, -1)
    return jnp.moveaxis(flat, 2, 1).reshape(each * matrix.blocks, inputs, -1)


def from_matrices(y: Array, matrix: Matrix, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_matrices`, for an array of this shape."""
    order = _order(matrix)
    split = y.reshape(-1, matrix.blocks, *y.shape[1:])
    whole = jnp.moveaxis(split, 1, 2).reshape([shape[axis] for axis in order])
    return jnp.transpose(whole, [order.index(axis) for axis in range(len(shape))])


def _order(matrix: Matrix) -> tuple[int, ...]:
    return *matrix.each, *matrix.inputs, *matrix.outputs


def first_by_rest(shape: tuple[int, ...]) -> Matrix:
    """The first axis as inputs, the others as outputs; a vector is one column."""
    return Matrix(tuple(range(len(shape)))[:1], tuple(range(len(shape)))[1:])
