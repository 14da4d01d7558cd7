"""Each effect in a composition runs as often as it is named: counted, for every helper of returns that takes containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from returns import converters, curry, functions, pointfree
from returns.context import RequiresContextIOResult
from returns.io import IO, IOFailure, IOResult, IOSuccess
from returns.iterables import AbstractFold, Fold
from returns.methods import cond, partition, unwrap_or_failure
from returns.pipeline import flow, is_successful, managed, pipe
from returns.primitives.asserts import assert_equal
from returns.result import Failure, Result, Success
from returns.trampolines import Trampoline, trampoline

from fnlamp.effect import Do, Effect, Resource, Runtime, collect, do

SILENT = Runtime(log=None)


class Counted:
    """Effects that record their runs."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def good(self, value: Any) -> Effect[Any, Any]:
        return self.made(value, Effect.from_value(value))

    def bad(self, error: Any) -> Effect[Any, Any]:
        return self.made(error, Effect.from_failure(error))

    def made(self, name: Any, end: Effect[Any, Any]) -> Effect[Any, Any]:
        return Effect.suspend(lambda: self.runs.append(name)).then(end)

    def of(self, outcomes: list[Result[Any, Any]]) -> list[Effect[Any, Any]]:
        return [self.made(outcome._inner_value, Effect.from_result(outcome)) for outcome in outcomes]


@pytest.fixture
def counted() -> Counted:
    return Counted()


# ------------------------------------------------------------------------------- Fold

OUTCOMES: dict[str, list[Result[Any, Any]]] = {
    "none": [],
    "all good": [Success(i) for i in range(5)],
    "all bad": [Failure(i) for i in range(5)],
    "one bad": [Success(0), Success(1), Failure(2), Success(3)],
    "first bad": [Failure(0), Success(1), Success(2)],
    "last bad": [Success(0), Success(1), Failure(2)],
    "alternating": [Success(i) if i % 2 else Failure(i) for i in range(12)],
    "many bad": [Failure(i) for i in range(40)],
}
EACH = pytest.mark.parametrize("outcomes", OUTCOMES.values(), ids=OUTCOMES.keys())


@EACH
def test_collect_all_runs_each_once_in_order_and_gives_the_same_as_results(
    counted: Counted, outcomes: list[Result[Any, Any]]
) -> None:
    program = Fold.collect_all(counted.of(outcomes), Effect.from_value(()))
    assert counted.runs == []
    expected = IOResult.from_result(Fold.collect_all(outcomes, Success(())))
    assert program.run(SILENT) == expected
    assert counted.runs == list(range(len(outcomes)))
    assert program.run(SILENT) == expected
    assert counted.runs == 2 * list(range(len(outcomes)))


@EACH
def test_collect_runs_each_once_up_to_the_first_failure(counted: Counted, outcomes: list[Result[Any, Any]]) -> None:
    program = Fold.collect(counted.of(outcomes), Effect.from_value(()))
    assert program.run(SILENT) == IOResult.from_result(Fold.collect(outcomes, Success(())))
    first = next((i for i, outcome in enumerate(outcomes) if isinstance(outcome, Failure)), len(outcomes) - 1)
    assert counted.runs == list(range(first + 1))


@EACH
def test_loop_runs_each_once_up_to_the_first_failure(counted: Counted, outcomes: list[Result[Any, Any]]) -> None:
    def add(item: int) -> Callable[[int], int]:
        return lambda total: total + item

    program = Fold.loop(counted.of(outcomes), counted.good(100), add)
    assert program.run(SILENT) == IOResult.from_result(Fold.loop(outcomes, Success(100), add))
    assert counted.runs[0] == 100
    assert len(counted.runs) == len(set(counted.runs))


def test_the_start_of_collect_all_may_be_an_effect_and_may_fail(counted: Counted) -> None:
    items = [counted.good(1), counted.bad("x"), counted.bad("y")]
    assert Fold.collect_all(items, counted.good(("start",))).run(SILENT) == IOSuccess(("start", 1))
    assert counted.runs == [("start",), 1, "x", "y"]
    counted.runs.clear()
    assert Fold.collect_all(items, counted.bad("no start")).run(SILENT) == IOFailure("no start")
    assert counted.runs == ["no start"]


