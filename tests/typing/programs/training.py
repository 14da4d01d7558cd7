"""A user's training programs, as a type checker sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import jax
import numpy as np
from returns.io import IOFailure, IOResult, IOSuccess
from returns.result import Failure, Success

from fnlamp import Role, loss, nn, optim, stream, train
from fnlamp.effect import Defect, Do, Effect, Interrupted, do
from fnlamp.fault import EmptyEpoch, NonFinite


@dataclass(frozen=True)
class DiskFull:
    path: str


features: Any = np.zeros((8, 4), np.float32)
labels: Any = np.zeros(8, np.int32)


def batches(context: train.LoopContext) -> stream.BatchStream:
    return stream.minibatches(features, labels, batch_size=4, seed=context.seed)


def save(trained: train.Trained) -> Effect[str, DiskFull]:
    return Effect.from_value(f"{len(trained.curve)} epochs")


def hits(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return (prediction.argmax(-1) == target).sum()


def small(prediction: jax.Array, target: jax.Array) -> jax.Array:
    return (prediction**2).sum(-1)


program = train.epochs(
    model=train.supervised(nn.sequence(hidden=nn.linear(8), act=nn.relu, out=nn.linear(2)), loss.cross_entropy()),
    optimizer=optim.adamw(weight_decay=lambda tag: 0.01 if tag.role is Role.WEIGHT else 0.0),
    train_batches=batches,
    validation_batches=batches,
    epochs=2,
    metrics={"accuracy": loss.accuracy},
)
assert_type(program, Effect[train.Trained, train.TrainFault])
assert_type(program.tap(save), Effect[train.Trained, train.TrainFault | DiskFull])
halves = {"front": stream.full_batch(features[:4], labels[:4]), "back": stream.full_batch(features[4:], labels[4:])}
evaluate = train.evaluate(halves, {"f1": loss.f1(), "own": loss.Metric(hits, float, "hits")})
one = train.evaluate(halves["front"], {"right": hits})
assert_type(program.bind(evaluate), Effect[dict[str, train.Evaluation], train.TrainFault])
assert_type(program.bind(one), Effect[train.Evaluation, train.TrainFault])
both = loss.sum({"classes": loss.cross_entropy(), "small": small}, weights={"small": 0.1})
assert_type(both, loss.Loss)


@do
def report() -> Do[str, train.TrainFault | DiskFull]:
    trained = yield from program
    saved = yield from save(trained)
    return f"{trained.curve[-1].train_loss:.3f}, {saved}"


def edge() -> str:
    result: IOResult[str, train.TrainFault | DiskFull | Interrupted] = report().run()
    match result:
        case IOSuccess(Success(text)):
            return str(text)
        case IOFailure(Failure(fault)):
            return str(fault)
        case _:
            return "neither"


def every_outcome() -> str:
    match report().run_exit():
        case Success(text):
            return text
        case Failure(DiskFull(path)):
            return path
        case Failure(EmptyEpoch() | NonFinite() as fault):
            return str(fault)
        case Failure(other):
            return str(other)
        case Interrupted(state=state):
            return repr(state)
        case Defect(cause):
            raise cause
