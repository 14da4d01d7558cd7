"""From scratch: bare arrays, a hand-written log-softmax and loss, and plain gradient descent.

`epochs` trains it like any other model: a model is a pair of pure functions, a loss a function `(prediction, target) ->
LossValue`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from sklearn.datasets import load_digits

import fnlamp
from fnlamp import Init, Layer, Mode, Role, Tag, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.loss import LossValue, accuracy


def init(key: jax.Array, spec: Any) -> Init:
    """Weights normal / sqrt(features), biases 0."""
    features = spec.shape[-1]
    params = {"w": jax.random.normal(key, (features, 10)) / jnp.sqrt(features), "b": jnp.zeros(10)}
    tags = {"w": Tag("logistic", Role.WEIGHT), "b": Tag("logistic", Role.BIAS)}
    return Init(params, {}, array_spec((*spec.shape[:-1], 10), jnp.float32), tags)


def apply(params: Any, state: Any, x: jax.Array, mode: Mode) -> tuple[jax.Array, Any]:
    return log_softmax(x @ params["w"] + params["b"]), state


def log_softmax(x: jax.Array) -> jax.Array:
    return x - logsumexp(x)[:, None]


def logsumexp(x: jax.Array) -> jax.Array:
    """log(sum(exp(x))), shifted by the maximum so that nothing overflows."""
    top = x.max(axis=-1)
    return top + jnp.log(jnp.exp(x - top[:, None]).sum(axis=-1))


def negative_log_likelihood(log_probabilities: jax.Array, labels: jax.Array) -> LossValue:
    picked = log_probabilities[jnp.arange(len(labels)), labels]
    return LossValue(total=-picked.sum(), weight=jnp.asarray(len(labels), jnp.float32))


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    program = train.epochs(
        model=train.supervised(Layer(init, apply, "logistic"), negative_log_likelihood),
        optimizer=optim.sgdw(learning_rate=0.5),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=64),
        validation_batches=lambda context: stream.full_batch(x, y),
        epochs=10,
        metrics={"accuracy": accuracy},
    )
    match program.run():
        case IOSuccess(Success(trained)):
            first = trained.predict(x[:1])
            print(f"The first digit is a {y[0]}; its probability by the model: {float(jnp.exp(first[0, y[0]])):.3f}")
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}")


if __name__ == "__main__":
    fnlamp.keep_programs()  # the next run compiles nothing
    main()
