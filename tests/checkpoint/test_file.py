"""Trees in files: what comes back, what is refused, and what other programs read."""

from __future__ import annotations

import collections
import dataclasses
import math
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import tree as trees
from fnlamp.checkpoint import Record, read, rebuilt, write
from fnlamp.fault import FileMissing, FileUnwritable, NotStorable, StateMismatch


class Moments(NamedTuple):
    mean: Any
    variance: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: Any
    step: Any
    name: str = dataclasses.field(default="", metadata={"static": True})


def same(a: Any, b: Any) -> bool:
    """Whether the trees are equal in structure, types, dtypes and bytes."""
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return a.dtype == b.dtype and same(np.asarray(jax.random.key_data(a)), np.asarray(jax.random.key_data(b)))
    if isinstance(a, jax.Array):
        a = np.asarray(a)
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and list(map(type, a)) == list(map(type, b)) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Record):
        return (a.kind, a.by) == (b.kind, b.by) and same(dict(a.fields), dict(b.fields))
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return bool(a == b)


def through(tmp_path: Any, tree: Any) -> Any:
    return value(write(tmp_path / "tree.npz", tree).then(read(tmp_path / "tree.npz"))).tree


PLAIN = (None, True, False, 0, -1, 10**400, -(2**63), 1.5, -0.0, math.inf, -math.inf, math.nan, 1 - 2j, "", "größe", b"\0\xff")
NAMES = ["x", "x.npy", "manifest.json", "", "..", "leaf", "k" * 5000, "k" * 5000 + "2"]
EXACT = {
    "plain": PLAIN,
    "surrogates": ["\ud800", "\ud83d\ude00", "😀", "\x00"],
    "containers": [(), [], {}, ((),), [[]], ({}, [()])],
    "keys": {"a/b": 1, "": 2, "..": 3, "größe": 4, "\ud800": 5, "~": 6, "x.npy": 7, "x": 8},
    "mixed keys": {1: np.zeros(2), "1": np.ones(2), 10**30: 0},
    "ordered": collections.OrderedDict([("z", np.arange(2)), (1, np.arange(3)), ("1", np.arange(4))]),
    "equal paths": {"a/b": np.arange(1), "a": {"b": np.arange(2)}, "a%2Fb": np.arange(3)},
    "file names": {name: np.arange(n) for n, name in enumerate(NAMES)},
    "dtypes": [np.arange(3).astype(code) for code in "?bBhHiIlLqQefdgFDGUS"],
    "times": [np.array(["2020-01-01"], "M8[D]"), np.array([1], "m8[ns]")],
    "byte orders": [np.arange(3, dtype=">i4"), np.arange(3, dtype=">f8"), np.array(["ab"], ">U2")],
    "scalars": [np.float32(1), np.int8(-1), np.bool_(True), np.complex64(1j), np.str_("a"), np.datetime64("2020")],
    "shapes": [np.array(3.0), np.zeros((0,)), np.zeros((0, 3, 2)), np.zeros((1, 1, 1)), np.array(7, ">i2")],
    "views": [
        np.arange(12).reshape(3, 4)[::2, ::-1],
        np.broadcast_to(np.float32(2), (2, 3)),
        np.ones((2, 3, 4)).transpose(1, 0, 2),
    ],
}


@pytest.mark.parametrize("name", EXACT)
def test_a_tree_comes_back_as_it_was(tmp_path, name):
    assert same(EXACT[name], through(tmp_path, EXACT[name]))


@pytest.mark.parametrize("tree", [np.arange(3), 5, None, "text", {}, np.float16(1)], ids=repr)
def test_a_tree_of_one_leaf_or_none(tmp_path, tree):
    assert same(tree, through(tmp_path, tree))


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int4", "uint4"])
def test_the_dtypes_of_jax(tmp_path, name):
    array = jnp.array([0, 1, 2, 4], name)
    back = through(tmp_path, {"array": array, "scalar": np.asarray(array)[2]})
    assert same(np.asarray(array), back["array"])
    assert same(np.asarray(array)[2], back["scalar"])


def test_nan_with_a_payload(tmp_path):
    array = np.array([0x7FF80000DEADBEEF, 0xFFF0000000000001], np.uint64).view(np.float64)
    assert same([array, float(array[0])], through(tmp_path, [array, float(array[0])]))


