"""`Sharded` on eight virtual devices: the numbers of one device, the memory of a part, and faults before the first step."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fnlamp import train
from fnlamp.tag import Matrix, Role, Tag

SCRIPT = Path(__file__).with_name("sharded_run.py")
SLOW = pytest.mark.slow
CLOSE = 1e-5


@cache
def found(*names):
    """What the functions of the script return, in a process that sees eight devices."""
    done = subprocess.run([sys.executable, str(SCRIPT), *names], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def quick():
    return found("shares", "same_twice", "faults", "limited")


@pytest.mark.slow
def test_each_of_eight_devices_holds_an_eighth_of_parameters_and_moments():
    assert 1 / 8 <= quick()["shares"]["share"] <= 1.1 / 8


@pytest.mark.slow
def test_explain_says_the_bytes_that_xla_needs_on_each_device():
    shares = quick()["shares"]
    assert shares["explained"] == pytest.approx(shares["arguments"], rel=0.1)


@pytest.mark.slow
def test_a_state_that_one_device_cannot_hold_trains_on_eight():
    fault, text, steps = quick()["limited"]
    assert fault == "DeviceOutOfMemory"
    assert "6,291,456" in text
    assert steps == 1


@pytest.mark.slow
def test_collectives_are_those_of_the_layout():
    shares = quick()["shares"]
    assert set(shares["copies"]) == {"all-reduce"}
    assert shares["sharded"]["all-gather"] >= 2  # the two weights


@pytest.mark.slow
def test_the_same_layout_gives_the_same_bits_again_and_in_any_chunk():
    assert quick()["same_twice"] == [True, True]


@pytest.mark.slow
def test_a_broken_step_is_found_with_the_last_good_state():
    faults = quick()["faults"]
    assert faults["eight"] == faults["one"]
    assert faults["one"][0] == "NonFinite"


@pytest.mark.slow
def test_a_rule_that_does_not_divide_is_a_fault_before_the_first_step():
    faults = quick()["faults"]
    assert faults["uneven"].startswith("expected axis 0 of bias to divide into 8 equal parts")
    assert faults["explained"] == "NotDivisible"
    assert "give one of them" in faults["device"]


@SLOW
@pytest.mark.parametrize("model", ["mlp", "cnn", "gpt"])
def test_each_layout_has_the_numbers_of_one_device(model):
    """After 56 steps with batch norm, dropout and a short last batch: parameters, state, losses and metrics."""
    for layout, distances in found(f"equal:{model}")[f"equal:{model}"].items():
        assert max(distances) < CLOSE, layout


@SLOW
def test_a_run_resumes_evaluates_and_predicts_on_other_devices():
    for what, distance in found("elsewhere")["elsewhere"].items():
        assert max(distance if isinstance(distance, list) else [distance]) < CLOSE, what


@SLOW
def test_what_goes_around_a_step_goes_around_a_sharded_one():
    for what, distances in found("wrapped")["wrapped"].items():
        assert max(distances) < CLOSE, what


def test_fully_sharded_cuts_the_longest_axis_that_divides():
    tag = Tag("linear", Role.WEIGHT)
    assert train.fully_sharded(tag, (128, 64), 8) == 0
    assert train.fully_sharded(tag, (30, 64), 8) == 1
    assert train.fully_sharded(tag, (1, 16), 8) == 1
    assert train.fully_sharded(tag, (7, 9), 8) is None
    assert train.fully_sharded(tag, (), 8) is None


def test_tensor_parallel_cuts_outputs_and_then_inputs():
    def weight(*path):
        return Tag("linear", Role.WEIGHT, path, Matrix())

    assert train.tensor_parallel(weight("feed_forward", "up"), (8, 32), 4) == 1
    assert train.tensor_parallel(weight("feed_forward", "out"), (32, 8), 4) == 0
    assert train.tensor_parallel(weight("up"), (8, 30), 4) is None
    assert train.tensor_parallel(Tag("linear", Role.BIAS, ("feed_forward", "up")), (32,), 4) == 0
    assert train.tensor_parallel(Tag("linear", Role.BIAS, ("feed_forward", "out")), (8,), 4) is None
    assert train.tensor_parallel(Tag("layer_norm", Role.SCALE, ("norm",)), (8,), 4) is None


def test_axes_and_rules_are_checked_when_it_is_made():
    with pytest.raises(ValueError, match="rules names an axis of the mesh, which has data, got 'model'"):
        train.Sharded(rules={"model": train.tensor_parallel})
    with pytest.raises(ValueError, match="got 'rows'"):
        train.Sharded(batch="rows")
    with pytest.raises(TypeError, match="rules is a dict by axis"):
        train.Sharded(rules=train.fully_sharded)
    with pytest.raises(TypeError, match=r"mesh is a jax\.sharding\.Mesh"):
        train.Sharded(8)


@SLOW
def test_data_parallel_attention_exchanges_gradients_alone():
    """And a few numbers: the loss and its weight, and whether all is finite."""
    attention = found("attention")["attention"]
    assert set(attention["exchanged"]) == {"all-reduce"}
    assert 0 <= attention["exchanged"]["all-reduce"] - attention["gradients"] < 100
    assert max(attention["apart"]) < 1e-6


@SLOW
def test_predictions_are_traced_for_the_devices_that_compute_them():
    """Layers choose their form by it: attention is neither cut into parts nor given to a kernel of one device."""
    predicting = found("predicting", "sharing")["predicting"]
    devices = {name: traced for name, (traced, _) in predicting.items()}
    assert devices == {
        "at once, on one": [1],
        "at once, on eight": [8],
        "at once, in batches": [1, 8],  # without a device: whether each row is predicted by itself
        "batches, on one": [1],
        "batches, on eight": [8],
        "batches, of eight on one": [1],
    }
    assert max(distance for _, distance in predicting.values()) < 1e-6


@SLOW
def test_a_process_reads_its_share_in_each_epoch_by_the_same_thread():
    assert found("predicting", "sharing")["sharing"] == [[1] * 5, [48, 8]]
