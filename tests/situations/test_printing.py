"""Faults can always be printed, whatever the name and the contents of a file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import fields

import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, fault
from fnlamp.data import ImageFiles

ODD = ["caf\udce9", "\ud800", "a\x1b[31mred", "bell\x07", "line\rreturn", "null\x00", "c1\x9b"]


def kinds():
    return [kind for kind in vars(fault).values() if isinstance(kind, type) and issubclass(kind, fault.Fault)]


def printable(text):
    text.encode("utf-8")
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in text), repr(text)


@pytest.mark.parametrize("odd", ODD)
def test_every_fault_can_be_printed(odd):
    made = 0
    for kind in kinds():
        given = {}
        for field in fields(kind):
            if field.name == "where" or "str" in str(field.type):
                given[field.name] = (odd,) if "tuple" in str(field.type) else odd
            elif "float" in str(field.type) or "int" in str(field.type):
                given[field.name] = (1,) if "tuple" in str(field.type) else 1
            else:
                given[field.name] = None
        if kind.__name__ == "ClassesDiffer":
            given["validation"] = (odd, odd)
        if kind is fault.ProgramDiffers:
            given["differing"] = ((odd, odd, odd),)
        if kind is fault.DeviceOutOfMemory:
            given["plan"] = ((odd, 1),)
        if kind is fault.Fault:
            continue
        if kind is fault.NonFinite:
            given["what"] = "loss"  # always a word of fnlamp
        found = kind(**given)
        try:
            str(found)
        except (TypeError, AttributeError):  # a field of a type without an example here
            continue
        for text in (str(found), repr(found), str(fault.FaultError(found)), str(found.inside(odd))):
            printable(text)
        made += 1
    assert made > 15


READERS = {
    "csv": data.read_csv,
    "idx": data.read_idx,
    "npy": data.read_npy,
    "npz": data.read_npz,
    "map": data.map_npy,
    "pickle": data.read_pickle,
    "safetensors": data.read_safetensors,
    "torch": data.read_torch,
    "parquet": data.read_parquet,
    "arrow": data.read_arrow,
    "text": data.read_text,
    "codec": data.read_codec,
    "image": data.read_image,
    "folder": data.image_folder,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_whose_name_is_not_utf8(tmp_path, name, capsys):
    path = os.path.join(tmp_path, "caf\udce9")
    for contents in (None, b"\xffnothing of the kind\n"):
        if contents is not None:
            try:
                with open(path, "wb") as file:
                    file.write(contents)
            except OSError:
                pytest.skip("this file system takes only UTF-8")
        outcome = READERS[name](path).run()
        assert not is_successful(outcome)
        print(outcome, unsafe_perform_io(outcome.failure()))
        printable(str(outcome))
        assert "caf\\udce9" in str(outcome)


@pytest.mark.parametrize("named", ["\ud800", "a\udcffb", "x\x1b[2J"])
def test_a_pickle_that_names_what_cannot_be_printed(tmp_path, named):
    raw = named.encode("utf-8", "surrogatepass")
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"\x80\x04\x8c" + bytes([len(raw)]) + raw + b"\x8c\x01f\x93.")
    printable(str(unsafe_perform_io(data.read_pickle(path).run().failure())))
    path.write_bytes(pickle.dumps({named: print}))
    printable(str(unsafe_perform_io(data.read_pickle(path).run().failure())))


def test_tables_whose_cells_would_move_the_cursor(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a\x1b[2Jb,c\n1,\x1b]0;title\x07\n")
    printable(str(unsafe_perform_io(data.read_csv(tmp_path / "t.csv").run().failure())))


def test_a_data_set_can_be_printed(tmp_path):
    images = ImageFiles(str(tmp_path) + "/caf\udce9", [], [], ("a",))
    printable(repr(images))


@pytest.mark.slow
def test_faults_print_in_a_separate_process(tmp_path):
    script = "import os; from fnlamp.data import read_csv; print(read_csv(os.fsdecode(b'caf\\xe9')).run())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9" in done.stdout
