"""fnlamp in the gauntlet: `epochs(checkpoints=...)` in `resumable`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from gauntlet_probe import (
    BATCH,
    CLASSES,
    DROP,
    EPOCHS,
    HIDDEN,
    LEAST,
    PATIENCE,
    RATE,
    SAVE_EVERY,
    SEED,
    Probe,
    decay,
    problem,
)

from fnlamp import Init, Layer, Train, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime


class Heard(list[Any]):
    """Tells the probe what is appended. A program that only appends to a list does not depend on what is in the list."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe, self.epoch = probe, 0

    def append(self, part: Any) -> None:
        if "rows" in part:
            self.probe.forward(part["rows"])
        elif "dropped" in part:
            self.probe.dropped(part["dropped"])
        else:
            params, moments = (jax.tree.leaves(part[name]) for name in ("params", "state"))
            step, rate = part["state"]["step"], part["rate"]
            self.probe.state(step=step, epoch=self.epoch, rate=rate, params=params, moments=moments)


def told(name: str, part: Any, heard: Heard) -> Layer:
    """The identity; in training it appends a part of the values."""

    def init(key: Any, spec: Any) -> Init:
        return Init({}, {}, spec, {})

    def apply(params: Any, state: Any, x: Any, mode: Any) -> Any:
        if isinstance(mode, Train):
            jax.debug.callback(heard.append, {name: part(x)})
        return x, state

    return Layer(init, apply, name)


def network(heard: Heard) -> Layer:
    """An MLP. Dropout comes before the activation, where no activation is zero by itself; the function is the same."""
    hidden = nn.linear(HIDDEN) >> nn.dropout(DROP) >> told("dropped", lambda x: x, heard) >> nn.relu >> nn.linear(CLASSES)
    return told("rows", lambda x: x[:, 0], heard) >> nn.fun(lambda x: x[:, 1:]) >> hidden


def probed(rule: optim.Optimizer, heard: Heard) -> optim.Optimizer:
    """The same optimizer; each update appends the state before it and the learning rate."""

    def update(grads: Any, state: Any, params: Any, tags: Any, scale: Any, numbers: Any) -> Any:
        rate = scale * numbers["learning_rate"][0]
        jax.debug.callback(heard.append, {"state": state, "params": params, "rate": rate})
        return rule.update(grads, state, params, tags, scale, numbers)

    return replace(rule, update=update)


def run(variant: str, folder: Path, probe: Probe) -> None:
    x, y, x_held, y_held = problem()
    heard = Heard(probe)

    def batches(context: train.LoopContext) -> Any:
        def begun(batches: Any) -> Any:
            heard.epoch = context.epoch
            return batches

        return Resource.from_value(stream.minibatches(x, y, batch_size=BATCH, seed=context.seed)).map(begun)

    def waited(report: Any, trained: Any) -> None:
        probe.epoch(report.epoch, trained.state.folds["patience"][0].since)

    def program(saved: Any) -> Effect[train.Trained, Any]:
        return train.epochs(
            model=train.supervised(network(heard), loss.cross_entropy()),
            optimizer=probed(optim.adamw(RATE), heard),
            train_batches=batches,
            validation_batches=lambda context: stream.minibatches(x_held, y_held, batch_size=len(x_held)),
            epochs=EPOCHS,
            seed=SEED,
            schedule=decay,
            folds={"patience": train.patience(PATIENCE, threshold=LEAST)},
            on_epoch=waited,
            resume=saved,
            checkpoints=train.Checkpoints(str(folder), steps=SAVE_EVERY),
        )

    trained = train.resumable(folder, program).run_or_raise(Runtime(log=None))
    jax.effects_barrier()
    probe.end(jax.tree.leaves(trained.params))
