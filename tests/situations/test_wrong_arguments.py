"""Every public function, with every wrong value for each of its arguments: refused at once, by the argument's name."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.io import IO, IOSuccess
from returns.result import Success

import fnlamp
from fnlamp import (
    augment,
    checkpoint,
    config,
    data,
    effect,
    experiment,
    fault,
    generate,
    graph,
    loss,
    models,
    nn,
    optim,
    plots,
    scale,
    stream,
    surgery,
    sweep,
    track,
    train,
)
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import FaultError


class Frame:
    """A stand-in for a data frame of text."""

    shape, columns, dtype = (2, 1), ["name"], object

    def __len__(self) -> int:
        return 2

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array([["a"], ["b"]], object)

    def to_numpy(self) -> Any:
        return self.__array__()


class Theirs:
    """Another library's object."""

    def init(self, params: Any) -> Any: ...

    def update(self, grads: Any, state: Any) -> Any: ...


class Class:
    """A class that is never a valid argument."""

    def __init__(self, one: Any, two: Any, three: Any, four: Any) -> None: ...


class Loads:
    """A stand-in for a loader of Grain."""

    def __iter__(self) -> Any: ...


@config.group
class Settings:
    """A group of settings."""

    rows: int = 1


WRONG: dict[str, Any] = {
    "None": None,
    "text": "text",
    "2.5": 2.5,
    "True": True,
    "-1": -1,
    "0": 0,
    "nan": math.nan,
    "inf": math.inf,
    "list": [object()],
    "dict": {"no": "number"},
    "object": object(),
    "lambda": lambda: None,
    "class": Class,
    "array": np.full((2, 1, 2), 0.5, np.float32),
    "frame": Frame(),
    "theirs": Theirs(),
}

# What an argument takes: the names of those of the values above that may be right.
NOTHING = ""  # a whole number of 1 or more; a layer; a stream; what none of the values is
OPTIONAL = "None"
COUNT = "0"
WHOLE = "0 -1"
SEED = "None 0 -1"
FLAG = "True"
POSITIVE = "2.5"
NUMBER = "2.5 0 -1"
HYPER = "2.5 0 lambda"
FUNCTION = "lambda class"
CALLED = "lambda theirs class"  # a function that a record keeps as it is
TEXT = "text"
ANYTHING = " ".join(WRONG)
ARRAYS = "2.5 0 -1 nan inf True array"  # scalars are arrays, where no rows are needed
ROWS = "array"
MISSING = "None 2.5 0 -1 nan"
BY_CLASS = {"threshold": "None 2.5 0 -1", "zero_division": "0 nan", "ignored": WHOLE}


@dataclass(frozen=True)
class Case:
    """A public function with correct arguments, and the other values that each argument takes."""

    function: Any
    right: dict[str, Any]
    takes: dict[str, str]
    several: tuple[Any, ...] = ()
    """The correct values of `*several`, which takes `NOTHING` else unless `takes` has an entry `*`."""

    def __call__(self, **other: Any) -> Any:
        return self.function(*self.several, **{**self.right, **other})


def case(public: Any, right: dict[str, Any] | None = None, /, *, args: tuple[Any, ...] = (), **takes: str) -> Case:
    return Case(public, right or {}, takes, args)


X, Y, IDS = np.zeros((6, 2), np.float32), np.arange(6), np.arange(40)
IMAGES = np.zeros((6, 4, 4, 1), np.uint8)
PAIR = graph.from_edges(X[:2], [(0, 1)])
SEGMENTS = {"rows": X, "segment": Y, "count": 6}
CURVE, RUNS = track.Series(np.arange(3), np.arange(3.0), np.zeros(3), np.zeros(3)), {"rate": [0.1, 0.2], "loss": [1.0, 2.0]}
BERT = models.bert(9, layers=1, width=4, heads=2, context=4)
LAYER, LOSS, STREAM = nn.linear(2), loss.mse(), stream.minibatches(X, Y, batch_size=2)
HOST = stream.from_items([X, X])
PROGRAM = Effect.from_value(1)
RESOURCE = Resource.make(PROGRAM, lambda value, outcome: PROGRAM)
KEY = jax.random.key(0)
PARAMS = {"weight": jnp.ones((2, 2))}
TAGS = {"weight": fnlamp.Tag("linear", fnlamp.Role.WEIGHT)}
MODEL = train.supervised(LAYER, LOSS)
SPEC = jax.ShapeDtypeStruct((6, 2), jnp.float32)
LINEAR, WEIGHTS = LAYER.init(KEY, SPEC), models.weights.of_layer(LAYER, SPEC)
SAVED = checkpoint.Loaded("a.npz", 1, {}, {})
FOLD = {"init": 0, "step": lambda acc, report: (acc, train.Verdict()), "name": "own"}
OPTIMIZER = optim.sgdw(0.1)
RATES = {"rates": np.ones(2), "losses": np.ones(2), "smoothed": np.ones(2), "diverged": False}
CODEC = data.byte_codec()
AXES = {"rows": sweep.choice((1, 2))}
ALONE = scale.Cluster(0, 1, 10.0)
CELL = nn.rnn_cell(2)
RECURRENT = {"bias": FLAG, "input_init": FUNCTION, "recurrent_init": FUNCTION, "bias_init": FUNCTION}
INIT = {"weight_init": FUNCTION, "bias_init": FUNCTION}
TRANSPOSED = {"padding": COUNT, "output_padding": COUNT, "bias": FLAG, **INIT}
LIMIT = {"limit": "None 0"}
FILE = {"path": "file"}
FILES = {"path": TEXT, **LIMIT}
NAMED = {"root": TEXT, "split": NOTHING, "download": FLAG, "mirrors": "None text", "timeout": POSITIVE}
PICTURE = {"mode": NOTHING, "size": OPTIONAL, "limit": COUNT}
TABLE = {"columns": OPTIONAL, "label": "None text 0 -1", "dtype": NOTHING, **LIMIT}
RULE = {"learning_rate": HYPER, "weight_decay": HYPER, "clip": "None 2.5"}
BATCHES = {"batch_size": NOTHING, "drop_last": FLAG, "seed": SEED}


def batches_of(context: train.LoopContext) -> stream.BatchStream:
    return stream.minibatches(X, X, batch_size=2, seed=context.seed)


EPOCHS = {"model": MODEL, "optimizer": optim.sgdw(0.1), "train_batches": batches_of, "epochs": 1}


def trained() -> train.Trained:
    if not TRAINED:
        TRAINED.append(train.epochs(**EPOCHS).run_or_raise(Runtime(log=None)))
    return TRAINED[0]


TRAINED: list[train.Trained] = []

