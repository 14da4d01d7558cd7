"""A config as a command line: override, then compute, there too."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum

import pytest
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from returns.unsafe import unsafe_perform_io

from fnlamp.config import cli, computed, group, options
from fnlamp.config.flags import helps
from fnlamp.effect import Runtime
from fnlamp.fault import (
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileMissing,
    NotAnOverride,
    TypeMismatch,
    UnknownField,
    UnknownOption,
)

pytest.importorskip("tyro", reason="tyro is not installed; it comes with fnlamp[cli]")

QUIET = Runtime(log=None)
RAN: list[str] = []


class Device(Enum):
    CPU = 1
    GPU = 2


@group
class Mlp:
    """Layers of matrices."""

    hidden: tuple[int, ...] = (64, 32)
    """The widths of the hidden layers."""
    drop_rate: float = 0.1


@group
class DeepCnn:
    """Convolutions."""

    kernel: int = 5
    size: int = computed(lambda kernel: 28 - kernel)
    """The size of the image after the first layer."""


@group
class Sgd:
    learning_rate: float = 0.1


@group
class Adam:
    learning_rate: float = computed(lambda batch_size: batch_size / 1000)
    b1: float = 0.9


@group
class Loader:
    batch_size: int = 64
    """Rows per step."""
    rows: int = 60_000
    batches: int = computed(lambda rows, batch_size: RAN.append("batches") or -(-rows // batch_size))


@group
class Program(Loader):
    """Train a classifier."""

    epochs: int = 10
    steps: int = computed(lambda epochs, batches: epochs * batches)
    """Steps of the run."""
    use_cuda: bool = True
    device: Device = Device.CPU
    note: str | None = None
    model: Mlp | DeepCnn = Mlp()
    optimizer: Sgd | Adam = Sgd()
    act: str = options({"relu": "max(x, 0)", "gelu": "x P(x)"}, default="relu")
    stop: Mlp | None = None
    size: Mlp = options({"small": Mlp(hidden=(8,)), "large": Mlp(hidden=(512,))}, default="small")
    blocks: tuple[Mlp, ...] = (Mlp(), Mlp(drop_rate=0.5))


def short(program: Program) -> Program:
    return replace(program, epochs=1, rows=640)


def ran(*words, of=Program):
    return cli(of, presets={"short": short}, arguments=words).run(QUIET)


def resolved(*words, of=Program):
    result = ran(*words, of=of)
    assert isinstance(result, IOSuccess), result
    return unsafe_perform_io(result.unwrap())


def chosen(*words, of=Program):
    return resolved(*words, of=of).hyperparameters


def test_without_arguments_all_are_defaults():
    assert chosen() == {} and resolved().config.steps == 9_380


def test_computed_fields_follow_flags():
    assert resolved("--batch-size", "100").config.steps == 6_000
    assert resolved("--batches", "3").config.steps == 30
    assert resolved("optimizer:adam", "--batch-size", "100").config.optimizer == Adam(learning_rate=0.1, b1=0.9)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--epochs 3", {"epochs": 3}),
        ("--epochs=3", {"epochs": 3}),
        ("--batch_size 3", {"batch_size": 3}),
        ("--epochs 3 --epochs 0", {"epochs": 0}),
        ("--epochs 10", {"epochs": 10}),
        ("--steps -4", {"steps": -4}),
        ("--use-cuda false", {"use_cuda": False}),
        ("--use-cuda", {"use_cuda": True}),
        ("--device gpu", {"device": Device.GPU}),
        ("--note none", {"note": None}),
        ("--note=", {"note": ""}),
        ("--note=--x", {"note": "--x"}),
        ("--act gelu", {"act": "gelu"}),
        ("--model.hidden 3 4", {"model.hidden": (3, 4)}),
        ("--model.hidden 3,4", {"model.hidden": (3, 4)}),
        ("--model.hidden", {"model.hidden": ()}),
        ("--model.hidden 3 --epochs 2", {"epochs": 2, "model.hidden": (3,)}),
        ("--blocks.1.drop-rate 0", {"blocks.1.drop_rate": 0.0}),
        ("--size large --size.drop-rate 0", {"size.hidden": (512,), "size.drop_rate": 0.0}),
        ("--stop.hidden 3", {"stop": "mlp", "stop.hidden": (3,)}),
        ("stop:mlp", {"stop": "mlp"}),
    ],
)
def test_a_flag_is_parsed_by_the_type_of_its_field(words, expected):
    assert chosen(*words.split()) == expected


@pytest.mark.parametrize(
    "words",
    [
        "model:deep-cnn optimizer:adam --model.kernel 3 --optimizer.b1 0.5 --epochs 2",
        "optimizer:adam model:deep-cnn --epochs 2 --model.kernel 3 --optimizer.b1 0.5",
        "--epochs 2 optimizer:adam --optimizer.b1 0.5 model:deep_cnn --model.kernel 3",
        "optimizer:adam --epochs 2 --optimizer.b1=0.5 model:deep-cnn --model.kernel=3",
    ],
)
def test_options_are_subcommands_in_any_order(words):
    found = resolved(*words.split())
    assert found.hyperparameters == {
        "epochs": 2,
        "model": "deep_cnn",
        "model.kernel": 3,
        "optimizer": "adam",
        "optimizer.b1": 0.5,
    }
    assert found.config.model.size == 25 and found.config.optimizer.learning_rate == 0.064


def test_one_option_is_enough_and_its_defaults_stay():
    assert resolved("optimizer:adam").config == replace(resolved().config, optimizer=Adam(learning_rate=0.064, b1=0.9))


def test_flags_override_the_file_and_the_file_overrides_presets(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('epochs = 4\nnote = "file"\n[model.deep_cnn]\nkernel = 3\n[optimizer]\nlearning_rate = 1\n')
    found = resolved("--note", "flag", "--config", str(file), "--preset", "short", "--model.kernel=7")
    assert found.hyperparameters == {
        "rows": 640,
        "epochs": 4,
        "note": "flag",
        "model": "deep_cnn",
        "model.kernel": 7,
        "optimizer.learning_rate": 1.0,
    }
    assert found.config.steps == 40 and found.config.model.size == 21
    origins = {path: setting.origin for path, setting in found.settings.items() if setting.origin}
    assert origins == {
        "rows": "the preset short",
        "epochs": str(file),
        "note": "the command line",
        "model": str(file),
        "model.kernel": "the command line",
        "optimizer.learning_rate": str(file),
    }
    assert chosen(f"--config={file}", "model:mlp", "--model.hidden", "1")["model"] == "mlp"


def test_several_files_are_applied_in_order(tmp_path):
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("epochs = 1\nrows = 2\n")
    other.write_text("epochs = 3\n")
    assert chosen("--config", str(one), "--config", str(other)) == {"epochs": 3, "rows": 2}


def test_an_object_gives_the_defaults():
    start = Program(epochs=3, stop=None, size=Mlp())
    assert resolved("--rows", "64", of=start).config.steps == 3


def failure(*words, of=Program):
    result = ran(*words, of=of)
    assert isinstance(result, IOFailure), result
    return unsafe_perform_io(result.failure())


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ("--epocs 3", UnknownField, "epocs: expected a field of Program, got none of that name; near names: epochs"),
        ("--model.hiden 3", UnknownField, "model.hiden: expected a field of Mlp, got none of that name; near names: hidden"),
        ("--model.kernel 3", UnknownField, "kernel is a field of the option deep_cnn of model: choose that first"),
        ("model:deep-cnn --model.hidden 3", UnknownField, "hidden is a field of the option mlp of model: choose that first"),
        ("model:cnn", UnknownOption, "model: expected one of mlp, deep_cnn, got 'cnn'"),
        ("modle:mlp", UnknownField, "modle: expected a field of Program, got none of that name; near names: model"),
        ("model:mlp model:deep-cnn", NotAnOverride, "expected one option of model, got 'model:deep-cnn'"),
        ("--epochs", TypeMismatch, "epochs: expected int, got no value"),
        ("--epochs 3 4", TypeMismatch, "epochs: expected int, got '3 4' (text)"),
        ("--epochs 3.5", TypeMismatch, "epochs: expected int, got '3.5' (text)"),
        ("--act gel", UnknownOption, "act: expected one of relu, gelu, got 'gel'; near names: gelu"),
        ("--device tpu", UnknownOption, "device: expected one of CPU, GPU, got 'tpu'"),
        ("epochs=3", NotAnOverride, "expected --field value, or an option as in model:cnn, got 'epochs=3'"),
        ("-e 3", NotAnOverride, "got '-e'"),
        ("--config", NotAnOverride, "expected --config FILE, got '--config'"),
        ("--preset shrt", UnknownOption, "--preset: expected one of short, got 'shrt'; near names: short"),
        ("--config missing.toml", FileMissing, "missing.toml: cannot be read"),
    ],
)
def test_a_wrong_argument_is_a_fault_that_says_which(words, kind, message, capfd):
    fault = failure(*words.split())
    assert type(fault) is kind and message in str(fault)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_file_is_a_fault_that_names_it_and_the_field(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = \n")
    assert isinstance(failure("--config", str(file)), FileCorrupt)
    file.write_bytes(b"\xff\xfe")
    assert isinstance(failure("--config", str(file)), FileCorrupt)
    for text, message in [
        ("epocs = 3", f"{file}: epocs: expected a field of Program, got none of that name; near names: epochs"),
        ("epochs = '3'", f"{file}: epochs: expected int, got '3' (str)"),
        ("[model]\nkernel = 3", f"{file}: model.kernel: expected a field of Mlp"),
        ("act = 'gel'", f"{file}: act: expected one of relu, gelu, got 'gel'"),
    ]:
        file.write_text(text)
        assert str(failure("--config", str(file))).startswith(message)
    assert isinstance(failure("--config", str(tmp_path)), FileMissing)


def test_help_has_every_field_with_its_text_and_computes_nothing(capsys):
    RAN.clear()
    with pytest.raises(SystemExit) as ended:
        ran("--help")
    assert ended.value.code == 0 and RAN == []
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in [
        "Train a classifier.",
        "--batch-size INT Rows per step. (default: 64)",
        "--steps INT Steps of the run. (computed from epochs, batches)",
        "--model.hidden [INT [INT ...]] The widths of the hidden layers. (default: 64 32)",
        "--use-cuda {true,false} (default: true)",
        "--device {CPU,GPU} (default: CPU)",
        "--act {relu,gelu} (default: relu)",
        "--note STR|NONE (default: none)",
        "model:deep-cnn Convolutions.",
        "--config FILE a TOML file of overrides",
        "--preset {short}",
        "--show",
    ]:
        assert text in told, text


def test_help_of_an_option_has_its_fields(capsys):
    with pytest.raises(SystemExit):
        ran("model:deep-cnn", "--help")
    assert "The size of the image after the first layer." in capsys.readouterr().out


def test_show_prints_all_values_with_their_provenance_and_ends(capsys):
    with pytest.raises(SystemExit) as ended:
        ran("--show", "--rows", "128")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(resolved().settings)
    assert [" ".join(line.split()) for line in lines[:5]] == [
        "batch_size 64 default",
        "rows 128 overridden by the command line",
        "batches 2 computed from rows, batch_size",
        "epochs 10 default",
        "steps 20 computed from epochs, batches",
    ]
    assert isinstance(failure("--show", "--rows", "x"), TypeMismatch)


def test_building_reads_no_arguments_and_running_reads_those_of_the_process(monkeypatch):
    program = cli(Program)
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "2"])
    assert program.map(lambda found: found.config.epochs).run(QUIET) == IOSuccess(2)


def test_required_fields_are_given_by_flags():
    @group
    class Kernels:
        kernel: int
        model: Mlp | DeepCnn

    assert str(failure("model:mlp", of=Kernels)).startswith("kernel: expected a value (int), got none")
    assert str(failure("--kernel", "3", of=Kernels)).startswith("model: expected a value (Mlp | DeepCnn), got none")
    with pytest.raises(SystemExit):
        ran("--help", of=Kernels)
    assert chosen("--kernel", "3", "model:mlp", of=Kernels) == {"kernel": 3, "model": "mlp"}


def test_fields_do_not_have_the_names_of_other_flags():
    @group
    class Shown:
        show: bool = True

    with pytest.raises(TypeError, match=r"Shown.show has the name of a flag that every command line has; rename it"):
        cli(Shown)


def test_the_extra_is_named_if_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert failure() == ExtraMissing("tyro", "cli")
    with pytest.raises(FaultError, match=r"pip install 'fnlamp\[cli\]'"):
        cli(Program, arguments=[]).run_or_raise(QUIET)


def test_texts_below_fields_are_their_help_also_those_of_a_base():
    assert helps(Program) == {"batch_size": "Rows per step.", "steps": "Steps of the run."}
    namespace = {"group": group}
    exec("@group\nclass Typed:\n    x: int = 1\n    'no file has this'", namespace)
    assert helps(namespace["Typed"]) == {}


def test_a_result_is_a_container():
    match ran("--epochs", "3"):
        case IOSuccess(Success(found)):
            assert found.config.epochs == 3
        case IOFailure(Failure(fault)):
            pytest.fail(str(fault))
