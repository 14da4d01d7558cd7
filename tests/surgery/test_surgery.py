"""Parameter surgery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Role, Train, nn, optim, surgery, table, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError

KEY = jax.random.key(0)
SPEC = array_spec((6, 4), jnp.float32)
X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4), np.float32))
LAYER = nn.sequence(hidden=nn.linear(5), norm=nn.batch_norm(), act=nn.tanh, drop=nn.dropout(0.5), out=nn.linear(3))
MADE = LAYER.init(KEY, SPEC)


def is_bias(tag) -> bool:
    return tag.role is Role.BIAS


def moved(made):
    """Parameters and state far from where they start."""
    rng = np.random.default_rng(1)
    return (
        jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 1, p.shape), p.dtype), made.params),
        jax.tree.map(lambda p: jnp.asarray(rng.uniform(0.5, 2, p.shape), p.dtype), made.state),
    )


def test_split_and_join() -> None:
    biases, others = surgery.split(MADE.params, MADE.tags, is_bias)
    assert list(tree.paths(biases)) == ["hidden/bias", "out/bias"]
    assert tree.equal(surgery.join(biases, others), MADE.params)
    assert surgery.split(MADE.params, MADE.tags, lambda tag: False) == ({}, MADE.params)
    with pytest.raises(ValueError, match="both have hidden/bias"):
        surgery.join(MADE.params, biases)
    with pytest.raises(ValueError, match="tags are those of the parameters"):
        surgery.split(MADE.params, MADE.tags["out"], is_bias)


def test_count_and_cast() -> None:
    assert surgery.count(MADE.params, MADE.tags) == {"batch_norm": 10, "linear": 43}
    assert surgery.count(MADE.params, MADE.tags, lambda tag: tag.path[0]) == {"hidden": 25, "norm": 10, "out": 18}
    half = surgery.cast(MADE.params, jnp.bfloat16, MADE.tags, is_bias)
    assert {path: leaf.dtype.name for path, leaf in tree.paths(half).items() if leaf.dtype == jnp.bfloat16} == {
        "hidden/bias": "bfloat16",
        "out/bias": "bfloat16",
    }
    assert surgery.cast({"n": jnp.arange(2)}, jnp.float16)["n"].dtype == jnp.int32
    assert MADE.params["out"]["bias"].dtype == jnp.float32


def test_put_and_rename() -> None:
    other = nn.linear(7).init(KEY, array_spec((6, 5), jnp.float32)).params
    with pytest.raises(FaultError, match="same=False allows it"):
        surgery.put(MADE.params, "out", other)
    new = surgery.put(MADE.params, "out", other, same=False)
    assert new["out"]["bias"].shape == (7,)
    assert MADE.params["out"]["bias"].shape == (3,)
    with pytest.raises(ValueError, match="'outt' does not exist, there are hidden/weight"):
        surgery.put(MADE.params, "outt", other)
    renamed = surgery.rename(MADE.params, lambda path: path.replace("hidden", "fc"))
    assert list(renamed["fc"]) == list(MADE.params["hidden"])
    longest = surgery.rename(MADE.params, {"hidden": "a", "hidden/bias": "b"})
    assert {"a/weight", "b"} < set(tree.paths(longest))
    for names, match in (({"hiden": "a"}, "'hiden', which is not a path"), ({"hidden": "out"}, "'out/weight' twice")):
        with pytest.raises(ValueError, match=match):
            surgery.rename(MADE.params, names)
    with pytest.raises(ValueError, match="inside of another"):
        surgery.rename(MADE.params, {"hidden/weight": "out"})


def test_a_frozen_layer_is_as_in_eval_and_nothing_trains_it() -> None:
    params, state = moved(MADE)
    frozen = surgery.freeze(LAYER)
    made = frozen.init(KEY, SPEC)
    assert (made.params, made.tags) == ({}, {})
    filled = surgery.put(surgery.put(made.state, "frozen", params), "layer", state)
    y, after = frozen.apply({}, filled, X, Train(KEY))
    np.testing.assert_array_equal(y, LAYER.apply(params, state, X, Eval())[0])
    assert tree.equal(after, filled)
    assert "total" in table(frozen >> nn.linear(2), SPEC)


@pytest.mark.slow
def test_parameters_frozen_by_their_tag_do_not_move() -> None:
    params, state = moved(MADE)
    biases, others = surgery.split(params, MADE.tags, is_bias)
    frozen = surgery.freeze(LAYER, is_bias)
    made = frozen.init(KEY, SPEC)
    assert tree.equal(jax.tree.map(jnp.shape, made.params), jax.tree.map(jnp.shape, others))
    filled = {"frozen": biases, "layer": state}
    y, after = frozen.apply(others, filled, X, Train(KEY))
    expected, moments = LAYER.apply(params, state, X, Train(KEY))
    np.testing.assert_array_equal(y, expected)
    assert tree.equal(after, {"frozen": biases, "layer": moments})  # batch norm's moments do move
    rule = optim.adamw(0.1, 0.5)
    grads = jax.grad(lambda p: jnp.sum(frozen.apply(p, filled, X, Train(KEY))[0] ** 2))(others)
    new, _ = rule.advance(grads, rule.init(others, made.tags), others, made.tags)
    assert list(tree.paths(new)) == list(tree.paths(others))


def test_lora_starts_as_the_layer_learns_in_its_adapters_and_merges() -> None:
    params, state = moved(MADE)
    adapted = surgery.lora(LAYER, 2, alpha=6)
    made = adapted.init(KEY, SPEC)
    assert list(tree.paths(made.params)) == [f"{part}/{at}/weight" for part in ("down", "up") for at in ("hidden", "out")]
    filled = made.state | {"frozen": params, "layer": state}
    before = LAYER.apply(params, state, X, Eval())[0]
    np.testing.assert_array_equal(adapted.apply(made.params, filled, X, Eval())[0], before)
    learned, _ = moved(made)
    merged, inner = surgery.merge_lora(learned, filled)
    down, up = (np.asarray(learned[part]["out"]["weight"], np.float64) for part in ("down", "up"))
    np.testing.assert_allclose(merged["out"]["weight"], params["out"]["weight"] + 3 * down @ up, atol=1e-5)
    np.testing.assert_array_equal(merged["out"]["bias"], params["out"]["bias"])
    assert inner is state
    y, after = adapted.apply(learned, filled, X, Train(KEY))
    expected, moments = LAYER.apply(merged, state, X, Train(KEY))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert tree.equal(after["layer"], moments)
    assert tree.equal(after["frozen"], params)


def test_lora_of_a_convolution_and_of_what_is_not_a_matrix() -> None:
    spec = array_spec((2, 5, 5, 3), jnp.float32)
    made = surgery.lora(nn.conv2d(4, 2), 2).init(KEY, spec)
    assert (made.params["down"]["weight"].shape, made.params["up"]["weight"].shape) == ((12, 2), (2, 4))
    learned, _ = moved(made)
    merged, _ = surgery.merge_lora(learned, made.state)
    change = (learned["down"]["weight"] @ learned["up"]["weight"]).reshape(2, 2, 3, 4)
    np.testing.assert_allclose(merged["weight"], made.state["frozen"]["weight"] + change, atol=1e-5)
    with pytest.raises(ValueError, match="not a matrix"):
        surgery.lora(LAYER, 2, choose=is_bias).init(KEY, SPEC)
    with pytest.raises(ValueError, match="choose gives no parameter"):
        surgery.lora(nn.batch_norm(), 2).init(KEY, SPEC)
    with pytest.raises(ValueError, match="those of lora"):
        surgery.merge_lora(MADE.params, MADE.state)


@pytest.mark.parametrize(
    ("layer", "spec", "paths"),
    [
        (LAYER, SPEC, ["hidden/bias", "hidden/weight", "out/bias", "out/weight"]),
        (nn.mlp(hidden=(5,), out=3), SPEC, ["linear_0/weight", "linear_1/bias", "linear_1/weight", "norm_0/shift"]),
        (
            nn.sequence(body=nn.conv2d(4, 2) >> nn.batch_norm() >> nn.relu, norm=nn.batch_norm()),
            array_spec((6, 5, 4, 2), jnp.float32),
            ["body/0/bias", "body/0/weight", "norm/scale", "norm/shift"],
        ),
        (
            nn.depthwise_conv2d(2, multiplier=2) >> nn.batch_norm() >> nn.conv_transpose2d(4, 2, groups=2) >> nn.batch_norm(),
            array_spec((6, 5, 4, 2), jnp.float32),
            ["0/bias", "0/weight", "2/bias", "2/weight"],
        ),
        (nn.batch_norm() >> nn.linear(2), SPEC, ["0/scale", "0/shift", "1/bias", "1/weight"]),
        (nn.linear(2) >> nn.relu >> nn.batch_norm(), SPEC, ["0/bias", "0/weight", "2/scale", "2/shift"]),
    ],
    ids=["named", "without bias", "inside", "groups and transposed", "first", "after an activation"],
)
def test_folded_batch_norm_does_the_same(layer, spec, paths: list[str]) -> None:
    made = layer.init(KEY, spec)
    params, state = moved(made)
    folded, new, left = surgery.fold_batch_norm(layer, params, state, spec)
    x = jax.random.normal(KEY, spec.shape)
    expected, _ = layer.apply(params, state, x, Eval())
    np.testing.assert_allclose(folded.apply(new, left, x, Eval())[0], expected, atol=2e-5)
    assert list(tree.paths(new)) == paths
    again = folded.init(KEY, spec)
    assert jax.tree.structure((again.params, again.state)) == jax.tree.structure((new, left))
