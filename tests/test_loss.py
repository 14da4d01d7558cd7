"""Losses and metrics: numbers, faults, edges. The laws of all losses are in laws/, torch's numbers in parity/."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, NotDifferentiable, ShapeMismatch
from fnlamp.loss import Loss, LossValue, as_loss, differentiable
from fnlamp.mode import Eval

LOGITS = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4), np.float32)) * 3
LABELS = jnp.array([0, 3, 1, 2, 3, 0])
WEIGHTS = jnp.array([0.5, 1.0, 2.0, 3.0])


# ------------------------------------------------------------------------------- values


def test_the_mean_is_total_over_weight_and_zero_where_nothing_has_weight() -> None:
    assert float(LossValue(jnp.array(6.0), jnp.array(4.0)).mean) == 1.5
    assert float(LossValue(jnp.array(0.0), jnp.array(0.0)).mean) == 0
    assert float(jax.grad(lambda x: LossValue(x, 0 * x).mean)(0.0)) == 0


def test_nll_is_a_weighted_sum_and_the_sum_of_its_weights() -> None:
    logp = jax.nn.log_softmax(LOGITS)
    value = loss.nll(WEIGHTS)(logp, LABELS)
    weights, picked = np.asarray(WEIGHTS)[LABELS], np.asarray(logp)[np.arange(6), LABELS]
    assert float(value.total) == pytest.approx(float(-(weights * picked).sum()), rel=1e-6)
    assert float(value.weight) == 0.5 + 3 + 1 + 2 + 3 + 0.5
    assert float(loss.nll()(logp, LABELS).weight) == 6


def test_cross_entropy_is_nll_of_log_softmax() -> None:
    a = loss.cross_entropy(WEIGHTS)(LOGITS, LABELS)
    b = loss.nll(WEIGHTS)(jax.nn.log_softmax(LOGITS), LABELS)
    assert (float(a.total), float(a.weight)) == (float(b.total), float(b.weight))


def test_label_smoothing_is_the_cross_entropy_of_a_mixed_target() -> None:
    target = 0.9 * jax.nn.one_hot(LABELS, 4) + 0.1 / 4
    expected = -(target * jax.nn.log_softmax(LOGITS)).sum(-1).mean()
    assert float(loss.cross_entropy(label_smoothing=0.1)(LOGITS, LABELS).mean) == pytest.approx(float(expected), rel=1e-6)


def test_ignored_rows_count_for_nothing() -> None:
    masked = LABELS.at[jnp.array([1, 4])].set(-100)
    kept = jnp.array([0, 2, 3, 5])
    a, b = loss.cross_entropy(WEIGHTS)(LOGITS, masked), loss.cross_entropy(WEIGHTS)(LOGITS[kept], LABELS[kept])
    assert float(a.total) == pytest.approx(float(b.total), rel=1e-6)
    assert float(a.weight) == float(b.weight) == 4
    gradient = jax.grad(lambda x: loss.cross_entropy()(x, masked).mean)(LOGITS)
    assert (gradient[jnp.array([1, 4])] == 0).all()


def test_a_class_can_be_the_ignored_label() -> None:
    value = loss.nll(ignored=3)(jax.nn.log_softmax(LOGITS), LABELS)
    assert float(value.weight) == 4


@pytest.mark.parametrize("make", [loss.nll, loss.cross_entropy, lambda: loss.cross_entropy(WEIGHTS, label_smoothing=0.1)])
def test_a_fully_ignored_batch_has_mean_zero_and_a_zero_gradient(make: Callable[[], Loss]) -> None:
    ignored = jnp.full(6, -100)
    value, gradient = jax.value_and_grad(lambda x: make()(x, ignored).mean)(LOGITS)
    assert float(value) == 0
    assert (gradient == 0).all()


def test_positions_are_rows() -> None:
    value = loss.cross_entropy()(LOGITS.reshape(2, 3, 4), LABELS.reshape(2, 3))
    assert float(value.mean) == pytest.approx(float(loss.cross_entropy()(LOGITS, LABELS).mean), rel=1e-6)
    assert float(value.weight) == 6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64])
@pytest.mark.parametrize("classes", [4, 100, 300, 1000])
def test_narrow_labels_are_compared_as_numbers(dtype: type, classes: int) -> None:
    top = min(classes - 1, np.iinfo(dtype).max)
    labels = np.array([0, top, min(top, 156), 1], dtype)  # 156 is -100 in 8 bits
    logp = jax.nn.log_softmax(np.random.default_rng(0).standard_normal((4, classes), np.float32))
    for value in (loss.nll()(logp, labels), jax.jit(loss.nll().apply)(logp, labels)):
        assert float(value.weight) == 4
        assert float(value.total) == pytest.approx(-float(logp[np.arange(4), labels.astype(int)].sum()), rel=1e-5)


def test_later_changes_of_the_callers_weights_do_not_reach_the_loss() -> None:
    weights = np.ones(4)
    made = loss.cross_entropy(weights)
    weights[:] = 100
    assert float(made(LOGITS, LABELS).weight) == 6


def test_half_precision_is_summed_in_float32() -> None:
    logits = jnp.zeros((4096, 10), jnp.bfloat16)
    value = loss.cross_entropy()(logits, jnp.zeros(4096, jnp.int32))
    assert value.total.dtype == value.weight.dtype == jnp.float32
    assert float(value.weight) == 4096
    assert float(value.mean) == pytest.approx(np.log(10), rel=1e-6)
    x = jnp.ones(4096, jnp.bfloat16)
    assert float(loss.mse()(x, jnp.zeros(4096)).mean) == 1


def test_numbers_of_the_elementwise_losses() -> None:
    x, y = jnp.array([1.0, 2.0, -3.0]), jnp.array([0.5, 4.0, -3.0])
    assert float(loss.mse()(x, y).mean) == pytest.approx((0.25 + 4) / 3)
    assert float(loss.smooth_l1()(x, y).total) == pytest.approx(0.125 + 1.5)
    assert float(loss.smooth_l1(beta=0.1)(x, y).total) == pytest.approx(0.45 + 1.95)
    expected = [np.log1p(np.exp(-1)), 2 * np.log1p(np.exp(-2)), np.log1p(np.exp(-3))]
    value = loss.bce_with_logits([1.0, 2.0, 5.0])(x, jnp.array([1.0, 1.0, 0.0]))
    assert float(value.total) == pytest.approx(sum(expected), rel=1e-6)
    assert float(value.weight) == 3


def test_identity() -> None:
    assert float(loss.identity()(jnp.array([1.0, 3.0]), None).mean) == 2
    scalar = loss.identity()(jnp.array(5.0), {"y": jnp.zeros((8, 2))})
    assert (float(scalar.total), float(scalar.weight)) == (40, 8)
    assert float(loss.identity()(jnp.array(5.0), None).weight) == 1


def test_accuracy() -> None:
    value = loss.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]), jnp.array([1, 1, 0]))
    assert (float(value.total), float(value.weight)) == (2, 3)
    assert float(loss.accuracy(LOGITS.reshape(2, 3, 4), jnp.argmax(LOGITS, -1).reshape(2, 3)).mean) == 1
    assert float(loss.accuracy(LOGITS, np.argmax(LOGITS, -1).astype(np.uint8)).mean) == 1


def test_accuracy_counts_no_ignored_rows() -> None:
    logits, labels = jnp.zeros((3, 200)).at[:, 156].set(1.0), np.array([-100, 156, 3])
    value = loss.accuracy(logits, labels)
    assert (float(value.total), float(value.weight)) == (1, 2)
    assert float(loss.accuracy(logits, np.array([-100, -100, 3], np.int8)).total) == 0
    assert float(loss.accuracy(logits, labels, ignored=3).weight) == 2
    nothing = loss.accuracy(logits, np.full(3, -100))
    assert (float(nothing.total), float(nothing.weight)) == (0, 0)


# ------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize(
    "make", [loss.cross_entropy, lambda: loss.cross_entropy(label_smoothing=0.1)], ids=["cross_entropy", "smoothed"]
)
def test_classes_are_finite_for_large_logits(make: Callable[[], Loss], size: float) -> None:
    logits = jnp.array([[size, 0.0, -size]])
    for label in range(3):
        value, gradient = jax.value_and_grad(lambda x, y=label: make()(x, jnp.array([y])).mean)(logits)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights", [None, 4.0])
def test_bce_is_finite_for_large_logits(target: float, weights: float | None) -> None:
    x = jnp.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    value, gradient = jax.value_and_grad(lambda x: loss.bce_with_logits(weights)(x, jnp.full(5, target)).mean)(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


# ------------------------------------------------------------------------------- faults


def fault_of(function: Callable[[], object]) -> object:
    with pytest.raises(FaultError) as caught:
        function()
    return caught.value.fault


@pytest.mark.parametrize("make", [loss.mse, loss.smooth_l1, loss.bce_with_logits])
def test_broadcasting_shapes_are_a_fault_with_a_hint(make: Callable[[], Loss]) -> None:
    fault = fault_of(lambda: make()(jnp.zeros((20, 1)), jnp.zeros(20)))
    assert isinstance(fault, ShapeMismatch)
    assert fault.where == repr(make())
    assert (fault.expected, fault.actual) == ("a target of the prediction's shape [20, 1]", "float32[20]")
    assert "squeeze the prediction: nn.fun(lambda y: y.squeeze(-1))" in str(fault)
    fault = fault_of(lambda: jax.jit(make().apply)(jnp.zeros(20), jnp.zeros((20, 1))))
    assert isinstance(fault, ShapeMismatch)
    assert fault.hint == "squeeze the target's last axis"
    fault = fault_of(lambda: make()(jnp.zeros((20, 3)), jnp.zeros(3)))
    assert isinstance(fault, ShapeMismatch)
    assert fault.hint == ""


@pytest.mark.parametrize("apply", [loss.nll(), loss.cross_entropy(), loss.accuracy])
def test_labels_of_another_shape_or_dtype_are_a_fault(apply: Callable[..., LossValue]) -> None:
    fault = fault_of(lambda: apply(LOGITS, LABELS[:, None]))
    assert isinstance(fault, ShapeMismatch)
    assert fault.expected == "labels of shape [6] for a prediction float32[6, 4]"
    assert fault.hint == "squeeze the target's last axis"
    assert isinstance(fault_of(lambda: apply(LOGITS, jax.nn.one_hot(LABELS, 4, dtype=int))), ShapeMismatch)
    assert isinstance(fault_of(lambda: apply(jnp.array(1.0), jnp.array(1))), ShapeMismatch)
    fault = fault_of(lambda: apply(LOGITS, LABELS.astype(jnp.float32)))
    assert isinstance(fault, DtypeMismatch)
    assert (fault.expected, fault.actual) == ("integer labels", "float32[6]")
    assert isinstance(fault_of(lambda: apply(LOGITS, LABELS > 1)), DtypeMismatch)


def test_a_number_of_weights_other_than_that_of_classes_is_a_fault() -> None:
    fault = fault_of(lambda: loss.nll(jnp.ones(3))(LOGITS, LABELS))
    assert isinstance(fault, ShapeMismatch)
    assert (fault.where, fault.expected) == ("nll", "class weights of shape [4]")
    fault = fault_of(lambda: loss.bce_with_logits(jnp.ones(3))(LOGITS, jnp.zeros((6, 4))))
    assert isinstance(fault, ShapeMismatch)
    assert (fault.where, fault.expected) == ("bce_with_logits", "positive weights of shape [4]")


@pytest.mark.parametrize("label", [4, -1, 1000])
def test_check_finds_labels_that_are_no_class(label: int) -> None:
    spec = array_spec((6, 4), jnp.float32)
    fault = fault_of(lambda: loss.nll().check(spec, np.array([0, 3, 1, label, -100, label])))
    assert fault == LabelOutOfRange(label, 4, 3, where="nll")
    assert f"expected labels from 0 to 3, got {label} in row 3" in str(fault)


def test_check_accepts_classes_and_ignored_rows() -> None:
    spec = array_spec((6, 4), jnp.float32)
    assert loss.cross_entropy().check(spec, np.array([0, 3, -100])) is None
    assert loss.cross_entropy(ignored=255).check(spec, np.array([0, 255], np.uint8)) is None
    assert loss.mse().check(spec, np.zeros(3)) is None
    fault = fault_of(lambda: loss.nll().check(array_spec((2, 3, 4), jnp.float32), np.array([[0, 1, 2], [3, 3, 9]])))
    assert fault == LabelOutOfRange(9, 4, 1, where="nll")


@pytest.mark.parametrize("label", [4, -1])
def test_in_a_compiled_step_such_labels_make_the_loss_not_a_number(label: int) -> None:
    bad = LABELS.at[2].set(label)
    assert jnp.isnan(jax.jit(loss.cross_entropy().apply)(LOGITS, bad).mean)
    assert jnp.isnan(jax.jit(loss.cross_entropy(WEIGHTS, label_smoothing=0.1).apply)(LOGITS, bad).total)


def test_wrong_arguments() -> None:
    for smoothing in (-0.1, 1.1):
        with pytest.raises(ValueError, match="label_smoothing is a probability"):
            loss.cross_entropy(label_smoothing=smoothing)
    with pytest.raises(ValueError, match="beta > 0, got 0"):
        loss.smooth_l1(0)


def test_plain_functions_are_losses_under_their_own_name() -> None:
    def absolute(prediction: jax.Array, target: jax.Array) -> LossValue:
        return LossValue(jnp.abs(prediction - target).sum(), jnp.asarray(1.0))

    made = as_loss(absolute)
    assert repr(made) == "absolute"
    assert float(made(jnp.array([1.0]), jnp.array([3.0])).mean) == 2
    assert made.check(None, None) is None
    assert as_loss(made) is made
    assert repr(loss.cross_entropy()) == "cross_entropy"


# ------------------------------------------------------------------------------- differentiation

MODEL = nn.sequence(hidden=nn.linear(5), act=nn.tanh, out=nn.linear(4))
PARAMS = MODEL.init(jax.random.key(1), array_spec((6, 3), jnp.float32)).params
X = jax.random.normal(jax.random.key(2), (6, 3))
Objective = Callable[[jax.Array], jax.Array]

FLAT: dict[str, Objective] = {
    "accuracy": lambda y: loss.accuracy(y, LABELS).mean,
    "stop_gradient": lambda y: loss.cross_entropy()(jax.lax.stop_gradient(y), LABELS).mean,
    "sign": lambda y: jnp.sign(y).mean(),
    "round": lambda y: jnp.round(y).sum(),
    "comparison": lambda y: jnp.mean((y > 0).astype(jnp.float32)),
    "constant": lambda y: jnp.ones(()),
}
SMOOTH: dict[str, Objective] = {
    "nll": lambda y: loss.nll()(jax.nn.log_softmax(y), LABELS).mean,
    "cross_entropy": lambda y: loss.cross_entropy(WEIGHTS, label_smoothing=0.1)(y, LABELS).mean,
    "mse": lambda y: loss.mse()(y, jnp.zeros((6, 4))).mean,
    "smooth_l1": lambda y: loss.smooth_l1()(y, jnp.zeros((6, 4))).mean,
    "bce": lambda y: loss.bce_with_logits(2.0)(y, jnp.ones((6, 4))).mean,
    "ignored": lambda y: loss.cross_entropy()(y, jnp.full(6, -100)).mean,
    "with a flat part": lambda y: loss.accuracy(y, LABELS).mean + jnp.mean(y**2),
}


def plain(objective: Callable[[object], jax.Array]) -> object:
    return jax.grad(objective)(PARAMS)


def jitted(objective: Callable[[object], jax.Array]) -> object:
    return jax.jit(jax.value_and_grad(objective))(PARAMS)


def inside_a_jit(objective: Callable[[object], jax.Array]) -> object:
    return jax.grad(jax.jit(objective))(PARAMS)


def scanned(objective: Callable[[object], jax.Array]) -> object:
    """Steps in one loop, as training runs them."""

    def step(params: object, _: None) -> tuple[object, jax.Array]:
        value, grads = jax.value_and_grad(objective)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return jax.jit(lambda params: jax.lax.scan(step, params, length=3))(PARAMS)


def through_a_scan(objective: Callable[[object], jax.Array]) -> object:
    """The loss itself in a loop, as over the steps of a recurrent model."""
    return jax.grad(lambda params: jax.lax.scan(lambda c, _: (c, objective(params)), 0.0, length=2)[1].sum())(PARAMS)


ways = pytest.mark.parametrize("way", [plain, jitted, inside_a_jit, scanned, through_a_scan], ids=lambda f: f.__name__)


@ways
@pytest.mark.parametrize("name", FLAT)
def test_a_loss_whose_gradient_is_zero_everywhere_is_found(name: str, way: Callable[..., object]) -> None:
    def objective(params: dict[str, object]) -> jax.Array:
        return differentiable(FLAT[name](MODEL.apply(params, {}, X, Eval())[0]), params, name)

    with pytest.raises(FaultError, match="train on a smooth loss") as caught:
        way(objective)
    assert caught.value.fault == NotDifferentiable(name)


@pytest.mark.slow
@ways
@pytest.mark.parametrize("name", SMOOTH)
def test_real_losses_are_not_taken_for_flat(name: str, way: Callable[..., object]) -> None:
    def objective(params: dict[str, object]) -> jax.Array:
        return differentiable(SMOOTH[name](MODEL.apply(params, {}, X, Eval())[0]), params, name)

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(way(objective)))


@pytest.mark.slow
@ways
def test_one_parameter_with_a_gradient_is_enough(way: Callable[..., object]) -> None:
    def objective(params: dict[str, dict[str, jax.Array]]) -> jax.Array:
        frozen = jax.lax.stop_gradient({**params, "out": {**params["out"], "bias": jnp.zeros(4)}})
        y = MODEL.apply(frozen, {}, X, Eval())[0] + params["out"]["bias"]
        return differentiable(loss.cross_entropy()(y, LABELS).mean, params, "cross_entropy")

    way(objective)


def test_it_changes_neither_value_nor_gradient() -> None:
    def square(x: jax.Array) -> jax.Array:
        return differentiable(x**2, x, "square")

    assert jax.value_and_grad(square)(3.0) == (9, 6)
    assert float(differentiable(jnp.sign(jnp.array(2.0)), jnp.array(2.0), "sign")) == 1  # only differentiation is refused
    assert float(jax.jit(lambda x: differentiable(jnp.sign(x), x, "sign"))(2.0)) == 1
