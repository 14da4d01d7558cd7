"""Wrong arguments of sources, loaders and batches of text are refused at once, by the name of the argument."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import data, stream
from fnlamp.data import loader, padded_batches, random_split, threads, with_transform
from fnlamp.fault import FaultError
from fnlamp.stream import from_arrays, from_function, from_items, from_iterable, from_iterator, full_batch, minibatches, staged

X, Y = np.zeros((6, 2), np.float32), np.arange(6)
masked = partial(
    data.masked_batches, [[[5, 6], [7, 8]]], **{"batch_size": 1, "maximum": 8, "vocabulary": 9, "cls": 0, "sep": 1, "mask": 2}
)

SIZED = {
    "minibatches": lambda **o: minibatches(X, Y, **{"batch_size": 2, **o}),
    "from_arrays": lambda **o: from_arrays(X, **{"batch_size": 2, **o}),
    "staged": lambda **o: staged(6, **{"batch_size": 2, "bucket": 1, "load": np.asarray, **o}),
    "loader": lambda **o: loader([1, 2], **{"batch_size": 2, "shuffle": True, "seed": 0, **o}),
    "padded_batches": lambda **o: padded_batches([[1]], **{"batch_size": 2, "pad": 0, **o}),
    "language_model_batches": lambda **o: data.language_model_batches(Y, **{"block": 2, "batch_size": 2, **o}),
    "masked_batches": lambda **o: masked(**{"pad": 3, "seed": 0, **o}),
}


@pytest.mark.parametrize("name", SIZED)
def test_a_batch_size_is_a_whole_number(name):
    make = SIZED[name]
    for right in (np.int64(2), np.uint8(2), jnp.int32(2), np.array(2)):
        make(batch_size=right)
    for wrong in (2.0, "2", None, True, np.float32(2), [2], np.array([2]), jnp.float32(2), object()):
        with pytest.raises(TypeError, match="batch_size is a whole number"):
            make(batch_size=wrong)
    for wrong in (0, -1, np.int64(-3)):
        with pytest.raises(ValueError, match="batch_size"):
            make(batch_size=wrong)


@pytest.mark.parametrize("name", SIZED)
def test_drop_last_is_true_or_false(name):
    SIZED[name](drop_last=np.bool_(True))
    for wrong in (1, 0, "no", None, np.array(True)):
        with pytest.raises(TypeError, match="drop_last is True or False"):
            SIZED[name](drop_last=wrong)


@pytest.mark.parametrize("name", [*SIZED, "random_split", "shuffle_buffer"])
def test_a_seed_is_a_whole_number_of_any_integer_type(name):
    make = {
        **SIZED,
        "random_split": lambda seed: random_split(Y, [3, 3], seed=seed),
        "shuffle_buffer": lambda seed: minibatches(X, Y, batch_size=2).shuffle_buffer(2, seed),
    }[name]
    for right in (3, np.int64(3), np.uint32(3), jnp.int32(3), jnp.uint8(3), np.array(3), 2**70):
        make(seed=right)
    for wrong in (2.0, "3", True, np.bool_(True), jnp.bool_(True), np.float64(3), [3], jax.random.key(0), jnp.arange(2)):
        with pytest.raises(TypeError, match="seed is a whole number"):
            make(seed=wrong)
    for wrong in (-1, np.int8(-1), jnp.int32(-1)):
        with pytest.raises(ValueError, match="a seed is 0 or more, got -1"):
            make(seed=wrong)


def test_one_seed_gives_one_order_whatever_its_type():
    orders = {
        tuple(int(y) for _, ys in stream.items(minibatches(X, Y, batch_size=4, seed=seed)) for y in ys)
        for seed in (3, np.int64(3), np.uint32(3), jnp.int32(3), jnp.uint8(3), np.array(3))
    }
    assert orders == {tuple(np.random.default_rng(3).permutation(6).tolist())}
    splits = {tuple(random_split(Y, [3, 3], seed=seed)[0].among.tolist()) for seed in (3, np.int16(3), jnp.int32(3))}
    assert len(splits) == 1


WRONG = [
    (lambda: loader(iter([1, 2]), batch_size=2), "dataset has __len__ and __getitem__"),
    (lambda: loader((i for i in range(3)), batch_size=2), "list\\(dataset\\)"),
    (lambda: loader({1, 2}, batch_size=2), "dataset has"),
    (lambda: loader(5, batch_size=2), "dataset has"),
    (lambda: loader(None, batch_size=2), "dataset has"),
    (lambda: loader(Iterable(), batch_size=2), "stream.from_iterable"),
    (lambda: loader(list, batch_size=2), "the class list; call it"),
    (lambda: loader(data.read_csv("a"), batch_size=2), "an Effect that has not run"),
    (lambda: data.subset(data.read_csv("a"), [0]), "an Effect that has not run"),
    (lambda: loader([1], batch_size=1, workers="2"), "workers is a whole number"),
    (lambda: loader([1], batch_size=1, workers=2.0), "workers is a whole number"),
    (lambda: loader([1], batch_size=1, workers=None), "workers is a whole number"),
    (lambda: loader([1], batch_size=1, workers=threads(2)), "workers=team"),
    (lambda: loader([1], batch_size=1, shuffle=1, seed=0), "shuffle is True or False"),
    (lambda: loader([1], batch_size=1, shuffle="yes", seed=0), "shuffle is True or False"),
    (lambda: loader([1], batch_size=1, prefetch=1.5), "prefetch is a whole number"),
    (lambda: loader([1], batch_size=1, transform="abs"), "transform is a function"),
    (lambda: loader([1], batch_size=1, augment=[abs], seed=0), "augment is a function"),
    (lambda: loader([1], batch_size=1, collate=None), "collate is a function"),
    (lambda: threads("2"), "count is a whole number"),
    (lambda: data.processes(1.0), "count is a whole number"),
    (lambda: with_transform([1], "abs"), "function is a function"),
    (lambda: with_transform(iter([1]), abs), "dataset has"),
    (lambda: data.subset(iter([1]), [0]), "dataset has"),
    (lambda: data.subset([1, 2], [0.5]), "whole numbers"),
    (lambda: random_split([1, 2], ["1", "1"], seed=0), "sizes are numbers"),
    (lambda: data.compose(abs, 3), "functions"),
    (lambda: data.at(0, 3), "function is a function"),
    (lambda: data.at(0.5, abs), "place is a position or a name"),
    (lambda: data.normalize("a", 1.0), "mean and std are numbers"),
    (lambda: data.stack(iter([1])), "items is a list"),
    (lambda: from_items(iter([X])), "batches is a list"),
    (lambda: from_items({"x": X}), "batches is a list"),
    (lambda: from_items(5), "batches is a list"),
    (lambda: from_function("3", np.zeros), "length is a whole number"),
    (lambda: from_function(2.0, np.zeros), "length is a whole number"),
    (lambda: from_function(2, [X, X]), "make is a function"),
    (lambda: from_iterable([X]), "make is a function"),
    (lambda: from_iterable(iter([X])), "make is a function"),
    (lambda: from_iterable(lambda: 5).use(stream.to_list).run(), "make returns an iterable of batches, got 5"),
    (lambda: from_iterator(5, spec=X), "iterator is an iterator"),
    (lambda: staged(6.0, batch_size=2, bucket=1, load=np.asarray), "rows is a whole number"),
    (lambda: staged(6, batch_size=2, bucket="1", load=np.asarray), "bucket is a whole number"),
    (lambda: staged(6, batch_size=2, bucket=1, load=[1]), "load is a function"),
    (lambda: from_arrays(X, batch_size=2, among=X[:, 0]), "whole numbers"),
    (lambda: from_arrays(X, batch_size=2, among="01"), "whole numbers"),
    (lambda: padded_batches([[1]], 2, pad="0"), "pad is a whole number"),
    (lambda: padded_batches([[1]], 2, pad=0, multiple=1.5), "multiple is a whole number"),
    (lambda: padded_batches([[1]], 2, pad=0, maximum="3"), "maximum is a whole number"),
    (lambda: padded_batches([[1]], 2, pad=0, cut=1, maximum=3), "cut is True or False"),
    (lambda: data.language_model_batches(Y, 2.0, 2), "block is a whole number"),
    (lambda: masked(pad=3, seed=None), "needs a seed"),
    (lambda: masked(pad=3, seed=0, share="0.1"), "share is a number"),
    (lambda: masked(pad=3.0, seed=0), "pad is a whole number"),
    (lambda: masked(pad=3, seed=0, special=["a"]), "special is a whole number"),
]


S = minibatches(X, Y, batch_size=2)
WRONG += [
    (lambda: stream.to_list(loader([1], batch_size=1)), "resource.use\\(stream.to_list\\)"),
    (lambda: stream.items([X]), "stream is a BatchStream"),
    (lambda: stream.fold([X], 0, max), "stream is a BatchStream"),
    (lambda: stream.fold(S, 0, 0), "function is a function"),
    (lambda: from_iterator(iter([X]), spec=None), "spec is the spec of a batch"),
    (lambda: data.read_csv(5), "a path is a str"),
    (lambda: data.read_csv("a", dtype="abc"), "dtype is a floating-point dtype"),
    (lambda: data.read_csv("a", columns=5), "columns is a sequence of strings"),
    (lambda: S.take(2.0), "count is a whole number"),
    (lambda: S.take("2"), "count is a whole number"),
    (lambda: S.drop(None), "count is a whole number"),
    (lambda: S.repeat_or_take(1.5), "count is a whole number"),
    (lambda: S.chunk(True), "count is a whole number"),
    (lambda: S.prefetch("2"), "count is a whole number"),
    (lambda: S.unchunk(1.0), "size is a whole number"),
    (lambda: S.shuffle_buffer("2", 0), "size is a whole number"),
    (lambda: S.every_nth(2.0), "n is a whole number"),
    (lambda: S.every_nth(2, "1"), "offset is a whole number"),
    (lambda: S.concat([S]), "other is a BatchStream in concat"),
    (lambda: S.zip(X), "other is a BatchStream in zip"),
    (lambda: S.interleave(S, None), "other is a BatchStream in interleave"),
    (lambda: S.concat(loader([1], batch_size=1)), "acquire it with"),
]


class Iterable:
    """Like torch's IterableDataset."""

    def __iter__(self):
        return iter([1, 2])


