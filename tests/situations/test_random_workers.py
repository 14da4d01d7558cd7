"""Random numbers in items: the same whatever the number of workers, or a fault that says what to write."""

from __future__ import annotations

import contextlib
import pickle
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
from outcomes import needs
from returns.io import IOFailure, IOResult
from returns.result import Failure, Success

from fnlamp import stream
from fnlamp.data import array_dataset, loader, subset, threads, with_transform
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import HiddenRandomness

ROWS = 12
SILENT = Runtime(log=None)
MODULE_GENERATOR = np.random.default_rng(5)


class Rows:
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> Any:
        return np.float64(row)


class HoldsGenerator(Rows):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __getitem__(self, row: int) -> Any:
        return self.rng.normal()


class HoldsRandomState(Rows):
    def __init__(self) -> None:
        self.parts = {"rng": [np.random.RandomState(0)]}

    def __getitem__(self, row: int) -> Any:
        return np.float64(self.parts["rng"][0].rand())


class HoldsRandom(Rows):
    __slots__ = ("chance",)

    def __init__(self) -> None:
        self.chance = random.Random(0)

    def __getitem__(self, row: int) -> Any:
        return np.float64(self.chance.random())


class DrawsNumpy(Rows):
    def __getitem__(self, row: int) -> Any:
        return np.random.rand(3)


class DrawsRandom(Rows):
    def __getitem__(self, row: int) -> Any:
        return np.float64(random.gauss(0, 1))


class DrawsSometimes(Rows):
    def __getitem__(self, row: int) -> Any:
        return np.float64(random.random() if row % 4 == 3 else row)


class DrawsModule(Rows):
    def __getitem__(self, row: int) -> Any:
        return draw_from_module()


def draw_from_module() -> Any:
    return MODULE_GENERATOR.random()


class DrawsTorch(Rows):
    def __getitem__(self, row: int) -> Any:
        import torch

        return torch.rand(2).numpy()


class HoldsTorch(Rows):
    def __init__(self) -> None:
        with contextlib.suppress(ImportError):  # its tests are skipped then
            import torch

            self.generator = torch.Generator().manual_seed(0)

    def __getstate__(self) -> Any:
        return {}

    def __setstate__(self, state: Any) -> None:
        self.__init__()  # type: ignore[misc]

    def __getitem__(self, row: int) -> Any:
        import torch

        return torch.rand(2, generator=self.generator).numpy()


class Jitter:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def __call__(self, item: Any) -> Any:
        return item + self.rng.random()


def jittered(item: Any, rng: Any) -> Any:
    return item + rng.random()


def jittering_collate(items: list[Any]) -> Any:
    return np.stack(items) + np.random.rand()


HIDDEN: dict[str, dict[str, Any]] = {
    "a Generator": {"dataset": HoldsGenerator()},
    "a RandomState in a dict": {"dataset": HoldsRandomState()},
    "a random.Random in a slot": {"dataset": HoldsRandom()},
    "numpy.random": {"dataset": DrawsNumpy()},
    "random": {"dataset": DrawsRandom()},
    "of a module": {"dataset": DrawsModule()},
    "torch": {"dataset": DrawsTorch()},
    "a torch generator": {"dataset": HoldsTorch()},
    "a subset": {"dataset": subset(HoldsGenerator(), [3, 1, 2, 7])},
    "with_transform": {"dataset": with_transform(Rows(), Jitter())},
    "a transform": {"dataset": Rows(), "transform": Jitter()},
    "a partial": {"dataset": Rows(), "transform": partial(jittered, rng=np.random.default_rng(0))},
    "collate": {"dataset": Rows(), "collate": jittering_collate},
    "beside augment": {"dataset": HoldsGenerator(), "augment": lambda generator, item: item, "seed": 0},
}
EACH = pytest.mark.parametrize(
    "options",
    [pytest.param(options, id=name, marks=needs("torch") if "torch" in name else ()) for name, options in HIDDEN.items()],
)


def run(options: dict[str, Any], workers: Any) -> IOResult[Any, Any]:
    return loader(**{"batch_size": 2, **options}, workers=workers).use(stream.to_list).run(SILENT)