def test_collect_all_of_many_is_as_quick_as_collect(counted: Counted) -> None:
    outcomes: list[Result[Any, Any]] = [Failure(i) if i % 3 else Success(i) for i in range(3_000)]
    assert Fold.collect_all(counted.of(outcomes), Effect.from_value(())).run() == IOSuccess(tuple(range(0, 3_000, 3)))
    assert len(counted.runs) == 3_000


def test_collect_all_in_collect_all(counted: Counted) -> None:
    def inner(i: int) -> Effect[Any, Any]:
        return Fold.collect_all([counted.bad((i, 0)), counted.good((i, 1))], Effect.from_value(()))

    program = Fold.collect_all([inner(0), inner(1)], Effect.from_value(()))
    assert program.run(SILENT) == IOSuccess((((0, 1),), ((1, 1),)))
    assert counted.runs == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_users_own_fold_is_unchanged(counted: Counted) -> None:
    class Backwards(AbstractFold):
        @classmethod
        def _loop(cls, iterable: Any, acc: Any, function: Any, concat: Any) -> Any:
            for item in reversed([*iterable]):
                acc = concat(item, acc, acc.from_value(function))
            return acc

    items = [counted.good(1), counted.bad(2), counted.good(3)]
    assert Backwards.collect_all(items, Effect.from_value(())).run(SILENT) == IOSuccess((3, 1))
    assert counted.runs == [3, 2, 1]


def test_an_effect_named_twice_runs_twice(counted: Counted) -> None:
    # Only `collect_all` is changed: a program that is retried by hand runs again.
    first = counted.good(1)
    program = first.apply(counted.bad("no")).lash(lambda _: first)
    assert program.run(SILENT) == IOSuccess(1)
    assert counted.runs == [1, "no", 1]


def test_bugs_and_interruptions_pass_by_collect_all(counted: Counted) -> None:
    with pytest.raises(ZeroDivisionError):
        Fold.collect_all([counted.good(1), Effect.suspend(lambda: 1 / 0), counted.good(2)], Effect.from_value(())).run()
    assert counted.runs == [1]
    stopping = Effect.asks(lambda runtime: runtime.cancel.cancel())
    Fold.collect_all([counted.bad("x"), stopping, counted.good(2)], Effect.from_value(())).run(SILENT)
    assert counted.runs == [1, "x"]


# ------------------------------------------------------------------------------- everything else


def plus_one(value: Any) -> int:
    return int(value) + 1


