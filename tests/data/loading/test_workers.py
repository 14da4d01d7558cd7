"""Worker processes and threads: the same batches as without them, typed faults, and nothing left behind.

`FNLAMP_STRESS=50 python -m pytest tests/data/loading/test_workers.py` kills and resumes fifty times.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import outcomes
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import stream
from fnlamp.data import array_dataset, at, compose, loader, normalize, processes, subset, threads, to_float, with_transform
from fnlamp.data.loading import threads as team_room
from fnlamp.data.loading.collate import stack
from fnlamp.data.loading.load import Load
from fnlamp.data.loading.serve import Request, _Desk
from fnlamp.data.loading.shared import Shared
from fnlamp.effect import Effect
from fnlamp.fault import DtypeMismatch, FaultError, ItemFailed, NotPicklable, ShapeMismatch, WorkerLost

TIMES = int(os.environ.get("FNLAMP_STRESS", "6"))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# ------------------------------------------------------------------------------- what workers are given


class Images:
    """Pictures that are computed from their number; `wait` seconds for each."""

    def __init__(self, rows, wait=0.0, broken=None):
        self.rows, self.wait, self.broken = rows, wait, broken

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        if index == self.broken:
            raise ValueError(f"no picture {index}")
        time.sleep(self.wait)
        return np.arange(index, index + 12, dtype=np.uint8).reshape(2, 2, 3), index


def flip_and_shift(generator, item):
    image, label = item
    image = image[:, ::-1] if generator.random() < 0.5 else image
    return image + generator.integers(0, 9, image.shape, np.uint8), label


PIXELS = at(0, compose(to_float, normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))))


def name_process(item):
    return os.getpid()


def named(items):
    images = np.stack([image for image, _ in items])
    parts = [np.asfortranarray(images), images[..., 0], jnp.ones(len(items))]
    return {"rows": np.array([label for _, label in items]), "parts": parts}


def kill_itself(item, at):
    if item[1] == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def unpicklable_in_a_worker(items):
    """An array in the caller's process, which loads the first item."""
    return np.zeros(1) if parent_process() is None else (item for item in items)


class Unreadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self):
        return int, ("no number",)

    def __call__(self, item):
        return item


# ------------------------------------------------------------------------------- helpers


KINDS = {"one process": partial(processes, 1), "two processes": partial(processes, 2), "threads": partial(threads, 3)}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def use(resource, function):
    return outcomes.value(resource.use(lambda s: Effect.suspend(lambda: function(s))))


def fault(resource, function=lambda s: list(stream.items(s))):
    def read(s):
        return Effect.attempt(lambda: function(s), FaultError, lambda error: error.fault)

    outcome = resource.use(read).run()
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def batches(resource, state=None):
    return use(resource, lambda s: list(stream.items(s, state)))


def raw(found):
    """Batches as bytes, to compare them to the last bit."""
    return [[(str(part.dtype), part.shape, np.asarray(part).tobytes()) for part in batch] for batch in found]


def pipeline(workers, **options):
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "augment": flip_and_shift, "transform": PIXELS, **options}
    return loader(Images(30), workers=workers, **options)


