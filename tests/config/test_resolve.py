"""Override, then compute: each formula once, after its needs, and never from a value that was overridden."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from fnlamp.config import Source, computed, group, options, resolve
from fnlamp.fault import CyclicFields, FormulaFailed, MissingValue, TypeMismatch, UnknownField, UnknownNeed


def batches_of(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


@group
class Loader:
    rows: int = 60_000
    batch_size: int = 64
    batches: int = computed(batches_of)


@group
class Loop(Loader):
    epochs: int = 10
    steps: int = computed(lambda epochs, batches: epochs * batches)


@group
class Optimizer:
    learning_rate: float = computed(lambda batch_size: 0.1 * batch_size / 256)
    decay: float = computed(lambda learning_rate: learning_rate / 10)


@group
class Program:
    batch_size: int = 64
    optimizer: Optimizer
    warm: float = computed(lambda optimizer: optimizer.learning_rate + optimizer.decay)


def config(of, *changes):
    return resolve(of, *changes).unwrap().config


def test_a_computed_field_is_a_function_of_other_fields_also_inherited_and_computed_ones():
    assert config(Loop) == Loop(rows=60_000, batch_size=64, batches=938, epochs=10, steps=9_380)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: resolve(Loop, "batch_size=100"),
        lambda: resolve(Loop, {"batch_size": 100}),
        lambda: resolve(Loop, lambda loop: replace(loop, batch_size=100)),
        lambda: resolve(Loop(batch_size=100)),
        lambda: resolve(replace(Loop(), batch_size=100)),
        lambda: resolve(copy.deepcopy(Loop(batch_size=100))),
    ],
    ids=["text", "mapping", "function", "argument", "replace", "copy"],
)
def test_computed_fields_follow_every_override(changed):
    resolved = changed().unwrap()
    assert resolved.config.batches == 600 and resolved.config.steps == 6_000
    assert resolved.hyperparameters == {"batch_size": 100}


def test_what_is_resolved_can_be_changed_and_resolved_again_only_where_values_were_kept():
    done = resolve(Loop).unwrap().config
    assert resolve(done, "epochs=1").unwrap().config.steps == 9_380  # it is a value now, and no longer a formula
    assert resolve(Loop, "epochs=1").unwrap().config.steps == 938


def test_the_last_change_wins_and_changes_are_applied_before_anything_is_computed():
    assert config(Loop, "epochs=2", lambda loop: replace(loop, epochs=loop.epochs + 1), {"rows": 64}).steps == 3
    seen = []
    resolve(Loop, lambda loop: seen.append(loop.steps) or loop, "epochs=3")
    assert repr(seen[0]).startswith("computed(lambda epochs, batches (test_resolve.py:")


def test_an_overridden_formula_does_not_run_and_every_other_runs_once():
    ran = []

    def count(name, value):
        ran.append(name)
        return value

    @group
    class Counted:
        a: int = computed(lambda: count("a", 1))
        b: int = computed(lambda a: count("b", a + 1))
        c: int = computed(lambda a, b: count("c", a + b))

    assert config(Counted).c == 3 and ran == ["a", "b", "c"]
    ran.clear()
    assert config(Counted, "b=5").c == 6 and ran == ["a", "c"]
    ran.clear()
    assert resolve(Counted, "a=1", "b=2", "c=3").unwrap().order == () and ran == []


def test_only_the_fields_that_are_asked_for_are_computed():
    resolved = resolve(Loop, only=["batches"]).unwrap()
    assert resolved.order == ("batches",) and resolved.config.batches == 938
    with pytest.raises(TypeError, match="resolve the config"):
        bool(resolved.config.steps)
    assert resolve(Loop, only=[]).unwrap().order == ()
    assert resolve(Program, only=["optimizer"]).unwrap().order == ("optimizer.learning_rate", "optimizer.decay")
    assert resolve(Loop, only=["step"]) == Failure(
        UnknownField("step", "Loop", ("steps",), ("rows", "batch_size", "batches", "epochs", "steps"))
    )


def test_the_order_is_that_of_the_needs():
    @group
    class Backwards:
        last: int = computed(lambda middle: middle + 1)
        middle: int = computed(lambda first: first + 1)
        first: int = 1

    assert resolve(Backwards).unwrap().order == ("middle", "last")


def test_a_name_is_looked_up_in_the_own_group_then_around_it():
    resolved = resolve(Program, "batch_size=256").unwrap()
    assert resolved.config.optimizer == Optimizer(learning_rate=0.1, decay=0.01)
    assert resolved.config.warm == pytest.approx(0.11)
    assert resolved.settings["optimizer.learning_rate"].needs == ("batch_size",)
    assert resolved.settings["warm"].needs == ("optimizer",)


def test_a_formula_does_not_see_its_own_field_but_the_one_of_the_same_name_around_it():
    @group
    class Inner:
        width: int = computed(lambda width: 2 * width)

    @group
    class Outer:
        inner: Inner
        width: int = 3

    assert config(Outer).inner.width == 6


def test_needs_can_be_named_and_dotted():
    @group
    class Outer:
        program: Program
        rate: float = computed(round, "program.optimizer.learning_rate", "digits")
        digits: int = 3

    assert config(Outer, "program.batch_size=100").rate == 0.039
    assert config(Outer, "program.batch_size=100", "digits=1").rate == 0.0


def test_parameters_with_a_default_are_not_needs_and_named_ones_are_given_by_name():
    @group
    class Group:
        a: int = 2
        b: int = 3
        c: int = computed(lambda a, scale=10, *, b: a * scale + b)

    assert config(Group).c == 23


def test_falsy_values_are_values():
    @group
    class Falsy:
        number: int = 1
        flag: bool = True
        text: str = "x"
        none: int | None = 3
        formula: int = computed(lambda: 5)

    resolved = resolve(Falsy, "number=0", "flag=false", "text=", "none=none", "formula=0").unwrap()
    assert resolved.config == Falsy(number=0, flag=False, text="", none=None, formula=0)
    assert resolved.hyperparameters == {"number": 0, "flag": False, "text": "", "none": None, "formula": 0}
    zero = resolve(Falsy, {"formula": 0}).unwrap()
    assert zero.settings["formula"].source is Source.OVERRIDDEN and zero.order == ()


def test_provenance_is_exact():
    resolved = resolve(Loop(rows=128), "epochs=10", lambda loop: replace(loop, batch_size=64)).unwrap()
    sources = {path: setting.source for path, setting in resolved.settings.items()}
    assert sources == {
        "rows": Source.OVERRIDDEN,
        "batch_size": Source.DEFAULT,  # set to what it was by a function: the same config
        "batches": Source.COMPUTED,
        "epochs": Source.OVERRIDDEN,  # set on purpose, to the default
        "steps": Source.COMPUTED,
    }
    assert resolved.hyperparameters == {"rows": 128, "epochs": 10}
    assert "batches_of (test_resolve.py:" in resolved.settings["batches"].formula
    assert str(resolved).splitlines()[4] == "steps       20   computed from epochs, batches"


def test_another_formula_is_an_override():
    resolved = resolve(replace(Loop(), steps=computed(lambda epochs: epochs))).unwrap()
    assert resolved.config.steps == 10
    assert resolved.settings["steps"].source is Source.OVERRIDDEN
    assert str(resolved.settings["steps"]) == "overridden, computed from epochs"


def test_resolving_is_pure():
    start = Loop(rows=100)
    first, second = resolve(start, "epochs=3"), resolve(start, "epochs=3")
    assert first == second and start == Loop(rows=100)
    assert isinstance(first, Success)


def test_every_access_to_a_formula_says_what_to_do():
    loop = Loop()
    for use in (
        lambda: loop.steps + 1,
        lambda: range(loop.steps),
        lambda: bool(loop.steps),
        lambda: loop.steps < 3,
        lambda: loop.steps(),
        lambda: list(loop.steps),
        lambda: f"{loop.steps:03d}",
    ):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(AttributeError, match=r"no bit_length: it is not a value yet; resolve the config"):
        loop.steps.bit_length()


def test_a_config_is_frozen_and_a_resolved_one_can_be_stored():
    with pytest.raises(FrozenInstanceError):
        Loop().epochs = 3
    assert {Loop(), Loop()} == {Loop()}
    assert pickle.loads(pickle.dumps(resolve(Loader, "rows=5").unwrap())) == resolve(Loader, "rows=5").unwrap()
    assert pickle.loads(pickle.dumps(Loader())) == Loader()
    assert resolve(pickle.loads(pickle.dumps(Loader()))).unwrap().hyperparameters == {}


def test_scalars_of_numpy_are_plain_numbers_afterwards():
    @group
    class Numbers:
        count: int = computed(lambda: np.int64(3))
        rate: float = computed(lambda count: np.float32(0.5) * count)
        whole: float = computed(lambda: 2)

    done = config(Numbers)
    assert [type(value) for value in (done.count, done.rate, done.whole)] == [int, float, float]


def test_a_group_that_a_formula_makes_is_resolved_too():
    @group
    class Program:
        rows: int = 128
        loop: Loop = computed(lambda rows: Loop(rows=rows))
        bad: Loop = computed(lambda: Loop(rows="x"))

    assert config(Program, {"bad": Loop()}).loop.steps == 20
    assert resolve(Program) == Failure(TypeMismatch("rows", "int", "'x' (str)", where="bad"))
    assert isinstance(resolve(Program, "loop.rows=3").failure(), UnknownField)


def test_tuples_of_groups_are_addressed_by_number():
    @group
    class Block:
        width: int = 8
        half: int = computed(lambda width: width // 2)

    @group
    class Net:
        blocks: tuple[Block, ...] = (Block(), Block(width=16))
        total: int = computed(lambda blocks: sum(block.half for block in blocks))

    assert config(Net).total == 12
    resolved = resolve(Net, "blocks.0.width=4").unwrap()
    assert resolved.config.total == 10 and resolved.hyperparameters == {"blocks.0.width": 4}
    longer = resolve(Net(blocks=(Block(), Block(width=16), Block()))).unwrap()
    assert longer.config.total == 16 and longer.settings["blocks"].source is Source.OVERRIDDEN


def test_defaults_may_be_made_by_a_factory():
    @group
    class Names:
        names: list[str] = field(default_factory=lambda: ["a"])
        count: int = computed(len, "names")

    assert config(Names).count == 1
    assert config(Names, "names=a,b,c").count == 3

    @group
    class Failing:
        names: list[str] = field(default_factory=lambda: {}["names"])

    assert "KeyError" in resolve(Failing).failure().what


def test_a_required_field_is_given_by_any_change():
    @group
    class Kernels:
        kernel: int
        size: int = computed(lambda kernel: 28 - kernel)

    assert resolve(Kernels) == Failure(MissingValue("kernel", "int"))
    assert config(Kernels, "kernel=5").size == 23
    assert config(Kernels, lambda kernels: replace(kernels, kernel=3)).size == 25
    with pytest.raises(TypeError, match="kernel"):
        Kernels()


def test_cycles_are_found_before_anything_runs():
    @group
    class Cycle:
        a: int = computed(lambda c: 1 / 0)
        b: int = computed(lambda a: 1 / 0)
        c: int = computed(lambda b: 1 / 0)

    fault = resolve(Cycle).failure()
    assert isinstance(fault, CyclicFields) and fault.cycle == ("a", "c", "b", "a")
    assert config(Cycle, "b=1", "a=1", "c=1").a == 1
    assert isinstance(resolve(Cycle, "a=3", "b=2").failure(), FormulaFailed)

    @group
    class Alone:
        a: int = computed(lambda a: a)

    assert isinstance(resolve(Alone).failure(), UnknownNeed)

    @group
    class Inside:
        b: int = computed(lambda inside: inside)

    @group
    class Around:
        inside: Inside

    assert resolve(Around).failure().cycle == ("inside.b", "inside.b")


def test_a_long_chain_of_formulas_needs_no_deep_stack():
    length = 3_000
    body = {f"x{n}": computed(lambda before: before + 1, f"x{n - 1}") for n in range(1, length)}
    kinds = {f"x{n}": int for n in range(length)}
    # From the last to the first, so that the first one that is wanted needs all others.
    names = dict(reversed([*kinds.items()]))
    chain = group(type("Chain", (), {"x0": 0, **body, "__annotations__": names}))
    assert getattr(config(chain, "x0=5"), f"x{length - 1}") == length + 4


@st.composite
def graphs(draw):
    """Fields that each are a number or a sum of some earlier ones, in any order of declaration."""
    count = draw(st.integers(1, 8))
    needs = [draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True)) if n else [] for n in range(count)]
    computed_ones = draw(st.sets(st.integers(0, count - 1)))
    overridden = draw(st.dictionaries(st.integers(0, count - 1), st.integers(-9, 9)))
    return needs, computed_ones, overridden, draw(st.permutations(range(count)))


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_any_graph_of_formulas_gives_what_evaluating_them_in_order_gives(graph):
    needs, computed_ones, overridden, declared = graph
    expected, ran = {}, []
    for n, ones in enumerate(needs):
        own = n + sum(expected[f"x{one}"] for one in ones) if n in computed_ones else n
        expected[f"x{n}"] = overridden.get(n, own)

    def formula(n):
        return computed(lambda *values: ran.append(n) or n + sum(values), *(f"x{one}" for one in needs[n]))

    def made(n):
        if n not in computed_ones:
            return n
        return formula(n) if needs[n] else computed(lambda: ran.append(n) or n)

    body = {f"x{n}": made(n) for n in declared}
    cls = group(type("Graph", (), {**body, "__annotations__": dict.fromkeys(body, int)}))
    resolved = resolve(cls, *(f"x{n}={value}" for n, value in overridden.items())).unwrap()
    assert vars(resolved.config) == expected
    assert sorted(ran) == sorted(computed_ones - overridden.keys())
    assert resolved.hyperparameters == {f"x{n}": value for n, value in overridden.items()}


def test_options_are_chosen_by_name_in_text_and_by_value_in_python():
    @group
    class Rule:
        learning_rate: float = 0.1
        rule: str = options({"sgd": "plain", "scaled": computed(lambda learning_rate: f"times {learning_rate}")}, default="sgd")

    assert config(Rule).rule == "plain"
    resolved = resolve(Rule, "rule=scaled", "learning_rate=0.5").unwrap()
    assert resolved.config.rule == "times 0.5"
    assert resolved.hyperparameters == {"rule": "scaled", "learning_rate": 0.5}
    assert str(resolved.settings["rule"]) == "overridden, computed from learning_rate"
    # A string from Python that equals the name of an option is the value of the field, and nothing runs.
    for value in (resolve(Rule(rule="scaled")), resolve(Rule, {"rule": "scaled"})):
        assert value.unwrap().config.rule == "scaled" and value.unwrap().order == ()
