"""One list of every layer, loss, rule and stream, with inputs to test them on; a missing public name fails a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import Layer, Tag, augment, loss, models, nn, optim, stream
from fnlamp.arrays import array_spec
from fnlamp.effect import Resource

KEY = jax.random.key(7)
ROWS = array_spec((6, 4), jnp.float32)
IMAGES = array_spec((2, 5, 4, 2), jnp.float32)


@dataclass(frozen=True, eq=False)
class LayerCase:
    layer: Layer
    spec: Any = ROWS
    smooth: bool = True
    """Whether finite differences can be taken: not across the kinks of relu, nor through random masks."""
    forward: bool = True
    """Whether forward mode can differentiate it: not where the gradient in reverse mode is written by hand."""


TIMES = array_spec((2, 5, 4), jnp.float32)
TOKENS = array_spec((2, 5), jnp.float32)
tokens = nn.fun(lambda x: jnp.abs(3 * x).astype(jnp.int32) % 7, "tokens")
concatenate = nn.fun(lambda ys: jnp.concatenate(ys, axis=-1), "concatenate")
LAYERS: dict[str, LayerCase] = {
    "linear": LayerCase(nn.linear(3)),
    "linear without bias": LayerCase(nn.linear(3, bias=False), array_spec((2, 5, 4), jnp.float32)),
    "linear as torch": LayerCase(nn.linear(3, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)),
    "batch_norm": LayerCase(nn.batch_norm()),
    "layer_norm": LayerCase(nn.layer_norm()),
    "dropout": LayerCase(nn.dropout(0.4), smooth=False),
    "elu": LayerCase(nn.elu),
    "gelu": LayerCase(nn.gelu),
    "gelu_tanh": LayerCase(nn.gelu_tanh),
    "hard_swish": LayerCase(nn.hard_swish),
    "leaky_relu": LayerCase(nn.leaky_relu, smooth=False),
    "log_softmax": LayerCase(nn.log_softmax),
    "relu": LayerCase(nn.relu, smooth=False),
    "sigmoid": LayerCase(nn.sigmoid),
    "silu": LayerCase(nn.silu),
    "softmax": LayerCase(nn.softmax),
    "softplus": LayerCase(nn.softplus),
    "tanh": LayerCase(nn.tanh),
    "fun": LayerCase(nn.fun(jnp.sin)),
    "in_training": LayerCase(
        augment.in_training(augment.random_crop(2), augment.random_flip(), augment.cutout(2)), IMAGES, smooth=False
    ),
    "flatten": LayerCase(nn.flatten, array_spec((2, 3, 4), jnp.float32)),
    "rescale": LayerCase(nn.rescale(0.5, 1.0, dtype=float)),
    "embedding": LayerCase(tokens >> nn.embedding(7, 3), TOKENS),
    "lstm": LayerCase(nn.lstm(3), TIMES, forward=False),
    "lstm without bias": LayerCase(nn.lstm(3, bias=False), TIMES, forward=False),
    "conv2d": LayerCase(nn.conv2d(4, 3, padding="same", stride=2), IMAGES),
    "conv2d of groups": LayerCase(nn.conv2d(4, (2, 1), groups=2, bias=False), IMAGES),
    "conv_pool": LayerCase(nn.conv_pool(3, 3, padding=1), IMAGES, smooth=False),
    "max_pool2d": LayerCase(nn.max_pool2d(2), IMAGES, smooth=False),
    "avg_pool2d": LayerCase(nn.avg_pool2d(2, padding=1), IMAGES),
    "global_avg_pool": LayerCase(nn.global_avg_pool, IMAGES),
    "self_attention": LayerCase(nn.self_attention(2), TIMES, forward=False),
    "self_attention causal": LayerCase(nn.self_attention(2, causal=True, bias=False), TIMES, forward=False),
    "transformer_block": LayerCase(nn.transformer_block(2, causal=True), TIMES, forward=False),
    "transformer_block with dropout": LayerCase(nn.transformer_block(2, expansion=2, drop_rate=0.3), TIMES, smooth=False),
    # The norm of embeddings of size 0.02 curves too much for finite differences; test_transformer.py takes larger ones.
    "gpt": LayerCase(tokens >> models.gpt(7, layers=1, width=4, heads=2, context=6), TOKENS, smooth=False),
    "sequence": LayerCase(nn.sequence(hidden=nn.linear(5), act=nn.tanh, norm=nn.batch_norm(), out=nn.linear(2))),
    "sequence of nothing": LayerCase(nn.sequence()),
    "residual": LayerCase(nn.residual(nn.linear(3) >> nn.tanh, nn.linear(3))),
    "branch": LayerCase(nn.branch(nn.linear(2), narrow=nn.linear(1)) >> concatenate),
    "parallel": LayerCase(nn.branch(nn.tanh, nn.silu) >> nn.parallel(nn.linear(2), nn.linear(1)) >> concatenate),
    "repeat": LayerCase(nn.repeat(nn.linear(4) >> nn.batch_norm() >> nn.tanh, 2)),
    "repeat shared": LayerCase(nn.repeat(nn.linear(4) >> nn.batch_norm() >> nn.tanh, 2, shared=True)),
    "mlp": LayerCase(nn.mlp(hidden=(5, 4), out=3, activation=nn.tanh)),
    "mlp with dropout": LayerCase(nn.mlp(hidden=(5,), out=3, drop_rate=0.3, norm_last=True), smooth=False),
}

labels = np.array([0, 2, 1, -100, 2, 0], np.int32)
numbers = np.random.default_rng(0).random((6, 3), np.float32)
logp = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (6, 3)))
vectors = jax.random.normal(jax.random.key(1), (6, 3, 2))
sequences = jax.nn.log_softmax(jax.random.normal(jax.random.key(2), (6, 5, 3)))
words = {
    "labels": np.array([[1, 2], [1, 1], [2, 0], [2, 1], [1, 2], [0, 0]]),
    "label_lengths": np.array([2, 2, 1, 2, 1, 0]),
    "lengths": np.array([5, 4, 2, 2, 5, 1]),
}
LOSSES: dict[str, tuple[loss.Loss, Any, Any]] = {
    "nll": (loss.nll(np.array([1.0, 2.0, 0.5])), labels, logp),
    "cross_entropy": (loss.cross_entropy(np.array([1.0, 2.0, 0.5]), label_smoothing=0.1), labels, logp),
    "mse": (loss.mse(), numbers, logp),
    "mse ignoring": (loss.mse(ignored=-100.0), np.where(numbers < 0.3, np.float32(-100), numbers), logp),
    "l1": (loss.l1(), numbers, logp),
    "huber": (loss.huber(0.4), numbers, logp),
    "smooth_l1": (loss.smooth_l1(0.4), numbers, logp),
    "bce_with_logits": (loss.bce_with_logits(np.array([1.0, 2.0, 0.5])), numbers, logp),
    "identity": (loss.identity(), numbers, logp),
    "focal": (loss.focal(class_weights=np.array([1.0, 2.0, 0.5])), labels, logp),
    "hinge": (loss.hinge(0.7, squared=True), labels, logp),
    "dice": (loss.dice(), labels, logp),
    "kl_divergence": (loss.kl_divergence(), numbers / numbers.sum(-1, keepdims=True), logp),
    "gaussian_nll": (loss.gaussian_nll(full=True), numbers, (logp, jnp.exp(logp))),
    "poisson_nll": (loss.poisson_nll(full=True), np.round(9 * numbers), logp),
    "cosine_distance": (loss.cosine_distance(), numbers, logp),
    "triplet": (loss.triplet(), numbers, vectors),
    "ctc": (loss.ctc(), words, sequences),
    "sum": (
        loss.sum({"a": loss.mse(), "b": loss.cosine_distance()}, weights={"b": 0.3}),
        {"a": numbers, "b": numbers},
        {"a": logp, "b": logp},
    ),
}


def by_matrix(tag: Tag) -> str:
    return "matrices" if tag.matrix else "rest"


RULES: dict[str, Callable[[], optim.Optimizer]] = {
    "sgdw": partial(optim.sgdw, 0.002, 1e-4),
    "sgdw momentum": partial(optim.sgdw, 0.0005, momentum=0.9, clip=10.0),
    "sgdw nesterov": partial(optim.sgdw, 0.0005, momentum=0.9, nesterov=True, clip=10.0),
    "sgdw independent": partial(optim.sgdw, 0.002, 1e-7, decay=optim.Decay.INDEPENDENT),
    "adamw": partial(optim.adamw, 0.02, 1e-4),
    "adamw independent": partial(optim.adamw, 0.02, 1e-7, decay=optim.Decay.INDEPENDENT),
    "adamw cautious": partial(optim.adamw, 0.02, 1e-4, decay=optim.Decay.CAUTIOUS, clip=100.0),
    "nadamw": partial(optim.nadamw, 0.02, 1e-4),
    "radam": partial(optim.radam, 1e-3, 1e-4, clip=10.0),
    "yogi": partial(optim.yogi, 0.02, 1e-4),
    "lamb": partial(optim.lamb, 0.005, 1e-4),
    "lion": partial(optim.lion, 0.001, 1e-4),
    "adafactor": partial(optim.adafactor, 0.02, 1e-4),
    "shampoo": partial(optim.shampoo, 0.2, 1e-4, momentum=0.9, every=3),
    "shampoo diagonal": partial(optim.shampoo, 0.2, largest=1),
    "soap": partial(optim.soap, 0.02, 1e-4, every=3),
    "soap one-sided": partial(optim.soap, 0.02, largest=1),
    "muon by tag": partial(optim.by_tag, {"matrices": optim.muon(0.002), "rest": optim.adamw(0.02)}, by_matrix),
    "by_tag": partial(optim.by_tag, {"matrices": optim.sgdw(1e-3), "rest": optim.lion(1e-3)}, by_matrix, clip=10.0),
}

rows = np.arange(11)
LIST = [(rows[i : i + 4, None], rows[i : i + 4]) for i in (0, 4, 8)]
STREAMS: dict[str, stream.BatchStream] = {
    "minibatches": stream.minibatches(rows[:, None], rows, batch_size=4),
    "minibatches shuffled": stream.minibatches(rows[:, None], rows, batch_size=4, seed=3),
    "minibatches drop_last": stream.minibatches(rows[:, None], rows, batch_size=4, drop_last=True),
    "full_batch": stream.full_batch(rows[:, None], rows),
    "from_arrays": stream.from_arrays((rows[:, None], rows), batch_size=2, among=np.arange(1, 11, 2), seed=4),
    "from_function": stream.from_function(3, lambda i: (rows[3 * i : 3 * i + 3, None], rows[3 * i : 3 * i + 3])),
    "from_items": stream.from_items(LIST),
}
ACQUIRED: dict[str, Resource[stream.BatchStream, Any]] = {
    "from_iterable": stream.from_iterable(lambda: iter(LIST)),
    "staged": stream.staged(11, batch_size=4, bucket=2, load=lambda numbers: (numbers[:, None], numbers)),
    "staged shuffled": stream.staged(11, batch_size=2, bucket=2, load=lambda n: (n[:, None], n), seed=5, drop_last=True),
    "from_items prefetched": stream.from_items(LIST).prefetch(),
    "from_iterable prefetched": stream.from_iterable(lambda: iter(LIST)).bind(lambda s: s.prefetch(1)),
}
ONCE: dict[str, Callable[[], stream.BatchStream]] = {"from_iterator": lambda: stream.from_iterator(iter(LIST), spec=LIST[0])}

NO_LAYERS = {"Initializer", "by_fan_in", "forget_one", "gather_positions", "torch_uniform"}
METRICS = {"accuracy", "binary_accuracy", "multilabel_accuracy", "top_k_accuracy", "precision", "recall", "f1"}
METRICS |= {"confusion_matrix", "auroc", "exact_auroc", "perplexity", "calibration_error", "mae", "rmse", "r2"}
LOSS_TYPES = {"Average", "Loss", "LossValue", "Metric", "MetricLike"}
NO_LOSSES = METRICS | LOSS_TYPES | {"as_loss", "as_metric", "checked_value", "differentiable"}
NO_RULES = {"Decay", "Hyper", "Optimizer", "Schedule", "UpdateScale", "clip_by_global_norm", "frozen", "lift", "scheduled"}
WRAPPERS: dict[str, Callable[[optim.Optimizer], optim.Optimizer]] = {
    "clipped": partial(optim.clipped, norm=0.5),
    "clipped by value": partial(optim.clipped, value=0.2),
    "clipped by group": partial(optim.clipped, norm=0.2, group=lambda tag: tag.role),
    "ema": partial(optim.ema, decay=0.9),
    "lookahead": partial(optim.lookahead, steps=3, alpha=0.6),
    "loss_scaled": partial(optim.loss_scaled, start=4.0, every=3),
    "schedule_free": partial(optim.schedule_free, beta=0.8),
    "skip_non_finite": partial(optim.skip_non_finite, at_most=3),
    "swa": partial(optim.swa, start=4, every=2),
}


def form(x: Any) -> Any:
    """The shape and the dtype of an array."""
    return x.shape, x.dtype


def twenty_steps(optimizer: optim.Optimizer, step: Callable[..., Any], params: Any, tags: Any) -> Iterator[Any]:
    """Parameters and state after `step(params, state, scale)`, which keeps their form: in float32, and in bfloat16."""
    for dtype in (jnp.float32, jnp.bfloat16):
        now = jax.tree.map(lambda p, d=dtype: p.astype(d), params)
        state = optimizer.init(now, tags)
        before = jax.tree.map(form, (now, state))
        for i in range(20):
            now, state = step(now, state, 1.0 / (i + 1))
        assert jax.tree.map(form, (now, state)) == before
        yield now, state


SCHEDULES: dict[str, optim.Schedule] = {
    "constant": optim.constant(0.5),
    "linear_ramp": optim.linear_ramp(1, 1e-3, 7),
    "cosine_ramp": optim.cosine_ramp(0.2, 1, 7),
    "cosine": optim.cosine(7, 0.1),
    "polynomial": optim.polynomial(7, 2.5, 0.1),
    "power_cooldown": optim.power_cooldown(7),
    "step_decay": optim.step_decay(3, 0.1),
    "exponential": optim.exponential(3, 0.1),
    "cyclic": optim.cyclic(0.1, 1.0, 3, 2),
    "one_cycle": optim.one_cycle(9, 3),
    "warmup": optim.warmup(3, optim.cosine(9)),
    "warmup_stable_decay": optim.warmup_stable_decay(9, 2, 4),
    "then": optim.then(optim.cosine(3), 2, optim.constant(2)),
    "times": optim.times(optim.cosine(9), optim.step_decay(3, 0.5)),
    "by_epoch": optim.by_epoch(optim.exponential(1, 0.5), 4),
}
STREAM_TYPES = {"BatchStream", "Emit", "End", "Fail", "Reread", "Skip", "Step", "Order", "Recipe", "Segment", "View"}
NO_STREAMS = STREAM_TYPES | {"fold", "items", "to_list"}