def family():
    """The child processes, except those of multiprocessing itself."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (entry / "stat").read_text()
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if rest[0] != "Z":
                parents[int(entry.name)] = (int(rest[1]), (entry / "cmdline").read_text(), name)
    below, found = {os.getpid()}, set()
    for _ in range(4):
        found |= {pid for pid, (parent, _, _) in parents.items() if parent in below}
        below |= found
    kept = {pid for pid in found if parents[pid][0] == os.getpid() and "multiprocessing" in parents[pid][1]}
    return found - kept


def beyond(before):
    """New descriptors, threads and child processes since before; those of other tests may have ended."""
    descriptors, threads, processes = before
    more = max(0, len(os.listdir("/proc/self/fd")) - descriptors)
    return more, set(threading.enumerate()) - threads, family() - processes


@pytest.fixture
def nothing_is_left():
    use(loader([1], batch_size=1, workers=1), lambda s: list(stream.items(s)))  # multiprocessing's own server runs
    before = len(os.listdir("/proc/self/fd")), set(threading.enumerate()), family()
    yield
    end = time.monotonic() + 5
    while any(left := beyond(before)) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == (0, set(), set())


# ------------------------------------------------------------------------------- the same batches


@each_kind
def test_order_and_content_do_not_depend_on_the_workers(kind):
    def run(workers):
        plain = [raw(batches(pipeline(workers, shuffle=shuffle, prefetch=prefetch))) for shuffle, prefetch in CASES]
        return Effect.from_value(plain)

    CASES = [(True, 2), (False, 1), (True, 5)]  # noqa: N806
    expected = [raw(batches(pipeline(0, shuffle=shuffle))) for shuffle, _ in CASES]
    outcome = kind().use(run).run()
    assert unsafe_perform_io(outcome.unwrap()) == expected


@each_kind
def test_many_sizes(kind):
    def run(workers):
        for rows, size, drop in itertools.product((0, 1, 6, 7), (1, 3), (False, True)):
            options = {"batch_size": size, "drop_last": drop}
            here = raw(batches(loader(Images(rows), **options)))
            assert raw(batches(loader(Images(rows), workers=workers, **options))) == here, (rows, size, drop)
        return Effect.from_value(None)

    kind().use(run).run().unwrap()


def test_a_pipeline_resumes_from_any_batch_with_the_same_bits():
    whole = raw(batches(pipeline(0)))
    chance = random.Random(0)

    def run(workers):
        def jump(s):
            for _ in range(max(TIMES, 10)):  # one loader, with positions in any order
                position = chance.randrange(s.length)
                found = s.step(position)
                assert (raw([found.item])[0], found.state) == (whole[position], position + 1)

        use(pipeline(workers), jump)
        for _ in range(TIMES):  # a new loader for each start
            start = chance.randrange(len(whole))
            assert raw(batches(pipeline(workers), start)) == whole[start:]
        return Effect.from_value(None)

    processes(2).use(run).run().unwrap()


class Counted(Images):
    """Counts the requested rows, in threads of this process."""

    def __init__(self, rows):
        super().__init__(rows)
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


def test_only_what_is_needed_is_loaded_ahead():
    def asked(positions, combine=lambda s: s):
        data = Counted(40)

        def read(s):
            s = combine(s)
            found = [s.step(p).item[1].tolist() for p in (positions or range(s.length))]
            time.sleep(0.02)
            return found, len(data.asked) - 1

        return use(threads(2).bind(lambda team: loader(data, batch_size=1, workers=team)), read)

    assert asked(None) == ([[i] for i in range(40)], 40)
    found, count = asked(None, lambda s: s.every_nth(4))
    assert found == [[i] for i in range(0, 40, 4)]
    assert count <= 10 + 4  # the first request may be the start of a whole epoch
    jumps = [30, 3, 20, 11, 35, 8, 25, 1]
    found, count = asked(jumps)
    assert found == [[i] for i in jumps]
    assert count <= len(jumps) + 4
    assert asked([0, 0, 0, 1, 1, 2])[0] == [[0], [0], [0], [1], [1], [2]]


@each_kind
def test_workers_are_shared_by_loaders_that_run_at_once(kind):
    def run(workers):
        def both(left):
            def pairs(right):
                return Effect.suspend(lambda: list(zip(stream.items(left), stream.items(right), strict=True)))

            return pipeline(workers, seed=2).use(pairs)

        return pipeline(workers, seed=1).use(both)

    pairs = unsafe_perform_io(kind().use(run).run().unwrap())
    for i, seed in enumerate((1, 2)):
        assert raw([pair[i] for pair in pairs]) == raw(batches(pipeline(0, seed=seed)))


def test_processes_load_and_threads_do_not_leave():
    found = np.concatenate(batches(loader(range(40), batch_size=1, transform=name_process, workers=2)))
    assert len(set(found.tolist())) == 2
    assert os.getpid() not in found


def test_a_batch_owns_its_memory():
    found = batches(loader(Images(40), batch_size=2, workers=1, prefetch=1))
    assert [label.tolist() for _, label in found] == [[i, i + 1] for i in range(0, 40, 2)]
    image = found[0][0]
    image[:] = 7  # and may be written to
    assert found[1][0][0, 0, 0, 0] == 2
    assert image.ctypes.data % 64 == 0  # where JAX can use it without a copy


def test_a_batch_of_any_tree_of_arrays_is_handed_over():
    alone, ours = (batches(loader(Images(3), batch_size=2, collate=named, workers=n)) for n in (0, 1))
    for one, other in zip(alone, ours, strict=True):
        assert raw([[one["rows"], *one["parts"]]]) == raw([[other["rows"], *other["parts"]]])
    found = fault(loader([1, 2], batch_size=1, collate=spelled, workers=1))
    assert isinstance(found, DtypeMismatch)
    assert found.where == "batch/text/0"


def spelled(items):
    return {"text": [str(item) for item in items]}


def test_batches_that_grow(size=300):
    data = [np.full(i * 1000, i, np.int32) for i in range(1, size)]
    found = batches(loader(data, batch_size=1, collate=partial(np.stack), workers=1))
    assert all((batch == i).all() and batch.shape == (1, i * 1000) for i, batch in enumerate(found, start=1))


def test_batches_are_ready_before_the_request():
    def read(s):
        items = stream.items(s)
        next(items)
        time.sleep(0.5)  # 4 batches of 0.04 s are being loaded
        start = time.perf_counter()
        for _ in range(4):
            next(items)
        return time.perf_counter() - start

    assert use(loader(Images(40, wait=0.02), batch_size=2, workers=2, prefetch=2), read) < 0.08


def test_a_memory_map_is_sent_by_name(tmp_path):
    x = np.arange(60, dtype=np.int32).reshape(20, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for data in (array_dataset(mapped), array_dataset(mapped[4:9]), subset(array_dataset(mapped[2:]), [5, 1])):
        made = partial(loader, data, batch_size=2, transform=PASS)
        assert raw(batches(made(workers=1))) == raw(batches(made()))


PASS = compose()


def mapped_as(folder, mode, order="C"):
    x = np.asarray(np.arange(60, dtype=np.int32).reshape(20, 3), order=order)
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)


VIEWS = {
    "whole": lambda m: m,
    "rows": lambda m: m[4:9],
    "every other": lambda m: m[1::2],
    "backwards": lambda m: m[::-1, ::-2],
    "columns": lambda m: m[:, 1:],
    "turned": lambda m: m.T,
    "one number": lambda m: m[3, 1:2].reshape(()),
    "words": lambda m: m.view(np.uint16) if m.flags.c_contiguous else m,
    "not by that name": np.asarray,
    "rows, not by that name": lambda m: np.asarray(m)[2:5],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_view_of_a_map_is_sent_by_name(view, mode, order, tmp_path):
    value = view(mapped_as(tmp_path, mode, order))
    found, size = sent(value)
    assert type(found) is type(value)
    assert found.strides == value.strides
    np.testing.assert_array_equal(found, value)
    assert size < 400


def sent(value):
    """The object read from shared memory, and the number of bytes written besides arrays, and with them."""
    block = Shared()
    (layout,) = block.write(value)
    found = block.read(layout)
    block.close()
    return found, sum(length for _, length in layout)


def test_a_map_that_differs_from_its_file_is_sent_by_content(tmp_path):
    private = mapped_as(tmp_path, "c")
    private *= 5
    for value in (private, private[3:], np.asarray(private)):
        np.testing.assert_array_equal(sent(value)[0], value)
    same = [raw([[*batches(loader(private, batch_size=4, transform=PASS, workers=n))]]) for n in (0, 1)]
    assert same[0] == same[1]
    for change in (lambda path: None, lambda path: np.save(path, np.zeros((20, 3), np.int32))):
        value = mapped_as(tmp_path, "r")
        (tmp_path / "x.npy").unlink()
        change(tmp_path / "x.npy")
        np.testing.assert_array_equal(sent(value)[0], np.arange(60).reshape(20, 3))
    shared = mapped_as(tmp_path, "r+")
    shared[3] = 7  # not flushed: other maps of the file see its writes at once
    np.testing.assert_array_equal(sent(shared)[0], shared)


def test_writes_of_a_worker_into_its_data_stay_in_the_worker():
    x = np.zeros((6, 2))
    found = batches(loader(array_dataset(x), batch_size=1, transform=write_into, workers=2))
    assert all(batch[0].max() == 1 for batch in found[1:])
    assert x[1:].max() == 0  # the first item was loaded here, for the spec of a batch


def write_into(item):
    item[0][:] += 1
    return item


# ------------------------------------------------------------------------------- failures


@each_kind
def test_an_exception_names_the_row(kind, nothing_is_left):
    found = fault(kind().bind(lambda team: loader(Images(30, broken=17), batch_size=4, workers=team)))
    assert found == ItemFailed(17, "ValueError: no picture 17")
    assert "in __getitem__" in found.error


def test_a_fault_of_a_transform_is_the_same_everywhere():
    images = [np.zeros((2, 2, channels), np.uint8) for channels in (3, 3, 1, 1)]
    data = with_transform(images, compose(to_float, normalize((0, 0, 0), (1, 1, 1))))
    alone, ours = (fault(loader(data, batch_size=2, workers=n)) for n in (0, 2))
    assert isinstance(ours, ShapeMismatch)
    assert ours == alone
    assert ours.where == "item 2/normalize"


@LINUX
def test_a_killed_worker_is_a_fault_that_names_the_row(nothing_is_left):
    found = fault(loader(Images(30), batch_size=4, transform=partial(kill_itself, at=13), workers=2))
    assert found == WorkerLost(13, -signal.SIGKILL)
    found = fault(loader(Images(9), batch_size=4, transform=leave_at_5, workers=1))
    assert found == WorkerLost(5, 7)


def leave_at_5(item):
    if item[1] == 5:
        sys.exit(7)
    return item


@LINUX
def test_killing_workers_at_random_is_always_a_fault_and_never_a_hang(nothing_is_left):
    chance = random.Random(1)

    def read(s):
        victim = chance.choice(sorted(family()))
        timer = threading.Timer(chance.uniform(0, 0.05), os.kill, (victim, signal.SIGKILL))
        timer.start()
        for _ in range(1000):  # epoch after epoch, until the loss is detected
            list(stream.items(s))
        raise AssertionError("the worker was not missed")

    for _ in range(TIMES):
        start = time.monotonic()
        found = fault(loader(Images(64, wait=0.0005), batch_size=8, workers=2), read)
        assert isinstance(found, WorkerLost)
        assert found.exit_code == -signal.SIGKILL
        assert 0 <= found.index < 64
        assert time.monotonic() - start < 10


@LINUX
def test_workers_that_are_shared_are_replaced_for_the_next_loader(nothing_is_left):
    def run(team):
        lost = fault(loader(Images(30), batch_size=4, transform=partial(kill_itself, at=13), workers=team))
        return Effect.from_value((lost, raw(batches(loader(Images(30), batch_size=4, workers=team)))))

    lost, found = unsafe_perform_io(processes(2).use(run).run().unwrap())
    assert isinstance(lost, WorkerLost)
    assert found == raw(batches(loader(Images(30), batch_size=4)))


def within(seconds, function):
    """The result of the function, if it returns in time; a test that hangs would report nothing."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"not done in {seconds} s"
    return found[0]


