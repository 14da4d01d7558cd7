"""The thresholds of lamp's own tests on MNIST: ioloop.test 1 to 3, perturbedloss.test, mlp.test, each with its hyperparameters.

Pixels are bytes from 0 to 255, as there. lamp computes in float64, evaluates in training mode, counts epochs from 0, and has no
full second moment of more than 512 rows in Shampoo.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import value

from fnlamp import Eval, data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime

pytestmark = pytest.mark.acceptance
QUIET = Runtime(log=None)


def part(folder, name):
    images = value(data.read_idx(folder / f"{name}-images-idx3-ubyte.gz"))
    return images.reshape(len(images), 784), value(data.read_idx(folder / f"{name}-labels-idx1-ubyte.gz"))


@pytest.fixture(scope="module")
def train_rows(mnist_folder):
    return part(mnist_folder, "train")


@pytest.fixture(scope="module")
def test_rows(mnist_folder):
    return part(mnist_folder, "t10k")


def loss_of(trained, rows):
    return value(Effect.from_value(trained).bind(train.evaluate(stream.minibatches(*rows, batch_size=1000))), QUIET).loss


def logistic():
    return train.supervised(nn.rescale(1.0) >> nn.linear(10) >> nn.log_softmax, loss.nll())


def mlp(hidden):
    return train.supervised(nn.rescale(1.0) >> nn.mlp(hidden, 10, drop_rate=0.2, norm_last=True) >> nn.log_softmax, loss.nll())


def test_ioloop_1_the_best_of_some_epochs_and_an_average_after_them(test_rows):
    def first_and_25th(report):
        return report.validation_loss if report.epoch - 1 in (1, 25) else None  # lamp's [1, 25, 50] of 50 epochs from 0

    trained = value(
        train.epochs(
            model=logistic(),
            optimizer=optim.swa(optim.sgdw(1e-4, weight_decay=1e-3), start=51),
            train_batches=lambda context: stream.full_batch(*test_rows),
            validation_batches=lambda context: stream.full_batch(*test_rows),
            epochs=70,
            folds={"best": train.best(first_and_25th)},
        ),
        QUIET,
    )
    best = trained.kept["best"]
    print(f"epoch {best.epoch - 1}, loss {loss_of(best, test_rows):.2f}, of the average {loss_of(trained, test_rows):.2f}")
    assert best.epoch - 1 == 25
    assert len(trained.curve) == 70
    assert loss_of(best, test_rows) < 50
    assert loss_of(trained, test_rows) < 50


@pytest.mark.parametrize("parts", [1, 2], ids=["2", "3 with gradients of two batches"])
def test_ioloop_2_and_3_minibatches(test_rows, parts):
    def batches(context):
        made = stream.minibatches(*test_rows, batch_size=200, drop_last=True, seed=context.seed)
        return (made.chunk(parts) if parts > 1 else made).prefetch()

    trained = value(
        train.epochs(
            model=logistic(),
            optimizer=optim.sgdw(1e-4, weight_decay=1e-3),
            train_batches=batches,
            epochs=50,
            gradient=train.microbatches(parts),
        ),
        QUIET,
    )
    print(f"loss {loss_of(trained, test_rows):.2f}")
    assert trained.curve[-1].steps == 50 // parts
    assert loss_of(trained, test_rows) < 50


@pytest.mark.slow
def test_perturbedloss_in_a_fifth_of_its_epochs(train_rows, test_rows):
    trained = value(
        train.epochs(
            model=mlp((64, 64, 32)),
            optimizer=optim.sgdw(0.01),
            train_batches=lambda context: stream.minibatches(*train_rows, batch_size=200, drop_last=True, seed=context.seed),
            epochs=20,
            gradient=train.perturbed(0.01),
        ),
        QUIET,
    )
    print(f"loss {loss_of(trained, test_rows):.4f}")
    assert loss_of(trained, test_rows) < 0.25


@pytest.mark.slow
def test_mlp_with_shampoo_adversarial_gradients_and_an_average(train_rows, test_rows):
    def batches(context):
        return stream.minibatches(*train_rows, batch_size=200, drop_last=True, seed=context.seed)

    training = train.epochs(
        model=mlp((64, 32)),
        optimizer=optim.swa(optim.shampoo(0.01, momentum=0.9, largest=512), start=10 * 300 + 1),
        train_batches=batches,
        epochs=20,
        gradient=train.adversarial(2.0),
    )
    trained = value(training.bind(train.recalibrate(batches)), QUIET)
    x, y = test_rows[0].astype(np.float32), test_rows[1]

    def total(features):
        return trained.model.evaluate(trained.params, trained.layer_state, (features, y), Eval())[0].total

    moved = np.asarray(x + 2.0 * jnp.sign(jax.grad(total)(jnp.asarray(x))))
    clean, adversarial = loss_of(trained, test_rows), loss_of(trained, (moved, y))
    print(f"loss {clean:.4f}, of adversarial images {adversarial:.4f}")
    assert (clean + adversarial) / 2 < 0.8
