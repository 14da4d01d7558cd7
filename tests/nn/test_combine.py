"""sequence, residual, branch, parallel, repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import BatchTooSmall, DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Layer
from fnlamp.mode import Eval, Train, name_key

KEY = jax.random.key(0)
SPEC = array_spec((4, 3), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3), np.float32))


def double(x: jax.Array) -> jax.Array:
    return 2 * x


def increment(x: jax.Array) -> jax.Array:
    return x + 1


def test_sequence_goes_in_order() -> None:
    assert nn.sequence(nn.fun(double), nn.fun(increment)).apply({}, {}, 3, Eval())[0] == 7
    assert (nn.fun(increment) >> nn.fun(double)).apply({}, {}, 3, Eval())[0] == 8


def test_children_are_named_by_position_or_keyword() -> None:
    made = nn.sequence(nn.linear(5), nn.relu, out=nn.linear(2)).init(KEY, SPEC)
    assert list(tree.paths(made.params)) == ["0/bias", "0/weight", "out/bias", "out/weight"]
    assert made.params["out"]["weight"].shape == (5, 2)
    assert made.tags["out"]["weight"].path == ("out",)


def test_a_child_has_the_key_of_its_name() -> None:
    made = nn.sequence(out=nn.linear(2)).init(KEY, SPEC)
    alone = nn.linear(2).init(name_key(KEY, "out"), SPEC)
    np.testing.assert_array_equal(made.params["out"]["weight"], alone.params["weight"])


def test_two_positional_children_have_their_own_weights() -> None:
    params = nn.sequence(nn.linear(3), nn.linear(3)).init(KEY, SPEC).params
    assert not np.allclose(params["0"]["weight"], params["1"]["weight"])


def test_sequences_inside_stay_children() -> None:
    made = nn.sequence(body=nn.sequence(first=nn.linear(5)), out=nn.linear(2)).init(KEY, SPEC)
    assert list(tree.paths(made.params)) == ["body/first/bias", "body/first/weight", "out/bias", "out/weight"]
    assert made.tags["body"]["first"]["bias"].path == ("body", "first")


def test_the_shift_operator_flattens_and_keeps_names() -> None:
    made = (nn.sequence(a=nn.linear(5)) >> nn.relu >> nn.sequence(b=nn.linear(2))).init(KEY, SPEC)
    assert list(made.params) == ["a", "b"]


def test_state_is_kept_by_name_and_only_for_children_with_state() -> None:
    layers = nn.sequence(first=nn.linear(3), norm=nn.batch_norm(), act=nn.relu)
    made = layers.init(KEY, SPEC)
    assert list(made.state) == ["norm"]
    _, state = layers.apply(made.params, made.state, X, Train(KEY))
    assert list(state) == ["norm"]
    assert not np.allclose(state["norm"]["mean"], made.state["norm"]["mean"])


@pytest.mark.parametrize("combine", [nn.sequence, nn.branch, nn.parallel], ids=lambda f: f.__name__)
def test_wrong_children(combine: object) -> None:
    with pytest.raises(TypeError, match="expected a Layer at 1, got .*nn.fun makes a layer of a function"):
        combine(nn.relu, jax.nn.relu)  # type: ignore[operator]
    with pytest.raises(TypeError, match="expected a Layer at act"):
        combine(act=jax.nn.relu)  # type: ignore[operator]
    with pytest.raises(ValueError, match="two layers are called '0'"):
        combine(nn.relu, **{"0": nn.relu})  # type: ignore[operator]


def test_the_same_name_twice() -> None:
    with pytest.raises(ValueError, match="two layers are called 'out'"):
        nn.sequence(out=nn.relu) >> nn.sequence(out=nn.relu)


# ------------------------------------------------------------------------------- residual


def test_residual_adds_its_input() -> None:
    y, _ = nn.residual(nn.fun(double)).apply({}, {}, X, Eval())
    np.testing.assert_allclose(y, 3 * X, rtol=1e-6)


def test_residual_with_a_shortcut() -> None:
    layer = nn.residual(nn.sequence(nn.linear(5), nn.relu), nn.linear(5, bias=False))
    made = layer.init(KEY, SPEC)
    assert list(tree.paths(made.params)) == ["layer/0/bias", "layer/0/weight", "shortcut/weight"]
    y, _ = layer.apply(made.params, made.state, X, Eval())
    expected = jax.nn.relu(X @ made.params["layer"]["0"]["weight"]) + X @ made.params["shortcut"]["weight"]
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert made.spec.shape == y.shape == (4, 5)
    assert repr(layer) == "residual(linear(5) >> relu, linear(5))"


def test_residual_keeps_the_state_of_both() -> None:
    layer = nn.residual(nn.batch_norm(), nn.batch_norm(0.5))
    made = layer.init(KEY, SPEC)
    _, state = layer.apply(made.params, made.state, X, Train(KEY))
    np.testing.assert_allclose(state["layer"]["mean"], 0.1 * X.mean(0), atol=1e-6)
    np.testing.assert_allclose(state["shortcut"]["mean"], 0.5 * X.mean(0), atol=1e-6)


@pytest.mark.parametrize("out", [1, 5])
def test_residual_does_not_broadcast(out: int) -> None:
    with pytest.raises(FaultError, match="give residual a shortcut") as caught:
        nn.sequence(block=nn.residual(nn.linear(out))).init(KEY, SPEC)
    fault = caught.value.fault
    assert isinstance(fault, ShapeMismatch)
    assert (fault.where, fault.expected, fault.actual) == ("block/residual", "float32[4, 3]", f"float32[4, {out}]")


# ------------------------------------------------------------------------------- branch and parallel


def test_branch_gives_every_layer_the_same_input() -> None:
    layer = nn.branch(nn.fun(double), more=nn.fun(increment))
    assert layer.apply({}, {}, 3, Eval())[0] == (6, 4)
    made = nn.branch(nn.linear(2), wide=nn.linear(5)).init(KEY, SPEC)
    assert [spec.shape for spec in made.spec] == [(4, 2), (4, 5)]
    assert list(made.params) == ["0", "wide"]


def test_parallel_gives_each_layer_its_component() -> None:
    layer = nn.parallel(nn.fun(double), nn.fun(increment))
    assert layer.apply({}, {}, (3, 10), Eval())[0] == (6, 11)
    made = nn.parallel(nn.linear(2), nn.batch_norm()).init(KEY, (SPEC, array_spec((4, 7), jnp.float32)))
    assert [spec.shape for spec in made.spec] == [(4, 2), (4, 7)]
    assert made.state["1"]["mean"].shape == (7,)


@pytest.mark.parametrize("wrong", [SPEC, (SPEC,), (SPEC, SPEC, SPEC)], ids=["array", "one", "three"])
def test_parallel_needs_as_many_components_as_layers(wrong: object) -> None:
    with pytest.raises(FaultError) as caught:
        nn.parallel(nn.relu, nn.relu).init(KEY, wrong)
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "a tuple of 2 arrays"


def test_branches_are_merged_by_a_function() -> None:
    both = nn.branch(nn.linear(2), nn.linear(5)) >> nn.fun(lambda ys: jnp.concatenate(ys, axis=-1)) >> nn.linear(1)
    made = both.init(KEY, SPEC)
    assert made.spec.shape == both.apply(made.params, made.state, X, Eval())[0].shape == (4, 1)


def test_a_norm_of_a_pair_is_a_fault() -> None:
    with pytest.raises(FaultError) as caught:
        (nn.branch(nn.relu, nn.relu) >> nn.batch_norm()).init(KEY, SPEC)
    assert caught.value.fault.where == "1/batch_norm"


# ------------------------------------------------------------------------------- repeat


def test_repeat_with_separate_weights() -> None:
    made = nn.repeat(nn.linear(3), 3).init(KEY, SPEC)
    assert list(made.params) == ["0", "1", "2"]
    assert not np.allclose(made.params["0"]["weight"], made.params["1"]["weight"])


def test_repeat_with_shared_weights() -> None:
    layer = nn.repeat(nn.linear(3), 3, shared=True)
    made = layer.init(KEY, SPEC)
    weight = made.params["weight"]
    assert weight.shape == (3, 3)
    np.testing.assert_allclose(layer.apply(made.params, {}, X, Eval())[0], X @ weight @ weight @ weight, atol=1e-5)
    assert repr(layer) == "repeat(linear(3), 3, shared)"


def test_the_gradient_of_shared_weights_sums_over_the_times() -> None:
    layer = nn.repeat(nn.linear(1, bias=False), 3, shared=True)

    def cube(w: float) -> jax.Array:
        return layer.apply({"weight": jnp.full((1, 1), w)}, {}, jnp.ones((1, 1)), Eval())[0].sum()

    assert jax.grad(cube)(2.0) == 12  # 3 w^2


def test_repeat_with_state() -> None:
    own = nn.repeat(nn.batch_norm(0.5), 2)
    made = own.init(KEY, SPEC)
    _, state = own.apply(made.params, made.state, X + 8, Train(KEY))
    np.testing.assert_allclose(state["0"]["mean"], 0.5 * (X + 8).mean(0), atol=1e-5)
    np.testing.assert_allclose(state["1"]["mean"], 0, atol=1e-5)

    shared = nn.repeat(nn.batch_norm(0.5), 2, shared=True)
    made = shared.init(KEY, SPEC)
    _, state = shared.apply(made.params, made.state, X + 8, Train(KEY))
    np.testing.assert_allclose(state["mean"], 0.25 * (X + 8).mean(0), atol=1e-5)  # moved twice, the second time towards 0


def test_repeat_faults() -> None:
    with pytest.raises(FaultError, match="keeps its shape") as caught:
        nn.repeat(nn.linear(5), 2, shared=True).init(KEY, SPEC)
    assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(ValueError, match="times >= 1, got 0"):
        nn.repeat(nn.relu, 0)


# ------------------------------------------------------------------------------- where a fault happened


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        (nn.sequence(nn.relu, nn.linear(2)), "1/linear"),
        (nn.sequence(a=nn.sequence(b=nn.linear(2))), "a/b/linear"),
        (nn.residual(nn.linear(2)), "layer/linear"),
        (nn.residual(nn.relu, nn.linear(2)), "shortcut/linear"),
        (nn.branch(nn.relu, head=nn.linear(2)), "head/linear"),
        (nn.branch(nn.relu, nn.relu) >> nn.parallel(nn.relu, nn.linear(2)), "1/1/linear"),
        (nn.repeat(nn.linear(3), 2), "0/linear"),
        (nn.repeat(nn.linear(3), 2, shared=True), "linear"),
        (nn.mlp((3,), 2), "linear_0/linear"),
    ],
    ids=str,
)
def test_faults_carry_the_path_of_names(layer: Layer, where: str) -> None:
    with pytest.raises(FaultError) as caught:
        layer.init(KEY, array_spec((4, 3), jnp.uint8))
    assert isinstance(caught.value.fault, DtypeMismatch)
    assert caught.value.fault.where == where


def test_faults_of_apply_carry_the_path_through_jit_and_grad() -> None:
    layer = nn.sequence(body=nn.residual(nn.sequence(nn.batch_norm())))
    made = layer.init(KEY, SPEC)
    step = jax.jit(jax.grad(lambda params, x: layer.apply(params, made.state, x, Train(KEY))[0].sum()))
    with pytest.raises(FaultError) as caught:
        step(made.params, X[:1])
    assert caught.value.fault == BatchTooSmall("batch_norm", 1, where="body/layer/0/batch_norm")


# ------------------------------------------------------------------------------- switch


def test_switch_runs_the_layer_of_its_index_and_leaves_the_state_of_others() -> None:
    layer = nn.switch(nn.linear(2) >> nn.batch_norm(), other=nn.batch_norm() >> nn.linear(2))
    made = layer.init(KEY, (SPEC, array_spec((), jnp.int32)))
    apply = jax.jit(layer.apply)
    for number, (name, own) in enumerate(
        {"0": nn.linear(2) >> nn.batch_norm(), "other": nn.batch_norm() >> nn.linear(2)}.items()
    ):
        y, state = apply(made.params, made.state, (X, number), Train(KEY))
        expected, moved = own.apply(made.params[name], made.state[name], X, Train(KEY))
        np.testing.assert_allclose(y, expected, atol=1e-5)
        for part in made.state:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                state[part],
                moved if part == name else made.state[part],
            )
    for wrong in (-1, 2):
        assert np.isnan(apply(made.params, made.state, (X, wrong), Train(KEY))[0]).all()


def test_switch_by_row() -> None:
    layer = nn.switch(nn.linear(2), nn.linear(2) >> nn.tanh)
    made = layer.init(KEY, (SPEC, array_spec((4,), jnp.int32)))
    index = jnp.array([1, 0, 2, -1])
    y, _ = layer.apply(made.params, {}, (X, index), Eval())
    first = nn.linear(2).apply(made.params["0"], {}, X, Eval())[0]
    second = jnp.tanh(nn.linear(2).apply(made.params["1"]["0"], {}, X, Eval())[0])
    np.testing.assert_allclose(y[0], second[0], atol=1e-6)
    np.testing.assert_allclose(y[1], first[1], atol=1e-6)
    assert np.isnan(y[2:]).all()
    grads = jax.grad(lambda p: jnp.sum(layer.apply(p, {}, (X[:2], index[:2]), Eval())[0]))(made.params)
    np.testing.assert_allclose(grads["0"]["bias"], 1)  # of the one row that chose it


def test_what_switch_does_not_take() -> None:
    one, rows = array_spec((), jnp.int32), array_spec((4,), jnp.int32)
    for layers, spec, match in (
        ((nn.linear(2), nn.linear(3)), (SPEC, one), "the same output of each layer"),
        ((nn.batch_norm(), nn.tanh), (SPEC, rows), "would be changed by all rows"),
        ((nn.tanh,), SPEC, r"\(x, index\)"),
        ((nn.tanh,), (SPEC, array_spec((3,), jnp.int32)), "an index for each row"),
        ((nn.tanh,), (SPEC, array_spec((), jnp.float32)), "an index of integers"),
        ((nn.fun(lambda x: x.astype(int)),), (SPEC, one), "outputs of floating-point numbers"),
    ):
        with pytest.raises(FaultError, match=match):
            nn.switch(*layers).init(KEY, spec)
    with pytest.raises(ValueError, match="at least one layer"):
        nn.switch()