@LINUX
@pytest.mark.parametrize("count", [1, 2])
def test_a_loader_reports_a_worker_that_another_loader_replaced(count, nothing_is_left):
    waits = [0.0, 0.5, 0.5, 0.5, 0.5, 0.0]  # longer than a busy machine takes to kill

    def run(team):
        def outer(s):
            assert s.step(0).item.tolist() == [0]
            kill_all(team)
            inner = batches(loader([1, 2], batch_size=1, workers=team))
            found = [within(5, partial(s.step, position)) for position in range(1, 2 * count + 1)]
            again = [s.step(position).item.tolist() for position in range(2 * count + 1, 6)]
            return len(inner), found, again

        return Effect.from_value(use(loader(waits, batch_size=1, transform=sleep, workers=team), outer))

    inner, found, again = unsafe_perform_io(processes(count).use(run).run().unwrap())
    assert inner == 2
    assert all(isinstance(step.fault, WorkerLost) and step.fault.exit_code == -signal.SIGKILL for step in found)
    np.testing.assert_allclose(np.ravel(again), waits[2 * count + 1 :])  # by the new workers


def kill_all(team):
    for worker in team.workers:
        os.kill(worker.process.pid, signal.SIGKILL)
    for worker in team.workers:
        worker.process.join(5)


