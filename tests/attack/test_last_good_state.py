"""Every outcome that ends a run with worker processes in epoch 5 of 6 holds the last good state, to resume bit for bit."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.data import loader, processes
from fnlamp.effect import Defect, Effect, Interrupted, Resource, Runtime
from fnlamp.fault import FaultError, FileMissing, ItemFailed, WorkerLost

SILENT = Runtime(log=None)
EPOCHS, LATE = 6, 5
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 4)).astype(np.float32), np.arange(24) % 3
MODEL = train.supervised(nn.linear(6) >> nn.batch_norm() >> nn.dropout(0.1) >> nn.linear(3), loss.cross_entropy())


@pytest.fixture(autouse=True)
def _the_default_handler_is_there_before_and_after() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


class Rows:
    """Rows; row 13 behaves differently in a worker."""

    def __init__(self, at_13: Callable[[], object] = int) -> None:
        self.at_13 = at_13

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        if row == 13:
            self.at_13()
        return X[row], np.int32(Y[row])


def unreadable() -> None:
    raise OSError("unreadable")


def exits() -> None:
    os._exit(7)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bad_transform(item: Any) -> Any:
    raise ValueError("no")


def bad_collate(items: list[Any]) -> Any:
    raise ValueError("no")


def batches(dataset: Any = None, **options: Any) -> Callable[[train.LoopContext], Resource[stream.BatchStream, Any]]:
    """A factory that reads another data set, with other options, in the late epoch, at the first attempt."""

    def each(context: train.LoopContext) -> Resource[stream.BatchStream, Any]:
        late = context.epoch == LATE
        given = {"dataset": Rows() if dataset is None or not late else dataset, **(options if late else {})}
        return loader(**{"batch_size": 4, "shuffle": True, "seed": context.seed, "workers": 2, **given}).bind(
            lambda s: s.prefetch(1)
        )

    return each


def missing(context: train.LoopContext) -> Any:
    if context.epoch == LATE:
        raise FaultError(FileMissing("rows.npy", "no such file"))
    return batches()(context)


def describe(**options: Any) -> Effect[Any, Any]:
    return train.epochs(
        **{"model": MODEL, "optimizer": optim.adamw(1e-2), "train_batches": batches(), "epochs": EPOCHS, **options}
    )


def in_late_epoch(act: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda report: act() if report.epoch == LATE - 1 else None


def twice() -> Effect[Any, Any]:
    def act() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**7):  # the second Ctrl-C arrives here
            pass

    return Effect.suspend(act)


def raising() -> Any:
    raise ValueError("no")


def odd(prediction: Any, target: Any) -> Any:
    if prediction.shape[0] == 3:
        raise ValueError("no")
    return loss.accuracy(prediction, target)


def validation(context: train.LoopContext) -> Any:
    return loader(Rows(), batch_size=3 if context.epoch == LATE else 4, workers=1)


ENDS: dict[str, tuple[dict[str, Any], type[Any]]] = {
    "an item fails": ({"train_batches": batches(Rows(unreadable))}, ItemFailed),
    "a transform fails": ({"train_batches": batches(transform=bad_transform)}, ItemFailed),
    "a collation fails": ({"train_batches": batches(collate=bad_collate)}, ItemFailed),
    "a worker exits": ({"train_batches": batches(Rows(exits))}, WorkerLost),
    "a worker is killed": ({"train_batches": batches(Rows(killed))}, WorkerLost),
    "a factory fails": ({"train_batches": missing}, FileMissing),
    "on_epoch fails": (
        {"on_epoch": in_late_epoch(lambda: Effect.from_failure(FileMissing("disk", "not mounted")))},
        FileMissing,
    ),
    "on_epoch raises": ({"on_epoch": in_late_epoch(raising)}, ValueError),
    "on_epoch's program raises": ({"on_epoch": in_late_epoch(lambda: Effect.suspend(raising))}, ValueError),
    "a metric raises": ({"validation_batches": validation, "metrics": {"odd": odd}}, ValueError),
    "a second Ctrl-C": ({"on_epoch": in_late_epoch(twice)}, KeyboardInterrupt),
}


@pytest.fixture(scope="module")
def whole() -> list[Any]:
    return leaves(describe().run(SILENT).unwrap()._inner_value)


def leaves(trained: Any) -> list[Any]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((trained.params, trained.layer_state, trained.state.optimizer_state))]


@pytest.mark.skipif(sys.platform != "linux", reason="starts processes from a server")
@pytest.mark.parametrize(
    "name",
    [
        "a worker is killed",
        "a second Ctrl-C",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("an item fails", "on_epoch fails", "a metric raises")),
    ],
)
def test_every_outcome_holds_the_last_good_state_and_resuming_gives_the_whole_run(whole: list[Any], name: str) -> None:
    ends_and_resumes(whole, name, None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="starts processes from a server")
@pytest.mark.parametrize("name", ENDS)
def test_every_outcome_in_the_other_executor(whole: list[Any], name: str) -> None:
    ends_and_resumes(whole, name, train.Fused())


def ends_and_resumes(whole: list[Any], name: str, executor: Any) -> None:
    options, kind = ENDS[name]
    state = ended(describe(**options), kind, Runtime(log=None, executor=executor))
    assert [report.epoch for report in state.curve] == list(range(1, LATE))
    assert all(np.isfinite(leaf).all() for leaf in leaves(state))
    resumed = describe(resume=state).run(SILENT).unwrap()._inner_value
    assert len(resumed.curve) == EPOCHS
    for a, b in zip(leaves(resumed), whole, strict=True):
        np.testing.assert_array_equal(a, b)


def ended(program: Effect[Any, Any], kind: type[Any], runtime: Runtime) -> Any:
    """The state in the outcome of a program: a fault, or an exception."""
    if issubclass(kind, BaseException):
        with pytest.raises(kind) as caught:
            program.run(runtime)
        error: Any = caught.value
        return error.state
    fault = program.run(runtime).failure()._inner_value
    assert isinstance(fault, kind), fault
    return fault.state


def test_a_second_ctrl_c_during_a_wait_for_a_batch_holds_the_state_too(whole: list[Any]) -> None:
    def impatient() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.01)

    presses = iter(range(100))  # a second of them; without end, a busy machine would do nothing else

    def pressed(number: int, frame: Any) -> None:
        if next(presses, None) is None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGALRM, pressed)
    try:
        program = describe(on_epoch=in_late_epoch(lambda: Effect.suspend(impatient)))
        try:
            exit = program.run_exit(SILENT)
        except KeyboardInterrupt as error:
            state = error.state  # type: ignore[attr-defined]
        else:
            assert isinstance(exit, Interrupted | Defect), exit
            state = exit.state
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(state.curve) >= LATE - 1
    resumed = describe(resume=state).run(SILENT).unwrap()._inner_value
    for a, b in zip(leaves(resumed), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_shared_team_outlives_a_fault_and_resumes(whole: list[Any]) -> None:
    def with_team(team: Any) -> Effect[Any, Any]:
        def first(context: train.LoopContext) -> Any:
            return batches(Rows(killed), workers=team)(context)

        lost = describe(train_batches=first)
        return lost.lash(lambda fault: describe(resume=fault.state, train_batches=batches(workers=team)))

    resumed = processes(2).use(with_team).run(SILENT).unwrap()._inner_value
    for a, b in zip(leaves(resumed), whole, strict=True):
        np.testing.assert_array_equal(a, b)
