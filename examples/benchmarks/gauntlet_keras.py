"""Keras 3 on JAX in the gauntlet: `BackupAndRestore`, with `save_freq="epoch"`, its default, or a number of batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
from gauntlet_probe import (
    BATCH,
    CLASSES,
    DROP,
    EPOCHS,
    FEATURES,
    HIDDEN,
    LEAST,
    PATIENCE,
    RATE,
    SAVE_EVERY,
    SEED,
    STEPS,
    Probe,
    problem,
)


class Told(keras.layers.Layer):
    """The identity; in training it tells the probe the values."""

    def __init__(self, tell: Any) -> None:
        super().__init__()
        self.tell = tell

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            jax.debug.callback(self.tell, x)
        return x


class Probing(keras.callbacks.Callback):
    def __init__(self, probe: Probe, stopping: Any) -> None:
        super().__init__()
        self.probe, self.stopping, self.epoch = probe, stopping, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        jax.effects_barrier()  # the probe has all of the step before
        model = self.model
        step, rate = int(model.optimizer.iterations), float(model.optimizer.learning_rate)
        moments = map(keras.ops.convert_to_numpy, model.optimizer.variables)
        self.probe.state(step=step, epoch=self.epoch, rate=rate, params=model.get_weights(), moments=moments)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.probe.epoch(epoch + 1, self.stopping.wait)


def model(probe: Probe) -> Any:
    inputs = keras.Input((1 + FEATURES,))
    rows = Told(probe.forward)(inputs[:, :1])
    hidden = keras.layers.Dense(HIDDEN)(inputs[:, 1:])
    hidden = Told(probe.dropped)(keras.layers.Dropout(DROP)(hidden))  # before the activation: not zero by itself
    out = keras.layers.Dense(CLASSES)(keras.layers.ReLU()(hidden))
    made = keras.Model(inputs, keras.layers.Add()([out, 0 * rows]))
    schedule = keras.optimizers.schedules.PolynomialDecay(RATE, STEPS, 0.1 * RATE)  # linear, as `decay`
    made.compile(keras.optimizers.Adam(schedule), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def run(variant: str, folder: Path, probe: Probe) -> None:
    keras.utils.set_random_seed(SEED)
    x, y, x_held, y_held = problem()
    stopping = keras.callbacks.EarlyStopping("val_loss", min_delta=LEAST, patience=PATIENCE)
    backup = keras.callbacks.BackupAndRestore(folder, save_freq="epoch" if variant == "epoch" else SAVE_EVERY)
    made = model(probe)
    made.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        validation_data=(x_held, y_held),
        callbacks=[backup, stopping, Probing(probe, stopping)],
    )
    jax.effects_barrier()
    probe.end(made.get_weights())
