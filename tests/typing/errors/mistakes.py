"""Mistakes that a checker finds: each line that ends in an expected error is reported with that text, and no other line is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fnlamp.config import computed, group, options, resolve
from fnlamp.effect import Do, Effect, Exit, Resource, Runtime, do, iterate


@dataclass(frozen=True)
class Missing:
    path: str


@dataclass(frozen=True)
class Diverged:
    step: int


def load(path: str) -> Effect[list[float], Missing]:
    return Effect.from_value([1.0]) if path else Effect.from_failure(Missing(path))


def fit(rows: list[float]) -> Effect[float, Diverged]:
    return Effect.from_value(sum(rows))


def describe(score: float) -> str:
    return f"{score}"


def a_plain_function_is_mapped() -> object:
    return load("a").bind(len)  # error: "Callable[[Sized], int]"; expected "Callable[[list[float]], Effect[


def steps_must_fit() -> object:
    return load("a").bind(describe_count)  # error: expected "Callable[[list[float]], Effect[


def describe_count(count: int) -> Effect[str, Missing]:
    return Effect.from_value(str(count))


def every_error_is_declared() -> Effect[float, Missing]:
    return load("a").bind(fit)  # error: Effect[float, Diverged]]"; expected "Callable[[list[float]], Effect[float, Missing]]"


def a_handler_leaves_its_own_errors() -> Effect[float, Missing]:
    return fit([]).alt(describe_fault)  # error: expected "Callable[[Diverged], Missing]"


def describe_fault(fault: Diverged) -> str:
    return f"{fault.step}"


@do
def every_error_of_a_block_is_declared() -> Do[float, Missing]:
    rows = yield from load("a")
    return (yield from fit(rows))  # error: Incompatible types in "yield from" (actual type "Effect[float, Diverged]"


@do
def a_block_returns_what_it_declares() -> Do[str, Missing | Diverged]:
    rows = yield from load("a")
    return rows  # error: Incompatible return value type (got "list[float]", expected "str")


@do
def a_block_has_the_values_of_its_steps() -> Do[str, Missing]:
    rows = yield from load("a")
    return rows.upper()  # error: "list[float]" has no attribute "upper"


@do
def a_block_runs_effects_only() -> Do[int, Missing]:
    yield 5  # error: Incompatible types in "yield"
    return 1


@do  # error: Argument 1 to "do" has incompatible type "Callable[[], int]"
def a_block_is_a_generator() -> int:
    return 5


def retrying_looks_at_the_error() -> object:
    return load("a").retry(3, when=lambda fault: fault.step > 0)  # error: "Missing" has no attribute "step"


def a_call_returns_a_result() -> Effect[int, Any]:
    def count(runtime: Runtime) -> int:
        return 1

    return Effect.call(count)  # error: Argument 1 to "call" of "Effect" has incompatible type


def only_exceptions_are_caught() -> object:
    return Effect.attempt(int, Missing, str)  # error: Value of type variable "X" of "attempt" of "Effect" cannot be "Missing"


def an_exit_is_more_than_a_result(exit: Exit[int, str]) -> int:
    return exit.unwrap()  # error: Item "Interrupted" of "Success[int] | Failure[str] | Interrupted | Defect" has no


def a_resource_is_used_not_run(resource: Resource[int, str]) -> object:
    return resource.run()  # error: "Resource[int, str]" has no attribute "run"


def a_loop_body_returns_a_result() -> object:
    return iterate(0, lambda n: Effect.from_value(n + 1))  # error: expected "Callable[[int], Effect[Result[


@group
class Settings:
    rows: int = 1
    name: str
    share: float = computed(lambda rows: rows / 2)
    text: str = computed(fit)  # error: Incompatible types in assignment (expression has type "Effect[float
    act: int = options({"relu": "a"}, default="relu")  # error: Incompatible types in assignment (expression has type "str"


def a_field_exists(settings: Settings) -> object:
    return settings.row  # error: "Settings" has no attribute "row"; maybe "rows"?


def a_field_is_given_by_its_name() -> object:
    return Settings(name="a", row=3)  # error: Unexpected keyword argument "row" for "Settings"; did you mean "rows"?


def a_required_field_is_given() -> object:
    return Settings(rows=3)  # error: Missing named argument "name" for "Settings"


def a_field_has_its_type(settings: Settings) -> object:
    return replace(settings, rows="3")  # error: Argument "rows" to "replace" of "Settings" has incompatible type


def a_config_is_frozen(settings: Settings) -> None:
    settings.rows = 3  # error: Property "rows" defined in "Settings" is read-only


def a_resolved_config_may_be_a_fault(settings: Settings) -> object:
    return resolve(settings).config  # error: "Result[Resolved[Settings], UnknownField | UnknownNeed | CyclicFields


def a_change_returns_a_config(settings: Settings) -> object:
    return resolve(settings, lambda each: each.rows)  # error: Argument 2 to "resolve" has incompatible type