@LINUX
def test_batches_that_were_done_outlive_their_worker(nothing_is_left):
    def run(team):
        def outer(s):
            items = stream.items(s)
            found = [next(items)]
            time.sleep(0.3)  # the batches requested ahead are done
            kill_all(team)
            batches(loader([1, 2], batch_size=1, workers=team))
            return found + list(items)

        return Effect.from_value(raw(use(loader(Images(30), batch_size=4, workers=team), outer)))

    found = unsafe_perform_io(processes(1).use(run).run().unwrap())
    assert found == raw(batches(loader(Images(30), batch_size=4)))


def test_a_worker_answers_requests_of_an_unknown_job():
    ours, theirs = multiprocessing.Pipe()
    blocks = [Shared() for _ in range(2)]
    with ours, theirs:
        progress = blocks[0].counters()
        desk = _Desk(theirs, progress)
        desk.slots[0] = blocks[1]
        (rows,) = blocks[1].write([4, 5])
        desk.receive(Request(7, 1, 0, 4, rows))
        desk.receive(("end", 7))
        desk.work()
        ticket, layout = ours.recv()
        assert (ticket, blocks[1].read(layout).failure().index) == (1, 4)
        progress.release()
    for block in blocks:
        block.close()


@each_kind
def test_using_a_released_loader_is_a_bug_and_leaves_its_workers_unchanged(kind, nothing_is_left):
    def run(team):
        s = use(loader([1, 2, 3], batch_size=1, workers=team), lambda s: s)
        with pytest.raises(RuntimeError, match="used after it had been released"):
            s.step(0)
        return Effect.from_value(batches(loader([1, 2, 3], batch_size=1, workers=team)))

    found = unsafe_perform_io(kind().use(run).run().unwrap())
    assert [batch.tolist() for batch in found] == [[1], [2], [3]]


