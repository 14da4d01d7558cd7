"""Groups: what is a field, and what is refused when the class or an object of it is made."""

from __future__ import annotations

import inspect
from dataclasses import InitVar, dataclass, field, fields, is_dataclass, replace
from typing import ClassVar

import pytest

from fnlamp.config import computed, group, options, resolve


@group
class Mlp:
    hidden: int = 64
    rate: float = 0.1


@group
class DeepNet:
    """A network."""

    depth: int = 3
    name: ClassVar[str] = "net"

    def twice(self) -> int:
        return 2 * self.depth


@group
class Program:
    model: Mlp | DeepNet = Mlp()
    stop: Mlp | None = None
    extra: Mlp


def test_a_group_is_a_frozen_dataclass_whose_arguments_are_named():
    assert is_dataclass(Mlp) and [each.name for each in fields(Mlp)] == ["hidden", "rate"]
    assert Mlp(hidden=3) == replace(Mlp(), hidden=3) == Mlp(rate=0.1, hidden=3)
    with pytest.raises(TypeError, match="positional"):
        Mlp(3)
    assert list(inspect.signature(Mlp).parameters) == ["hidden", "rate"]


def test_a_misspelt_field_fails_when_the_config_is_built_with_the_near_names():
    message = r"Mlp.hiden: expected a field of Mlp, got none of that name; near names: hidden"
    for build in (lambda: Mlp(hiden=3), lambda: replace(Mlp(), hiden=3), lambda: Program(extra=Mlp(hiden=3))):
        with pytest.raises(TypeError, match=message):
            build()
    with pytest.raises(TypeError, match=r"the fields are hidden, rate"):
        Mlp(epochs=3)


def test_fields_with_and_without_defaults_mix_and_inherit_in_any_order():
    @group
    class Base:
        a: int = 1
        b: int

    @group
    class Other:
        c: int = computed(lambda a, b: a + b)

    @group
    class Both(Base, Other):
        b: int = 5
        d: int

    assert resolve(Both, "d=0").unwrap().config == Both(a=1, b=5, c=6, d=0)


def test_methods_class_variables_and_private_names_are_not_settings():
    resolved = resolve(DeepNet).unwrap()
    assert list(resolved.settings) == ["depth"] and resolved.config.twice() == 6


def test_only_groups_have_settings_inside():
    @dataclass(frozen=True)
    class Plain:
        x: int = 1

    @group
    class Around:
        plain: Plain = Plain()

    assert list(resolve(Around).unwrap().settings) == ["plain"]


def test_a_group_without_a_default_begins_with_its_own():
    assert resolve(Program).unwrap().config.extra == Mlp()
    with pytest.raises(TypeError, match="extra"):
        Program()


def test_one_of_several_groups_is_chosen_by_name_or_given():
    assert resolve(Program).unwrap().settings["model"].option == "mlp"
    chosen = resolve(Program, "model=deep_net", "model.depth=5").unwrap()
    assert chosen.config.model == DeepNet(depth=5)
    assert chosen.hyperparameters == {"model": "deep_net", "model.depth": 5}
    for same in (
        resolve(Program, "model.deep_net.depth=5"),
        resolve(Program, {"model": DeepNet(depth=5)}),
        resolve(Program, {"model": {"deep_net": {"depth": 5}}}),
        resolve(Program(extra=Mlp(), model=DeepNet(depth=5))),
        resolve(Program, lambda program: replace(program, model=DeepNet(depth=5))),
    ):
        assert same.unwrap().config == chosen.config
        assert same.unwrap().hyperparameters == chosen.hyperparameters


def test_choosing_the_option_that_is_chosen_keeps_its_values_and_another_forgets_them():
    assert resolve(Program, "model.hidden=3", "model=mlp").unwrap().config.model == Mlp(hidden=3)
    back = resolve(Program, "model.hidden=3", "model=deep_net", "model=mlp").unwrap()
    assert back.config.model == Mlp() and back.hyperparameters == {"model": "mlp"}


def test_a_group_that_may_be_absent_is_there_once_a_field_of_it_is_set():
    assert resolve(Program).unwrap().config.stop is None
    assert resolve(Program, "stop.hidden=3").unwrap().config.stop == Mlp(hidden=3)
    assert resolve(Program, "stop.hidden=3", "stop=none").unwrap().config.stop is None
    assert resolve(Program, "stop=mlp").unwrap().hyperparameters == {"stop": "mlp"}


def test_named_groups_are_options():
    @group
    class Sized:
        model: Mlp = options({"small": Mlp(), "large": Mlp(hidden=512)}, default="small")

    large = resolve(Sized, "model=large").unwrap()
    assert large.config.model == Mlp(hidden=512) and large.hyperparameters == {"model": "large", "model.hidden": 512}
    assert resolve(Sized, "model=large", "model.rate=0.5").unwrap().config.model == Mlp(hidden=512, rate=0.5)


