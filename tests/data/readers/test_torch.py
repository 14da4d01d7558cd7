"""The reader of PyTorch's files against PyTorch's own reader, and malicious and damaged files written by hand."""

from __future__ import annotations

import collections
import gzip
import importlib
import io
import os
import pickle
import sys
import tracemalloc
import warnings
import zipfile

import numpy as np
import outcomes
import pytest

from fnlamp.data import read_torch
from fnlamp.fault import ExtraMissing, FileCorrupt, FileMissing, TooLarge


def value(path, **options):
    return outcomes.value(read_torch(path, **options))


def fault(path, **options):
    return outcomes.fault(read_torch(path, **options))


# ------------------------------------------------------------------------------- against PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch comes with the extra parity")


def raw_of(tensor):
    """The bytes of a tensor's numbers, by PyTorch's own copy in C order."""
    import torch

    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def same(ours, theirs):
    """Equal bit by bit, in the same structure."""
    import torch

    if isinstance(theirs, torch.Tensor):
        assert str(theirs.dtype) == f"torch.{ours.dtype}" and ours.shape == tuple(theirs.shape)
        assert not ours.flags.writeable and ours.dtype.isnative
        assert ours.tobytes() == raw_of(theirs)
    elif isinstance(theirs, dict):
        assert type(ours) is dict and list(ours) == list(theirs)
        same(list(ours.values()), list(theirs.values()))
    elif isinstance(theirs, list | tuple):
        assert type(ours) is (list if type(theirs) is list else tuple) and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    else:
        assert type(ours) is type(theirs) and ours == theirs


def check(torch, path, contents, **options):
    torch.save(contents, path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another protocol than 2; its restricted reader refuses 4 and 5
        theirs = torch.load(path, weights_only=options.get("pickle_protocol", 2) < 4)
    same(value(path), theirs)


KINDS = [
    *(
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
        "complex64",
        "complex128",
    ),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_and_view_is_as_pytorch_loads_it(torch, tmp_path, kind):
    torch.manual_seed(0)
    kind = getattr(torch, kind)
    numbers = torch.arange(24).to(torch.float32)
    if kind == torch.bool:
        numbers = numbers % 2
    if kind.is_complex:
        numbers = torch.complex(numbers, -numbers)
    whole = numbers.to(kind).reshape(2, 3, 4)
    views = {
        "whole": whole,
        "transposed": whole.permute(2, 0, 1),
        "strided": whole[:, ::2, 1::2],
        "scalar": whole[1, 2, 3],
        "expanded": whole[:, :1].expand(2, 5, 4),
        "none": whole[:, 3:],
        "empty": torch.empty(0, 7, dtype=kind),
        "one": torch.ones(1, 1, dtype=kind).as_strided((1, 1), (2**40, 3)),
        "again": whole,
    }
    check(torch, tmp_path / "a.pt", views)
    found = value(tmp_path / "a.pt")
    assert found["whole"] is found["again"] and np.shares_memory(found["whole"], found["strided"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_is_as_pytorch_loads_it(torch, tmp_path, protocol):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.LSTM(4, 5, bidirectional=True), torch.nn.Embedding(7, 4)
    )
    contents = {
        "model": net.state_dict(),
        "optimizer": {  # as AdamW's
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.rand(4, 3, 3, 3).transpose(0, 1)}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1]}],
        },
        "parameters": list(net.parameters()),
        "epoch": 3,
        "best": (0.5, None, True, "text", net[0].weight.shape),
        "large": [10**30, -1, 2.5e-300],
    }
    check(torch, tmp_path / "a.pt", contents, pickle_protocol=protocol)


