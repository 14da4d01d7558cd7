"""One list of every layer, loss, rule and stream, with inputs to test them on; a missing public name fails a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import Layer, Tag, augment, graph, loss, models, nn, optim, stream, surgery
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
    any_rows: bool = True
    """Whether it takes any number of rows: not a graph of so many nodes."""
    forward: bool = True
    """Whether forward mode can differentiate it: not where the gradient in reverse mode is written by hand."""


TIMES = array_spec((2, 5, 4), jnp.float32)
VOLUMES = array_spec((2, 3, 4, 3, 2), jnp.float32)
TOKENS = array_spec((2, 5), jnp.float32)
tokens = nn.fun(lambda x: jnp.abs(3 * x).astype(jnp.int32) % 7, "tokens")
llama = models.gpt(
    7,
    layers=1,
    width=4,
    heads=2,
    kv_heads=1,
    context=6,
    hidden=5,
    tied=False,
    bias=False,
    query_key=nn.rotary_positions(),
    norm=nn.rms_norm(),
    activation=nn.silu,
    gated=True,
)
small_bert = models.bert(7, layers=1, width=4, heads=2, context=6, hidden=5, drop_rate=0.3)
concatenate = nn.fun(lambda ys: jnp.concatenate(ys, axis=-1), "concatenate")
first = nn.fun(lambda parts: parts[0], "first")
with_lengths = nn.fun(lambda x: (x, jnp.clip(jnp.abs(9 * x[:, 0, 0]).astype(jnp.int32), 0, 5)), "with_lengths")
SOURCES, TOKENS_OF_TWO = array_spec((3, 5, 4), jnp.float32), array_spec((3, 5), jnp.float32)
languages = tokens >> nn.fun(lambda x: ((x, x[:, 0] % 6), x[:, 1:] % 5), "languages")
with_starts = nn.fun(lambda x: (x, x[:, 0, 0] > 0), "with_starts")
SENDERS, RECEIVERS = np.array([0, 1, 2, 3, 4, 0, 6], np.int32), np.array([1, 2, 2, 0, 0, 5, 6], np.int32)
as_graph = nn.fun(lambda x: graph.Graph(x, SENDERS, RECEIVERS, x[:, :1][SENDERS % 6], np.array([4, 2])), "as_graph")
sparse = nn.fun(lambda x: (jnp.abs(3 * x).astype(jnp.int32) % 7, x), "sparse")
LAYERS: dict[str, LayerCase] = {
    "linear": LayerCase(nn.linear(3)),
    "linear without bias": LayerCase(nn.linear(3, bias=False), array_spec((2, 5, 4), jnp.float32)),
    "logits": LayerCase(nn.logits(3, soft_cap=2) >> nn.fun(lambda y: y.array()), TIMES),
    "linear as torch": LayerCase(nn.linear(3, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)),
    "batch_norm": LayerCase(nn.batch_norm()),
    "layer_norm": LayerCase(nn.layer_norm()),
    "group_norm": LayerCase(nn.group_norm(2), TIMES),
    "group_norm of features": LayerCase(nn.group_norm(2, shift=False)),
    "instance_norm": LayerCase(nn.instance_norm(), IMAGES),
    "rms_norm": LayerCase(nn.rms_norm()),
    "weight_norm": LayerCase(nn.weight_norm(nn.linear(3) >> nn.tanh >> nn.linear(2))),
    "weight_norm of conv2d": LayerCase(nn.weight_norm(nn.conv2d(3, 2)), IMAGES),
    # In `Train` the gradient takes the singular vectors as constants; test_parametrization.py has its gradients.
    "spectral_norm": LayerCase(nn.spectral_norm(nn.linear(3) >> nn.batch_norm()), smooth=False),
    "dropout": LayerCase(nn.dropout(0.4), smooth=False),
    "channel_dropout": LayerCase(nn.channel_dropout(0.4), IMAGES, smooth=False),
    "stochastic_depth": LayerCase(nn.residual(nn.linear(4) >> nn.stochastic_depth(0.4)), smooth=False),
    "elu": LayerCase(nn.elu),
    "celu": LayerCase(nn.celu),
    "selu": LayerCase(nn.selu, smooth=False),
    "mish": LayerCase(nn.mish),
    "relu6": LayerCase(nn.relu6, smooth=False),
    "relu_squared": LayerCase(nn.relu_squared),
    "hard_sigmoid": LayerCase(nn.hard_sigmoid, smooth=False),
    "hard_tanh": LayerCase(nn.hard_tanh, smooth=False),
    "hard_shrink": LayerCase(nn.hard_shrink, smooth=False),
    "log_sigmoid": LayerCase(nn.log_sigmoid),
    "soft_sign": LayerCase(nn.soft_sign),
    "soft_shrink": LayerCase(nn.soft_shrink, smooth=False),
    "tanh_shrink": LayerCase(nn.tanh_shrink),
    "softmin": LayerCase(nn.softmin),
    "prelu": LayerCase(nn.prelu(), smooth=False),
    "prelu of each feature": LayerCase(nn.prelu(per_feature=True), TIMES, smooth=False),
    "rrelu": LayerCase(nn.rrelu(), smooth=False),
    "glu": LayerCase(nn.glu),
    "geglu": LayerCase(nn.geglu),
    "swiglu": LayerCase(nn.swiglu),
    "gated_linear": LayerCase(nn.gated_linear(3, nn.silu)),
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
    "embedding with padding": LayerCase(tokens >> nn.embedding(7, 3, padding=2), TOKENS, smooth=False),  # one row is constant
    "learned_positions": LayerCase(nn.learned_positions(6), TIMES),
    "sinusoidal_positions": LayerCase(nn.sinusoidal_positions(), TIMES),
    "rotary_positions": LayerCase(nn.rotary_positions(), TIMES),
    "lstm": LayerCase(nn.lstm(3), TIMES, forward=False),
    "lstm without bias": LayerCase(nn.lstm(3, bias=False), TIMES, forward=False),
    "lstm of lengths": LayerCase(with_lengths >> nn.lstm(3) >> first, TIMES, forward=False),
    "lstm carried": LayerCase(with_starts >> nn.lstm(3, carried=True) >> first, TIMES, forward=False),
    "gru": LayerCase(nn.gru(3), TIMES),
    "gru of lengths carried": LayerCase(
        with_lengths >> nn.fun(lambda a: (*a, a[1] > 2)) >> nn.gru(3, carried=True, bias=False) >> first, TIMES
    ),
    "rnn": LayerCase(nn.rnn(3), TIMES),
    "recurrent": LayerCase(nn.recurrent(nn.rnn_cell(3, activation=nn.sigmoid)), TIMES),
    "bidirectional": LayerCase(nn.bidirectional(nn.gru(2), nn.rnn(3)), TIMES),
    "bidirectional of lengths": LayerCase(with_lengths >> nn.bidirectional(nn.gru(2)) >> first, TIMES),
    "last_step": LayerCase(with_lengths >> nn.last_step, TIMES),
    "sparse_linear": LayerCase(sparse >> nn.sparse_linear(3, 7)),
    "graph_convolution": LayerCase(as_graph >> nn.graph_convolution(nn.linear(3)) >> nn.node_features(), any_rows=False),
    "graph_attention": LayerCase(
        as_graph >> nn.graph_attention(nn.linear(4), 2, slope=1.0) >> nn.node_features(),  # another slope has a kink
        any_rows=False,
    ),
    "graph_attention with dropout": LayerCase(
        as_graph >> nn.graph_attention(nn.linear(4), mean=True, drop_rate=0.4) >> nn.node_features(),
        smooth=False,
        any_rows=False,
    ),
    "message_passing": LayerCase(
        as_graph >> nn.message_passing(nn.linear(3), nn.linear(2) >> nn.tanh) >> nn.pool_nodes(), any_rows=False
    ),
    "node_features": LayerCase(as_graph >> nn.node_features(), any_rows=False),
    "pool_nodes": LayerCase(as_graph >> nn.pool_nodes(), any_rows=False),
    "sage": LayerCase(as_graph >> nn.sage(3) >> nn.node_features(), any_rows=False),
    "on_nodes": LayerCase(
        as_graph >> nn.on_nodes(nn.linear(3) >> nn.batch_norm()) >> nn.pool_nodes(graph.sum_at), any_rows=False
    ),
    "conv2d": LayerCase(nn.conv2d(4, 3, padding="same", stride=2), IMAGES),
    "conv2d of groups": LayerCase(nn.conv2d(4, (2, 1), groups=2, bias=False), IMAGES),
    "conv1d": LayerCase(nn.conv1d(4, 3, padding=(4, 0), dilation=2, groups=2), TIMES),
    "conv3d": LayerCase(nn.conv3d(3, (2, 3, 2), padding=1, stride=(2, 1, 1)), VOLUMES),
    "depthwise_conv2d": LayerCase(nn.depthwise_conv2d(3, multiplier=2), IMAGES),
    "separable_conv2d": LayerCase(nn.separable_conv2d(3, 2, padding="same"), IMAGES),
    "conv_transpose1d": LayerCase(nn.conv_transpose1d(4, 4, stride=3, padding=1, output_padding=2, groups=2), TIMES),
    "conv_transpose2d": LayerCase(nn.conv_transpose2d(3, 3, stride=(1, 2), dilation=(2, 1), padding=1), IMAGES),
    "conv_transpose3d": LayerCase(nn.conv_transpose3d(2, 2, stride=2, bias=False), VOLUMES),
    "conv_pool": LayerCase(nn.conv_pool(3, 3, padding=1), IMAGES, smooth=False),
    "max_pool1d": LayerCase(nn.max_pool1d(3, stride=2, padding=1), TIMES, smooth=False),
    "max_pool2d": LayerCase(nn.max_pool2d(2), IMAGES, smooth=False),
    "max_pool3d": LayerCase(nn.max_pool3d(2, stride=1), VOLUMES, smooth=False),
    "avg_pool1d": LayerCase(nn.avg_pool1d(2), TIMES),
    "avg_pool2d": LayerCase(nn.avg_pool2d(2, padding=1), IMAGES),
    "avg_pool3d": LayerCase(nn.avg_pool3d(2, padding=1), VOLUMES),
    "global_avg_pool": LayerCase(nn.global_avg_pool, IMAGES),
    "global_max_pool": LayerCase(nn.global_max_pool, VOLUMES, smooth=False),
    "adaptive_avg_pool": LayerCase(nn.adaptive_avg_pool((3, 2)), IMAGES),
    "adaptive_max_pool": LayerCase(nn.adaptive_max_pool(3), IMAGES, smooth=False),
    "pad": LayerCase(nn.pad(((1, 2), (0, 3)), mode="circular"), IMAGES),
    "pad with reflection": LayerCase(nn.pad((2, 1, 2), mode="reflect"), VOLUMES),
    "pixel_shuffle": LayerCase(nn.pixel_shuffle(2), array_spec((2, 2, 3, 8), jnp.float32)),
    "pixel_unshuffle": LayerCase(nn.pixel_unshuffle(2), array_spec((2, 4, 6, 1), jnp.float32)),
    "resize": LayerCase(nn.resize((7, 3), method="linear"), IMAGES),
    "resize by a scale": LayerCase(nn.resize(scale=2), IMAGES),
    "self_attention": LayerCase(nn.self_attention(2), TIMES),
    "self_attention causal": LayerCase(nn.self_attention(2, mask=nn.causal, bias=False), TIMES),
    "self_attention of groups and lengths": LayerCase(
        with_lengths
        >> nn.self_attention(2, kv_heads=1, query_key=nn.rms_norm(0.1) >> nn.rotary_positions(), soft_cap=2)
        >> first,
        TIMES,
    ),
    "self_attention by blocks": LayerCase(nn.self_attention(2, mask=nn.window(1), block_size=2, drop_rate=0.3), TIMES),
    "cross_attention": LayerCase(
        nn.branch(nn.linear(6), with_lengths) >> nn.cross_attention(2, query_key=nn.layer_norm()) >> first, TIMES
    ),
    "linear_attention": LayerCase(with_lengths >> nn.linear_attention(2) >> first, TIMES),
    "linear_attention causal": LayerCase(nn.linear_attention(2, causal=True, bias=False), TIMES),
    "feed_forward": LayerCase(nn.feed_forward(2), TIMES),
    "feed_forward gated": LayerCase(nn.feed_forward(8 / 3, nn.silu, gated=True, bias=False, drop_rate=0.3)),
    "transformer_block": LayerCase(nn.transformer_block(nn.self_attention(2, mask=nn.causal)), TIMES),
    "transformer_block after norms": LayerCase(
        nn.transformer_block(nn.self_attention(2), nn.feed_forward(2), norm=nn.rms_norm(), pre_norm=False, drop_rate=0.3), TIMES
    ),
    "transformer_block of a decoder": LayerCase(
        nn.branch(nn.linear(4), with_lengths)
        >> nn.transformer_block(
            nn.self_attention(2, mask=nn.causal), nn.feed_forward(2), cross=nn.cross_attention(2), recompute=True
        )
        >> first,
        TIMES,
    ),
    "transformer_block of a depth": LayerCase(nn.transformer_block(nn.self_attention(2), depth_drop_rate=0.3), TIMES),
    # The norm of embeddings of size 0.02 curves too much for finite differences; test_transformer.py takes larger ones.
    "gpt": LayerCase(tokens >> models.gpt(7, layers=1, width=4, heads=2, context=6), TOKENS, smooth=False),
    "gpt as llama": LayerCase(tokens >> llama, TOKENS, smooth=False),
    "bert": LayerCase(tokens >> small_bert, TOKENS, smooth=False),
    "masked_language_model": LayerCase(tokens >> models.masked_language_model(small_bert, 7), TOKENS, smooth=False),
    "sentence_classifier": LayerCase(tokens >> models.sentence_classifier(small_bert, 3, drop_rate=0.3), TOKENS, smooth=False),
    "lstm_lm": LayerCase(tokens >> models.lstm_lm(7, layers=2, width=3, hidden=4), TOKENS, forward=False),
    "seq2seq": LayerCase(
        nn.branch(nn.linear(3), nn.tanh)
        >> models.seq2seq(nn.linear(5), nn.cross_attention(1) >> nn.fun(lambda parts: parts[0], "first")),
        SOURCES,
    ),
    "transformer": LayerCase(
        languages >> models.transformer(7, 5, layers=1, width=4, heads=2, pre_norm=False), TOKENS_OF_TWO, smooth=False
    ),
    "recurrent_seq2seq": LayerCase(
        languages >> models.recurrent_seq2seq(7, 5, cell=nn.gru_cell(3), layers=2, width=4), TOKENS_OF_TWO
    ),
    "resnet": LayerCase(models.resnet(3, blocks=(1, 1), widths=(2, 4), small=True), IMAGES, smooth=False),
    "resnet of bottlenecks": LayerCase(
        models.resnet(3, blocks=(1, 1), widths=(2, 3), bottleneck=True, project=False, norm=nn.group_norm(1), zero_last=True),
        IMAGES,
        smooth=False,
    ),
    "unet": LayerCase(models.unet(2, widths=(2, 3)), array_spec((2, 4, 6, 1), jnp.float32), smooth=False),
    "unet resized": LayerCase(
        models.unet(2, widths=(2, 3), norm=None, resized=True), array_spec((2, 2, 4, 1), jnp.float32), smooth=False
    ),
    "vit": LayerCase(models.vit(3, size=(5, 4), patch=(5, 2), layers=1, width=4, heads=2), IMAGES),
    "vit of the mean": LayerCase(
        models.vit(3, size=(5, 4), patch=(5, 2), layers=1, width=4, heads=2, class_token=False, drop_rate=0.2), IMAGES
    ),
    "sequence": LayerCase(nn.sequence(hidden=nn.linear(5), act=nn.tanh, norm=nn.batch_norm(), out=nn.linear(2))),
    "sequence of nothing": LayerCase(nn.sequence()),
    "residual": LayerCase(nn.residual(nn.linear(3) >> nn.tanh, nn.linear(3))),
    "branch": LayerCase(nn.branch(nn.linear(2), narrow=nn.linear(1)) >> concatenate),
    "parallel": LayerCase(nn.branch(nn.tanh, nn.silu) >> nn.parallel(nn.linear(2), nn.linear(1)) >> concatenate),
    "switch": LayerCase(
        nn.fun(lambda x: (x, (jnp.sum(x) > 0).astype(jnp.int32)))
        >> nn.switch(nn.linear(3) >> nn.batch_norm(), wide=nn.linear(3))
    ),
    "switch by row": LayerCase(
        nn.fun(lambda x: (x, (x[:, 0] > 0).astype(int))) >> nn.switch(nn.linear(3), nn.linear(3) >> nn.tanh)
    ),
    "share": LayerCase(
        nn.share(nn.sequence(a=nn.linear(3), act=nn.tanh, b=nn.linear(4)), "b/weight", of="a/weight", transpose=True)
    ),
    "share of a layer": LayerCase(nn.share(nn.sequence(a=nn.linear(4), act=nn.tanh, b=nn.linear(4)), "b", of="a")),
    "einsum": LayerCase(nn.einsum("btf,fhd->bthd", bias="hd", h=2, d=3), TIMES),
    "einsum of each head": LayerCase(nn.einsum("bhf,hfd->bhd", bias="dh", d=1), TIMES),
    "repeat": LayerCase(nn.repeat(nn.linear(4) >> nn.batch_norm() >> nn.tanh, 2)),
    "repeat scanned": LayerCase(nn.repeat(nn.linear(4) >> nn.batch_norm() >> nn.tanh >> nn.dropout(0.2), 2, scan=True)),
    "repeat scanned of blocks": LayerCase(nn.repeat(nn.transformer_block(nn.self_attention(2)), 2, scan=True), TIMES),
    "repeat shared": LayerCase(nn.repeat(nn.linear(4) >> nn.batch_norm() >> nn.tanh, 2, shared=True)),
    "freeze": LayerCase(surgery.freeze(nn.linear(4) >> nn.batch_norm()) >> nn.linear(2)),
    "freeze of biases": LayerCase(surgery.freeze(nn.linear(4) >> nn.batch_norm(), lambda tag: tag.role.value == "bias")),
    "lora": LayerCase(surgery.lora(nn.linear(3) >> nn.batch_norm(), 2, alpha=3)),
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
    "cross_entropy of probabilities": (
        loss.cross_entropy(np.array([1.0, 2.0, 0.5]), label_smoothing=0.1),
        numbers / numbers.sum(-1, keepdims=True),
        logp,
    ),
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

NO_LAYERS = {"Initializer", "by_fan_in", "forget_one", "gather_positions", "mask_tokens", "torch_uniform"}
NO_LAYERS |= {"Mask", "attend", "causal", "document_positions", "documents", "key_lengths", "mask", "window"}
NO_LAYERS |= {"weights", "Cell", "gru_cell", "lstm_cell", "rnn_cell", "rotary", "unroll"}
NO_LAYERS |= {"teacher_forcing"}
METRICS = {"accuracy", "binary_accuracy", "multilabel_accuracy", "top_k_accuracy", "precision", "recall", "f1"}
METRICS |= {"confusion_matrix", "auroc", "exact_auroc", "perplexity", "calibration_error", "mae", "rmse", "r2"}
LOSS_TYPES = {"Average", "Loss", "LossValue", "Metric", "MetricLike"}
NO_LOSSES = METRICS | LOSS_TYPES | {"as_loss", "as_metric", "checked_value", "differentiable"}
NO_RULES = {"Decay", "Hyper", "Optimizer", "Schedule", "UpdateScale", "clip_by_global_norm", "frozen", "lift", "scheduled"}
WRAPPERS: dict[str, Callable[[optim.Optimizer], optim.Optimizer]] = {
    "l2": partial(optim.l2, weight_decay=0.01),
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
STREAM_TYPES = {
    "BatchStream",
    "Emit",
    "End",
    "Fail",
    "Reread",
    "Skip",
    "Step",
    "Order",
    "Recipe",
    "Segment",
    "View",
    "Part",
    "Parts",
}
NO_STREAMS = STREAM_TYPES | {"fold", "items", "to_list"}