CASES: dict[str, Case] = {
    "fnlamp.Layer": case(fnlamp.Layer, {"init": print, "apply": print}, init=CALLED, apply=CALLED, name=TEXT, chain=ANYTHING),
    "fnlamp.table": case(fnlamp.table, {"layer": LAYER, "spec": X}, spec=ROWS),
    "fnlamp.keep_memory": case(fnlamp.keep_memory),
    "fnlamp.keep_programs": case(lambda folder: None, {"folder": "text"}, folder=ANYTHING),  # see below
    # ---- graph
    "graph.from_edges": case(graph.from_edges, {"nodes": X, "pairs": [(0, 1)]}, nodes=ROWS, edges=OPTIONAL, undirected=FLAG),
    "graph.max_at": case(graph.max_at, SEGMENTS, count=COUNT),
    "graph.mean_at": case(graph.mean_at, SEGMENTS, count=COUNT),
    "graph.softmax_at": case(graph.softmax_at, SEGMENTS, count=COUNT),
    "graph.sum_at": case(graph.sum_at, SEGMENTS, count=COUNT),
    "graph.union": case(graph.union, {"graphs": [PAIR]}, rows=OPTIONAL, edges=OPTIONAL, count=OPTIONAL),
    # ---- generate
    "generate.beam": case(generate.beam, {"width": 2}, args=(), length_penalty=NUMBER),
    "generate.below": case(generate.below, {"count": 3}),
    "generate.generate": case(
        generate.generate,
        {"model": LAYER, "params": PARAMS, "prompts": [[1]]},
        prompts=ROWS,  # a fault of the run
        params="dict",
        state="None dict",
        codec=OPTIONAL,
        tokens=COUNT,
        seed=WHOLE,
        given=ANYTHING,
        source=ANYTHING,
        cached=FLAG,
        each=f"{OPTIONAL} {FUNCTION}",
        every=OPTIONAL,
    ),
    "generate.min_p": case(generate.min_p, {"share": 0.5}),
    "generate.repetition_penalty": case(generate.repetition_penalty, {"penalty": 1.2}, penalty=POSITIVE),
    "generate.sampled": case(generate.sampled, args=(generate.temperature(0.5),), **{"*": CALLED}),
    "generate.temperature": case(generate.temperature, {"value": 0.8}, value="2.5 0"),
    "generate.top_k": case(generate.top_k, {"count": 3}),
    "generate.top_p": case(generate.top_p, {"mass": 0.5}),
    # ---- nn
    "nn.adaptive_avg_pool": case(nn.adaptive_avg_pool, {"size": 2}),
    "nn.adaptive_max_pool": case(nn.adaptive_max_pool, {"size": 2}),
    "nn.avg_pool1d": case(nn.avg_pool1d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.attend": case(
        nn.attend,
        {"q": jnp.ones((2, 3, 1, 4)), "k": jnp.ones((2, 3, 1, 4)), "v": jnp.ones((2, 3, 1, 4))},
        mask=OPTIONAL,
        scale="None 2.5 0 -1",
        soft_cap="None 2.5",
        drop_rate=COUNT,
        block_size=OPTIONAL,
    ),
    "nn.avg_pool2d": case(nn.avg_pool2d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.avg_pool3d": case(nn.avg_pool3d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.batch_norm": case(nn.batch_norm, decay=COUNT, eps="2.5 0"),
    "nn.bidirectional": case(nn.bidirectional, {"layer": nn.rnn(2)}, backward=OPTIONAL),
    "nn.branch": case(nn.branch, args=(LAYER,)),
    "nn.by_fan_in": case(nn.by_fan_in, {"make": print}, make=CALLED),
    "nn.channel_dropout": case(nn.channel_dropout, {"rate": 0.5}, rate=COUNT),
    "nn.conv1d": case(nn.conv1d, {"channels": 2, "kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.conv2d": case(nn.conv2d, {"channels": 2, "kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.conv3d": case(nn.conv3d, {"channels": 2, "kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.conv_transpose1d": case(nn.conv_transpose1d, {"channels": 2, "kernel": 3}, **TRANSPOSED),
    "nn.conv_transpose2d": case(nn.conv_transpose2d, {"channels": 2, "kernel": 3}, **TRANSPOSED),
    "nn.conv_transpose3d": case(nn.conv_transpose3d, {"channels": 2, "kernel": 3}, **TRANSPOSED),
    "nn.depthwise_conv2d": case(nn.depthwise_conv2d, {"kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.separable_conv2d": case(nn.separable_conv2d, {"channels": 2, "kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.conv_pool": case(nn.conv_pool, {"channels": 2, "kernel": 3}, padding=COUNT, bias=FLAG, **INIT),
    "nn.cross_attention": case(
        nn.cross_attention,
        {"heads": 2},
        kv_heads=OPTIONAL,
        mask=OPTIONAL,
        query_key=OPTIONAL,
        soft_cap="None 2.5",
        drop_rate=COUNT,
        bias=FLAG,
        block_size=OPTIONAL,
        weight_init=FUNCTION,
        output_init=FUNCTION,
    ),
    "nn.dropout": case(nn.dropout, {"rate": 0.5}, rate=COUNT),
    "nn.einsum": case(nn.einsum, {"equation": "bf,fh->bh", "h": 2}, bias=NOTHING, **INIT),
    "nn.embedding": case(nn.embedding, {"vocabulary": 3, "width": 2}, padding="None 0", weight_init=FUNCTION),
    "nn.feed_forward": case(
        nn.feed_forward, expansion=POSITIVE, gated=FLAG, bias=FLAG, drop_rate=COUNT, weight_init=FUNCTION, output_init=FUNCTION
    ),
    "nn.fun": case(nn.fun, {"function": jnp.sin}, function=FUNCTION, name="None text"),
    "nn.message_passing": case(nn.message_passing, {"update": LAYER}, message=OPTIONAL, reduce=CALLED),
    "nn.node_features": case(nn.node_features),
    "nn.on_nodes": case(nn.on_nodes, {"layer": LAYER}),
    "nn.pool_nodes": case(nn.pool_nodes, reduce=CALLED),
    "nn.sage": case(nn.sage, {"out": 2}, bias=FLAG, reduce=CALLED),
    "nn.sparse_linear": case(nn.sparse_linear, {"out": 2, "features": 3}, bias=FLAG, **INIT),
    "nn.gather_positions": case(
        nn.gather_positions, {"hidden": np.zeros((2, 3, 4)), "positions": np.zeros((2, 1), int)}, hidden=ROWS
    ),
    "nn.gated_linear": case(nn.gated_linear, {"out": 2}, bias=FLAG, **INIT),
    "nn.graph_attention": case(
        nn.graph_attention,
        {"transform": LAYER},
        mean=FLAG,
        drop_rate=COUNT,
        slope=NUMBER,
        bias=FLAG,
        weight_init=FUNCTION,
    ),
    "nn.graph_convolution": case(nn.graph_convolution, {"transform": LAYER}, bias=FLAG),
    "nn.group_norm": case(nn.group_norm, {"groups": 2}, eps="2.5 0", scale=FLAG, shift=FLAG),
    "nn.instance_norm": case(nn.instance_norm, eps="2.5 0", scale=FLAG, shift=FLAG),
    "nn.layer_norm": case(nn.layer_norm, eps="2.5 0", scale=FLAG, shift=FLAG),
    "nn.learned_positions": case(nn.learned_positions, {"context": 3}, weight_init=FUNCTION),
    "nn.key_lengths": case(nn.key_lengths, {"lengths": IDS}),
    "nn.linear_attention": case(
        nn.linear_attention,
        {"heads": 2},
        causal=FLAG,
        query_key=OPTIONAL,
        bias=FLAG,
        weight_init=FUNCTION,
        output_init=FUNCTION,
    ),
    "nn.documents": case(nn.documents, {"numbers": np.ones((2, 3), int)}),
    "nn.document_positions": case(nn.document_positions, {"numbers": np.ones((2, 3), int)}),
    "nn.mask": case(nn.mask, {"array": np.ones((2, 2), bool)}),
    "nn.window": case(nn.window, {"before": 2}, before=COUNT, after=COUNT),
    "nn.linear": case(nn.linear, {"out": 2}, bias=FLAG, **INIT),
    "nn.logits": case(nn.logits, {"classes": 2}, bias=FLAG, soft_cap="None 2.5", **INIT),
    "nn.gru": case(nn.gru, {"hidden": 2}, carried=FLAG, **RECURRENT),
    "nn.gru_cell": case(nn.gru_cell, {"hidden": 2}, **RECURRENT),
    "nn.lstm": case(nn.lstm, {"hidden": 2}, carried=FLAG, **RECURRENT),
    "nn.lstm_cell": case(nn.lstm_cell, {"hidden": 2}, **RECURRENT),
    "nn.recurrent": case(nn.recurrent, {"cell": CELL}, carried=FLAG),
    "nn.rnn": case(nn.rnn, {"hidden": 2}, carried=FLAG, **RECURRENT),
    "nn.rnn_cell": case(nn.rnn_cell, {"hidden": 2}, **RECURRENT),
    "nn.Cell": case(
        nn.Cell,
        {"init": print, "start": print, "step": print},
        **dict.fromkeys(("init", "start", "step"), CALLED),
        **dict.fromkeys(("inputs", "scan"), OPTIONAL + " " + CALLED),
        name=TEXT,
    ),
    "nn.unroll": case(
        nn.unroll,
        {"cell": CELL, "params": {"input_weight": jnp.ones((2, 2)), "recurrent_weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
        | {"x": jnp.ones((3, 4, 2)), "carry": {"h": jnp.ones((3, 2))}},
        carry=OPTIONAL,
        lengths=OPTIONAL,
    ),
    "nn.max_pool1d": case(nn.max_pool1d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.max_pool2d": case(nn.max_pool2d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.max_pool3d": case(nn.max_pool3d, {"window": 2}, stride=OPTIONAL, padding=COUNT),
    "nn.mlp": case(
        nn.mlp, {"hidden": (3,), "out": 2}, drop_rate=COUNT, norm=OPTIONAL, norm_last=FLAG, activation_last=FLAG, **INIT
    ),
    "nn.pad": case(nn.pad, {"size": 1}, size=COUNT),
    "nn.pixel_shuffle": case(nn.pixel_shuffle, {"factor": 2}),
    "nn.pixel_unshuffle": case(nn.pixel_unshuffle, {"factor": 2}),
    "nn.resize": case(nn.resize, {"size": 2}, scale=OPTIONAL),
    "nn.parallel": case(nn.parallel, args=(LAYER,)),
    "nn.prelu": case(nn.prelu, per_feature=FLAG, start=NUMBER),
    "nn.repeat": case(nn.repeat, {"layer": LAYER, "times": 2}, shared=FLAG, scan=FLAG),
    "nn.rescale": case(nn.rescale, {"scale": 2.0}, scale=NUMBER, shift=NUMBER, dtype=OPTIONAL),
    "nn.residual": case(nn.residual, {"layer": LAYER}, shortcut=OPTIONAL),
    "nn.rms_norm": case(nn.rms_norm, eps="2.5 0", scale=FLAG),
    "nn.rotary": case(
        nn.rotary, {"x": jnp.ones((1, 2, 4)), "positions": np.arange(2)}, positions=OPTIONAL, base=POSITIVE, halves=FLAG
    ),
    "nn.rotary_positions": case(nn.rotary_positions, base=POSITIVE, halves=FLAG),
    "nn.rrelu": case(nn.rrelu, lower="0 -1", upper=POSITIVE),
    "nn.self_attention": case(
        nn.self_attention,
        {"heads": 2},
        kv_heads=OPTIONAL,
        mask=OPTIONAL,
        query_key=OPTIONAL,
        soft_cap="None 2.5",
        drop_rate=COUNT,
        bias=FLAG,
        block_size=OPTIONAL,
        weight_init=FUNCTION,
        output_init=FUNCTION,
    ),
    "nn.sequence": case(nn.sequence, args=(LAYER,)),
    "nn.share": case(nn.share, {"layer": LAYER, "target": "b", "of": "a"}, target=TEXT, of=TEXT, transpose=FLAG),
    "nn.sinusoidal_positions": case(nn.sinusoidal_positions, base=POSITIVE),
    "nn.spectral_norm": case(nn.spectral_norm, {"layer": LAYER}),
    "nn.stochastic_depth": case(nn.stochastic_depth, {"rate": 0.5}, rate=COUNT),
    "nn.switch": case(nn.switch, args=(LAYER,)),
    "nn.transformer_block": case(
        nn.transformer_block,
        {"attention": nn.self_attention(2)},
        cross=OPTIONAL,
        pre_norm=FLAG,
        drop_rate=COUNT,
        depth_drop_rate=COUNT,
        recompute=FLAG,
    ),
    "nn.weight_norm": case(nn.weight_norm, {"layer": LAYER}),
    # ---- surgery
    "surgery.cast": case(
        surgery.cast,
        {"params": PARAMS, "dtype": jnp.bfloat16, "tags": TAGS, "choose": lambda tag: True},
    ),
    "surgery.count": case(surgery.count, {"params": PARAMS, "tags": TAGS, "by": lambda tag: tag.layer}),
    "surgery.fold_batch_norm": case(
        surgery.fold_batch_norm, {"layer": LAYER, "params": PARAMS, "state": {}, "spec": X}, spec=ROWS
    ),
    "surgery.freeze": case(surgery.freeze, {"layer": LAYER}, choose="None lambda class"),
    "surgery.join": case(surgery.join, {"some": {"weight": jnp.ones(2)}, "others": {"bias": jnp.ones(2)}}),
    "surgery.lora": case(surgery.lora, {"layer": LAYER, "rank": 2}, alpha=NUMBER + " None", choose="None lambda class"),
    "surgery.merge_lora": case(
        surgery.merge_lora,
        {"params": {"down": {"weight": jnp.ones((2, 1))}, "up": {"weight": jnp.ones((1, 2))}}}
        | {"state": {"frozen": PARAMS, "scale": jnp.float32(1)}},
    ),
    "surgery.put": case(surgery.put, {"params": PARAMS, "path": "weight", "part": jnp.ones((2, 2))}, same=FLAG),
    "surgery.rename": case(surgery.rename, {"params": PARAMS, "names": {"weight": "w"}}),
    "surgery.split": case(surgery.split, {"params": PARAMS, "tags": TAGS, "choose": lambda tag: True}),
    # ---- weights
    "weights.bert": case(models.weights.bert),
    "weights.masked_language_model": case(models.weights.masked_language_model),
    "weights.sentence_classifier": case(models.weights.sentence_classifier),
    "weights.vit": case(models.weights.vit, files=FLAG),
    "weights.gpt2": case(models.weights.gpt2),
    "weights.llama": case(models.weights.llama, pairs=OPTIONAL),
    "weights.resnet": case(models.weights.resnet),
    "weights.torchvision_resnet": case(models.weights.torchvision_resnet),
    "weights.of_layer": case(models.weights.of_layer, {"layer": LAYER, "spec": SPEC}, names=OPTIONAL, spec=ROWS),
    "Weights.read": case(
        WEIGHTS.read, {"arrays": WEIGHTS.write(LINEAR.params), "like": LINEAR}, dtype=OPTIONAL, keep=NOTHING, ignore=NOTHING
    ),
    "Weights.write": case(WEIGHTS.write, {"params": LINEAR.params}, state=OPTIONAL),
    # ---- models
    "models.bert": case(
        models.bert,
        {"vocabulary": 9, "layers": 1, "width": 4, "heads": 2, "context": 4},
        hidden=OPTIONAL,
        drop_rate=COUNT,
        attention_drop_rate=COUNT,
    ),
    "models.mask_tokens": case(
        models.mask_tokens,
        {"key": KEY, "tokens": np.ones((2, 3), int), "vocabulary": 9, "mask": 3},
        mask=COUNT,
        special=ROWS,
    ),
    "models.masked_language_model": case(models.masked_language_model, {"encoder": BERT, "vocabulary": 9}),
    "models.sentence_classifier": case(models.sentence_classifier, {"encoder": BERT, "classes": 2}, drop_rate=COUNT),
    "models.gpt": case(
        models.gpt,
        {"vocabulary": 9, "layers": 1, "width": 4, "heads": 2, "context": 4},
        kv_heads=OPTIONAL,
        query_key=OPTIONAL,
        hidden=OPTIONAL,
        gated=FLAG,
        bias=FLAG,
        tied=FLAG,
        soft_cap="None 2.5",
        drop_rate=COUNT,
        attention_drop_rate=COUNT,
    ),
    "models.resnet": case(
        models.resnet, {"classes": 9, "blocks": (1,), "widths": (4,)}, bottleneck=FLAG, small=FLAG, project=FLAG, zero_last=FLAG
    ),
    "models.lstm_lm": case(
        models.lstm_lm,
        {"vocabulary": 9, "layers": 1, "width": 4},
        hidden=OPTIONAL,
        drop_rate=COUNT,
        tied=FLAG,
        carried=FLAG,
    ),
    "models.recurrent_seq2seq": case(
        models.recurrent_seq2seq,
        {"source": 9, "cell": CELL, "layers": 1, "width": 4},
        target=OPTIONAL,
        drop_rate=COUNT,
    ),
    "models.seq2seq": case(models.seq2seq, {"encoder": LAYER, "decoder": LAYER}),
    "models.teacher_forcing": case(
        models.teacher_forcing,
        {"target": np.ones((2, 3), int), "start": 1},
        lengths=OPTIONAL,
        start=COUNT,
        ignored=WHOLE,
    ),
    "models.transformer": case(
        models.transformer,
        {"source": 9, "layers": 1, "width": 4, "heads": 2},
        target=OPTIONAL,
        expansion=POSITIVE,
        context=OPTIONAL,
        pre_norm=FLAG,
        shared=FLAG,
        drop_rate=COUNT,
    ),
    "models.unet": case(models.unet, {"classes": 2}, norm=OPTIONAL, resized=FLAG),
    "models.vit": case(
        models.vit,
        {"classes": 3, "size": 4, "patch": 2, "layers": 1, "width": 4, "heads": 2},
        expansion=POSITIVE,
        class_token=FLAG,
        drop_rate=COUNT,
        depth_drop_rate=COUNT,
        eps=COUNT,
    ),
    # ---- losses
    "loss.Loss": case(
        loss.Loss,
        {"apply": print, "name": "own"},
        apply=CALLED,
        name=TEXT,
        check=CALLED,
        check_prediction=CALLED,
        suspects=OPTIONAL + " " + CALLED,
    ),
    "loss.accuracy": case(loss.accuracy, {"prediction": X, "target": Y % 2}, ignored=SEED),
    "loss.Metric": case(
        loss.Metric,
        {"sums": lambda p, t: p, "result": lambda sums: sums, "name": "own"},
        sums=CALLED,
        result=CALLED,
        name=TEXT,
        check=CALLED,
    ),
    "loss.as_loss": case(loss.as_loss, {"loss": LOSS}, loss="lambda", what=ANYTHING),
    "loss.as_metric": case(loss.as_metric, {"metric": LOSS}, metric="lambda", what=ANYTHING),
    "loss.auroc": case(loss.auroc, {"edges": [0.25, 0.5]}, ignored=WHOLE),
    "loss.bce_with_logits": case(loss.bce_with_logits, positive_weights="None 2.5", ignored=MISSING),
    "loss.binary_accuracy": case(loss.binary_accuracy, {"threshold": 0.0}, threshold=NUMBER, ignored=WHOLE),
    "loss.calibration_error": case(loss.calibration_error, ignored=WHOLE),
    "loss.confusion_matrix": case(loss.confusion_matrix, ignored=WHOLE),
    "loss.cosine_distance": case(loss.cosine_distance, ignored=MISSING),
    "loss.cross_entropy": case(loss.cross_entropy, class_weights=OPTIONAL, label_smoothing=COUNT, ignored=WHOLE),
    "loss.ctc": case(loss.ctc, blank=COUNT, skip_impossible=FLAG),
    "loss.dice": case(loss.dice, smooth=POSITIVE, ignored=WHOLE),
    "loss.exact_auroc": case(loss.exact_auroc, {"prediction": X[:, 0], "target": Y % 2}, ignored=WHOLE),
    "loss.f1": case(loss.f1, **BY_CLASS),
    "loss.focal": case(loss.focal, gamma="2.5 0", class_weights=OPTIONAL, ignored=WHOLE),
    "loss.gaussian_nll": case(loss.gaussian_nll, full=FLAG, eps=POSITIVE, ignored=MISSING),
    "loss.hinge": case(loss.hinge, margin=POSITIVE, squared=FLAG, ignored=WHOLE),
    "loss.huber": case(loss.huber, delta=POSITIVE, ignored=MISSING),
    "loss.identity": case(loss.identity),
    "loss.kl_divergence": case(loss.kl_divergence, ignored=MISSING),
    "loss.l1": case(loss.l1, ignored=MISSING),
    "loss.mae": case(loss.mae, ignored=MISSING),
    "loss.mse": case(loss.mse, ignored=MISSING),
    "loss.multilabel_accuracy": case(loss.multilabel_accuracy, {"threshold": 0.0}, threshold=NUMBER, exact=FLAG, ignored=WHOLE),
    "loss.nll": case(loss.nll, class_weights=OPTIONAL, ignored=WHOLE),
    "loss.perplexity": case(loss.perplexity, loss="None lambda"),
    "loss.poisson_nll": case(loss.poisson_nll, log_input=FLAG, full=FLAG, eps=POSITIVE, ignored=MISSING),
    "loss.precision": case(loss.precision, **BY_CLASS),
    "loss.r2": case(loss.r2, ignored=MISSING),
    "loss.recall": case(loss.recall, **BY_CLASS),
    "loss.rmse": case(loss.rmse, ignored=MISSING),
    "loss.smooth_l1": case(loss.smooth_l1, beta=POSITIVE, ignored=MISSING),
    "loss.sum": case(loss.sum, {"terms": {"a": LOSS}}),
    "loss.top_k_accuracy": case(loss.top_k_accuracy, {"k": 2}, ignored=WHOLE),
    "loss.triplet": case(loss.triplet, margin=POSITIVE),
    # ---- optimizers
    "optim.Optimizer": case(
        optim.Optimizer,
        {"init": print, "update": print},
        init=CALLED,
        update=CALLED,
        name=TEXT,
        numbers=CALLED,
        at=CALLED,
        evaluated=CALLED,
        frozen=CALLED,
        skipped=OPTIONAL + " " + CALLED,
        loss_scale=OPTIONAL + " " + CALLED,
        rates=CALLED,
    ),
    "optim.adafactor": case(optim.adafactor, **RULE, rate=NOTHING, eps=POSITIVE, smallest=POSITIVE, threshold=POSITIVE),
    "optim.adamw": case(optim.adamw, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE),
    "optim.by_tag": case(
        optim.by_tag, {"optimizers": {"all": optim.adamw()}, "choose": lambda tag: "all"}, choose=CALLED, clip="None 2.5"
    ),
    "optim.clip_by_global_norm": case(
        optim.clip_by_global_norm, {"grads": PARAMS, "limit": 1.0}, grads="array 2.5 0 -1 nan inf None True", limit=POSITIVE
    ),
    "optim.constant": case(optim.constant, factor=NUMBER),
    "optim.cosine": case(optim.cosine, {"steps": 2}, end=NUMBER),
    "optim.frozen": case(optim.frozen),
    "optim.lamb": case(optim.lamb, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE),
    "optim.lift": case(
        optim.lift,
        {"name": "own", "slots": (), "rule": print},
        name=TEXT,
        slots="lambda",
        rule=CALLED,
        clip="None 2.5",
    ),
    "optim.lion": case(optim.lion, **RULE, b1=COUNT, b2=COUNT),
    "optim.muon": case(optim.muon, **RULE, momentum="0 lambda", nesterov=FLAG, scale=NOTHING, coefficients=NOTHING),
    "optim.nadamw": case(optim.nadamw, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE, psi="2.5 0"),
    "optim.radam": case(optim.radam, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE, tractable=NOTHING),
    "optim.scheduled": case(optim.scheduled, {"hyper": 0.1, "schedule": optim.constant()}, hyper=HYPER, schedule="lambda"),
    "optim.linear_ramp": case(optim.linear_ramp, {"start": 1.0, "end": 0.0, "steps": 2}, start=NUMBER, end=NUMBER),
    "optim.cosine_ramp": case(optim.cosine_ramp, {"start": 1.0, "end": 0.0, "steps": 2}, start=NUMBER, end=NUMBER),
    "optim.polynomial": case(optim.polynomial, {"steps": 2, "power": 1}, power=POSITIVE, end=NUMBER),
    "optim.power_cooldown": case(optim.power_cooldown, {"steps": 2}, power=POSITIVE, end=NUMBER),
    "optim.step_decay": case(optim.step_decay, {"every": 2, "factor": 0.5}, factor=POSITIVE),
    "optim.exponential": case(optim.exponential, {"every": 2, "factor": 0.5}, factor=POSITIVE),
    "optim.cyclic": case(optim.cyclic, {"low": 0, "high": 1, "rise": 2}, low=NUMBER, high=NUMBER, fall=OPTIONAL),
    "optim.one_cycle": case(optim.one_cycle, {"steps": 5, "peak": 2}, start=NUMBER, end=NUMBER),
    "optim.warmup_stable_decay": case(
        optim.warmup_stable_decay,
        {"steps": 9, "warmup_steps": 2, "decay_steps": 3},
        warmup_steps=COUNT,
        power=POSITIVE,
        end=NUMBER,
    ),
    "optim.then": case(
        optim.then,
        {"first": optim.constant(), "steps": 2, "second": optim.constant()},
        first=FUNCTION,
        steps=COUNT,
        second=FUNCTION,
    ),
    "optim.times": case(optim.times, {"a": optim.constant(), "b": optim.constant()}, a=FUNCTION, b=FUNCTION),
    "optim.by_epoch": case(optim.by_epoch, {"schedule": optim.constant(), "steps_per_epoch": 2}, schedule=FUNCTION),
    "optim.sgdw": case(
        optim.sgdw,
        {"learning_rate": 0.1},
        learning_rate=HYPER,
        weight_decay=HYPER,
        momentum=HYPER + " None",
        nesterov=NOTHING,
        clip="None 2.5",
    ),
    "optim.warmup": case(optim.warmup, {"steps": 2, "then": optim.constant()}, then=FUNCTION),
    "optim.shampoo": case(optim.shampoo, **RULE, momentum=COUNT, eps=POSITIVE),
    "optim.soap": case(optim.soap, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE),
    "optim.yogi": case(optim.yogi, **RULE, b1=COUNT, b2=COUNT, eps=POSITIVE, debias=FLAG),
    # ---- optimizers around an optimizer
    "optim.l2": case(optim.l2, {"inner": OPTIMIZER, "weight_decay": 0.1}, weight_decay=HYPER),
    "optim.clipped": case(
        optim.clipped, {"inner": OPTIMIZER, "norm": 1.0}, norm=POSITIVE, value=OPTIONAL, group="None lambda class"
    ),
    "optim.ema": case(optim.ema, {"inner": OPTIMIZER}, decay=COUNT),
    "optim.lookahead": case(optim.lookahead, {"inner": OPTIMIZER}, alpha=NOTHING),
    "optim.loss_scaled": case(optim.loss_scaled, {"inner": OPTIMIZER}, start=NOTHING),
    "optim.schedule_free": case(optim.schedule_free, {"inner": OPTIMIZER}, beta=COUNT, power="2.5 0"),
    "optim.skip_non_finite": case(optim.skip_non_finite, {"inner": OPTIMIZER}, at_most=COUNT),
    "optim.swa": case(optim.swa, {"inner": OPTIMIZER, "start": 2}),
    # ---- streams
    "stream.fold": case(
        stream.fold, {"stream": HOST, "initial": 0, "function": max}, initial=ANYTHING, function="lambda class"
    ),
    "stream.from_arrays": case(stream.from_arrays, {"arrays": X, "batch_size": 2}, arrays=ROWS, **BATCHES, among=OPTIONAL),
    "stream.from_function": case(
        stream.from_function,
        {"length": 2, "make": lambda i: X, "spec": X},
        length=COUNT,
        make=FUNCTION,
        spec="None array",
        why_empty=OPTIONAL,
    ),
    "stream.from_items": case(stream.from_items, {"batches": [X, X]}, batches=ROWS),
    "stream.from_iterable": case(stream.from_iterable, {"make": lambda: iter([X])}, make=FUNCTION, spec="None array"),
    "stream.from_iterator": case(stream.from_iterator, {"iterator": iter([X]), "spec": X}, spec=ROWS),
    "stream.full_batch": case(stream.full_batch, {"features": X, "target": X}, target=OPTIONAL),
    "stream.items": case(stream.items, {"stream": HOST}, state=ANYTHING),
    "stream.minibatches": case(stream.minibatches, {"features": X, "target": X, "batch_size": 2}, **BATCHES, target=OPTIONAL),
    "stream.staged": case(
        stream.staged,
        {"rows": 6, "bucket": 2, "batch_size": 2, "load": np.asarray},
        rows=COUNT,
        **BATCHES,
        load=FUNCTION,
        batch=FUNCTION,
        release=FUNCTION,
        spec="None array",
    ),
    "stream.to_list": case(stream.to_list, {"stream": HOST}),
    "BatchStream.chunk": case(HOST.chunk, {"count": 2}),
    "BatchStream.concat": case(HOST.concat, {"other": HOST}),
    "BatchStream.drop": case(HOST.drop, {"count": 2}, count=COUNT),
    "BatchStream.every_nth": case(HOST.every_nth, {"n": 2}, offset=COUNT),
    "BatchStream.filter": case(HOST.filter, {"predicate": bool}, predicate=FUNCTION),
    "BatchStream.interleave": case(HOST.interleave, args=(HOST,)),
    "BatchStream.map": case(HOST.map, {"function": jnp.sin}, spec="None array"),
    "BatchStream.prefetch": case(HOST.prefetch, {"count": 2}),
    "BatchStream.repeat_or_take": case(HOST.repeat_or_take, {"count": 2}, count=COUNT),
    "BatchStream.shuffle_buffer": case(HOST.shuffle_buffer, {"size": 2, "seed": 0}, seed=WHOLE),
    "BatchStream.take": case(HOST.take, {"count": 2}, count=COUNT),
    "BatchStream.unchunk": case(HOST.unchunk, {"size": 2}),
    "BatchStream.zip": case(HOST.zip, {"other": HOST}),
    # ---- data
    "data.at": case(data.at, {"place": 0, "function": abs}, place="0 -1 text", function=CALLED),
    "data.byte_codec": case(data.byte_codec),
    "data.character_codec": case(data.character_codec, {"text": "ab"}, text=TEXT, unknown="None text"),
    "data.cifar10": case(data.cifar10, {"root": "r", "split": "train"}, **NAMED),
    "data.compose": case(data.compose, args=(abs,), **{"*": CALLED}),
    "data.digits": case(data.digits, {"split": "train"}),
    "data.fashion_mnist": case(data.fashion_mnist, {"root": "r", "split": "train"}, **NAMED),
    "data.fetch": case(
        data.fetch,
        {"urls": "https://a.b/c", "path": "p", "sha256": "0" * 64},
        urls=TEXT,
        path=TEXT,
        size="None 0",
        timeout=POSITIVE,
        deadline=POSITIVE,
    ),
    "data.array_dataset": case(data.array_dataset, args=(X,), **{"*": ROWS}),
    "data.from_grain": case(data.from_grain, {"source": Loads()}, source="text list dict array"),
    "data.image_folder": case(data.image_folder, {"root": "r"}, root=TEXT, classes=OPTIONAL, **PICTURE),
    "data.image_table": case(
        data.image_table,
        {"table": "t", "root": "r"},
        table=TEXT,
        root=TEXT,
        file="text 0 -1",
        label="text 0 -1",
        header=FLAG,
        classes=OPTIONAL,
        **PICTURE,
    ),
    "data.kmnist": case(data.kmnist, {"root": "r", "split": "train"}, **NAMED),
    "data.language_model_batches": case(data.language_model_batches, {"corpus": IDS, "block": 2, "batch_size": 2}, **BATCHES),
    "data.loader": case(
        data.loader,
        {"dataset": [1, 2], "batch_size": 2},
        dataset="text list dict array frame",
        shuffle=FLAG,
        **BATCHES,
        transform="None lambda class",
        augment="None lambda",
        collate=FUNCTION,
        workers=COUNT,
    ),
    "data.map_npy": case(data.map_npy, FILE, path=TEXT),
    "data.masked_batches": case(
        data.masked_batches,
        {
            "paragraphs": [[[5, 6], [7, 8]]],
            "batch_size": 1,
            "maximum": 8,
            "vocabulary": 9,
            "cls": 0,
            "sep": 1,
            "mask": 2,
            "pad": 3,
            "seed": 0,
        },
        **{**BATCHES, "seed": WHOLE},
        maximum=NOTHING,
        cls=COUNT,
        sep=COUNT,
        mask=COUNT,
        pad=COUNT,
        share=COUNT,
    ),
    "data.mnist": case(data.mnist, {"root": "r", "split": "train"}, **NAMED),
    "data.normalize": case(data.normalize, {"mean": 0.5, "std": 0.5}, mean=NUMBER, std=POSITIVE),
    "data.packed_batches": case(
        data.packed_batches, {"documents": [[1, 2], [2, 3]], "block": 2, "batch_size": 2}, **BATCHES, documents=ROWS
    ),
    "data.padded_batches": case(
        data.padded_batches,
        {"sequences": [[1], [2, 3]], "batch_size": 2, "pad": 0},
        **BATCHES,
        sequences=ROWS,
        pad=WHOLE,
        maximum=OPTIONAL,
        cut=FLAG,
        targets="None array",
        among=COUNT,
    ),
    "data.processes": case(data.processes, {"count": 1}),
    "data.random_split": case(data.random_split, {"dataset": [1, 2], "sizes": [1, 1], "seed": 0}, dataset=ROWS, seed=WHOLE),
    "data.read_arrow": case(data.read_arrow, FILE, path=TEXT, **TABLE),
    "data.read_codec": case(data.read_codec, FILE, **FILES),
    "data.read_csv": case(data.read_csv, FILE, path=TEXT, **TABLE, header=FLAG, rows=OPTIONAL),
    "data.read_idx": case(data.read_idx, FILE, **FILES),
    "data.read_image": case(data.read_image, FILE, path=TEXT, **PICTURE),
    "data.read_npy": case(data.read_npy, FILE, **FILES),
    "data.read_edge_list": case(data.read_edge_list, FILE, **FILES),
    "data.graph_batches": case(
        data.graph_batches,
        {"graphs": [PAIR, PAIR], "targets": Y[:2], "batch_size": 2},
        **BATCHES,
        targets=ROWS,
        rows=OPTIONAL,
        edges="None 0",
    ),
    "data.neighbour_batches": case(
        data.neighbour_batches,
        {"graph": PAIR, "targets": Y[:2], "nodes": Y[:2], "batch_size": 2, "fanouts": [2], "seed": 0},
        **{**BATCHES, "seed": COUNT},
        shuffle=FLAG,
    ),
    "data.sparse_rows": case(data.sparse_rows, {"row": Y[:2], "column": Y[:2], "rows": 2}, value=OPTIONAL, rows=NOTHING),
    "data.whole_graph": case(data.whole_graph, {"graph": PAIR, "targets": Y[:2]}, targets=ROWS),
    "data.read_npz": case(data.read_npz, FILE, **FILES),
    "data.read_parquet": case(data.read_parquet, FILE, path=TEXT, **TABLE),
    "data.read_pickle": case(data.read_pickle, FILE, **FILES),
    "data.read_safetensors": case(data.read_safetensors, FILE, **FILES),
    "data.read_text": case(data.read_text, FILE, **FILES),
    "data.read_torch": case(data.read_torch, FILE, **FILES),
    "data.save_codec": case(data.save_codec, {"codec": CODEC, **FILE}, path=TEXT),
    "data.stack": case(data.stack, {"items": [1, 2]}, items=ROWS),
    "data.subset": case(data.subset, {"dataset": [1, 2], "indices": [0]}, dataset="text list array frame"),
    "data.threads": case(data.threads, {"count": 1}),
    "data.to_float": case(data.to_float, {"image": IMAGES}),
    "data.train_bpe": case(data.train_bpe, {"texts": ["ab ab"], "vocabulary_size": 300}, minimum_frequency=COUNT),
    "data.with_transform": case(
        data.with_transform, {"dataset": [1, 2], "function": abs}, dataset="text list array frame", function=CALLED
    ),
    "data.word_codec": case(data.word_codec, {"text": "a b"}, text=TEXT, lower=FLAG, unknown="None text"),
    # ---- training
    "train.Fused": case(train.Fused, chunk=OPTIONAL, seconds=POSITIVE, lifted=FLAG),
    "train.Stepwise": case(train.Stepwise, lifted=FLAG),
    "train.Sharded": case(
        train.Sharded,
        mesh=OPTIONAL,
        rules=NOTHING,
        batch="None",
        cluster=OPTIONAL,
        chunk=OPTIONAL,
        seconds=POSITIVE,
    ),
    "train.supervised": case(train.supervised, {"layer": LAYER, "loss": LOSS}, loss="lambda"),
    "train.epochs": case(
        train.epochs,
        EPOCHS,
        train_batches=FUNCTION,
        validation_batches="None lambda class",
        epochs=COUNT,
        seed=WHOLE,
        initial=ANYTHING,
        resume=OPTIONAL,
        schedule=FUNCTION,
        on_epoch="None lambda class",
        parameter_bound="None 2.5",
        checkpoints=OPTIONAL,
    ),  # an initial value is a tree of arrays, which is compared with the model's
    "train.Fork": case(train.Fork, {"saved": SAVED}),
    "train.Checkpoints": case(
        train.Checkpoints,
        {"folder": "a"},
        folder=TEXT,
        steps=OPTIONAL,
        seconds="None 2.5",
        epochs=OPTIONAL,
        keep=CALLED,
        grace=POSITIVE,
    ),
    "train.fork": case(train.fork, {"saved": SAVED}),
    "train.rerun": case(train.rerun, {"fault": fault.NonFinite("loss", 1, 2)}),
    "train.resumable": case(
        train.resumable, {"folder": "a", "program_of": lambda saved: PROGRAM}, folder=TEXT, program_of=CALLED
    ),
    "train.Fold": case(
        train.Fold,
        FOLD,
        init=ANYTHING,
        step=CALLED,
        name=TEXT,
        highest=FLAG,
        metric="None text lambda theirs class",
        ranked="None lambda theirs class",
        slots=COUNT,
        decides=TEXT,
        earliest=OPTIONAL,
    ),
    "train.compiled_memory": case(train.compiled_memory, {"program": train.epochs(**EPOCHS)}, runtime=OPTIONAL),
    "train.collectives": case(train.collectives, {"program": train.epochs(**EPOCHS), "runtime": Runtime()}),
    "train.difference": case(train.difference, {"one": train.epochs(**EPOCHS), "other": train.epochs(**EPOCHS)}),
    "train.Gradient": case(train.Gradient, {"apply": print, "name": "own"}, apply=CALLED, name=TEXT),
    "train.adversarial": case(train.adversarial, {"eps": 0.1}, eps="2.5 0"),
    "train.augmented": case(train.augmented, {"augmentation": print}, augmentation=CALLED),
    "train.best": case(train.best, metric="text lambda class theirs", highest=FLAG),
    "train.microbatches": case(train.microbatches, {"count": 2}),
    "train.patience": case(train.patience, {"epochs": 2}, metric="text lambda class theirs", threshold="2.5 0", highest=FLAG),
    "train.perturbed": case(train.perturbed, {"noise": 0.1}, noise="2.5 0"),
    "train.reduce_on_plateau": case(
        train.reduce_on_plateau,
        metric="text lambda class theirs",
        threshold="2.5 0",
        relative=FLAG,
        stop_at="2.5 0",
        highest=FLAG,
    ),
    "train.rematerialised": case(train.rematerialised),
    "train.replay": case(train.replay, {"fold": train.best(), "curve": ()}),
    "train.smoothed": case(train.smoothed, {"share": 0.5, "inner": train.best()}),
    "train.time_budget": case(train.time_budget, {"seconds": 1.5}, seconds=POSITIVE),
    "train.top_k": case(train.top_k, {"count": 2}, metric="text lambda class theirs", highest=FLAG),
    "train.when": case(
        train.when, {"condition": "train_loss", "message": "a"}, condition="text lambda class theirs", message=TEXT
    ),
    "train.Indicator": case(
        train.Indicator, {"measure": print}, measure=CALLED, values=OPTIONAL + " " + CALLED, name=TEXT, every=OPTIONAL
    ),
    "train.activations": case(train.activations),
    "train.every": case(train.every, {"steps": 2, "indicator": train.step_loss()}),
    "train.gradient_norm": case(train.gradient_norm),
    "train.histogram": case(train.histogram, {"of": "updates"}, of=CALLED, range=OPTIONAL),
    "train.indexed": case(train.indexed, {"index": print}, index=CALLED, measure=CALLED),
    "train.learning_rate": case(train.learning_rate),
    "train.queue": case(train.queue, {"indicator": train.step_loss(), "size": 2}),
    "train.statistics": case(train.statistics, {"of": "updates"}, of=CALLED, by=OPTIONAL + " " + CALLED),
    "train.step_loss": case(train.step_loss),
    "train.Precision": case(train.Precision, scaled=FLAG),
    "train.RateRange": case(train.RateRange, RATES, rates=ANYTHING, losses=ANYTHING, smoothed=ANYTHING, diverged=ANYTHING),
    "train.evaluate": case(train.evaluate, {"batches": STREAM}, batches=FUNCTION),
    "train.export": case(
        train.export,
        {"trained": train.Kept(MODEL, {}, {}, 1, X), "path": "m"},
        path=f"{OPTIONAL} {TEXT}",
        batch_size=OPTIONAL,
        with_parameters=FLAG,
        platforms=OPTIONAL,
    ),
    "train.export_onnx": case(
        train.export_onnx,
        {"trained": train.Kept(MODEL, {}, {}, 1, X), "path": "m.onnx"},
        path=TEXT,
        batch_size=OPTIONAL,
        opset=OPTIONAL,
    ),
    "train.load_exported": case(train.load_exported, FILE, path=TEXT, parameters=OPTIONAL),
    "train.learning_rate_range": case(
        train.learning_rate_range,
        {"model": MODEL, "optimizer": optim.adamw, "train_batches": batches_of, "lowest": 1e-3, "highest": 4.0, "steps": 5},
        train_batches=FUNCTION,
        lowest="2.5",
        highest="2.5",
        seed="0",
    ),
    "train.load_model": case(
        train.load_model,
        {"path": "m.npz", "model": MODEL},
        features=f"{OPTIONAL} {ARRAYS}",
        strict=FLAG,
        rename="dict",
        seed=WHOLE,
    ),
    "train.predict_batches": case(train.predict_batches, {"batches": STREAM}, batches=FUNCTION),
    "train.save_model": case(train.save_model, {"trained": train.Kept(MODEL, {}, {}, 1), "path": "m.safetensors"}),
    "train.recalibrate": case(train.recalibrate, {"batches": STREAM}, batches=FUNCTION),
    "Trained.predict": case(lambda **given: trained().predict(**given), {"x": X}, x=ROWS, batch_size=OPTIONAL),
    # ---- augmentation and plots
    "augment.cutout": case(augment.cutout, {"size": 2}, fill="2.5 0 -1 nan inf"),
    "augment.cutmix": case(augment.cutmix, alpha=POSITIVE, classes=OPTIONAL),
    "augment.mixup": case(augment.mixup, {"alpha": 0.2}, alpha=POSITIVE, classes=OPTIONAL),
    "augment.in_training": case(augment.in_training, args=(augment.random_flip(),), **{"*": FUNCTION}),
    "augment.standardize": case(augment.standardize, {"mean": 0.5, "std": 0.5}, mean=NUMBER, std=POSITIVE),
    "augment.random_crop": case(augment.random_crop, {"padding": 2}, padding=COUNT, size=OPTIONAL, fill="2.5 0 -1 nan inf"),
    "augment.random_flip": case(augment.random_flip, {"rate": 0.5}, rate=COUNT, vertical=FLAG),
    "plots.show_images": case(
        plots.show_images,
        {"images": IMAGES, "path": "a.png"},
        images=ANYTHING,
        labels=ANYTHING,
        path="None text",
        classes=OPTIONAL,
    ),  # a run checks images and labels
    "plots.bands": case(
        plots.bands,
        {"curves": {"a": CURVE}, "path": "a.png"},
        metric=TEXT,
        log=FLAG,
        path="None text",
    ),
    "plots.compare": case(
        plots.compare,
        {"curves": {"a": CURVE}, "path": "a.png"},
        metric=TEXT,
        smooth=COUNT,
        log=FLAG,
        path="None text",
    ),
    "plots.scatter": case(
        plots.scatter,
        {"table": RUNS, "x": "rate", "y": "loss", "path": "a.png"},
        colour=OPTIONAL,
        path="None text",
    ),
    "plots.parallel_coordinates": case(
        plots.parallel_coordinates,
        {"table": RUNS, "columns": ["rate"], "metric": "loss", "path": "a.png"},
        path="None text",
    ),
    "plots.rate_range": case(plots.rate_range, {"found": train.RateRange(**RATES), "path": "a.png"}, path="None text"),
    "plots.schedule": case(
        plots.schedule,
        {"schedule": optim.constant(), "steps": 2, "path": "a.png"},
        schedule=FUNCTION,
        path="None text",
    ),
    # ---- checkpoints
    "config.cli": case(config.cli, {"config": Settings}, presets=OPTIONAL, arguments=OPTIONAL),
    "config.computed": case(config.computed, {"formula": lambda rows: rows}, formula=FUNCTION),
    "config.group": case(config.group, {"cls": type("Empty", (), {})}),
    "config.options": case(config.options, {"named": {"a": 1}, "default": "a"}),
    "experiment.experiment": case(
        experiment.experiment,
        {"name": "a", "program": PROGRAM},
        name=TEXT,
        program=FUNCTION + " theirs",
        config="None dict frame theirs",
        folder=TEXT,
        tags="",
        note=TEXT,
        writers=FUNCTION,
        resume="None text",
    ),
    "experiment.report": case(
        experiment.report, {"title": "a", "runs": []}, title=TEXT, metric=TEXT, highest=FLAG, importance="dict"
    ),
    "experiment.runs": case(experiment.runs, folder=TEXT, name="None text", where=TEXT, sort=TEXT),
    "sweep.choice": case(sweep.choice, {"values": (1, 2)}, values="list"),
    "sweep.grid": case(sweep.grid, {"axes": {"rows": (1, 2)}}),
    "sweep.halton": case(sweep.halton, {"axes": AXES, "trials": 2}, seed=COUNT),
    "sweep.halving": case(sweep.halving, {"rungs": (1, 3)}),
    "sweep.integers": case(sweep.integers, {"low": 0, "high": 3}, low=WHOLE),
    "sweep.listed": case(sweep.listed, {"points": [{"rows": 1}]}),
    "sweep.log_uniform": case(sweep.log_uniform, {"low": 0.1, "high": 3.0}, low=POSITIVE, high=POSITIVE),
    "sweep.median_stopping": case(sweep.median_stopping, {"rungs": (1, 3)}),
    "sweep.optuna": case(sweep.optuna, {"axes": AXES, "trials": 2}, seed=COUNT, sampler=OPTIONAL + " " + CALLED),
    "sweep.sample": case(sweep.sample, {"axes": AXES, "trials": 2}, seed=COUNT),
    "sweep.sobol": case(sweep.sobol, {"axes": AXES, "trials": 2}, seed=COUNT),
    "sweep.sweep": case(
        sweep.sweep,
        {"name": "a", "program_of": lambda place: PROGRAM, "config": Settings, "space": sweep.grid({"rows": (1, 2)})},
        name=TEXT,
        program_of=CALLED,
        metric=TEXT,
        lowest=FLAG,
        rungs=OPTIONAL,
        together=OPTIONAL,
        folder=TEXT,
        tags="",
        note=TEXT,
        writers=FUNCTION,
    ),
    "sweep.uniform": case(sweep.uniform, {"low": -2.0, "high": 3.0}, low=NUMBER, high=NUMBER),
    "scale.await_ready": case(
        scale.await_ready, {"arrays": X, "cluster": ALONE}, arrays=ANYTHING, at=TEXT, deadline="None 2.5"
    ),
    "scale.cluster": case(
        scale.cluster, address="None text", processes=OPTIONAL, process="None 0", deadline=POSITIVE, join=POSITIVE
    ),
    "scale.await_call": case(
        scale.await_call, {"compute": lambda: X, "cluster": ALONE}, compute="lambda", at=TEXT, deadline="None 2.5"
    ),
    "scale.gathered": case(scale.gathered, {"arrays": {"weight": np.zeros(2)}, "cluster": ALONE}, arrays=ANYTHING),
    "scale.rows_of_process": case(scale.rows_of_process, {"rows": 5, "process": 1, "processes": 2}, rows=COUNT, process=COUNT),
    "Cluster.agreed": case(ALONE.agreed, {"name": "stop", "wanted": False}, name=TEXT, wanted=FLAG, deadline="None 2.5"),
    "Cluster.doing": case(ALONE.doing, {"what": "reading"}, what=TEXT),
    "Cluster.meet": case(ALONE.meet, {"name": "step"}, name=TEXT, value=TEXT, deadline="None 2.5"),
    "config.resolve": case(config.resolve, args=(Settings, "rows=2"), only=OPTIONAL, **{"*": "text dict lambda class"}),
    "track.bar": case(track.bar, args=("loss",), **{"*": TEXT}),
    "track.console": case(track.console, args=("loss",), **{"*": TEXT}),
    "track.csv_file": case(track.csv_file, FILE, path=TEXT),
    "track.hardware": case(track.hardware, {"program": PROGRAM}, every=POSITIVE),
    "track.history": case(track.history, FILE, path=TEXT),
    "track.lines": case(track.lines, FILE, path=TEXT),
    "track.measure": case(track.measure, {"values": {"a": 1}}, step="None 0", epoch="None 0", lane=COUNT),
    "track.mlflow": case(
        track.mlflow, {"tracking_uri": "u"}, tracking_uri=TEXT, experiment=TEXT, run_name="None text", hyper="dict"
    ),
    "track.index": case(track.index, FILE, path=TEXT),
    "track.namespace": case(track.namespace, {"name": "n", "program": PROGRAM}, name=TEXT),
    "track.section": case(track.section, {"name": "n", "program": PROGRAM}, name=TEXT),
    "track.sqlite": case(track.sqlite, FILE, path=TEXT),
    "track.tensorboard": case(track.tensorboard, {"folder": "f"}, folder=TEXT, hyper="dict"),
    "track.tracked": case(track.tracked, {"program": PROGRAM}),
    "track.tracker": case(track.tracker, args=(track.lines("f"),), **{"*": CALLED}),
    "checkpoint.append": case(checkpoint.append, {"path": "p", "record": {"epoch": 1}}, path=TEXT, key=NOTHING),
    "checkpoint.keep_all": case(checkpoint.keep_all, {"saves": ()}, saves=ANYTHING),
    "checkpoint.keep_any": case(checkpoint.keep_any, args=(checkpoint.keep_all,), **{"*": FUNCTION}),
    "checkpoint.keep_best": case(checkpoint.keep_best, {"figure": "loss"}, figure=TEXT, highest=FLAG),
    "checkpoint.keep_every": case(checkpoint.keep_every, {"steps": 2}),
    "checkpoint.keep_last": case(checkpoint.keep_last, {"count": 2}),
    "checkpoint.latest": case(checkpoint.latest, {"folder": "f"}, folder=TEXT),
    "checkpoint.partial": case(checkpoint.partial, {"into": {"a": X}, "saved": {"a": X}}, into=ANYTHING, saved=ANYTHING),
    "checkpoint.read": case(checkpoint.read, FILE, path=TEXT),
    "checkpoint.rebuilt": case(checkpoint.rebuilt, {"tree": X, "types": {}}, tree=ANYTHING),
    "checkpoint.save": case(
        checkpoint.save, {"folder": "f", "step": 1, "tree": X}, folder=TEXT, step=COUNT, tree=ANYTHING, note="dict"
    ),
    "checkpoint.saves": case(checkpoint.saves, {"folder": "f"}, folder=TEXT),
    "checkpoint.write": case(checkpoint.write, {"path": "p", "tree": X}, path=TEXT, tree=ANYTHING, step=COUNT, note="dict"),
    "checkpoint.writer": case(checkpoint.writer, {"folder": "f"}, folder=TEXT, keep=FUNCTION, leads=FLAG),
    # ---- effects
    "effect.Runtime": case(Runtime, executor=OPTIONAL, log="None lambda class", device="None text", memory=OPTIONAL),
    "effect.ask": case(effect.ask),
    "effect.bracket": case(effect.bracket, {"acquire": PROGRAM, "use": print, "release": print}, use=CALLED, release=CALLED),
    "effect.do": case(effect.do, {"function": print}, function=CALLED),
    "effect.iterate": case(effect.iterate, {"state": 0, "body": print}, state=ANYTHING, body=CALLED),
    "effect.collect": case(effect.collect, {"effects": [PROGRAM]}),
    "effect.sleep": case(effect.sleep, {"seconds": 0.1}, seconds="2.5 0"),
    "Resource.bind": case(RESOURCE.bind, {"function": print}, function=CALLED),
    "Resource.from_context": case(Resource.from_context, {"make": print}, make=CALLED),
    "Resource.from_value": case(Resource.from_value, {"value": 1}, value=ANYTHING),
    "Resource.make": case(Resource.make, {"acquire": PROGRAM, "release": print}, release=CALLED),
    "Resource.map": case(RESOURCE.map, {"function": print}, function=CALLED),
    "Resource.use": case(RESOURCE.use, {"body": lambda one: PROGRAM}, body=CALLED),
    "Effect.access": case(Effect.access, {"function": print}, function=CALLED),
    "Effect.alt": case(PROGRAM.alt, {"function": print}, function=CALLED),
    "Effect.apply": case(PROGRAM.apply, {"container": Effect.from_value(print)}),
    "Effect.asks": case(Effect.asks, {"function": print}, function=CALLED),
    "Effect.attempt": case(Effect.attempt, {"thunk": print, "catch": ValueError, "error": str}, thunk=CALLED, error=CALLED),
    "Effect.attempted": case(PROGRAM.attempted),
    "Effect.checked": case(Effect.checked, {"thunk": print}, thunk=CALLED),
    "Effect.bind": case(PROGRAM.bind, {"function": print}, function=CALLED),
    "Effect.bind_io": case(PROGRAM.bind_io, {"function": print}, function=CALLED),
    "Effect.bind_ioresult": case(PROGRAM.bind_ioresult, {"function": print}, function=CALLED),
    "Effect.bind_result": case(PROGRAM.bind_result, {"function": print}, function=CALLED),
    "Effect.call": case(Effect.call, {"function": print}, function=CALLED),
    "Effect.compose_result": case(PROGRAM.compose_result, {"function": print}, function=CALLED),
    "Effect.ensuring": case(PROGRAM.ensuring, {"finalizer": print}, finalizer=CALLED),
    "Effect.explain": case(PROGRAM.explain, runtime=OPTIONAL),
    "Effect.from_failed_io": case(Effect.from_failed_io, {"inner_value": IO(1)}),
    "Effect.from_failure": case(Effect.from_failure, {"inner_value": 1}, inner_value=ANYTHING),
    "Effect.from_io": case(Effect.from_io, {"inner_value": IO(1)}),
    "Effect.from_ioresult": case(Effect.from_ioresult, {"inner_value": IOSuccess(1)}),
    "Effect.from_reader": case(Effect.from_reader, {"reader": PROGRAM.to_reader()}, reader=CALLED),
    "Effect.from_result": case(Effect.from_result, {"inner_value": Success(1)}),
    "Effect.from_value": case(Effect.from_value, {"inner_value": 1}, inner_value=ANYTHING),
    "Effect.lash": case(PROGRAM.lash, {"function": print}, function=CALLED),
    "Effect.local": case(PROGRAM.local, {"change": print}, change=CALLED),
    "Effect.map": case(PROGRAM.map, {"function": print}, function=CALLED),
    "Effect.named": case(PROGRAM.named, {"name": "own"}, name=TEXT),
    "Effect.outlined": case(PROGRAM.outlined, {"outline": print}, outline=CALLED),
    "Effect.salvaged": case(PROGRAM.salvaged, {"state": print}, state=CALLED),
    "Effect.retry": case(PROGRAM.retry, {"times": 2}, times=COUNT, delay=CALLED, when=CALLED),
    "Effect.run": case(PROGRAM.run, {"runtime": Runtime(log=None)}, runtime=OPTIONAL),
    "Effect.run_exit": case(PROGRAM.run_exit, {"runtime": Runtime(log=None)}, runtime=OPTIONAL),
    "Effect.run_or_raise": case(PROGRAM.run_or_raise, {"runtime": Runtime(log=None)}, runtime=OPTIONAL),
    "Effect.suspend": case(Effect.suspend, {"thunk": print}, thunk=CALLED),
    "Effect.swap": case(PROGRAM.swap),
    "Effect.tap": case(PROGRAM.tap, {"function": print}, function=CALLED),
    "Effect.then": case(PROGRAM.then, {"other": PROGRAM}),
    "Effect.to_reader": case(PROGRAM.to_reader),
    "Effect.zip": case(PROGRAM.zip, {"other": PROGRAM}),
}

# Made by fnlamp, or described by a type: users do not call them with these arguments.
RECORDS = {
    "fnlamp": {"Decode", "Eval", "Init", "Matrix", "Mode", "Role", "Tag", "Train"},
    "nn": {"Initializer", "Mask", "causal", "forget_one", "torch_uniform"},
    "models": set(),
    "surgery": set(),
    "weights": {"Weights"},
    "graph": {"Graph"},
    "loss": {"Average", "LossValue", "MetricLike", "checked_value", "differentiable"},
    "optim": {"Decay", "Hyper", "Schedule", "UpdateScale"},
    "stream": {
        "BatchStream",
        "Emit",
        "End",
        "Fail",
        "Order",
        "Part",
        "Parts",
        "Recipe",
        "Reread",
        "Segment",
        "Skip",
        "Step",
        "View",
    },
    "data": {
        "Arrays",
        "BpeCodec",
        "ByteCodec",
        "CharacterCodec",
        "Codec",
        "Dataset",
        "ImageFiles",
        "ImageSet",
        "NamedFault",
        "Subset",
        "Table",
        "Transformed",
        "WordCodec",
        "Workers",
    },
    "scale": {"Cluster"},
    "sweep": {"Axis", "Best", "Lane", "Rungs", "Space", "Study", "Sweep", "SweepFault"},
    "track": {
        "Advanced",
        "Alert",
        "Alerted",
        "Entry",
        "Event",
        "Figure",
        "Histogram",
        "History",
        "Image",
        "Indexed",
        "Measured",
        "Media",
        "Output",
        "Progress",
        "Recorded",
        "Resumed",
        "Rows",
        "Series",
        "Started",
        "Text",
        "Timed",
        "Tracked",
        "Tracker",
    },
    "train": {
        "BrokenStep",
        "Collective",
        "CompiledMemory",
        "Difference",
        "Differing",
        "EpochReport",
        "Evaluation",
        "Exported",
        "Kept",
        "LoopContext",
        "Supervised",
        "TrainFault",
        "TrainState",
        "Trained",
        "StepView",
        "Verdict",
        "bfloat16",
        "float16",
        "float32",
        "fully_sharded",
        "plain",
        "tensor_parallel",
    },
    "config": {"Change", "CommandFault", "Resolved", "Setting", "Source"},
    "experiment": {"ExperimentFault", "Place", "ReportRun", "Run", "RunRecord", "Runs", "RunsFault"},
    "checkpoint": {"Keep", "Loaded", "Partial", "Record", "Saved", "Unread", "Writer"},
    "effect": {
        "CancelToken",
        "Clock",
        "Defect",
        "Do",
        "Effect",
        "Executor",
        "Exit",
        "Explanation",
        "FailureError",
        "Interrupted",
        "Outline",
        "Reached",
        "StepRow",
        "Standing",
        "Unknown",
        "Resource",
        "SystemClock",
        "UNKNOWN",
    },
    "augment": {"Augmentation", "Mixing", "Pixel"},
    "plots": {"PlotFault"},
    "generate": {"Beam", "GenerateFault", "Generated", "Past", "Piece", "Reason", "Rule", "Sampling", "greedy"},
}
METHODS = {
    "BatchStream": stream.BatchStream,
    "Cluster": scale.Cluster,
    "Effect": Effect,
    "Resource": Resource,
    "Trained": train.Trained,
    "Weights": models.weights.Weights,
}
INSIDE = {"BatchStream.at", "BatchStream.of_view", "BatchStream.step", "BatchStream.unfinished"}
MODULES = [
    *(
        fnlamp,
        augment,
        checkpoint,
        config,
        data,
        effect,
        experiment,
        generate,
        graph,
        loss,
        models,
        models.weights,
        nn,
        optim,
        plots,
        scale,
        stream,
        surgery,
        sweep,
    ),
    *(track, train),
]


def exported(module: ModuleType) -> set[str]:
    """The names that a module's `__init__.py` exports, or that a module of one file defines."""
    own = module.__name__ == "fnlamp.augment"
    found = {name: value for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    if not own:
        listed = re.findall(r"import \w+ as (\w+)", inspect.getsource(module))
        return {name for name in listed if name in found and not isinstance(found[name], fnlamp.Layer)}
    return {name for name, value in found.items() if getattr(value, "__module__", "") == module.__name__}


def listed(group: str) -> set[str]:
    return {name.partition(".")[2] for name in CASES if name.startswith(f"{group}.")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_function_is_listed(module: ModuleType) -> None:
    group = module.__name__.rpartition(".")[2]
    assert exported(module) == listed(group) | (RECORDS[group] & exported(module))


@pytest.mark.parametrize("kind", METHODS)
def test_every_public_method_is_listed(kind: str) -> None:
    public = {
        name for name, value in vars(METHODS[kind]).items() if not name.startswith("_") and not isinstance(value, property)
    }
    methods = {name for name in public if callable(getattr(METHODS[kind], name, None))}
    assert {f"{kind}.{name}" for name in methods} - INSIDE == {name for name in CASES if name.startswith(f"{kind}.")}


def parameters(given: Case) -> list[str]:
    kinds = inspect.signature(given.function).parameters
    plain = [name for name, p in kinds.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    several = [f"*{name}" for name, p in kinds.items() if p.kind is p.VAR_POSITIONAL and given.several]
    return list(dict.fromkeys([*plain, *several, *(name for name in given.right if name not in plain)]))


EACH = pytest.mark.parametrize("name", CASES)


def right(given: Case) -> Any:
    try:
        return given()
    except FaultError as error:
        if isinstance(error.fault, fault.ExtraMissing):
            pytest.skip(str(error))
        raise


@pytest.mark.broad
@EACH
def test_the_right_call_is_right(name: str) -> None:
    right(CASES[name])


@EACH
def test_a_misspelt_argument_is_named(name: str) -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        CASES[name](no_such_argument=1)


@EACH
def test_a_missing_argument_is_named(name: str) -> None:
    given = CASES[name]
    for missing, kind in inspect.signature(given.function).parameters.items():
        if missing in given.right and kind.default is kind.empty:
            partly = {other: value for other, value in given.right.items() if other != missing}
            with pytest.raises((TypeError, ValueError), match=rf"\b{missing}\b"):
                given.function(*given.several, **partly)


@pytest.mark.broad
@EACH
def test_a_wrong_argument_is_refused_at_once_by_its_name(name: str) -> None:
    given = CASES[name]
    right(given)
    assert not (
        said := [*filter(None, (_wrong(given, parameter, value) for parameter in parameters(given) for value in WRONG))]
    ), "\n".join(["", *said])


def _wrong(given: Case, parameter: str, value: str) -> str | None:
    """The wrong behaviour, if any."""
    place = f"{parameter.strip('*')}={value}"
    takes = given.takes.get("*" if parameter.startswith("*") else parameter, NOTHING).split()
    try:
        if parameter.startswith("*"):
            given.function(*given.several, WRONG[value], **given.right)
        else:
            given(**{parameter: WRONG[value]})
    except FaultError:
        return None
    except (TypeError, ValueError) as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", [])])
        if type(error) in (TypeError, ValueError) and re.search(_names(parameter, value), said):
            return None
        return f"{place}: {type(error).__name__}: {said[:150]}"
    except Exception as error:
        return f"{place}: {type(error).__name__}: {str(error)[:150]}"
    return None if value in takes else f"{place}: accepted"


def _names(parameter: str, value: str) -> str:
    """A pattern of the argument's name, or of one of several; a wrong value in a dict may be named by its key."""
    names = [parameter, parameter[1:-1]] if parameter.startswith("*") else [parameter]
    return rf"(?i)\b({'|'.join([*names, *(['no'] if value == 'dict' else [])])})\b".replace("*", "")
