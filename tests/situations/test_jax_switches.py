"""JAX's own switches: every layer, loss, metric, rule, schedule and augmentation under strict promotion,
`rank_promotion=raise`, `debug_nans` and the transfer guard. Promotion errors arise during tracing, so most cases are only
traced."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LAYERS, LOSSES, RULES, SCHEDULES, WRAPPERS, llama

from fnlamp import Eval, Matrix, Role, Tag, Train, augment, loss, models, nn, optim, stream, train
from fnlamp.layer import abstract_init
from fnlamp.tree import global_norm

KEY = jax.random.key(5)


@contextmanager
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def same(a, b, rtol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=rtol, atol=1e-6)


def forward_and_back(layer, params, state, x, mode):
    """The output, the new state, and if the input is differentiable the gradients with respect to parameters and input."""

    def total(at):
        y, new = layer.apply(at[0], state, at[1], mode)
        return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(y)), (y, new)

    if not jnp.issubdtype(x.dtype, jnp.floating):
        return layer.apply(params, state, x, mode)
    return jax.grad(total, has_aux=True)((params, x))


CASES = {
    **{
        name: (case.layer, case.spec) for name, case in LAYERS.items() if name not in {"fun", "embedding"} and "gpt" not in name
    },
    "embedding of tokens": (nn.embedding(7, 3), jax.ShapeDtypeStruct((2, 5), jnp.int32)),
    "gpt of tokens": (
        models.gpt(7, layers=2, width=4, heads=2, context=6, drop_rate=0.1),
        jax.ShapeDtypeStruct((2, 5), jnp.int32),
    ),
    "llama of documents": (nn.fun(lambda x: (x, x // 3)) >> llama, jax.ShapeDtypeStruct((2, 5), jnp.int32)),
    "max_pool2d, padded": (nn.max_pool2d(3, stride=2, padding=1), jax.ShapeDtypeStruct((2, 5, 4, 2), jnp.float32)),
    "pixels": (nn.rescale(1 / 255, -0.5) >> nn.conv2d(3, 3), jax.ShapeDtypeStruct((2, 5, 4, 2), jnp.uint8)),
    "standardize": (nn.fun(augment.standardize((0.5, 0.4), (0.2, 0.3))), jax.ShapeDtypeStruct((2, 5, 4, 2), jnp.float32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_layers_under_strict_promotion(name, dtype):
    layer, spec = CASES[name]
    if jnp.issubdtype(spec.dtype, jnp.floating):
        if name.startswith("rescale"):
            dtype = jnp.float32  # it casts by design
        spec = jax.ShapeDtypeStruct(spec.shape, dtype)
    for mode in (Eval(), Train(jax.random.key(1))):
        traced = []
        for switches in (nullcontext, strict):
            with switches():
                made = abstract_init(layer, spec)
                traced.append(jax.make_jaxpr(partial(forward_and_back, layer))(made.params, made.state, spec, mode))
        assert str(traced[0].out_avals) == str(traced[1].out_avals)


@pytest.mark.broad
@pytest.mark.parametrize("name", ["linear", "batch_norm", "conv2d", "mlp", "lstm"])
def test_parameters_are_made_under_strict_promotion(name):
    layer, spec = CASES[name]
    plain = layer.init(KEY, spec)
    with strict():
        made = layer.init(KEY, spec)
    same((made.params, made.state), (plain.params, plain.state))


LABELS, SCORES = np.array([0, 2, 1, -100, 2, 0]), jax.nn.log_softmax(jax.random.normal(KEY, (6, 3)))
METRICS = {
    "accuracy": (loss.accuracy, LABELS, SCORES),
    "top_k_accuracy": (loss.top_k_accuracy(2), LABELS, SCORES),
    "binary_accuracy": (loss.binary_accuracy(0.0), np.eye(6, 3) > 0, SCORES),
    "multilabel_accuracy": (loss.multilabel_accuracy(0.0, exact=True), np.eye(6, 3), SCORES),
    "bce of booleans": (loss.bce_with_logits(), np.eye(6, 3) > 0, SCORES),
    "mse of integers": (loss.mse(), np.arange(18).reshape(6, 3), SCORES),
}
OF_SUMS = {
    "f1": (loss.f1(), LABELS),
    "f1 of labels": (loss.f1(threshold=0.0), np.eye(6, 3) > 0),
    "confusion_matrix": (loss.confusion_matrix(), LABELS),
    "auroc": (loss.auroc([-1.0, 0.0]), LABELS),
    "auroc of labels": (loss.auroc([-1.0, 0.0]), np.eye(6, 3)),
    "calibration_error": (loss.calibration_error(), LABELS),
    "perplexity": (loss.perplexity(), LABELS),
    "rmse": (loss.rmse(), np.eye(6, 3)),
    "r2": (loss.r2(), np.eye(6, 3)),
    "nll": (loss.as_metric(loss.nll()), LABELS),
}


@pytest.mark.broad
@pytest.mark.parametrize("name", OF_SUMS)
def test_metrics_of_sums_under_jaxs_switches(name):
    metric, target = OF_SUMS[name]
    plain = metric(SCORES, target)
    with strict(), jax.debug_nans(True):
        np.testing.assert_array_equal(metric(SCORES, target), plain)
        made = jax.eval_shape(metric.measure, SCORES.astype(jnp.bfloat16), target)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} <= {"int32", "float32"}
    with jax.enable_x64(True):
        wide = metric(np.asarray(SCORES, np.float64), target)
    np.testing.assert_allclose(wide, plain, rtol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", [*LOSSES, *METRICS])
def test_losses_and_metrics_under_strict_promotion(name, dtype):
    made, target, prediction = {**LOSSES, **METRICS}[name]
    target, prediction = jax.tree.map(np.asarray, target), jax.tree.map(lambda x: x.astype(dtype), prediction)

    def both(prediction, target):
        value, slope = jax.value_and_grad(lambda p: made(p, target).mean)(prediction)
        return made(prediction, target), value, slope

    on_device = jax.tree.map(jnp.asarray, target)
    plain = jax.tree.leaves(jax.eval_shape(both, prediction, on_device))
    with strict():
        assert jax.tree.leaves(jax.eval_shape(both, prediction, on_device)) == plain
        assert jax.tree.leaves(jax.eval_shape(lambda p: both(p, target), prediction)) == plain


def test_losses_and_metrics_under_strict_promotion_in_64_bits():
    cases = {**LOSSES, **METRICS, **{name: (*case, SCORES) for name, case in OF_SUMS.items()}}
    with strict(), jax.enable_x64(True):
        for made, target, prediction in cases.values():
            for dtype in (jnp.float32, jnp.float64, jnp.bfloat16):
                scores = jax.tree.map(lambda x, d=dtype: jnp.asarray(np.asarray(x), d), prediction)
                measure = made.measure if isinstance(made, loss.Metric) else made
                jax.eval_shape(lambda p, m=measure, t=target: m(p, t), scores)


@pytest.mark.broad
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_under_strict_promotion(name):
    schedule = SCHEDULES[name]
    plain = [float(schedule(jnp.int32(n))) for n in range(12)]
    with strict():
        for n in range(12):
            for kind in (jnp.int32, jnp.uint32, np.int64, int):
                assert float(schedule(kind(n))) == plain[n]
            assert float(jax.jit(schedule)(jnp.int32(n))) == pytest.approx(plain[n], rel=1e-6)


@pytest.mark.broad
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_rules_under_strict_promotion(name, dtype):
    optimizer = RULES[name]()
    params = {"b": jnp.ones(3, dtype), "w": jnp.ones((2, 3), dtype)}
    tags = {"b": Tag("linear", Role.BIAS), "w": Tag("linear", Role.WEIGHT, matrix=Matrix())}

    def step(params, scale, numbers):
        state = optimizer.init(params, tags)
        return optimizer.update(params, state, params, tags, scale, numbers), optimizer.advance(
            params, state, params, tags, 0.5
        )

    numbers = optimizer.numbers(params, tags)
    plain = jax.eval_shape(step, params, jnp.float32(0.5), numbers)
    with strict():
        assert jax.tree.leaves(jax.eval_shape(step, params, jnp.float32(0.5), numbers)) == jax.tree.leaves(plain)


@pytest.mark.broad
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_clipping_under_strict_promotion(dtype):
    grads = {"a": jnp.array([3, 4], dtype), "b": jnp.ones((2, 2), jnp.float32)}
    plain = optim.clip_by_global_norm(grads, 1.0), global_norm(grads)
    with strict():
        same((jax.jit(lambda g: optim.clip_by_global_norm(g, 1.0))(grads), global_norm(grads)), plain)


@pytest.mark.broad
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8, jnp.bfloat16])
@pytest.mark.parametrize(
    "made",
    [augment.random_crop(2, fill=(1, 2)), augment.random_crop(0, (3, 2)), augment.random_flip(), augment.cutout(2, fill=1)],
    ids=lambda f: f.__name__,
)
def test_augmentations_under_strict_promotion(made, dtype):
    images = (10 * jax.random.uniform(KEY, (3, 5, 4, 2))).astype(dtype)
    with strict():
        made_so = jax.eval_shape(made, KEY, images)
    assert (made_so.dtype, made_so.shape[0], made_so.shape[3]) == (dtype, 3, 2)


GRADIENTS = {
    "plain": train.plain,
    "microbatches": train.microbatches(3),
    "perturbed": train.perturbed(0.1, train.microbatches(2)),
    "adversarial": train.adversarial(0.1),
    "rematerialised": train.rematerialised(),
}
HALF = {
    "bfloat16 throughout": train.Precision(params=jnp.bfloat16, compute=jnp.bfloat16),
    "float16 throughout": train.Precision(params=jnp.float16, compute=jnp.float16, scaled=True),
    "float16": train.float16,
}
STEPS = [(gradient, "ema") for gradient in GRADIENTS] + [("microbatches", wrapper) for wrapper in WRAPPERS if wrapper != "ema"]


@pytest.mark.broad
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(("gradient", "wrapper"), STEPS)
@pytest.mark.parametrize("x64", [False, True])
def test_training_steps_under_strict_promotion(gradient, wrapper, precision, x64):
    """A plan traces the step and compiles nothing."""
    x, y = np.zeros((12, 4), np.float32), np.arange(12) % 3
    program = train.epochs(
        model=train.supervised(
            nn.linear(5) >> nn.batch_norm() >> nn.dropout(0.1) >> nn.linear(3),
            loss.sum({"a": loss.cross_entropy([1.0, 2.0, 3.0]), "b": loss.focal()}),
            precision=HALF[precision],
        ),
        optimizer=WRAPPERS[wrapper](optim.adamw(0.01, 0.1)),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=6, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(x, y, batch_size=4),
        epochs=2,
        schedule=optim.warmup(2, optim.cosine(9)),
        gradient=GRADIENTS[gradient],
        metrics={"f1": loss.f1()},
        train_metrics={"accuracy": loss.accuracy},
    )
    with strict(), jax.enable_x64(x64):
        assert program.explain().fault is None


def test_gathering_under_strict_promotion():
    hidden, positions = jnp.arange(12.0).reshape(2, 3, 2), jnp.array([[0, 2, 5], [1, 1, -1]])
    plain = nn.gather_positions(hidden, positions)
    with strict():
        same(nn.gather_positions(hidden, positions), plain)
        same(nn.gather_positions(hidden, positions.astype(jnp.int8)), plain)


# ------------------------------------------------------------------------------- the other switches


SOME = [
    "linear",
    "batch_norm",
    "layer_norm",
    "conv_pool",
    "max_pool2d, padded",
    "lstm",
    "self_attention causal",
    "dropout",
    "elu",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_layers_have_no_nan_inside(name):
    layer, spec = CASES[name]
    x, made = jax.random.normal(KEY, spec.shape), layer.init(KEY, spec)
    with jax.debug_nans(True):
        jax.jit(partial(forward_and_back, layer))(made.params, made.state, x, Train(jax.random.key(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LOSSES, *METRICS])
def test_losses_have_no_nan_inside(name):
    made, target, prediction = {**LOSSES, **METRICS}[name]
    with jax.debug_nans(True):
        value, slope = jax.jit(jax.value_and_grad(lambda p: made(p, target).mean))(prediction)
        assert np.isfinite(float(made(prediction, target).mean))
    assert np.isfinite(float(value))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(slope))


def test_a_label_that_is_not_a_class_is_found_under_debug_nans():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.block_until_ready(jax.jit(loss.cross_entropy())(jnp.zeros((2, 3)), np.array([0, 7])))


@pytest.mark.broad
@pytest.mark.parametrize("name", ["linear", "conv2d", "batch_norm", "lstm", "self_attention", "dropout", "max_pool2d, padded"])
def test_nothing_moves_to_the_device_in_a_compiled_layer(name):
    layer, spec = CASES[name]
    made, x, mode = layer.init(KEY, spec), jax.random.normal(KEY, spec.shape), Train(jax.random.key(1))
    compiled = jax.jit(layer.apply)
    compiled(made.params, made.state, x, mode)
    with jax.transfer_guard("disallow"):
        compiled(made.params, made.state, x, mode)
