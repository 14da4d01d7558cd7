"""Helpers for pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import tree
from fnlamp.arrays import array_spec

TREE = {"a": {"w": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}, "n": jnp.ones((), jnp.int32)}


def test_map_goes_through_several_trees() -> None:
    assert tree.map(lambda x, y: x + y, {"a": 1, "b": (2,)}, {"a": 10, "b": (20,)}) == {"a": 11, "b": (22,)}


@pytest.mark.parametrize("one", [TREE, jax.tree.map(lambda x: array_spec(x.shape, x.dtype), TREE)], ids=["arrays", "specs"])
def test_count_and_bytes(one: object) -> None:
    assert tree.count(one) == 10
    assert tree.nbytes(one) == 6 * 4 + 3 * 2 + 4


def test_an_empty_tree_has_nothing() -> None:
    assert (tree.count({}), tree.nbytes({}), tree.paths({}), float(tree.global_norm({}))) == (0, 0, {}, 0.0)


def test_paths_go_through_dicts_and_tuples() -> None:
    assert tree.paths({"a": {"w": 1}, "n": (2, 3)}) == {"a/w": 1, "n/0": 2, "n/1": 3}


def test_cast_changes_floating_point_leaves_only() -> None:
    cast = tree.cast(TREE, jnp.float16)
    assert [x.dtype for x in jax.tree.leaves(cast)] == [jnp.float16, jnp.float16, jnp.int32]


def test_a_copy_has_its_own_buffers() -> None:
    copied = tree.copy(TREE)
    for old, new in zip(jax.tree.leaves(TREE), jax.tree.leaves(copied), strict=True):
        assert old.unsafe_buffer_pointer() != new.unsafe_buffer_pointer()
        np.testing.assert_array_equal(old, new)


def test_a_copy_survives_donation_of_the_original() -> None:
    original = {"w": jnp.arange(4.0)}
    copied = tree.copy(original)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(original)
    assert original["w"].is_deleted()
    np.testing.assert_array_equal(copied["w"], [0, 1, 2, 3])


def test_global_norm_sums_half_precision_in_float32() -> None:
    norm = tree.global_norm({"a": jnp.ones(10_000, jnp.bfloat16), "b": jnp.full(5, 2.0)})
    assert norm.dtype == jnp.float32
    assert float(norm) == pytest.approx(np.sqrt(10_020), rel=1e-6)


def test_global_norm_of_float64_is_float64() -> None:
    with jax.enable_x64(True):
        assert tree.global_norm({"a": jnp.ones(3, jnp.float64)}).dtype == jnp.float64