def test_a_group_may_have_no_settings():
    @group
    class Constant:
        pass

    @group
    class Cosine:
        steps: int = 10

    @group
    class Scheduled:
        schedule: Constant | Cosine = Constant()
        plain: Constant

    assert resolve(Constant).unwrap().config == Constant() and resolve(Constant).unwrap().settings == {}
    resolved = resolve(Scheduled).unwrap()
    assert resolved.config.schedule == Constant() and list(resolved.settings) == ["schedule"]
    assert resolve(Scheduled, "schedule=cosine", "schedule=constant").unwrap().hyperparameters == {"schedule": "constant"}


def test_the_value_of_an_option_that_python_gives_has_its_name():
    @group
    class Rule:
        rule: object = options({"text": str, "number": float}, default="text")

    assert resolve(Rule(rule=str)).unwrap().hyperparameters == {}
    assert resolve(Rule(rule=float)).unwrap().hyperparameters == {"rule": "number"}
    assert resolve(Rule(rule=int)).unwrap().hyperparameters == {"rule": int}


def test_groups_of_settings_are_functions():
    def small(program: Program) -> Program:
        return replace(program, model=Mlp(hidden=8))

    def sparse(program: Program) -> Program:
        return replace(program, extra=replace(program.extra, rate=0.9))

    resolved = resolve(Program, small, sparse, "model.rate=0").unwrap()
    assert resolved.config == Program(model=Mlp(hidden=8, rate=0.0), stop=None, extra=Mlp(rate=0.9))
    assert resolved.hyperparameters == {"model.hidden": 8, "model.rate": 0.0, "extra.rate": 0.9}


def test_a_class_inside_a_function_may_name_its_neighbours():
    @group
    class Near:
        x: int = 1

    @group
    class Far:
        near: Near | Mlp = Near()

    assert resolve(Far, "near=mlp").unwrap().config.near == Mlp()


class Undecorated(Mlp):
    hidden: int = 128


def _without_a_type():
    class Loop:
        epochs = 10

    group(Loop)


def _computed_without_a_type():
    class Loop:
        steps = computed(lambda: 1)

    group(Loop)


def _inherited_without_a_type():
    class Small(Mlp):
        hidden = 8

    group(Small)


def _by_hand():
    class Loop:
        epochs: int = 1

        def __post_init__(self):
            object.__setattr__(self, "epochs", 2)

    group(Loop)


def _own_init():
    class Loop:
        def __init__(self):
            pass

    group(Loop)


def _no_argument():
    class Loop:
        steps: int = field(default=1, init=False)

    group(Loop)


def _init_var():
    class Loop:
        steps: InitVar[int] = 1

    group(Loop)


def _unknown_type():
    class Loop:
        model: Modl = None  # noqa: F821

    group(Loop)


def _base_is_not_a_group():
    @dataclass(frozen=True)
    class Base:
        x: int = 1

    class Loop(Base):
        y: int = 1

    group(Loop)


def _same_names():
    def other():
        @group
        class DeepNet:
            pass

        return DeepNet

    namesake = other()

    class Loop:
        model: namesake | DeepNet = DeepNet()

    group(Loop)


def _mutable():
    class Loop:
        names: list[str] = []  # noqa: RUF012

    group(Loop)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (_without_a_type, r"Loop.epochs = 10 has no type, so it is not a field; write epochs: type = ..."),
        (_computed_without_a_type, r"Loop.steps = computed\(.*\) has no type"),
        (_inherited_without_a_type, r"Small.hidden = 8 has no type"),
        (_by_hand, r"cls is a class without its own __post_init__, got Loop"),
        (_own_init, r"cls is a class without its own __init__, got Loop"),
        (_no_argument, r"Loop.steps: every field can be given; for one that follows others, use computed"),
        (_init_var, r"Loop.steps: every argument of a group is a field, got an InitVar"),
        (_unknown_type, r"Loop: the type of a field is unknown when the class is made: name 'Modl' is not defined"),
        (_base_is_not_a_group, r"Loop: its base class that has x is not a group: write @group above it"),
        (_same_names, r"Loop.model: groups that a field chooses among have different names"),
        (lambda: resolve(Undecorated), r"Undecorated is a subclass of a group, and not one itself: write @group above it"),
        (lambda: resolve(Program(extra=Undecorated())), r"Undecorated is a subclass of a group"),
        (lambda: resolve(3), r"config is a group, a class under @group or an object of one, got 3 \(int\)"),
        (lambda: computed(lambda *all: 1), r"the formula takes \*all, so name its needs"),
        (lambda: computed(lambda a, b: 1, "a"), r"the formula takes other arguments than a: missing"),
        (lambda: computed(max), r"the parameters of .* cannot be read; name its needs after it"),
        (lambda: computed(3), r"computed: formula is a function of other fields, got 3 \(int\)"),
    ],
)
def test_a_wrong_declaration_is_refused(mistake, message):
    with pytest.raises(TypeError, match=message):
        mistake()


def test_a_mutable_default_is_refused():
    with pytest.raises(ValueError, match="mutable default"):
        _mutable()


def test_an_option_that_does_not_exist_is_not_a_default():
    with pytest.raises(ValueError, match=r"options: default is one of sgd, adam, got 'adm'"):
        options({"sgd": 1, "adam": 2}, default="adm")


def test_a_group_can_be_decorated_twice():
    assert group(Mlp) is Mlp
