"""Train with a key, or Eval."""

import jax
import numpy as np

from fnlamp.mode import Eval, Train, name_key


def test_eval_is_the_same_everywhere() -> None:
    assert Eval().inside("a") == Eval() == Eval().inside("b")


def test_each_name_has_its_own_key_which_is_always_the_same() -> None:
    key = jax.random.key(0)
    names = ["0", "1", "hidden", "out"]
    data = [tuple(jax.random.key_data(name_key(key, name)).tolist()) for name in names]
    assert len(set(data)) == len(names)
    np.testing.assert_array_equal(jax.random.key_data(name_key(key, "out")), data[3])


def test_the_key_of_a_name_does_not_change_between_versions() -> None:
    # Published numbers depend on it: crc32("hidden") folded into the key of seed 0.
    key = name_key(jax.random.key(0, impl="threefry2x32"), "hidden")
    assert jax.random.key_data(key).tolist() == [2449846719, 3073881730]


def test_the_key_of_a_part_does_not_change_between_versions_nor_with_a_traced_path() -> None:
    # Published numbers depend on it: crc32("a") = 3904355907 and crc32("b") = 1908338681, by zlib.
    key = jax.random.key(3, impl="threefry2x32")
    path = (3904355907 * 2654435761 + 1908338681) % 2**32
    inner = Train(key).inside("a").inside("b")
    np.testing.assert_array_equal(jax.random.key_data(inner.key), jax.random.key_data(jax.random.fold_in(key, path)))
    traced = jax.jit(lambda at: Train(key, at).inside("b").key)(np.uint32(3904355907))
    np.testing.assert_array_equal(jax.random.key_data(traced), jax.random.key_data(inner.key))


def test_parts_in_any_depth_and_order_have_different_keys() -> None:
    names = ["0", "1", "2", "a", "b", "drop", "weights"]
    one = [Train(jax.random.key(0)).inside(a) for a in names]
    two = [mode.inside(b) for mode in one for b in names]
    paths = [mode.path for mode in (*one, *two, *(mode.inside(c) for mode in two for c in names))]
    assert len(set(paths)) == len(paths) == 7 + 49 + 343


def test_modes_go_through_jit() -> None:
    traces = []

    @jax.jit
    def kind(mode: Train | Eval) -> jax.Array:
        traces.append(type(mode))
        return jax.random.uniform(mode.key) if isinstance(mode, Train) else jax.numpy.zeros(())

    kind(Train(jax.random.key(0)))
    kind(Train(jax.random.key(1)))
    kind(Eval())
    assert traces == [Train, Eval]