def test_two_threads_read_one_loader():
    rows = list(range(200))

    def check(team):
        def read(s):
            found = [[], []]

            def go(i):
                found[i] = [int(s.step(position).item[0]) for position in range(i, 200)]

            both = [threading.Thread(target=go, args=(i,)) for i in (0, 1)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            return found

        assert use(loader(rows, batch_size=1, workers=team), read) == [rows, rows[1:]]
        return Effect.from_value(None)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for kind in KINDS.values():
            kind().use(check).run().unwrap()
    finally:
        sys.setswitchinterval(before)


def test_a_slow_loader_does_not_hold_up_another_one_of_the_same_workers():
    def run(team):
        def both(slow):
            def go(quick):
                slow.step(0)
                thread = threading.Thread(target=slow.step, args=(1,))
                thread.start()
                time.sleep(0.1)
                start = time.monotonic()
                quick.step(0)
                took = time.monotonic() - start
                thread.join()
                return took

            return Effect.from_value(use(loader([1, 2], batch_size=1, workers=team, prefetch=1), go))

        return loader([0, 1.5, 0, 0], batch_size=1, transform=sleep, workers=team, prefetch=1).use(both)

    assert unsafe_perform_io(processes(2).use(run).run().unwrap()) < 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"transform": lambda item: item}, "transform"),
        ({"transform": Unreadable()}, "transform"),
        ({"augment": lambda generator, item: item, "seed": 0}, "augment"),
        ({"collate": lambda items: np.zeros(1)}, "collate"),
        ({"dataset": with_transform([1], lambda item: item)}, "dataset"),
        ({"dataset": [1, threading.Lock()]}, "dataset"),
        ({"collate": unpicklable_in_a_worker}, "a batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_object_that_cannot_be_sent_is_named(options, what):
    options = {"dataset": [1, 2], "batch_size": 1, "workers": 1, **options}
    found = fault(loader(**options))
    assert isinstance(found, NotPicklable), found
    assert found.what == what
    assert "threads(n)" in str(found)


# ------------------------------------------------------------------------------- nothing is left


@LINUX
@each_kind
def test_nothing_is_left_after_any_exit(kind, nothing_is_left):
    def stop(how):
        def read(s):
            items = stream.items(s)
            next(items)
            how()
            return list(items)

        return read

    class Bug(BaseException):
        pass

    def bug():
        raise Bug

    made = kind().bind(pipeline)
    use(made, stop(lambda: None))
    with pytest.raises(Bug):
        use(made, stop(bug))
    assert not is_successful(made.use(lambda s: Effect.from_failure("enough")).run())


@LINUX
def test_release_does_not_wait_for_a_long_item(nothing_is_left):
    start = time.monotonic()
    use(slow(), lambda s: s.length)
    assert time.monotonic() - start < 5


@LINUX
def test_release_does_not_wait_for_a_long_item_that_is_prefetched(nothing_is_left, monkeypatch):
    monkeypatch.setattr("fnlamp.stream.ahead.PATIENCE", 0.2)
    made = loader([0.0, 60.0, 0.0], batch_size=1, transform=sleep, workers=1).bind(lambda s: s.prefetch(2))

    def bug(s):
        next(stream.items(s))
        time.sleep(0.2)  # the thread waits for the worker
        raise ValueError("a bug")

    def run():
        with pytest.raises(ValueError, match="a bug"):
            use(made, bug)
        return True

    assert within(5, run)


def test_a_request_does_not_wait_for_a_stuck_worker(nothing_is_left):
    def ask(team):
        job = team.start(Load([60.0], sleep, None, stack, None))
        for _ in range(3):
            job.request([0] * 300_000)  # more than the capacity of a pipe
        job.close()
        return True

    assert within(5, lambda: use(processes(1), ask))


class Held(Images):
    """Records the rows that are read, and blocks those after the first `free` ones until it is released."""

    def __init__(self, rows, free):
        super().__init__(rows)
        self.free = free
        self.asked, self.done = [], []
        self.go_on = threading.Event()

    def __getitem__(self, index):
        self.asked.append(index)
        if index >= self.free:
            self.go_on.wait(30)
        self.done.append(index)
        return index

    def wait_for(self, *asked):
        while not set(asked) <= set(self.asked):
            time.sleep(0.001)


def test_a_release_waits_for_items_that_threads_are_loading(nothing_is_left):
    data = Held(10, free=1)

    def read(s):
        s.step(0)
        data.wait_for(1, 2)
        threading.Timer(0.1, data.go_on.set).start()

    def run(team):
        use(loader(data, batch_size=1, workers=team), read)
        done = [*data.done]
        time.sleep(0.05)
        return Effect.from_value((sorted(done), sorted(data.asked)))

    done, asked = unsafe_perform_io(threads(2).use(run).run().unwrap())
    assert done == asked == [0, 0, 1, 2]


def test_a_release_waits_for_a_dropped_batch_that_is_loading(nothing_is_left):
    data = Held(10, free=1)

    def run(team):
        job = team.start(Load(data, None, None, stack, None))
        ticket = job.request([1])
        data.wait_for(1)
        job.drop(ticket)
        threading.Timer(0.1, data.go_on.set).start()
        job.close()
        return Effect.from_value([*data.done])

    assert unsafe_perform_io(threads(2).use(run).run().unwrap()) == [1]


def test_stuck_threads_are_abandoned_and_start_no_other_item(nothing_is_left, monkeypatch):
    monkeypatch.setattr(team_room, "PATIENCE", 0.1)
    data = Held(12, free=3)

    def read(s):
        s.step(0)
        data.wait_for(3, 6)
        return True

    assert within(5, lambda: use(threads(2).bind(lambda team: loader(data, batch_size=3, workers=team)), read))
    data.go_on.set()
    while not {3, 6} <= set(data.done):
        time.sleep(0.001)
    time.sleep(0.05)
    assert sorted(data.asked) == [0, 0, 1, 2, 3, 6]  # and neither 4 nor 7


def slow():
    """Two workers that are inside an item of a minute when the loader is released."""
    made = loader([0.0, 60.0, 60.0], batch_size=1, transform=sleep, workers=2)

    def begin(s):
        s.step(0)
        time.sleep(0.1)
        return s

    return made.map(begin)


def sleep(item):
    time.sleep(item)
    return item


SCRIPT = """
import time
from fnlamp import stream
from fnlamp.data import loader, processes
from fnlamp.effect import Effect

class Slow:
    def __len__(self): return 1000
    def __getitem__(self, index): time.sleep(0.05); return index

def read(s, team):
    items = stream.items(s)
    next(items)
    print(*(worker.process.pid for worker in team.workers), flush=True)
    list(items)

if __name__ == "__main__":
    def use(team):
        return loader(Slow(), batch_size=4, workers=team).use(lambda s: Effect.suspend(lambda: read(s, team)))

    processes(2).use(use).run()
"""


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, script], env=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(how)
        if how == signal.SIGINT:
            time.sleep(0.3)
            process.send_signal(how)  # the first Ctrl-C asks, the second ends
        process.communicate(timeout=20)
    end = time.monotonic() + 10
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(running, workers))


