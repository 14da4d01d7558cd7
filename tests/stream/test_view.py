"""Compiled views: positions, segments, orders, and mapped functions."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import stream
from fnlamp.stream import Order, Recipe

X = np.arange(22, dtype=np.uint8).reshape(11, 2)
Y = np.arange(11)


def made(**options):
    return stream.minibatches(X, Y, batch_size=4, **options)


def labels(s):
    return [np.asarray(y).tolist() for _, y in stream.items(s)]


def test_an_order_without_a_seed_is_the_given_one_and_with_a_seed_a_permutation():
    assert Order(7)[np.arange(7)].tolist() == list(range(7))
    shuffled = Order(1000, 5)[np.arange(1000)]
    assert sorted(shuffled.tolist()) == list(range(1000))
    assert (shuffled == Order(1000, 5)[np.arange(1000)]).all()
    assert (shuffled != Order(1000, 6)[np.arange(1000)]).mean() > 0.9
    assert shuffled.dtype == np.int32


def test_all_permutations_are_about_equally_frequent():
    seen = [tuple(Order(3, seed)[np.arange(3)].tolist()) for seed in range(600)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 6
    assert min(counts) > 60


def test_segments_are_of_one_size_each():
    view = made().view
    assert [(len(s.starts), s.size) for s in view.segments] == [(2, 4), (1, 3)]
    assert [s.rows().shape for s in view.segments] == [(2, 4), (1, 3)]
    assert (len(view), view.samples) == (3, 11)
    assert [s.size for s in made(drop_last=True).view.segments] == [4]


def test_a_position_outside_has_no_batch():
    with pytest.raises(IndexError):
        made().view.batch(3)


def test_positions_count_over_all_segments():
    s = made(seed=2).concat(made()).every_nth(2, 1)
    assert [np.asarray(s.view.batch(i)[1]).tolist() for i in range(len(s.view))] == labels(s)
    assert labels(s) == (labels(made(seed=2)) + labels(made()))[1::2]


@pytest.mark.parametrize(("n", "offset"), [(2, 0), (2, 1), (3, 2), (5, 4), (9, 8)])
def test_every_nth_skips_over_segments_of_any_length(n, offset):
    s = made().concat(made(seed=1)).concat(made(drop_last=True))
    assert labels(s.every_nth(n, offset)) == labels(s)[offset::n]
    assert labels(s.every_nth(n, offset).take(2)) == labels(s)[offset::n][:2]
    assert labels(s.take(5).every_nth(n, offset)) == labels(s)[:5][offset::n]


def test_the_host_gives_batches_of_the_spec_and_of_the_programs_numbers():
    s = made(seed=4).map(lambda batch: (batch[0] * 0.1, batch[1] + 1))
    for i, (x, y) in enumerate(stream.items(s)):
        assert (x.dtype, y.dtype) == (s.spec[0].dtype, s.spec[1].dtype) == (np.float32, np.int32)
        segment = s.view.segments[i // 2]
        arrays = jax.tree.map(jnp.asarray, segment.arrays)
        on_device = jax.jit(segment.recipe.__call__)(arrays, segment.rows()[i % 2])
        np.testing.assert_array_equal(x, on_device[0])
        np.testing.assert_array_equal(y, on_device[1])


def test_rows_are_unchanged_without_a_function():
    x, y = next(iter(stream.items(made())))
    assert isinstance(x, np.ndarray)
    assert (x.dtype, y.dtype) == (np.uint8, Y.dtype)


def test_functions_are_applied_first_to_last():
    s = made().map(lambda b: (b[0], b[1] + 1)).map(lambda b: (b[0], b[1] * 2))
    assert labels(s)[0] == [2, 4, 6, 8]


def test_a_mapped_function_can_change_the_number_of_features():
    s = made().map(lambda batch: (jnp.concatenate([batch[0], batch[0]], axis=1), batch[1]))
    assert repr(s) == "<BatchStream: 3 batches of (uint8[4, 4], int32[4])>"
    assert s.concat(s).length == 6


# ------------------------------------------------------------------------------- when two recipes are the same


def captures(value):
    return lambda batch: (batch[0] * value, batch[1])


def calls_itself(times):
    def again(batch, left=times):
        return batch if left == 0 else again((batch[0] + 1, batch[1]), left - 1)

    return again


def call_each_other(value):
    def even(batch):
        return batch if value else odd(batch)

    def odd(batch):
        return even(batch)

    return even


def alike(a, b):
    return Recipe((a,)) == Recipe((b,))


def test_a_function_that_calls_itself_compares_by_what_it_captured():
    assert alike(calls_itself(2), calls_itself(2))
    assert hash(Recipe((calls_itself(2),))) == hash(Recipe((calls_itself(2),)))
    assert not alike(calls_itself(2), calls_itself(3))
    assert alike(call_each_other(1), call_each_other(1))
    assert not alike(call_each_other(1), call_each_other(2))
    x, _ = next(iter(stream.items(made().map(calls_itself(2)))))
    np.testing.assert_array_equal(x, X[:4] + 2)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (1, True, False),
        (1.0, 1 + 0j, False),
        ((1, (2.0, "a")), (1, (2.0, "a")), True),
        ((1, (2.0, "a")), (1, (2, "a")), False),
        (int, int, True),
        (int, float, False),
        (None, None, True),
        ([1], [1], True),
        ([1], [1.0], False),
    ],
)
def test_captured_values_are_the_same_when_they_trace_the_same(a, b, same):
    assert alike(captures(a), captures(b)) is same


def test_arrays_are_the_same_when_they_hold_the_same():
    weights = np.ones(2)
    assert alike(captures(weights), captures(weights.copy()))
    before = Recipe((captures(weights),)).identity
    weights[0] = 2
    assert Recipe((captures(weights),)).identity != before


def test_an_array_that_a_recipe_captured_is_kept_alive():
    recipe = Recipe((captures(np.ones(2)),))
    hash(recipe)
    assert not any(recipe == Recipe((captures(np.zeros(2)),)) for _ in range(50))


def test_partials_defaults_and_methods_compare_by_their_parts():
    def add(batch, n, *, m=0):
        return batch[0] + n + m, batch[1]

    class Adder:
        def add(self, batch):
            return batch

    one = Adder()
    assert alike(partial(add, n=1), partial(add, n=1))
    assert not alike(partial(add, n=1), partial(add, n=1, m=1))
    assert alike(partial(captures(1)), partial(captures(1)))
    assert alike(one.add, one.add)
    assert alike(one.add, Adder().add)
    with_default = [lambda batch, n=n: batch for n in (1, 1, 2)]
    assert alike(*with_default[:2])
    assert not alike(*with_default[1:])


def test_recipes_differ_by_order_and_number_of_functions_and_name_the_difference():
    a, b = captures(1), calls_itself(1)
    assert Recipe((a, b)) != Recipe((b, a))
    assert Recipe((a, b)) != Recipe((a,))
    assert Recipe() == Recipe()
    assert Recipe((a, b)).difference(Recipe((a, calls_itself(2)))) == "again"
    assert Recipe((a, b)).difference(Recipe((a,))) == "2 functions of map instead of 1"
