"""Faults: values with a place and a message, and the exception that carries them."""

import dataclasses

import pytest

from fnlamp import fault as faults
from fnlamp.fault import (
    BadCell,
    BatchTooSmall,
    BufferReused,
    ChecksumMismatch,
    ClassesDiffer,
    ClusterIncomplete,
    ClusterUndefined,
    CodecFailed,
    CyclicFields,
    DeviceOutOfMemory,
    DownloadFailed,
    DtypeMismatch,
    EmptyEpoch,
    EmptySweep,
    ExtraMissing,
    Fault,
    FaultError,
    FileCorrupt,
    FileMissing,
    FileTooNew,
    FileUnwritable,
    FolderInUse,
    FormulaFailed,
    HiddenRandomness,
    Interrupted,
    ItemFailed,
    JaxStarted,
    LabelOutOfRange,
    MeetingsDiffer,
    MetricMissing,
    MissingValue,
    NoBestLane,
    NoCheckpoint,
    NodeOutOfRange,
    NoDisplay,
    NonFinite,
    NotAFilter,
    NotAnOverride,
    NotDecodable,
    NotDifferentiable,
    NotDivisible,
    NotExportable,
    NothingToSample,
    NotInside,
    NotPicklable,
    NotRereadable,
    NotStorable,
    NoWeight,
    OutOfMemory,
    PredictionMismatch,
    ProcessFailed,
    ProcessLate,
    ProcessLost,
    ProgramDiffers,
    QueryFailed,
    RecordsOutside,
    ResourceExhausted,
    ResumedElsewhere,
    RunActive,
    RunAmbiguous,
    RunExists,
    RunMissing,
    RunTooNew,
    ShapeMismatch,
    SizesMismatch,
    StateMismatch,
    StepsExceeded,
    SweepChanged,
    SweepInCluster,
    TooLarge,
    TypeMismatch,
    UnknownClass,
    UnknownColumn,
    UnknownField,
    UnknownNeed,
    UnknownOption,
    UnknownToken,
    WorkerLost,
    WriterFailed,
    WrongPlatform,
    located,
)

EVERY = [
    ShapeMismatch("[2]", "[3]", "squeeze it"),
    PredictionMismatch("logits", "probabilities"),
    DtypeMismatch("integers", "float32[3]"),
    BatchTooSmall("batch_norm", 1),
    LabelOutOfRange(12, 10, 3),
    NotDifferentiable("accuracy"),
    NotDivisible("out/bias", (10,), 0, 4, "model"),
    EmptyEpoch(),
    NoWeight(2),
    NonFinite("loss", 1, 20, None),
    UnknownField("model.hiden", "Mlp", ("hidden",), ("hidden", "rate")),
    UnknownNeed("steps", "total (a.py:3)", "epoch", ("epochs",)),
    CyclicFields(("a", "b", "a"), ("lambda b (a.py:3)", "lambda a (a.py:4)")),
    FormulaFailed("steps", "total (a.py:3)", "ValueError: no"),
    TypeMismatch("epochs", "int", "'a' (str)"),
    MissingValue("kernel", "int"),
    UnknownOption("optimizer", "adm", ("sgd", "adam"), ("adam",)),
    NotAnOverride("epochs 3", "path=value"),
    NoCheckpoint("runs/1"),
    FolderInUse("runs/1", "process 1 on a", "2026"),
    FileTooNew("a.npz", 2, 1),
    NotStorable("a set"),
    ProgramDiffers("a.npz", (("seed", "1", "2"),)),
    RunExists("runs/1", "runs/1/3.npz", 3),
    ResumedElsewhere("seed", "1", "2"),
    NotExportable("a layer that needs the number of rows", "give batch_size="),
    WrongPlatform(("cuda",), ("cpu",)),
    StateMismatch(("a/b",), ("c", "d"), ("e: expected float32[2], got float32[3]",), "give rename"),
    StepsExceeded(),
    Interrupted(),
    FileMissing("a.csv", "no such file"),
    FileCorrupt("a.idx", "2 bytes", "1"),
    FileUnwritable("a.json", "no space left"),
    UnknownToken("é", 3, 65),
    NodeOutOfRange(3, 3, 7),
    NotDecodable("bidirectional", "it reads sequences from their end"),
    NothingToSample(0, 0, "NaN"),
    BadCell("a.csv", 3, 2, "a number", "'x'"),
    NoDisplay("agg"),
    DownloadFailed("https://a.org/b.gz", "HTTP 404", "data/b.gz"),
    ChecksumMismatch("b.gz", 64 * "0", 64 * "1"),
    SizesMismatch(10, (5, 4)),
    ItemFailed(3, "ValueError: no"),
    WorkerLost(3, -9),
    ProcessLost((1, 2), "step 12", 10.4, ("at 'step 11'", "")),
    ProcessLate((2,), "step 12", 10.0, ("reading its batch",)),
    ProcessFailed(1, "FileMissing: rows.csv"),
    MeetingsDiffer(("step 12", "end", "end")),
    ClusterUndefined("the number of this process"),
    ClusterIncomplete("node1:1234", 4, 300.0, "Deadline Exceeded"),
    JaxStarted(),
    RecordsOutside(4),
    WriterFailed("lines(runs/1)", "No space left on device", 2),
    ResourceExhausted("open files", "Too many open files"),
    HiddenRandomness(3, "numpy.random"),
    NotPicklable("transform", "a lambda"),
    BufferReused("x"),
    ExtraMissing("PIL", "images"),
    NotRereadable(3, 5),
    TooLarge("a.gz", 10, 11),
    OutOfMemory("a.gz"),
    DeviceOutOfMemory("gpu:0", (("parameters", 4),), 3),
    CodecFailed("no token for x"),
    UnknownClass("val/dog", "dog", ("ant", "cat")),
    ClassesDiffer(("ant", "cat"), ("ant", "dog")),
    RunMissing("runs", "9f"),
    RunAmbiguous("runs", "9f", ("9f1", "9f2")),
    RunActive("runs/a/1", "process 1 on a"),
    RunTooNew("runs/a/1", 2, 1),
    SweepChanged("runs/a", 1, "rate", "0.1", "0.2"),
    SweepInCluster("a", 2),
    MetricMissing("los", 1, ("loss",)),
    NoBestLane("loss", {0: "failed"}),
    EmptySweep("a"),
    NotInside("runs/a/1", "/data"),
    UnknownColumn("rate", ("config.rate",)),
    NotAFilter("rate", "no comparison"),
    QueryFailed("drop", "no"),
]


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: type(fault).__name__)
def test_every_fault_is_frozen_and_says_where_it_happened(fault: Fault) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fault.where = "elsewhere"  # type: ignore[misc]
    assert fault.where == ""
    assert str(fault.inside("model")) == f"model: {fault}"
    assert type(fault)(**{**vars(fault), "where": "model"}).where == "model"


