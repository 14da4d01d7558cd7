"""Tags of parameters, and hyperparameters that depend on them."""

import pytest

from fnlamp.tag import Role, Tag, at


def test_a_tag_collects_names_from_the_outside_in() -> None:
    assert Tag("linear", Role.BIAS).inside("hidden").inside("model") == Tag("linear", Role.BIAS, ("model", "hidden"))


def test_a_hyperparameter_is_a_number_or_a_function_of_the_tag() -> None:
    def by_role(tag: Tag) -> float:
        return 1e-2 if tag.role is Role.WEIGHT else 0.0

    weight, shift = Tag("linear", Role.WEIGHT), Tag("batch_norm", Role.SHIFT)
    assert (at(0.5, weight), at(by_role, weight), at(by_role, shift)) == (0.5, 1e-2, 0.0)


def test_tags_are_values() -> None:
    assert len({Tag("linear", Role.BIAS), Tag("linear", Role.BIAS)}) == 1
    with pytest.raises(AttributeError):
        Tag("linear", Role.BIAS).layer = "other"  # type: ignore[misc]