@pytest.mark.parametrize(("call", "says"), WRONG, ids=[f"{i} {says}" for i, (_, says) in enumerate(WRONG)])
def test_the_argument_is_named(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_iterable_data_sets_of_torch_are_named():
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([1, 2])

    class Counted(Endless):
        def __len__(self):
            return 2

    class Dataset:  # as Hugging Face's, which is one
        def __iter__(self):
            return iter([1, 2])

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return index

    chain = torch.utils.data.ChainDataset([Counted()])
    for wrong in (Endless(), Counted(), chain, torch.utils.data.DataLoader([1, 2])):
        with pytest.raises(TypeError, match=r"stream\.from_iterable"):
            loader(wrong, batch_size=2)
    loader(Dataset(), batch_size=2)
    loader(torch.utils.data.TensorDataset(torch.arange(3)), batch_size=2)


def test_batches_may_be_in_any_container_with_a_length_and_positions():
    class Lazy:
        def __len__(self):
            return 2

        def __getitem__(self, position):
            return X + position, Y

    for given in (Lazy(), [(X, Y), (X + 1, Y)], ((X, Y), (X + 1, Y))):
        assert [float(x[0, 0]) for x, _ in stream.items(from_items(given))] == [0, 1]
    for given in (np.stack([X, X + 1]), jnp.stack([X, X + 1])):
        assert [float(x[0, 0]) for x in stream.items(from_items(given))] == [0, 1]


def test_the_keys_of_a_dict_have_one_type():
    with pytest.raises(ValueError, match="minibatches: the keys of a dict have one type"):
        minibatches({1: X, "a": X}, Y, batch_size=2)
    assert minibatches({1: X, 2: X}, Y, batch_size=2).length == 3


def test_objects_that_hold_arrays_are_a_fault_that_names_the_arrays():
    with pytest.raises(FaultError, match=r"one of its parts \(x.columns, x.features, x.label\)"):
        minibatches(data.Table(("a", "b"), X, Y), Y, batch_size=2)
    with pytest.raises(FaultError, match="has not run"):
        minibatches(data.read_csv("a"), Y, batch_size=2)


def test_a_tuple_of_numbers_is_several_arrays():
    with pytest.raises(FaultError, match="give one as a list"):
        minibatches(X, (1, 2, 3, 4, 5, 6), batch_size=2)
    with pytest.raises(FaultError, match="full_batch: .*first axis counts rows"):
        full_batch(X, 5)
    with pytest.raises(FaultError, match="minibatches: expected as many targets as features"):
        minibatches(X, Y[:5], batch_size=2)


def test_frames_and_tensors_are_data_sets_of_rows_for_splits():
    pandas = pytest.importorskip("pandas", reason="pandas comes with the extra parity")
    frame = pandas.DataFrame({"a": [3, 1, 2], "b": [0.5, 1.5, 2.5]}, index=[2, 0, 1])
    one, other = random_split(frame, [2, 1], seed=0)
    assert sorted(row.tolist() for row in [*one, *other]) == [[1, 1.5], [2, 2.5], [3, 0.5]]
    assert [row.tolist() for row in data.subset(frame, [-1, 0])] == [[2, 2.5], [3, 0.5]]
    assert list(with_transform(frame["a"], int)) == [3, 1, 2]