def test_parameters_with_attributes_and_arrays_of_numpy(torch, tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.group = "head"
    torch.save({"weight": weight, "array": np.arange(3.0), "score": np.float32(2)}, tmp_path / "a.pt")
    found = value(tmp_path / "a.pt")
    assert found["weight"].tolist() == [1, 1] and found["array"].tolist() == [0, 1, 2] and found["score"] == np.float32(2)


def repacked(path, change, method=zipfile.ZIP_STORED):
    """The archive with each member's bytes changed."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in members:
            archive.writestr(name, change(name.partition("/")[2], raw))


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "int16", "complex64", "bool", "uint32"])
def test_numbers_of_a_big_endian_machine(torch, tmp_path, kind):
    tensor = torch.arange(6).to(torch.float32).to(getattr(torch, kind)).reshape(2, 3)
    torch.save(tensor, tmp_path / "a.pt")
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)

    def swapped(name, raw):
        if name == "byteorder":
            return b"big"
        return np.frombuffer(raw, f"u{width}").byteswap().tobytes() if name.startswith("data/") else raw

    repacked(tmp_path / "a.pt", swapped)
    same(value(tmp_path / "a.pt"), tensor)
    if kind != "uint32":  # PyTorch swaps storages by their class, which this one lacks
        same(value(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True))


def whole_model(torch):
    return torch.nn.Linear(2, 3)


def quantized(torch):
    return torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)


def marked(torch):
    tensor = torch.ones(2)
    tensor.mark = 1
    return tensor


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (whole_model, "torch.nn.modules.linear.Linear"),
        (quantized, "_rebuild_qtensor"),
        (lambda torch: torch.ones(2).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda torch: torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda torch: torch.ones(2, dtype=torch.complex64).conj(), "conj"),
        (lambda torch: torch.ones(2, dtype=torch.complex64).conj().imag, "neg"),
        (lambda torch: {"dtype": torch.float32}, "torch.float32"),
        (lambda torch: {"dtype": torch.uint16}, "torch.uint16 by itself"),
        (lambda torch: torch.ones(2).untyped_storage(), "a storage by itself"),
        (lambda torch: torch.device("cpu"), "torch.device"),
        (marked, "torch._tensor._rebuild_from_type_v2"),
        (lambda torch: collections.Counter("ab"), "collections.Counter"),
    ],
)
def test_other_objects_are_named(torch, tmp_path, make, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(make(torch), tmp_path / "a.pt")
    found = fault(tmp_path / "a.pt")
    assert isinstance(found, FileCorrupt) and names in str(found) and "state_dict()" in str(found)


def test_older_files_and_torchscript_say_what_to_do(torch, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "an earlier PyTorch" in str(fault(tmp_path / "old.pt")) and "save it again" in str(fault(tmp_path / "old.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "script.pt")
    assert "torch.jit.load" in str(fault(tmp_path / "script.pt"))


# ------------------------------------------------------------------------------- files written by hand


def literal(x):
    return pickle.dumps(x, 2)[2:-1]


def tensor(offset=0, shape=(2, 3), strides=(3, 1), key="0", size=6, storage="FloatStorage", last=b"\x89N"):
    """The opcodes of a tensor in a storage of `size` numbers."""
    outside = (
        b"(" + literal("storage") + f"ctorch\n{storage}\n".encode() + literal(key) + literal("cpu") + literal(size) + b"tQ"
    )
    numbers = literal(offset) + literal(shape) + literal(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + outside + numbers + last + b"tR"


SIX = np.arange(6, dtype="<f4").tobytes()


def file(opcodes, *members, method=zipfile.ZIP_STORED, root="a"):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name twice
        for name, contents in [("data.pkl", b"\x80\x02" + opcodes + b"."), *members]:
            archive.writestr(f"{root}/{name}" if root else name, contents)
    return raw.getvalue()


def test_a_tensor_written_by_hand(tmp_path):
    (tmp_path / "a").write_bytes(file(tensor(1, (2, 2), (1, 3)), ("data/0", SIX)))
    assert value(tmp_path / "a").tolist() == [[1, 4], [2, 5]]


GOOD = ("data/0", SIX)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "an empty file"),
        (b"label,pixel\n", "6c 61 62 65"),
        (b"PK\3\4", "zip"),
        (file(tensor(), GOOD)[:-30], "zip"),
        (file(tensor(), GOOD)[100:], "torch.save of PyTorch 1.6"),
        (gzip.compress(file(tensor(), GOOD), mtime=0), "zip"),
        (file(b"cos\nsystem\n" + literal(("touch pwned",)) + b"R", GOOD), "os.system"),
        (file(b"\x8c\x02os\x8c\x06system\x93" + literal(("touch pwned",)) + b"R", GOOD), "os.system"),
        (file(b"ios\nsystem\n", GOOD), "INST of os.system"),
        (file(b"ctorch\nFloatStorage\n" + literal((3,)) + b"R"), "does not take"),
        (file(b"ctorch.hub\nload\n" + literal(("a/b", "c")) + b"R"), "torch.hub.load"),
        (file(tensor(storage="QInt8Storage"), GOOD), "torch.QInt8Storage"),
        (file(tensor(key="../../etc/passwd"), GOOD), "a storage of 24 bytes, got none"),
        (file(tensor(key="1"), GOOD), "a storage of 24 bytes, got none"),
        (file(tensor(), GOOD, root=".."), "inside one folder"),
        (file(tensor(), GOOD, ("../b", b"")), "inside one folder"),
        (file(tensor(), GOOD, ("data//1", b"")), "inside one folder"),
        (file(tensor(), GOOD, root=""), "inside one folder"),
        (file(tensor(), GOOD, root="/etc"), "inside one folder"),
        (file(tensor(), GOOD, GOOD), "every member once"),
        (file(tensor(), GOOD, ("data.pkl", b"N.")), "every member once"),
        (file(tensor(), GOOD, method=zipfile.ZIP_DEFLATED), "stored"),
        (file(tensor(), ("data/0", SIX[:-1])), "a storage of 24 bytes, got 23 bytes"),
        (file(tensor(), ("data/0", SIX + bytes(4))), "a storage of 24 bytes, got 28 bytes"),
        (file(tensor(size=-6), GOOD), "a storage without"),
        (file(tensor(size=2**60), GOOD), "a storage without"),
        (file(tensor(size=2**59), GOOD), "a storage of 2,305,843,009,213,693,952 bytes, got 24 bytes"),
        (file(tensor(offset=1), GOOD), "a tensor of 7 numbers in a storage of 6"),
        (file(tensor(offset=-1), GOOD), "strides or an offset"),
        (file(tensor(offset=2**70), GOOD), "a tensor of 1,180"),
        (file(tensor(strides=(-3, 1)), GOOD), "strides or an offset"),
        (file(tensor(strides=(3,)), GOOD), "strides or an offset"),
        (file(tensor(strides=(3, 1.0)), GOOD), "strides or an offset"),
        (file(tensor(strides=(2**62, 1)), GOOD), "in a storage of 6"),
        (file(tensor(shape=(2**40, 3)), GOOD), "in a storage of 6"),
        (file(tensor(shape=(2, -3)), GOOD), "a shape"),
        (file(tensor(shape=(2**62, 2**62), strides=(0, 0)), GOOD), "lengths"),
        (file(tensor(shape=(0, 2**62, 8), strides=(0, 0, 0)), GOOD), "lengths"),
        (file(tensor(shape=(1,) * 65, strides=(1,) * 65), GOOD), "a shape"),
        (file(b"(" + tensor() + tensor(storage="IntStorage") + b"t", GOOD), "numbers of one dtype"),
        (file(tensor(size=2, storage="BoolStorage", shape=(2,), strides=(1,)), ("data/0", b"\1\2")), "booleans"),
        (file(tensor(), GOOD, ("byteorder", b"middle")), "the byte order"),
        (file(tensor(), GOOD, ("version", b"11\n")), "version 10 or earlier"),
        (file(tensor(), GOOD, ("constants.pkl", b"")), "TorchScript"),
        (file(b"N").replace(b"data.pkl", b"data.txt"), "a data.pkl"),
        (file(literal("storage") + b"Q"), "a storage without"),
        (file(b"]\x94]\x94b"), "a state"),
        (file(b"Q"), "operands"),
        (file(b"]" + literal({"_metadata": 1}) + b"b"), "a state"),
        (file(b"N" + tensor(), GOOD), "left over"),
    ],
)  # fmt: skip
def test_a_malicious_or_damaged_file_is_a_fault_that_says_what_it_got(tmp_path, monkeypatch, raw, says):
    (tmp_path / "damaged").write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    found = fault(tmp_path / "damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)
    assert str(tmp_path / "damaged") in str(found) and len(str(found)) < 700
    assert peak < 2_000_000 and os.listdir(tmp_path) == ["damaged"]


def test_members_that_overlap_are_refused(tmp_path):
    """Many members of the directory at one place in the file, whose sizes add up to more than the file has."""
    raw, large = io.BytesIO(), bytes(100_000)
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", large)
        for i in range(1, 50):
            member = zipfile.ZipInfo(f"a/data/{i}")
            member.header_offset, member.CRC, member.file_size, member.compress_size = 0, 0, len(large), len(large)
            archive.filelist.append(member)
    (tmp_path / "a").write_bytes(raw.getvalue())
    assert "overlap" in str(fault(tmp_path / "a"))


def test_damaged_numbers_are_found_by_their_checksum(tmp_path):
    raw = file(tensor(), GOOD)
    at = raw.index(SIX)
    (tmp_path / "a").write_bytes(raw[: at + 7] + b"\1" + raw[at + 8 :])
    assert "CRC" in str(fault(tmp_path / "a"))


def test_a_missing_file_the_limits_and_a_missing_package(tmp_path, monkeypatch):
    path = tmp_path / "a"
    assert isinstance(fault(path), FileMissing)
    path.write_bytes(file(tensor(), GOOD))
    assert value(path, limit=2_000).shape == (2, 3)
    assert isinstance(fault(path, limit=100), TooLarge)
    path.write_bytes(file(tensor(shape=(2**30, 6), strides=(0, 1)), GOOD))  # numbers repeated without end, in 24 bytes
    assert isinstance(fault(path), TooLarge)
    path.write_bytes(file(b"(" + tensor() + b"2" * 100_000 + b"t", GOOD))
    assert isinstance(fault(path, limit=10**6), TooLarge)
    path.write_bytes(file(tensor(storage="BFloat16Storage", size=12), GOOD))
    assert str(value(path).dtype) == "bfloat16"
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError):
        importlib.import_module("ml_dtypes")
    assert fault(path) == ExtraMissing("ml_dtypes", "safetensors")


def test_pytorch_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a").write_bytes(file(tensor(), GOOD))
    assert value(tmp_path / "a").tolist() == [[0, 1, 2], [3, 4, 5]]
