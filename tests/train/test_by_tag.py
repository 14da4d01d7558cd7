"""Training with several rules at once: frozen parts, resuming, what a plan says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train, tree
from fnlamp.effect import Runtime

X = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int32)
LAYER = nn.sequence(backbone=nn.linear(6), act=nn.tanh, hidden=nn.linear(7), norm=nn.layer_norm(), head=nn.linear(2))
MADE = LAYER.init(jax.random.key(3), jax.ShapeDtypeStruct((20, 5), jnp.float32))
QUIET = Runtime(log=None)


def choose(tag):
    if tag.path[0] == "backbone":
        return "still"
    return "matrices" if tag.path[0] == "hidden" and tag.matrix else "rest"


RULES = {"matrices": optim.muon(0.02), "rest": optim.adamw(0.03), "still": optim.frozen()}
RULE = optim.by_tag(RULES, choose, clip=1.0)


def program(epochs, optimizer=RULE, **options):
    return train.epochs(
        model=train.supervised(LAYER, loss.cross_entropy()),
        optimizer=optimizer,
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=20, seed=context.seed),
        epochs=epochs,
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    return program(6, initial=MADE).run_or_raise(QUIET)


@pytest.mark.slow
def test_a_frozen_part_stays_and_the_rest_learns(trained):
    assert tree.equal(trained.params["backbone"], MADE.params["backbone"])
    assert not tree.equal(trained.params["hidden"], MADE.params["hidden"])
    assert trained.curve[-1].train_loss < 0.9 * trained.curve[0].train_loss
    paths = tree.paths(trained.state.optimizer_state)
    assert "matrices/m/hidden/weight" in paths
    assert "rest/v/head/bias" in paths
    assert not [path for path in paths if "backbone" in path]


@pytest.mark.slow
def test_training_resumes_bit_for_bit(trained):
    half = program(3, initial=MADE).run_or_raise(QUIET)
    resumed = program(6, resume=half).run_or_raise(QUIET)
    for a, b in ((resumed.params, trained.params), (resumed.state.optimizer_state, trained.state.optimizer_state)):
        assert tree.equal(a, b)


def test_a_state_of_other_rules_is_not_resumed(trained):
    other = optim.by_tag({**RULES, "matrices": optim.adamw(0.02)}, choose)
    failure = program(7, other, resume=trained).run(QUIET).failure()
    assert "it was made with another model or optimizer" in str(failure._inner_value)


def test_a_plan_names_the_rules_and_counts_their_state():
    lines = str(program(1).explain())
    assert "by_tag(matrices: muon, rest: adamw, still: frozen)" in lines


def test_a_schedule_of_all_rules_and_one_of_its_own_multiply():
    """A rate that is scheduled to 0 from step 3 on moves its parameters no more; the others go on."""
    stop = optim.scheduled(0.05, optim.then(optim.constant(1.0), 3, optim.constant(0.0)))
    rules = {"a": optim.sgdw(stop), "b": optim.sgdw(0.05)}
    two = optim.by_tag(rules, lambda tag: "a" if tag.path[0] == "head" else "b")
    first, second = (program(n, two, initial=MADE, schedule=optim.cosine(30)).run_or_raise(QUIET).params for n in (1, 2))
    assert tree.equal(first["head"], second["head"])
    assert not tree.equal(first["hidden"], second["hidden"])
