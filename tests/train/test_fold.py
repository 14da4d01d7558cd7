"""Folds over reports: what is kept, when a run stops, and how the rate falls, in training and over a stored curve."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import ShapeMismatch
from fnlamp.train import EpochReport, Verdict
from fnlamp.train.fold import figure

QUIET = Runtime(log=None)
RNG = np.random.default_rng(8)
X = RNG.standard_normal((24, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]], np.float32)).astype(np.float32)
MODEL = train.supervised(nn.linear(4) >> nn.batch_norm() >> nn.linear(1), loss.mse())


def reports(*losses, metric=None):
    return [
        EpochReport(i + 1, len(losses), 1, 1, 0.0, 0.0, v, v, {} if metric is None else {metric: v}, seconds=1.0)
        for i, v in enumerate(losses)
    ]


def describe(**options):
    defaults = {
        "model": MODEL,
        "optimizer": optim.sgdw(0.05, momentum=0.9),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=8, seed=context.seed),
        "validation_batches": lambda context: stream.full_batch(X[::-1] * 1.1, Y),
        "epochs": 6,
    }
    return train.epochs(**{**defaults, **options})


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


# ------------------------------------------------------------------------------- decisions over a curve


def test_the_best_of_random_curves_is_that_of_a_search():
    for _ in range(200):
        losses = RNG.choice([1.0, 2.0, 3.0, math.nan, math.inf, -math.inf], size=RNG.integers(1, 9))
        for highest in (False, True):
            kept = [
                i for i, verdict in enumerate(train.replay(train.best(highest=highest), reports(*losses))) if verdict.keep == 0
            ]
            worst = -math.inf if highest else math.inf
            sound = [(x, -i) if highest else (x, i) for i, x in enumerate(losses) if not math.isnan(x) and x != worst]
            expected = abs((max if highest else min)(sound)[1]) if sound else None
            assert (kept[-1] if kept else None) == expected


def test_the_top_of_random_curves_is_that_of_sorting():
    for _ in range(200):
        losses, fold = RNG.permutation(12).astype(float), train.top_k(3)
        acc, slots = fold.init, {}
        for report in reports(*losses):
            acc, verdict = fold.step(acc, report)
            if verdict.keep is not None:
                slots[verdict.keep] = report.validation_loss
        assert [slots[at] for at in fold.ranked(acc)] == sorted(losses)[:3]


def test_a_metric_of_validation_is_not_looked_for_among_those_of_training():
    """An epoch without validation has no such figure, although training has a metric of the same name."""
    shares = [(0.5, 0.6), (None, 0.9), (0.7, 0.95)]  # of validation, which is after every second epoch, and of training
    curve = [
        EpochReport(i + 1, 3, 1, 1, 0.0, 0.0, validation_metrics={} if v is None else {"share": v}, train_metrics={"share": t})
        for i, (v, t) in enumerate(shares)
    ]
    seen = []

    def step(acc, report):
        seen.append((figure("share", report), figure("train_share", report)))
        return acc, Verdict()

    train.replay(train.Fold((), step, "seen"), curve)
    assert seen == shares
    assert [v.keep for v in train.replay(train.best("share", highest=True), curve)] == [0, None, 0]
    smooth = train.smoothed(0.5, train.best("share", highest=True))
    acc = smooth.init
    for report in curve:
        acc, _ = smooth.step(acc, report)
    assert acc[0] == 0.6


def test_patience_counts_what_is_not_better():
    stops = lambda fold, *losses: [v.stop for v in train.replay(fold, reports(*losses))]  # noqa: E731
    assert stops(train.patience(2), 3.0, 2.0, 2.0, 1.9, 2.0, 2.0) == [False] * 5 + [True]
    assert stops(train.patience(2), 3.0, math.nan, math.nan) == [False, False, True]
    assert stops(train.patience(1, threshold=0.5), 3.0, 2.6) == [False, True]
    assert stops(train.patience(2), 3.0, None, None, 3.1, None, 3.2) == [False] * 5 + [True]
    assert stops(train.patience(1, highest=True), 0.5, 0.6, 0.6) == [False, False, True]
    assert stops(train.patience(2), math.nan, math.nan) == [False, True]
    assert stops(train.patience(1), math.inf, 5.0, 6.0) == [False, False, True]
    assert stops(train.patience(2), math.inf, math.inf, math.inf) == [False, False, True]
    assert stops(train.patience(2, highest=True), -math.inf, -math.inf, math.nan) == [False, False, True]


def test_the_plateau_is_that_of_published_figures():
    # The sequence of lamp's own test: factors at the epochs 0, 10, 29, 39 and 50 of losses that improve at 0 and 19.
    losses = [9.0 if epoch == 19 else 10.0 if epoch < 18 else 11.0 for epoch in range(51)]
    fold = train.reduce_on_plateau(0.5, 10, stop_at=0.1)
    verdicts = train.replay(fold, reports(*losses))
    assert [verdicts[epoch].rate for epoch in (0, 1, 9, 10, 18, 19, 28, 29, 39, 49)] == [
        1,
        1,
        1,
        0.5,
        0.5,
        0.5,
        0.5,
        0.25,
        0.125,
        0.0625,
    ]
    assert next(epoch for epoch, verdict in enumerate(verdicts) if verdict.stop) == 49


@pytest.mark.broad
@pytest.mark.parametrize("relative", [True, False])
def test_the_plateau_agrees_with_torch(relative):
    torch = pytest.importorskip("torch")
    for _ in range(50):
        losses = (10 * RNG.random(40) * np.linspace(1, 0.2, 40)).tolist()
        weight = torch.nn.Parameter(torch.zeros(1))
        sgd = torch.optim.SGD([weight], lr=1.0)
        mode = "rel" if relative else "abs"
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            sgd, factor=0.5, patience=2, threshold=0.1, threshold_mode=mode, eps=0.0
        )
        expected = []
        for loss_now in losses:
            scheduler.step(loss_now)
            expected.append(sgd.param_groups[0]["lr"])
        fold = train.reduce_on_plateau(0.5, 3, threshold=0.1, relative=relative)  # torch waits for one more than its patience
        assert [v.rate for v in train.replay(fold, reports(*losses))] == expected


def test_smoothing_is_the_exponential_mean():
    seen = []

    def step(acc, report):
        seen.append(report.validation_loss)
        return acc, Verdict()

    losses = [4.0, 2.0, None, 8.0]
    train.replay(train.smoothed(0.25, train.Fold((), step, "seen", "validation_loss")), reports(*losses))
    first = 4.0
    second = 0.25 * 2.0 + 0.75 * first
    assert seen == [first, second, None, 0.25 * 8.0 + 0.75 * second]
    assert train.replay(train.smoothed(1.0, train.best()), reports(3.0, 1.0, 2.0)) == train.replay(
        train.best(), reports(3.0, 1.0, 2.0)
    )


def test_a_time_budget_ends_after_the_epoch_that_reaches_it():
    assert [v.stop for v in train.replay(train.time_budget(2.5), reports(1.0, 1.0, 1.0, 1.0))] == [False, False, True, True]


def test_figures_may_be_metrics_or_functions():
    curve = reports(0.1, 0.3, 0.2, metric="accuracy")
    assert [v.keep for v in train.replay(train.best("accuracy", highest=True), curve)] == [0, 0, None]
    assert [v.keep for v in train.replay(train.best(lambda report: -report.validation_loss), curve)] == [0, 0, None]


# ------------------------------------------------------------------------------- in training


def folds():
    return {
        "best": train.best(),
        "top": train.top_k(2),
        "rate": train.reduce_on_plateau(0.5, 1, threshold=0.5),
        "smooth": train.smoothed(0.5, train.best()),
    }


def test_what_is_kept_is_what_validation_saw_in_that_epoch():
    seen = {}

    def hook(report, trained):
        seen[report.epoch] = report.validation_loss, jax.tree.map(np.array, (trained.params, trained.layer_state))

    trained = value(describe(folds=folds(), on_epoch=hook), QUIET)
    order = sorted(seen, key=lambda epoch: seen[epoch][0])
    assert trained.kept["best"].epoch == order[0]
    assert [kept.epoch for kept in trained.kept["top"]] == order[:2]
    for kept in (trained.kept["best"], *trained.kept["top"]):
        same((kept.params, kept.layer_state), seen[kept.epoch][1])
    evaluation = value(train.evaluate(stream.full_batch(X[::-1] * 1.1, Y))(trained.kept["best"]), QUIET)
    np.testing.assert_allclose(evaluation.loss, seen[order[0]][0], rtol=1e-6)
    assert trained.kept["best"].predict(X).shape == (24, 1)
    same(value(describe(initial=trained.kept["best"], epochs=0), QUIET).params, trained.kept["best"].params)


def test_replaying_the_curve_decides_as_training_did():
    trained = value(describe(folds=folds()), QUIET)
    for name, fold in folds().items():
        verdicts = train.replay(fold, trained.curve)
        assert verdicts[-1] == trained.state.folds[name][1]
        kept = [i + 1 for i, verdict in enumerate(verdicts) if verdict.keep == 0]
        if name in ("best", "smooth"):
            assert trained.kept[name].epoch == kept[-1]


@pytest.mark.broad
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_decides_the_same(stop):
    whole = value(describe(folds=folds()), QUIET)
    part = value(describe(folds=folds(), epochs=stop), QUIET)
    for start in (part, part.state):
        resumed = value(describe(folds=folds(), resume=start), QUIET)
        same(resumed.params, whole.params)
        same(resumed.state, whole.state)
        same([k.params for k in resumed.kept["top"]], [k.params for k in whole.kept["top"]])
        assert {n: jax.tree.leaves(f) for n, f in resumed.state.folds.items()} == {
            n: jax.tree.leaves(f) for n, f in whole.state.folds.items()
        }


def test_a_rate_of_folds_is_a_factor_of_the_learning_rate():
    halved = train.Fold(1.0, lambda rate, report: (rate / 2, Verdict(rate=rate / 2)), "halved")
    by_fold = value(describe(folds={"halved": halved}, epochs=4), QUIET)
    by_schedule = value(describe(schedule=lambda step: 0.5 ** (step // 3), epochs=4), QUIET)
    same(by_fold.params, by_schedule.params)
    twice = value(describe(folds={"a": halved, "b": halved}, epochs=3), QUIET)
    same(twice.params, value(describe(schedule=lambda step: 0.25 ** (step // 3), epochs=3), QUIET).params)


def test_a_fold_that_stops_ends_the_run_and_says_so():
    lines = []
    at = train.Fold(0, lambda n, report: (n + 1, Verdict(stop=n + 1 == 3)), "the third")
    program = describe(folds={"at": at})
    stopped = value(program, Runtime(log=lines.append))
    assert len(stopped.curve) == 3 and lines[-1] == "stopped after epoch 3 by at: the third"
    same(stopped.params, value(describe(epochs=3), QUIET).params)
    again = value(describe(folds={"at": at}, resume=stopped), Runtime(log=lines.append))  # it stays stopped
    assert lines[-1] == "stopped after epoch 3 by at: the third"
    assert len(again.curve) == 3
    same(again.state, stopped.state)
    assert len(value(describe(resume=stopped), QUIET).curve) == 6  # without the fold, it continues


def test_a_fold_compiles_nothing_and_changes_no_bit():
    plain, watched = (value(describe(folds=f), QUIET) for f in ({}, {"best": train.best(), "stop": train.patience(9)}))
    same(plain.params, watched.params)
    assert [replace(r, seconds=0.0) for r in plain.curve] == [replace(r, seconds=0.0) for r in watched.curve]


def test_wrong_folds_are_refused():
    with pytest.raises(ValueError, match="reads 'acuracy', which no report has"):
        describe(folds={"best": train.best("acuracy")})
    with pytest.raises(TypeError, match="folds is a dict by name"):
        describe(folds=[train.best()])
    with pytest.raises(TypeError, match="call it, as train.best"):
        describe(folds={"best": train.best})
    with pytest.raises(TypeError, match="expected \\(accumulator, train.Verdict"):
        value(describe(folds={"wrong": train.Fold(0, lambda acc, report: acc, "wrong")}), QUIET)
    with pytest.raises(TypeError, match="the accumulator has the structure of init, PyTreeDef\\(None\\), got"):
        value(describe(folds={"wrong": train.Fold(None, lambda acc, report: (1.0, Verdict()), "wrong")}), QUIET)
    with pytest.raises(ValueError, match="keep is a slot from 0 to 0, got 1"):
        value(describe(folds={"wrong": train.Fold(0, lambda acc, report: (acc, Verdict(keep=1)), "wrong")}), QUIET)


def test_another_kind_of_fold_under_the_same_name_is_a_fault():
    part = value(describe(folds={"fold": train.top_k(2)}, epochs=2), QUIET)
    found = fault(describe(folds={"fold": train.patience(3)}, resume=part), QUIET)
    assert isinstance(found, ShapeMismatch) and found.where == "resume/folds/fold"


def test_another_figure_under_the_same_name_is_a_fault():
    part = value(describe(folds={"best": train.best("train_loss")}, epochs=2), QUIET)
    for other in (train.best(), train.best("train_loss", highest=True)):
        found = fault(describe(folds={"best": other}, resume=part), QUIET)
        assert isinstance(found, ShapeMismatch) and found.where == "resume/folds/best" and "train_loss" in found.actual


def test_kept_weights_are_not_written_to_by_later_steps():
    every = train.Fold(0, lambda n, report: (n + 1, Verdict(keep=n)), "every", slots=6)
    seen = []
    trained = value(
        describe(folds={"every": every}, on_epoch=lambda report, trained: seen.append(jax.tree.map(np.array, trained.params))),
        QUIET,
    )
    assert len(trained.kept["every"]) == 6
    for kept, params in zip(trained.kept["every"], seen, strict=True):
        same(kept.params, params)
