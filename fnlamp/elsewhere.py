"""Names from other libraries: looking one up raises an error that says what fnlamp calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn


def elsewhere(module: str, words: Mapping[str, str]) -> Callable[[str], NoReturn]:
    """The `__getattr__` of a module: for a name in `words`, the error says what to write instead.

    >>> elsewhere("fnlamp.nn", {"Linear": "nn.linear(out)"})("Linear")
    Traceback (most recent call last):
    AttributeError: module 'fnlamp.nn' has no attribute 'Linear'; write nn.linear(out)
    """

    def missing(name: str) -> NoReturn:
        hint = f"; write {words[name]}" if name in words else ""
        raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)

    return missing


class Elsewhere:
    """A base class of values: for a name in `_elsewhere`, the `AttributeError` says what to write instead."""

    _elsewhere: ClassVar[Mapping[str, str]] = {}


def _missing(self: Any, name: str) -> NoReturn:
    words = type(self)._elsewhere
    hint = f"; {words[name]}" if name in words else ""
    raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)


# Set at runtime, so that type checkers still reject these names.
Elsewhere.__getattr__ = _missing  # type: ignore[attr-defined]

TRAINING = "training is a program: train.epochs(model=train.supervised(layer, loss), optimizer=optim.adamw(1e-3), ...).run()"
PARAMETERS = "parameters are separate values: layer.init(key, spec) makes them, training returns them as trained.params"
TRAIN, EVAL = ("the mode is an argument of layer.apply(params, state, x, mode): " + mode for mode in ("Train(key)", "Eval()"))
MOVED = "the run chooses the device: program.run(Runtime(device=jax.devices()[0]))"
GRADIENT = "gradients are taken by train.epochs, or by jax.grad of a function of the parameters"

MODEL = {
    **dict.fromkeys(("fit", "compile", "fit_generator", "train_step"), TRAINING),
    **dict.fromkeys(("parameters", "named_parameters", "state_dict", "load_state_dict", "weights", "get_weights"), PARAMETERS),
    "train": TRAIN,
    "eval": EVAL,
    **dict.fromkeys(("to", "cuda", "cpu"), MOVED),
    "forward": "the forward pass is layer.apply(params, state, x, mode)",
    "predict": "train first: trained = program.run_or_raise(), then trained.predict(x)",
    "evaluate": "evaluation is a program: train.evaluate(batches)(trained).run()",
    "summary": "fnlamp.table(layer, spec) is the table of a model",
}
TRAINED = {"fit": TRAINING, "parameters": "its parameters are trained.params", "evaluate": MODEL["evaluate"], "to": MOVED}
OPTIMIZER = {
    **dict.fromkeys(("step", "minimize", "apply_gradients"), TRAINING),
    "zero_grad": GRADIENT,
    "param_groups": "its state is an argument of update",
}
LOSS = {"backward": GRADIENT}
METRIC = {
    **dict.fromkeys(("update", "update_state", "forward"), "the sums of a batch are metric.measure(prediction, target)"),
    "compute": "the result of sums is metric.figure(sums)",
    "reset": "a metric holds nothing: sums begin at zero with each evaluation",
}
VALUE = {"backward": GRADIENT, "item": "its number is float(value.mean)"}
LAYERS = {
    **dict.fromkeys(("Linear", "Dense"), "nn.linear(out), whose input's size is inferred"),
    **{f"Conv{n}{d}": f"nn.conv{n}d(channels, kernel), whose input channels are inferred" for n in "123" for d in "dD"},
    "Conv": "nn.conv2d(channels, kernel), whose input channels are inferred",
    **{f"ConvTranspose{n}d": f"nn.conv_transpose{n}d(channels, kernel)" for n in "123"},
    **{f"Conv{n}DTranspose": f"nn.conv_transpose{n}d(channels, kernel)" for n in "123"},
    **{"DepthwiseConv2D": "nn.depthwise_conv2d(kernel)", "SeparableConv2D": "nn.separable_conv2d(channels, kernel)"},
    **{name: f"nn.{name.lower()}(hidden)" for name in ("RNN", "GRU", "LSTM")},
    **{f"{name}Cell": f"nn.{name.lower()}_cell(hidden)" for name in ("RNN", "GRU", "LSTM")},
    **dict.fromkeys(("SimpleRNN", "Bidirectional"), "nn.rnn(hidden), nn.bidirectional(layer)"),
    **dict.fromkeys(("Embedding", "Embed"), "nn.embedding(vocabulary, width)"),
    "Dropout": "nn.dropout(rate)",
    **dict.fromkeys(("BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNormalization"), "nn.batch_norm()"),
    **dict.fromkeys(("LayerNorm", "LayerNormalization"), "nn.layer_norm()"),
    **dict.fromkeys(("GroupNorm", "GroupNormalization"), "nn.group_norm(groups)"),
    **dict.fromkeys(("InstanceNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), "nn.instance_norm()"),
    **dict.fromkeys(("RMSNorm", "RMSNormalization"), "nn.rms_norm()"),
    **dict.fromkeys(("WeightNorm", "weight_normalization"), "nn.weight_norm(layer)"),
    **dict.fromkeys(("SpectralNorm", "SpectralNormalization"), "nn.spectral_norm(layer)"),
    **dict.fromkeys(("Dropout1d", "Dropout2d", "Dropout3d", "SpatialDropout2D"), "nn.channel_dropout(rate)"),
    **dict.fromkeys(("DropPath", "StochasticDepth", "drop_path"), "nn.stochastic_depth(rate), at the end of a residual branch"),
    **dict.fromkeys(("PReLU", "RReLU"), "nn.prelu() or nn.rrelu()"),
    **{f"{kind}Pool{n}d": f"nn.{kind.lower()}_pool{n}d(window)" for kind in ("Max", "Avg") for n in "123"},
    **{f"MaxPooling{n}D": f"nn.max_pool{n}d(window)" for n in "123"},
    **{f"AveragePooling{n}D": f"nn.avg_pool{n}d(window)" for n in "123"},
    **{"max_pool": "nn.max_pool2d(window)", "avg_pool": "nn.avg_pool2d(window)"},
    **{f"AdaptiveAvgPool{n}d": "nn.adaptive_avg_pool(size), or nn.global_avg_pool" for n in "123"},
    **{f"AdaptiveMaxPool{n}d": "nn.adaptive_max_pool(size), or nn.global_max_pool" for n in "123"},
    **{f"GlobalAveragePooling{n}D": "nn.global_avg_pool" for n in "123"},
    **{f"GlobalMaxPooling{n}D": "nn.global_max_pool" for n in "123"},
    **{f"{kind}Pad{n}d": "nn.pad(size, mode=...)" for kind in ("Zero", "Reflection", "Replication", "Circular") for n in "123"},
    **dict.fromkeys(("Upsample", "UpSampling2D", "interpolate"), "nn.resize(scale=2), or nn.resize(size)"),
    **{"PixelShuffle": "nn.pixel_shuffle(factor)", "PixelUnshuffle": "nn.pixel_unshuffle(factor)"},
    **dict.fromkeys(("MultiheadAttention", "MultiHeadAttention"), "nn.self_attention(heads) or nn.cross_attention(heads)"),
    "TransformerEncoderLayer": "nn.transformer_block(nn.self_attention(heads))",
    "TransformerDecoderLayer": "nn.transformer_block(nn.self_attention(heads), cross=nn.cross_attention(heads))",
    "scaled_dot_product_attention": "nn.attend(q, k, v, mask)",
    **dict.fromkeys(("Sequential", "ModuleList"), "nn.sequence(layer, layer, ...), or layer >> layer"),
    **{name: f"nn.{name.lower()}" for name in ("ReLU", "GELU", "ELU", "Sigmoid", "Tanh", "Softmax", "Softplus", "Flatten")},
    **{name: f"nn.{name.lower()}" for name in ("ReLU6", "SELU", "CELU", "Mish", "Softmin", "GLU", "GEGLU", "SwiGLU")},
    **{"LeakyReLU": "nn.leaky_relu", "LogSoftmax": "nn.log_softmax", "LogSigmoid": "nn.log_sigmoid"},
    **{f"Hard{name}": f"nn.hard_{name}" for name in ("swish", "sigmoid", "tanh", "shrink")},
    **{"Softsign": "nn.soft_sign", "Softshrink": "nn.soft_shrink", "Tanhshrink": "nn.tanh_shrink"},
    **dict.fromkeys(("SiLU", "Swish", "swish"), "nn.silu"),
    **dict.fromkeys(("EinsumDense", "Einsum"), "nn.einsum(equation, **sizes)"),
    **dict.fromkeys(("Lambda", "Activation"), "nn.fun(function)"),
    "Identity": "nn.sequence()",
    "Module": "Layer(init, apply): layers are values, such as nn.linear(64) >> nn.relu, not classes",
    **dict.fromkeys(("CrossEntropyLoss", "NLLLoss", "MSELoss", "BCEWithLogitsLoss", "L1Loss", "SmoothL1Loss"), "fnlamp.loss"),
}
LOSSES = {
    **dict.fromkeys(
        ("CrossEntropyLoss", "SparseCategoricalCrossentropy", "CategoricalCrossentropy", "softmax_cross_entropy"),
        "loss.cross_entropy(), of logits and labels",
    ),
    "NLLLoss": "loss.nll(), of log-probabilities and labels",
    **dict.fromkeys(("MSELoss", "MeanSquaredError", "mse_loss"), "loss.mse()"),
    **dict.fromkeys(("BCEWithLogitsLoss", "BCELoss", "BinaryCrossentropy", "bce"), "loss.bce_with_logits(), of logits"),
    "SmoothL1Loss": "loss.smooth_l1(beta)",
    **dict.fromkeys(("HuberLoss", "Huber"), "loss.huber(delta)"),
    **dict.fromkeys(("KLDivLoss", "KLDivergence", "kl_div"), "loss.kl_divergence(), of log-probabilities"),
    "GaussianNLLLoss": "loss.gaussian_nll(), of a tuple (mean, variance)",
    **dict.fromkeys(("PoissonNLLLoss", "Poisson"), "loss.poisson_nll()"),
    **dict.fromkeys(("MultiMarginLoss", "CategoricalHinge", "Hinge"), "loss.hinge(margin)"),
    **dict.fromkeys(("TripletMarginLoss", "TripletLoss"), "loss.triplet(margin), of (batch, 3, features)"),
    **dict.fromkeys(("CosineEmbeddingLoss", "CosineSimilarity", "cosine"), "loss.cosine_distance()"),
    **dict.fromkeys(("CTCLoss", "CTC"), "loss.ctc(), of log-probabilities"),
    **dict.fromkeys(("L1Loss", "MeanAbsoluteError", "l1_loss"), "loss.l1()"),
    "Accuracy": "loss.accuracy",
    **{name: f"loss.{name.lower()}()" for name in ("Precision", "Recall", "F1", "Perplexity")},
    **dict.fromkeys(("F1Score", "f1_score"), "loss.f1(loss.Average.MACRO)"),
    **dict.fromkeys(("AUC", "AUROC", "roc_auc_score"), "loss.auroc(edges), by bins, or loss.exact_auroc of arrays"),
    "ConfusionMatrix": "loss.confusion_matrix()",
}
OPTIMIZERS = {
    **dict.fromkeys(("Adam", "adam"), "optim.adamw(learning_rate), which is Adam without a weight_decay"),
    "AdamW": "optim.adamw(learning_rate, weight_decay)",
    **dict.fromkeys(("SGD", "sgd"), "optim.sgdw(learning_rate, momentum=0.9)"),
    **{name: f"optim.{name.lower()}" for name in ("RAdam", "Yogi", "LAMB", "Lion", "Adafactor", "Shampoo", "SOAP", "Muon")},
    **dict.fromkeys(("NAdam", "NAdamW", "nadam"), "optim.nadamw"),
    **dict.fromkeys(("multi_transform", "partition"), "optim.by_tag(optimizers, choose)"),
    **dict.fromkeys(("set_to_zero", "freeze", "requires_grad_"), "optim.by_tag with optim.frozen(), or surgery.freeze(layer)"),
    **dict.fromkeys(("lr_scheduler", "schedules"), "train.epochs(schedule=optim.cosine(steps))"),
    **dict.fromkeys(("CosineAnnealingLR", "CosineDecay", "cosine_decay_schedule"), "optim.cosine(steps)"),
    **dict.fromkeys(("LinearLR", "linear_schedule", "linear"), "optim.linear_ramp(start, end, steps)"),
    **dict.fromkeys(("StepLR", "MultiStepLR"), "optim.step_decay(every, factor)"),
    **dict.fromkeys(("ExponentialLR", "ExponentialDecay", "exponential_decay"), "optim.exponential(every, factor)"),
    **dict.fromkeys(("PolynomialLR", "polynomial_schedule"), "optim.polynomial(steps, power)"),
    **dict.fromkeys(("OneCycleLR", "cosine_onecycle_schedule"), "optim.one_cycle(steps, peak)"),
    **dict.fromkeys(("CyclicLR", "CyclicalLearningRate"), "optim.cyclic(low, high, rise)"),
    **dict.fromkeys(("SequentialLR", "join_schedules"), "optim.then(first, steps, second)"),
    **dict.fromkeys(("AveragedModel", "SWALR"), "optim.swa(optimizer, start, every), or optim.ema(optimizer, decay)"),
    **dict.fromkeys(("EMA", "ExponentialMovingAverage"), "optim.ema(optimizer, decay)"),
    **dict.fromkeys(("GradScaler", "LossScaleOptimizer"), "optim.loss_scaled(optimizer)"),
    "apply_if_finite": "optim.skip_non_finite(optimizer, at_most)",
    **dict.fromkeys(("clip_grad_value_", "clip_grad_value"), "optim.clipped(optimizer, value=limit)"),
    **dict.fromkeys(("clip_grad_norm_", "clip_grad_norm"), "optim.clip_by_global_norm(grads, limit), or adamw(clip=limit)"),
}
LOADERS = {
    "DataLoader": "data.loader(dataset, batch_size=32, shuffle=True, seed=0), or stream.minibatches(x, y, batch_size=32)",
    "TensorDataset": "data.array_dataset(x, y)",
}
TRAINERS = {**dict.fromkeys(("fit", "Trainer", "train", "Model"), "train.epochs(...).run()"), "predict": "trained.predict(x)"}
MODULES = {"nn": LAYERS, "loss": LOSSES, "optim": OPTIMIZERS, "data": LOADERS, "train": TRAINERS}


def install() -> None:
    """Give the modules their `__getattr__`; at runtime, because type checkers would accept any name if they saw it."""
    for name, words in MODULES.items():
        module = sys.modules[f"fnlamp.{name}"]
        vars(module)["__getattr__"] = elsewhere(module.__name__, words)
