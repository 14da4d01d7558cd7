"""Parameters as matrices, by the axes and blocks that their tags say."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.tag import Matrix


def to_matrices(x: Array, matrix: Matrix) -> Array:
    """The array as matrices.  Shape: `(blocks, inputs, outputs / blocks)`."""
    inputs = math.prod(x.shape[axis] for axis in matrix.inputs)
    flat = jnp.transpose(x, (*matrix.inputs, *matrix.outputs)).reshape(inputs, matrix.blocks, -1)
    return jnp.moveaxis(flat, 1, 0)


def from_matrices(y: Array, matrix: Matrix, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_matrices`, for an array of this shape."""
    order = (*matrix.inputs, *matrix.outputs)
    whole = jnp.moveaxis(y, 0, 1).reshape([shape[axis] for axis in order])
    return jnp.transpose(whole, [order.index(axis) for axis in range(len(shape))])


def first_by_rest(shape: tuple[int, ...]) -> Matrix:
    """The first axis as inputs, the others as outputs; a vector is one column."""
    return Matrix(tuple(range(len(shape)))[:1], tuple(range(len(shape)))[1:])
