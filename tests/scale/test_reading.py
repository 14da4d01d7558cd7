"""Reading divided over processes: each item is loaded by one of them, and the numbers are those of one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("reading.py")
ROWS, BATCH, EPOCHS = 193, 32, 2
pytestmark = pytest.mark.slow


def run(count, **options):
    """The outcomes by process; `None`: of the same programs without a cluster."""
    settings = {"alone": count is None, "each": False, "stop": 0, "saves": "", "resume": False} | options
    launch = [] if count is None else ["-m", "fnlamp_command", "launch", "-n", str(count), "--grace", "16"]
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    lines = [line.partition("] ") if count else ("[0", "", line) for line in done.stdout.splitlines()]
    outcomes = {int(place[1:]): json.loads(text) for place, _, text in lines if text.startswith("{")}
    assert outcomes.keys() == {*range(count or 1)}, done.stdout + done.stderr
    return dict(sorted(outcomes.items()))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of three processes, the last program of which is interrupted; of two that resume it; and of one."""
    folder = tmp_path_factory.mktemp("mapped")
    generator = np.random.default_rng(0)
    np.save(folder / "x.npy", generator.standard_normal((ROWS, 16)).astype(np.float32))
    np.save(folder / "y.npy", np.arange(ROWS) % 8)
    saves = str(folder / "saves")
    three = run(3, folder=str(folder), each=True, stop=150, saves=saves)
    two = run(2, folder=str(folder), saves=saves, resume=True)
    return three, two, run(None, folder=str(folder), each=True)[0]


def loads(outcomes, name, of="loads"):
    return np.array([outcome["found"][name][of] for outcome in outcomes.values()])


def apart(outcome, one):
    curve, expected = np.array(outcome["curve"]), np.array(one["curve"])
    weights, whole = np.array(outcome["weights"]), np.array(one["weights"])
    assert (curve[:, 1] == expected[:, 1]).all()
    return max(np.abs(curve / expected - 1).max(), np.linalg.norm(weights - whole) / np.linalg.norm(whole))


@pytest.mark.parametrize("name", ["on request", "by threads", "ahead", "collated", "mapped"])
def test_the_numbers_are_those_of_one_process(found, name):
    three, _, one = found
    for process, outcome in three.items():
        assert apart(outcome["found"][name], one["found"][name]) < 1e-5, process


@pytest.mark.parametrize("name", ["on request", "by threads", "ahead"])
def test_each_item_is_loaded_by_one_process(found, name):
    """Once an epoch; besides, each process loads the first item of an epoch, which says what a batch looks like."""
    three, _, one = found
    each = loads(three, name)
    first = loads({0: one}, name)[0] - EPOCHS
    assert first.sum() == EPOCHS
    assert (each.sum(0) == EPOCHS + 3 * first).all()
    # Of 32 rows 11, 11 and 10; of the last batch's single row 1, 0 and 0.
    assert (each.sum(1) - EPOCHS == [EPOCHS * (6 * 11 + 1), EPOCHS * 6 * 11, EPOCHS * 6 * 10]).all()


@pytest.mark.parametrize("name", ["on request", "by threads", "ahead", "collated", "mapped"])
def test_each_process_predicts_for_all_rows(found, name):
    three, _, one = found
    right = np.array(one["found"][name]["predicted"])
    for process, outcome in three.items():
        predicted = np.array(outcome["found"][name]["predicted"])
        assert outcome["found"][name]["shape"] == [ROWS, 8]
        assert np.linalg.norm(predicted - right) / np.linalg.norm(right) < 1e-5, process
        assert (predicted == three[0]["found"][name]["predicted"]).all(), process


@pytest.mark.parametrize("name", ["on request", "by threads", "ahead"])
def test_each_item_is_loaded_by_one_process_for_a_prediction(found, name):
    three, _, _ = found
    asked = loads(three, name, "asked").sum(0)
    assert sorted(asked) == [1] * (ROWS - 1) + [4]  # the first item by each process besides


def test_a_batch_that_depends_on_all_its_items_is_read_whole_by_each(found):
    three, _, one = found
    assert (loads(three, "collated") == loads({0: one}, "collated")).all()


def test_explain_and_the_log_say_which_it_is(found):
    lines = found[0][0]["lines"]
    assert any(
        line.startswith("mapped: ") and line.endswith("each process reads the rows of its own devices") for line in lines
    )
    said = [line for line in lines if line.startswith("each process reads")]
    of_own, all_rows = "each process reads the rows of its own devices", "each process reads all rows"
    assert said == [of_own, of_own, of_own, all_rows, of_own, of_own]


def test_fewer_processes_resume_in_the_middle_of_an_epoch(found):
    three, two, one = found
    steps = {outcome["found"]["steps"] for outcome in three.values()}
    assert len(steps) == 1
    step = steps.pop()
    assert step % 7, "not in the middle of an epoch"
    for process, outcome in two.items():
        assert apart(outcome["found"]["resumed"], one["found"]["resumed"]) < 1e-5, process
    # Each row once in each epoch that is left; of the running one, those that were not trained on. Besides the first items.
    left, taken = 4 - step // 7, step % 7 * BATCH
    total = loads(two, "resumed").sum(0)
    assert total.sum() == left * ROWS - taken + 2 * left
    assert (total >= left - 1).all()