# ------------------------------------------------------------------------------- programs that cannot be imported


def program(text, *, by_input, folder):
    """The output and errors of a program in a file, or from standard input."""
    file = folder / "program.py"
    file.write_text(text)
    command = [sys.executable, *([] if by_input else [file])]
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    options = {"input": text} if by_input else {}
    done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=60, cwd=folder, **options)
    return done.stdout.strip().splitlines(), done.stderr


UNGUARDED = """
from fnlamp import data, stream
from fnlamp.effect import Runtime
def own(item): return item
for function in (data.compose(), own):
    print(repr(data.loader([1, 2], batch_size=2, workers=2, transform=function).use(stream.to_list).run(Runtime(log=None))))
"""


@pytest.mark.slow
def test_a_program_from_standard_input_has_workers_but_no_functions_for_them(tmp_path):
    said, errors = program(UNGUARDED, by_input=True, folder=tmp_path)
    assert said[0] == "<IOResult: <Success: [array([1, 2], dtype=int32)]>>"
    assert "expected transform that can be sent to a worker process" in said[1]
    assert errors == ""


@pytest.mark.slow
def test_a_program_that_starts_workers_while_they_import_it_is_a_fault_that_says_so(tmp_path):
    said, errors = program(UNGUARDED, by_input=False, folder=tmp_path)
    assert len(said) == 2
    assert all('does its own work under if __name__ == "__main__":' in line for line in said)
    assert errors == ""