# name: (program of the counted effects, the value or failure, the runs)
HELPERS: dict[str, tuple[Callable[[Counted], Any], IOResult[Any, Any], list[Any]]] = {
    "map_": (lambda c: pointfree.map_(plus_one)(c.good(1)), IOSuccess(2), [1]),
    "map_ of a failure": (lambda c: pointfree.map_(plus_one)(c.bad("a")), IOFailure("a"), ["a"]),
    "bind": (lambda c: pointfree.bind(lambda v: c.good(v + 1))(c.good(1)), IOSuccess(2), [1, 2]),
    "bind of a failure": (lambda c: pointfree.bind(lambda v: c.good(v + 1))(c.bad("a")), IOFailure("a"), ["a"]),
    "lash": (lambda c: pointfree.lash(lambda e: c.good(e + "b"))(c.bad("a")), IOSuccess("ab"), ["a", "ab"]),
    "lash of a success": (lambda c: pointfree.lash(lambda e: c.good(e))(c.good(1)), IOSuccess(1), [1]),
    "alt": (lambda c: pointfree.alt(len)(c.bad("abc")), IOFailure(3), ["abc"]),
    "apply": (lambda c: pointfree.apply(c.made("f", Effect.from_value(plus_one)))(c.good(1)), IOSuccess(2), [1, "f"]),
    "apply of a failure": (lambda c: pointfree.apply(c.bad("f"))(c.good(1)), IOFailure("f"), [1, "f"]),
    "bimap": (lambda c: pointfree.bimap(plus_one, len)(c.good(1)), IOSuccess(2), [1]),
    "bimap of a failure": (lambda c: pointfree.bimap(plus_one, len)(c.bad("ab")), IOFailure(2), ["ab"]),
    "bind_result": (lambda c: pointfree.bind_result(lambda v: Failure(v))(c.good(1)), IOFailure(1), [1]),
    "bind_io": (lambda c: pointfree.bind_io(IO)(c.good(1)), IOSuccess(1), [1]),
    "bind_ioresult": (lambda c: pointfree.bind_ioresult(IOFailure)(c.good(1)), IOFailure(1), [1]),
    "compose_result": (
        lambda c: pointfree.compose_result(lambda r: c.good(r.value_or(0)))(c.bad("a")),
        IOSuccess(0),
        ["a", 0],
    ),
    "unify": (lambda c: pointfree.unify(lambda v: c.bad(v))(c.good(1)), IOFailure(1), [1, 1]),
    "pointfree.cond": (lambda c: pointfree.cond(Effect, "yes", "no")(False), IOFailure("no"), []),
    "methods.cond": (lambda c: cond(Effect, True, "yes", "no"), IOSuccess("yes"), []),
    "tap": (lambda c: c.good(1).map(functions.tap(c.runs.append)), IOSuccess(1), [1, 1]),
    "tap of an effect": (lambda c: functions.tap(lambda effect: None)(c.good(1)), IOSuccess(1), [1]),
    "untap": (lambda c: c.good(1).map(functions.untap(c.runs.append)), IOSuccess(None), [1, 1]),
    "compose": (lambda c: functions.compose(c.good, lambda e: e.map(plus_one))(1), IOSuccess(2), [1]),
    "identity": (lambda c: functions.identity(c.good(1)), IOSuccess(1), [1]),
    "curry": (
        lambda c: Effect.from_value(curry.curry(lambda a, b: a + b)).bind(
            lambda f: c.good(1).apply(c.good(2).apply(Effect.from_value(f)))
        ),
        IOSuccess(3),
        [1, 2],
    ),
    "partial": (lambda c: c.good(1).map(curry.partial(max, 3)), IOSuccess(3), [1]),
    "flow": (lambda c: flow(1, c.good, pointfree.map_(plus_one), pointfree.bind(c.good)), IOSuccess(2), [1, 2]),
    "pipe": (lambda c: pipe(c.good, pointfree.map_(plus_one), pointfree.bind(c.bad))(1), IOFailure(2), [1, 2]),
    "flatten": (
        lambda c: converters.flatten(c.made("outer", Effect.from_value(c.good("inner")))),
        IOSuccess("inner"),
        ["outer", "inner"],
    ),
    "managed": (
        lambda c: managed(lambda lock: c.good("use"), lambda lock, _: c.good("release"))(c.good("acquire")),
        IOSuccess("use"),
        ["acquire", "use", "release"],
    ),
    "managed, the use fails": (
        lambda c: managed(lambda lock: c.bad("use"), lambda lock, _: c.good("release"))(c.good("acquire")),
        IOFailure("use"),
        ["acquire", "use", "release"],
    ),
    "managed, the acquisition fails": (
        lambda c: managed(lambda lock: c.good("use"), lambda lock, _: c.good("release"))(c.bad("acquire")),
        IOFailure("acquire"),
        ["acquire"],
    ),
    "managed, the release fails": (
        lambda c: managed(lambda lock: c.good("use"), lambda lock, _: c.bad("release"))(c.good("acquire")),
        IOFailure("release"),
        ["acquire", "use", "release"],
    ),
    "to_reader": (lambda c: c.good(1).to_reader(), IOSuccess(1), [1]),
    "from_reader": (lambda c: Effect.from_reader(c.good(1).to_reader()), IOSuccess(1), [1]),
    "a reader's bind": (lambda c: c.good(1).to_reader().bind(lambda v: c.good(v + 1).to_reader()), IOSuccess(2), [1, 2]),
    "a reader's lash": (lambda c: c.bad("a").to_reader().lash(lambda e: c.good(e).to_reader()), IOSuccess("a"), ["a", "a"]),
    "a reader's map": (lambda c: RequiresContextIOResult(c.good(1)).map(plus_one), IOSuccess(2), [1]),
    "swap": (lambda c: c.good(1).swap().swap(), IOSuccess(1), [1]),
    "zip": (lambda c: c.good(1).zip(c.good(2)), IOSuccess((1, 2)), [1, 2]),
    "tap of a program": (lambda c: c.good(1).tap(lambda v: c.good(v + 1)), IOSuccess(1), [1, 2]),
    "then": (lambda c: c.good(1).then(c.good(2)), IOSuccess(2), [1, 2]),
    "attempted": (lambda c: c.bad("a").attempted(), IOSuccess(Failure("a")), ["a"]),
    "ensuring": (lambda c: c.bad("a").ensuring(lambda _: c.good("end")), IOFailure("a"), ["a", "end"]),
    "named": (lambda c: c.good(1).named("a").named("b"), IOSuccess(1), [1]),
    "local": (lambda c: c.good(1).local(lambda runtime: runtime), IOSuccess(1), [1]),
    "retry": (lambda c: c.bad("a").retry(2), IOFailure("a"), ["a", "a", "a"]),
    "collect": (lambda c: collect([c.good(1), c.good(2)]), IOSuccess((1, 2)), [1, 2]),
    "a resource": (
        lambda c: Resource.make(c.good(1), lambda *_: c.good("end")).map(plus_one).use(c.good),
        IOSuccess(2),
        [1, 2, "end"],
    ),
    "from_io": (lambda c: Effect.from_io(IO(1)).bind(c.good), IOSuccess(1), [1]),
    "from_failed_io": (lambda c: Effect.from_failed_io(IO("a")).lash(c.good), IOSuccess("a"), ["a"]),
    "from_ioresult": (lambda c: Effect.from_ioresult(IOFailure("a")).lash(c.good), IOSuccess("a"), ["a"]),
    "from_typecast": (lambda c: c.good(1).bind_ioresult(IOResult.from_value), IOSuccess(1), [1]),
}