def test_fortran_order_is_kept(tmp_path):
    back = through(tmp_path, np.asfortranarray(np.arange(24).reshape(2, 3, 4)))
    assert back.flags.f_contiguous and not back.flags.c_contiguous
    np.testing.assert_array_equal(back, np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys(tmp_path, impl):
    keys = {"one": jax.random.key(3, impl=impl), "several": jax.random.split(jax.random.key(4, impl=impl), 3)}
    back = through(tmp_path, keys)
    assert same(keys, back)
    assert jax.random.normal(back["one"]) == jax.random.normal(keys["one"])


def test_arrays_can_be_written_to_and_are_aligned_for_jax(tmp_path):
    back = through(tmp_path, {"a": np.arange(5), "b": np.arange(7, dtype=np.float32)})
    back["a"][0] = 9
    assert back["b"].ctypes.data % 64 == 0


def test_other_nodes_are_records_with_the_same_paths(tmp_path):
    tree = {
        "moments": Moments(np.zeros(2), {"a": np.ones(3)}),
        "state": State({"w": np.zeros(1)}, 3, "static"),
        "default": collections.defaultdict(int, x=np.arange(2)),
        "partial": jax.tree_util.Partial(print, 1, key=2),
    }
    back = through(tmp_path, tree)
    assert list(trees.paths(back)) == list(trees.paths(tree))
    assert [back[name].kind for name in back] == ["Moments", "State", "defaultdict", "Partial"]
    again = through(tmp_path, back)
    assert same(back, again)
    doubled = jax.tree.map(lambda x: x * 2, {"m": back["moments"]})
    np.testing.assert_array_equal(doubled["m"].fields["variance"]["a"], [2, 2, 2])


class Empty(NamedTuple): ...


@jax.tree_util.register_pytree_with_keys_class
class Odd:
    """A node whose children have the keys that it is given."""

    def __init__(self, keys: Any, children: Any) -> None:
        self.keys, self.children = keys, children

    def tree_flatten_with_keys(self) -> Any:
        return list(zip(self.keys, self.children, strict=True)), tuple(self.keys)

    @classmethod
    def tree_unflatten(cls, keys: Any, children: Any) -> Any:
        return cls(keys, children)


def test_odd_nodes(tmp_path):
    key, name = jax.tree_util.DictKey, jax.tree_util.GetAttrKey
    tree = [
        Empty(),
        Moments(None, (None, Empty())),
        Odd([key((1, 2)), key("a")], [1, 2]),
        Odd([name("a"), key(3)], [1, 2]),
        Odd(["plain", 5], [1, 2]),
    ]
    back = through(tmp_path, tree)
    assert list(trees.paths(back)) == list(trees.paths(tree))
    assert back[1].fields["mean"] is None and back[1].fields["variance"][0] is None
    assert rebuilt(back, {"Empty": Empty, "Moments": Moments})[:2] == tree[:2]
    twice = through(tmp_path, Odd([name("a"), name("a")], [1, 2]))
    assert list(twice.fields.items()) == [(0, 1), (1, 2)]


def test_named_tuples_are_rebuilt(tmp_path):
    tree = {"m": Moments(np.zeros(2), [Moments(1, 2)]), "s": State(np.zeros(1), 3)}
    back = rebuilt(through(tmp_path, tree), {"Moments": Moments})
    assert isinstance(back["m"], Moments) and back["m"].variance == [Moments(1, 2)]
    assert isinstance(back["s"], Record)

    class Other(NamedTuple):
        mean: Any
        spread: Any

    with pytest.raises(Exception) as raised:
        rebuilt(through(tmp_path, tree), {"Moments": Other})
    assert raised.value.fault == StateMismatch(("spread",), ("variance",), where="Moments")


class Opaque: ...


def donated() -> jax.Array:
    array = jnp.arange(3.0)
    array.delete()
    return array


LOOP: list[Any] = []
LOOP.append(LOOP)
REFUSED = {
    "objects": np.array([None, 1]),
    "records": np.zeros(2, [("a", "f4")]),
    "masked": np.ma.array([1, 2], mask=[0, 1]),
    "opaque": Opaque(),
    "function": print,
    "set": {1, 2},
    "key of a tuple": {(1, 2): 3},
    "key of a bool": {True: 3},
    "deleted": donated(),
    "loop": LOOP,
    "torch-like": type("Tensor", (), {"numpy": lambda self: np.zeros(1)})(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_named_by_its_path(tmp_path, name):
    found = fault(write(tmp_path / "tree.npz", {"fine": np.zeros(2), "layer": [1, REFUSED[name]]}))
    assert isinstance(found, NotStorable)
    assert found.where.startswith("layer/1")
    assert not list(tmp_path.iterdir())


def test_a_note_is_plain_data(tmp_path):
    path = tmp_path / "tree.npz"
    note = {"loss": np.float32(0.5), "list": [1, None, {"a": "b"}], "nan": math.nan, "inf": -math.inf}
    back = value(write(path, {}, step=7, note=note).then(read(path)))
    assert back.step == 7
    assert same(dict(back.note), {"loss": 0.5, "list": [1, None, {"a": "b"}], "nan": math.nan, "inf": -math.inf})
    assert fault(write(path, {}, note={"a": [np.zeros(2)]})).where == "note/a/0"


def test_numpy_and_zip_read_the_file(tmp_path):
    path = tmp_path / "tree.npz"
    tree = {"weight": np.arange(6.0).reshape(2, 3), "half": jnp.ones(3, jnp.bfloat16), "größe/1": [np.arange(3, dtype=">i2")]}
    value(write(path, tree))
    assert zipfile.ZipFile(path).testzip() is None
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"weight", "half", "gr%C3%B6%C3%9Fe%2F1/0", "manifest.json"}
        np.testing.assert_array_equal(arrays["weight"], tree["weight"])
        np.testing.assert_array_equal(arrays["half"], np.asarray(tree["half"]).view(np.uint16))
        np.testing.assert_array_equal(arrays["gr%C3%B6%C3%9Fe%2F1/0"], [0, 1, 2])


def test_the_same_tree_is_the_same_bytes(tmp_path):
    for name in "ab":
        value(write(tmp_path / name, EXACT, step=3, note={"a": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_building_a_program_does_nothing(tmp_path):
    write(tmp_path / "no" / "a.npz", {}), read(tmp_path / "b.npz")
    assert not list(tmp_path.iterdir())
    assert isinstance(fault(read(tmp_path / "b.npz")), FileMissing)
    assert isinstance(fault(write(tmp_path / "no" / "a.npz", {})), FileUnwritable)