def in_threads(options: dict[str, Any]) -> IOResult[Any, Any]:
    return threads(2).use(lambda team: loader(**{"batch_size": 2, **options}, workers=team).use(stream.to_list)).run(SILENT)


@EACH
def test_with_processes_it_is_a_fault_that_says_what_to_write(options: dict[str, Any]) -> None:
    if "augment" in options:
        options = options | {"augment": keep}
    fault = run(options, 2)._inner_value.failure()
    assert isinstance(fault, HiddenRandomness), fault
    assert "augment=lambda generator, item: ..." in str(fault)
    assert "workers=0" in str(fault)


@EACH
def test_with_threads_it_is_a_fault_too(options: dict[str, Any]) -> None:
    assert isinstance(in_threads(options)._inner_value.failure(), HiddenRandomness)


def keep(generator: np.random.Generator, item: Any) -> Any:
    return item


def noisy(generator: np.random.Generator, item: Any) -> Any:
    return item + generator.normal()


@pytest.mark.slow
def test_draws_for_some_rows_only_are_detected_in_the_worker() -> None:
    fault = run({"dataset": DrawsSometimes()}, 2)._inner_value.failure()
    assert isinstance(fault, HiddenRandomness)
    assert (fault.index, fault.source) == (2, "random")


def test_without_workers_a_generator_continues() -> None:
    values = np.concatenate(run({"dataset": HoldsGenerator()}, 0)._inner_value.unwrap())
    assert len(np.unique(values)) == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 3, "threads"])
def test_augment_draws_the_same_numbers_with_any_workers(workers: Any) -> None:
    options = {"dataset": Rows(), "augment": noisy, "seed": 7, "shuffle": True, "batch_size": 5}
    outcome = in_threads(options) if workers == "threads" else run(options, workers)
    order = np.random.default_rng(7).permutation(ROWS)
    expected = [row + np.random.default_rng(np.random.SeedSequence(7, spawn_key=(int(row),))).normal() for row in order]
    np.testing.assert_array_equal(np.concatenate(outcome._inner_value.unwrap()), expected)


class Unused(Rows):
    """Holds a generator that it used before, and does not use for items."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.order = self.rng.permutation(ROWS)

    def __getitem__(self, row: int) -> Any:
        return np.float64(self.order[row])


class OwnGenerator(Rows):
    """A generator seeded by the row is a function of the row."""

    def __getitem__(self, row: int) -> Any:
        return np.random.default_rng(row).random() + random.Random(row).random()


@pytest.mark.parametrize(
    "dataset",
    [
        OwnGenerator(),
        *(pytest.param(rows, marks=pytest.mark.slow) for rows in (Unused(), Rows(), array_dataset(np.arange(12.0)))),
    ],
    ids=repr,
)
def test_items_that_are_functions_of_their_row_are_loaded(dataset: Any) -> None:
    options = {"dataset": dataset, "transform": keep_item}
    alone = run(options, 0)._inner_value.unwrap()
    for outcome in (run(options, 2), in_threads(options)):
        for one, other in zip(alone, outcome._inner_value.unwrap(), strict=True):
            np.testing.assert_array_equal(one, other)


def keep_item(item: Any) -> Any:
    return item


def test_draws_of_another_thread_are_not_a_fault_of_a_loader_with_threads() -> None:
    def use(batches: Any) -> Effect[Any, Any]:
        def draw_between(rows: int, batch: Any) -> int:
            np.random.rand()
            random.random()
            return rows + len(batch)

        return stream.fold(batches, 0, draw_between)

    program = threads(2).use(lambda team: loader(Rows(), batch_size=2, workers=team).use(use))
    assert program.run_exit(SILENT) == Success(ROWS)


def test_an_exception_is_reported_before_its_draws() -> None:
    class Broken(DrawsNumpy):
        def __getitem__(self, row: int) -> Any:
            super().__getitem__(row)
            raise ValueError("broken")

    assert "broken" in str(in_threads({"dataset": Broken()})._inner_value.failure())


def test_the_fault_is_a_value() -> None:
    fault = HiddenRandomness(3, "random")
    assert pickle.loads(pickle.dumps(fault)) == fault
    assert IOFailure(fault)._inner_value == Failure(fault)