@pytest.mark.parametrize(("build", "outcome", "runs"), HELPERS.values(), ids=HELPERS.keys())
def test_each_effect_runs_as_often_as_it_is_named(
    counted: Counted, build: Callable[[Counted], Any], outcome: IOResult[Any, Any], runs: list[Any]
) -> None:
    program = build(counted)
    assert counted.runs == []  # building runs nothing
    assert program(SILENT) == outcome
    assert counted.runs == runs
    counted.runs.clear()
    assert program(SILENT) == outcome
    assert counted.runs == runs


def test_every_pointfree_function_is_counted_or_refuses_before_anything_runs(counted: Counted) -> None:
    counts = {name.split()[0].removeprefix("pointfree.") for name in HELPERS}
    # These take containers of other kinds: readers, futures, `Maybe`.
    others = {name for name in vars(pointfree) if not name.startswith("_") and callable(getattr(pointfree, name))} - counts
    assert {name for name in others if "context" not in name and "async" not in name and "future" not in name} == {
        "bind_optional",
        "bind_awaitable",
        "modify_env",
        "modify_env2",
        "modify_env3",
    }
    for name in others:
        with pytest.raises(AttributeError, match=f"'Effect' object has no attribute '{name.rstrip('23')}"):
            getattr(pointfree, name)(lambda value: value)(counted.good(1))
    assert counted.runs == []


@pytest.mark.parametrize("helper", [is_successful, unwrap_or_failure, lambda effect: partition([effect])])
def test_functions_that_need_an_outcome_say_that_the_program_was_not_run(counted: Counted, helper: Any) -> None:
    with pytest.raises(AttributeError, match="no attribute 'unwrap': .*run it"):
        helper(counted.good(1))
    assert counted.runs == []


def test_partition_and_the_like_of_outcomes_run_nothing_again(counted: Counted) -> None:
    outcomes = [effect.run(SILENT) for effect in (counted.good(1), counted.bad("a"), counted.good(2))]
    assert partition(outcomes) == ([IO(1), IO(2)], [IO("a")])
    assert [is_successful(outcome) for outcome in outcomes] == [True, False, True]
    assert [unwrap_or_failure(outcome) for outcome in outcomes] == [IO(1), IO("a"), IO(2)]
    assert counted.runs == [1, "a", 2]


def test_assert_equal_runs_each_side_once(counted: Counted) -> None:
    assert_equal(counted.good(1), counted.good(1), deps=None)
    assert counted.runs == [1, 1]


def test_trampolines_build_programs_that_run_once(counted: Counted) -> None:
    @trampoline
    def countdown(n: int, program: Effect[Any, Any]) -> Any:
        return program if n == 0 else Trampoline(countdown, n - 1, program.bind(lambda _: counted.good(n)))

    program = countdown(1_000, counted.good("start"))
    assert counted.runs == []
    assert program.run() == IOSuccess(1)
    assert counted.runs == ["start", *range(1_000, 0, -1)]


def test_a_do_block_runs_each_effect_once(counted: Counted) -> None:
    @do
    def block() -> Do[int, Any]:
        first: int = yield from counted.good(1)
        yield from counted.good(first + 1)
        return first

    assert block().run() == IOSuccess(1)
    assert counted.runs == [1, 2]