def test_the_list_above_has_every_fault() -> None:
    named = {kind for name, kind in vars(faults).items() if isinstance(kind, type) and not name.startswith("_")}
    assert {type(one) for one in EVERY} == {kind for kind in named if issubclass(kind, Fault)} - {Fault}


def test_places_nest_from_the_outside_in() -> None:
    assert ShapeMismatch("a", "b").inside("linear").inside("hidden").where == "hidden/linear"


def test_faults_are_values() -> None:
    assert ShapeMismatch("a", "b") == ShapeMismatch("a", "b") != ShapeMismatch("a", "b", where="x")
    assert len({BatchTooSmall("batch_norm", 1), BatchTooSmall("batch_norm", 1)}) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (ShapeMismatch("[2]", "[3]", "squeeze it"), "expected [2], got [3]; squeeze it"),
        (ShapeMismatch("[2]", "[3]", where="out"), "out: expected [2], got [3]"),
        (LabelOutOfRange(12, 10, 3), "expected labels from 0 to 9, got 12 in row 3; relabel the classes, "),
        (EmptyEpoch(), "expected at least one batch per epoch, got a stream that ends at once"),
        (EmptyEpoch(7, 10, True), "7 rows in batches of 10 with drop_last; lower batch_size or keep the last batch"),
        (EmptyEpoch(0, 1000), "0 rows in batches of 1,000; the data set has no rows"),
        (NonFinite("loss", 1, 2000, None), "the loss became infinite or not a number in epoch 1 at step 2,000"),
        (Interrupted(), "interrupted"),
        (Interrupted(5), "interrupted; the last good state is in .state"),
        (BadCell("a.csv", 3, None, "4 cells", "5"), "a.csv, row 3: expected 4 cells, got 5"),
        (BadCell("a.csv", 3, "age", "a number", "'x'"), "a.csv, row 3, column age: expected a number, got 'x'"),
    ],
)
def test_messages_say_what_was_expected_and_what_they_got(fault: Fault, message: str) -> None:
    assert message in str(fault)


def test_the_state_of_a_fault_is_not_compared_and_not_printed_in_full() -> None:
    assert NonFinite("loss", 0, 1, object()) == NonFinite("loss", 0, 1, object()) != NonFinite("loss", 0, 2, None)
    assert NonFinite("loss", 0, 1, None) != NonFinite("update", 0, 1, None)
    assert Interrupted(object()) == Interrupted() != Interrupted(where="epochs")
    assert repr(NonFinite("loss", 0, 1, object())) == "NonFinite(loss, epoch=0, step=1)"
    assert repr(Interrupted()) == "Interrupted()"


def test_located_prefixes_the_place_and_keeps_the_cause() -> None:
    cause = KeyError("first")
    with pytest.raises(FaultError) as caught, located("outer"), located("inner"):
        raise FaultError(ShapeMismatch("a", "b", where="linear")) from cause
    assert caught.value.fault == ShapeMismatch("a", "b", where="outer/inner/linear")
    assert caught.value.__cause__ is cause
    assert str(caught.value) == "ShapeMismatch: outer/inner/linear: expected a, got b"


def test_located_lets_other_exceptions_through() -> None:
    with pytest.raises(KeyError, match="mine"), located("outer"):
        raise KeyError("mine")
