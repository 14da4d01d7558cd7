"""Parts of batches: together they are the whole batches, at the same positions, or the stream is read whole."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fnlamp import data, stream, tree
from fnlamp.data.loading import loader
from fnlamp.effect import Effect, Resource

X, Y = np.arange(46, dtype=np.float32).reshape(23, 2), np.arange(23)
CUTS = 0.0, 0.4, 0.4, 1.0
"""Where the rows of each batch are cut into three parts, the second of which is empty."""


class Rows:
    def __init__(self):
        self.loads = Counter()

    def __len__(self):
        return 23

    def __getitem__(self, row):
        self.loads[row] += 1
        return X[row], int(Y[row])


def noisy(generator, item):
    return item[0] + generator.normal(), item[1]


def loaded(workers=0, **options):
    return data.loader(Rows(), batch_size=5, shuffle=True, seed=3, augment=noisy, workers=workers, **options)


@pytest.fixture
def mapped(tmp_path):
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    return tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))


def chosen(part):
    return lambda rows: slice(round(CUTS[part] * rows), round(CUTS[part + 1] * rows))


def check_parts(found):
    """At each position, forwards and again from the middle, the three parts are the batch and have its position after them."""
    assert found.divisible is not None
    reads = [found.divisible.read(chosen(part)) for part in range(3)]
    state, states = found.init, []
    while isinstance(whole := found.source(state), stream.Emit):
        states.append(state)
        state = whole.state
    assert all(isinstance(read(state), stream.End) for read in reads)
    for state in (*states, *states[len(states) // 2 :]):
        whole = found.source(state)
        got = [read(state) for read in reads]
        joined = tree.map(lambda *leaves: np.concatenate(leaves), *(each.item.batch for each in got))
        for one, other in zip(tree.leaves(joined), tree.leaves(whole.item), strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        assert {each.item.of for each in got} == {len(tree.leaves(whole.item)[0])}
        assert all(tree.equal(each.state, whole.state) for each in got)


CHANGES = {
    "as it is": lambda s: s,
    "take": lambda s: s.take(3),
    "drop": lambda s: s.drop(2),
    "every_nth": lambda s: s.every_nth(2, 1),
    "repeat_or_take": lambda s: s.repeat_or_take(8),
    "shuffle_buffer": lambda s: s.shuffle_buffer(3, 0).drop(1),
    "compiled map": lambda s: s.map(lambda batch: (2 * batch[0], batch[1])),
    "not indexed": lambda s: replace(s, indexed=False).drop(1).every_nth(2).take(2).repeat_or_take(3).shuffle_buffer(2, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_parts_of_a_loader_are_its_batches(name):
    loaded().use(lambda s: Effect.checked(lambda: check_parts(CHANGES[name](s)))).run_or_raise()


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_parts_of_a_loader_with_workers_are_its_batches(drop_last):
    used = data.threads(2).bind(lambda team: loaded(team, drop_last=drop_last))
    used.use(lambda s: Effect.checked(lambda: check_parts(s))).run_or_raise()


def test_parts_are_made_ahead():
    used = loaded().bind(lambda s: s.prefetch(2)).map(lambda s: s.take(4)).bind(lambda s: s.prefetch(1))
    used.use(lambda s: Effect.checked(lambda: check_parts(s))).run_or_raise()


def test_mapped_arrays_and_windows_are_read_in_parts(mapped):
    check_parts(stream.from_arrays(mapped, batch_size=5, seed=1))
    check_parts(stream.from_arrays(mapped, batch_size=5, drop_last=True, among=[3, 1, 20, 4, 5, 9]).repeat_or_take(3))
    check_parts(data.language_model_batches(mapped[1], block=3, batch_size=2, seed=0))


def test_a_part_loads_only_its_items():
    rows = Rows()

    def read(s):
        part = s.divisible.read(chosen(0))
        rows.loads.clear()
        return [len(part(position).item.batch[1]) for position in range(s.length)]

    made = data.loader(rows, batch_size=5, transform=lambda item: item)
    assert made.use(lambda s: Effect.checked(lambda: read(s))).run_or_raise() == [2, 2, 2, 2, 1]
    assert rows.loads == Counter((0, 1, 5, 6, 10, 11, 15, 16, 20))


@dataclass(frozen=True)
class First:
    """The choice of the first rows: another one each epoch, equal to the last."""

    count: int

    def __call__(self, rows):
        return slice(0, min(self.count, rows))


def folds(s, times=20):
    """The labels of each pass over the first rows of each batch."""
    return [[len(part.batch[1]) for part in stream.items(replace(s, source=s.divisible.read(First(2))))] for _ in range(times)]


def ahead():
    return sum(thread.name == "fnlamp prefetch" for thread in threading.enumerate())


def test_a_part_that_is_read_each_epoch_has_one_thread():
    used = loaded().bind(lambda s: s.prefetch(2))
    counted = used.use(lambda s: Effect.suspend(lambda: (folds(s), folds(s.take(3)), ahead()))).run_or_raise()
    assert counted == ([[2, 2, 2, 2, 2]] * 20, [[2, 2, 2]] * 20, 1)
    assert ahead() == 0


def test_a_part_that_is_read_each_epoch_has_one_list_of_requests(monkeypatch):
    made = []

    class Requests(loader._Requests):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(loader, "_Requests", Requests)
    used = data.threads(2).bind(lambda team: loaded(team, prefetch=1))
    found = used.use(lambda s: Effect.suspend(lambda: folds(s.take(2)))).run_or_raise()
    assert found == [[2, 2]] * 20
    assert len(made) == 2, "of whole batches, and of the part"
    assert [len(each.asked) for each in made] == [0, 2]


@pytest.mark.parametrize("count", [2, 1])
def test_a_part_of_a_released_stream_is_not_read(count):
    def read(s):
        folds(s, 1)
        return s

    s = loaded().bind(lambda s: s.prefetch(2)).use(lambda s: Effect.suspend(lambda: read(s))).run_or_raise()
    with pytest.raises(RuntimeError, match="after it had been released"):
        s.divisible.read(First(count))(0)
    assert ahead() == 0


def test_batches_that_depend_on_all_their_rows_are_read_whole(mapped):
    plain = stream.from_arrays(mapped, batch_size=5)
    assert plain.divisible is not None
    for whole in (
        plain.map(lambda batch: batch, spec=plain.spec),
        plain.filter(lambda batch: True),
        plain.chunk(2),
        plain.unchunk(2),
        plain.zip(plain),
        plain.concat(plain),
        plain.interleave(plain),
        replace(plain, source=stream.from_items([(X[:5], Y[:5])]).source),
        stream.from_items([X[:5]]),
        stream.minibatches(X, Y, batch_size=5),
    ):
        assert whole.divisible is None
    collated: Resource = loaded(collate=lambda items: data.stack(items))
    assert collated.use(lambda s: Effect.from_value(s.divisible)).run_or_raise() is None
