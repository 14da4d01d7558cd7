"""Random trees, random saves and random records, against plain models of them."""

from __future__ import annotations

import collections
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import value

from fnlamp import tree as trees
from fnlamp.checkpoint import (
    Record,
    Saved,
    append,
    keep_any,
    keep_best,
    keep_every,
    keep_last,
    latest,
    read,
    rebuilt,
    save,
    write,
)


class Pair(NamedTuple):
    one: Any
    two: Any


DTYPES = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1)
    | st.sampled_from([np.dtype(jnp.bfloat16), np.dtype(jnp.float8_e4m3fn), np.dtype(jnp.int4)])
)


@st.composite
def arrays(draw):
    """Arrays of any dtype, from random bits, in C or Fortran order, or a view with strides."""
    dtype = draw(DTYPES)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if dtype.kind in "SUOMm?" or dtype.name == "int4":
        array = np.zeros(shape, dtype)
    else:
        bits = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(int(np.prod(shape)) * dtype.itemsize)
        array = np.frombuffer(bits, dtype).reshape(shape)
    order = draw(st.sampled_from(["C", "F", "view", "scalar"]))
    if order == "view" and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    return array[()] if order == "scalar" and array.ndim == 0 else np.array(array, order="F" if order == "F" else "C")


TEXT = st.text(st.characters(), max_size=6) | st.text("\ud800\udfffa/.%~", max_size=4)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | TEXT | st.binary(max_size=5)
TREES = st.recursive(
    PLAIN | arrays(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
        | st.dictionaries(TEXT | st.integers(), inner, max_size=3).map(collections.OrderedDict)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def form(x: Any) -> Any:
    """All that must come back, as plain data that compares exactly."""
    if isinstance(x, np.ndarray | np.generic):
        order = isinstance(x, np.ndarray) and x.flags.f_contiguous and not x.flags.c_contiguous
        return type(x), x.dtype.str, x.dtype.name, x.shape, order, x.tobytes()
    if isinstance(x, dict):
        return type(x), [(type(key), key, form(child)) for key, child in x.items()]
    if isinstance(x, list | tuple):
        return type(x), [form(child) for child in x]
    if isinstance(x, float):
        return float, np.float64(x).tobytes()
    if isinstance(x, complex):
        return complex, np.complex128(x).tobytes()
    return type(x), x


def check_round_trip(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "tree.npz")
        back = value(write(path, tree).then(read(path))).tree
        with np.load(path, allow_pickle=False) as stored:
            assert len(set(stored.files)) == len(stored.files)
            for name in stored.files:
                stored[name]
    assert form(rebuilt(back, {"Pair": Pair})) == form(tree)
    try:
        expected = list(trees.paths(tree))
    except ValueError:  # keys that JAX cannot sort
        return
    assert list(trees.paths(back)) == expected


@examples(60)
@given(TREES)
def test_a_round_trip_is_exact(tree):
    check_round_trip(tree)


@pytest.mark.slow
@examples(3000)
@given(TREES)
def test_many_round_trips_are_exact(tree):
    check_round_trip(tree)


@examples(30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_the_latest_is_the_last_written(steps):
    with tempfile.TemporaryDirectory() as folder:
        for n, step in enumerate(steps):
            value(save(folder, step, n))
        found = value(latest(folder))
        assert (found.step, found.tree) == (steps[-1], len(steps) - 1)


SAVES = st.lists(
    st.tuples(st.integers(0, 50), st.floats() | st.none() | st.integers(-5, 5)), max_size=12, unique_by=lambda pair: pair[0]
).map(lambda pairs: tuple(Saved(f"{step}.npz", step, {"loss": loss}) for step, loss in pairs))


@examples(200)
@given(SAVES, st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.booleans())
def test_what_is_kept(saves, last, steps, best, highest):
    def kept(keep):
        gone = keep(saves)
        assert set(map(id, gone)) <= set(map(id, saves))
        return [saved.step for saved in saves if saved not in gone]

    assert kept(keep_last(last)) == [saved.step for saved in saves[-last:]]
    assert kept(keep_every(steps)) == [saved.step for saved in saves if saved.step % steps == 0]
    rated = [saved for saved in saves if saved.note["loss"] is not None and saved.note["loss"] == saved.note["loss"]]
    chosen = kept(keep_best("loss", best, highest=highest))
    assert len(chosen) == min(best, len(rated))
    values = sorted((saved.note["loss"] for saved in rated), reverse=highest)[:best]
    assert sorted((s.note["loss"] for s in rated if s.step in chosen), reverse=highest) == values
    keeps = [keep_last(last), keep_every(steps), keep_best("loss", best, highest=highest)]
    assert set(kept(keep_any(*keeps))) == set().union(*map(kept, keeps))


@examples(30)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=8))
def test_records_are_there_once_whatever_is_cut(writes):
    """Each write is followed by a crash that cuts some bytes of the last line: it is written again, and is there once."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "r.jsonl")
        expected: dict[int, bytes] = {}
        for epoch, cut in writes:
            added = value(append(path, {"epoch": epoch, "text": "x" * 10}))
            assert added == (epoch not in expected)
            expected[epoch] = b'{"epoch": %d, "text": "xxxxxxxxxx"}\n' % epoch
            lines = path.read_bytes()
            assert lines == b"".join(expected.values())
            if added and 0 < cut <= len(expected[epoch]):
                path.write_bytes(lines[:-cut])
                del expected[epoch]


def test_a_record_of_a_record_is_itself():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "r.npz")
        record = Record("Kind", {"a": 1, "b": Record("Other", {0: 2}, "index")})
        back = value(write(path, record).then(read(path))).tree
        assert (back.kind, back.by, back.fields["b"].kind, back.fields["b"].by) == ("Kind", "name", "Other", "index")
        assert list(trees.paths(back)) == ["a", "b/0"]
