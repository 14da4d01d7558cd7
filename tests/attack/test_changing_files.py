"""Files that change while they are read, and pipes and devices: read correctly, or a typed fault at once."""

from __future__ import annotations

import gzip
import os
import pickle
import signal
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
from outcomes import fault
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.data.readers import csv
from fnlamp.fault import FileCorrupt, FileMissing

arrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

READERS = {
    "idx": data.read_idx,
    "csv": data.read_csv,
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
    "table": lambda path: data.image_table(path, "."),
    "folder": data.image_folder,
}


@pytest.fixture(autouse=True)
def at_once():
    """End a test of this file that takes half a minute, as it hangs."""

    def late(number, frame):
        raise AssertionError("it took 30 seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------- anything but a file


def no_file(kind, folder):
    path = folder / "it"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo(folder / "pipe")
            path.symlink_to("pipe")
        case "socket":
            here = os.getcwd()
            os.chdir(folder)  # their names are short
            try:
                with socket.socket(socket.AF_UNIX) as one:
                    one.bind("it")
            finally:
                os.chdir(here)
        case "folder":
            path.mkdir()
        case "zeros":
            path = "/dev/zero"
        case "terminal":
            path = "/dev/tty"
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "link to a link to a device":
            (folder / "other").symlink_to("/dev/urandom")
            path.symlink_to("other")
        case "link to itself":
            path.symlink_to("it")
        case "link to nothing":
            path.symlink_to("nothing")
        case "open pipe":
            end, other = os.pipe()
            os.close(other)
            path = f"/dev/fd/{end}"
    return path


KINDS = ["pipe", "link to a pipe", "socket", "folder", "zeros", "terminal", "link to a device", "link to a link to a device"]
KINDS += ["link to itself", "link to nothing", "open pipe"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_anything_but_a_file_is_a_fault_at_once(tmp_path, kind, name):
    path, started = no_file(kind, tmp_path), time.monotonic()
    found = fault(READERS[name](path))
    assert isinstance(found, FileMissing) and str(path) in str(found), found
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "link to a device", "link to a link to a device"])
def test_anything_but_a_file_among_images_is_a_fault(tmp_path, kind):
    (tmp_path / "cat").mkdir()
    no_file(kind, tmp_path / "cat").rename(tmp_path / "cat" / "a.png")
    images = unsafe_perform_io(data.image_folder(tmp_path).run().unwrap())
    with pytest.raises(Exception, match="not a file"):
        images[len(images) - 1]


def test_folders_nested_1200_deep(tmp_path):
    (tmp_path / "cat").mkdir()
    here = os.getcwd()
    try:
        os.chdir(tmp_path / "cat")
        for _ in range(1200):
            os.mkdir("deep-down")
            os.chdir("deep-down")
    finally:
        os.chdir(here)
    found = fault(data.image_folder(tmp_path))
    assert isinstance(found, FileMissing) and len(str(found)) < 20_000
    remove(tmp_path / "cat", 1200)


def remove(folder, depth):
    """Remove folders nested too deeply for `shutil.rmtree`, which is recursive."""
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(depth):
        os.chdir("deep-down")
    for _ in range(depth):
        os.chdir("..")
        os.rmdir("deep-down")
    os.chdir(here)


# ------------------------------------------------------------------------------- what changes


ROWS = 40_000
NUMBERS = np.random.default_rng(0).random((ROWS, 8))


def written(form, path):
    columns = arrow.table({str(i): NUMBERS[:, i] for i in range(8)})
    match form:
        case "parquet":
            parquet.write_table(columns, path, row_group_size=5_000)
        case "arrow":
            feather.write_feather(columns, str(path), compression="uncompressed")
        case "arrow, packed":
            feather.write_feather(columns, str(path), compression="lz4")
        case "npy":
            with path.open("wb") as file:
                np.save(file, NUMBERS)
        case "npz":
            with path.open("wb") as file:
                np.savez(file, a=NUMBERS)
        case "pickle":
            path.write_bytes(pickle.dumps(NUMBERS))
        case "csv":
            path.write_text("a,b\n" + "0.25,1.5\n" * 400_000)
        case "csv, packed":
            path.write_bytes(gzip.compress(b"a,b\n" + b"0.25,1.5\n" * 100_000, 1))
        case "safetensors":
            import safetensors.numpy

            safetensors.numpy.save_file({"a": NUMBERS}, path)
        case "torch":
            with zipfile.ZipFile(path, "w") as archive:
                storage = f"(Vstorage\nctorch\nDoubleStorage\nV0\nVcpu\nI{NUMBERS.size}\ntQ"
                tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n(I{NUMBERS.size}\nt(I1\ntNNtR."
                archive.writestr("a/data.pkl", tensor)
                archive.writestr("a/data/0", NUMBERS.tobytes())
        case "text":
            path.write_text("abc " * 10**6)
        case "idx":
            path.write_bytes(b"\0\0\x0e\2" + ROWS.to_bytes(4, "big") + (8).to_bytes(4, "big") + NUMBERS.astype(">f8").tobytes())
        case "image":
            import PIL.Image

            PIL.Image.fromarray((NUMBERS.reshape(400, 800) * 255).astype(np.uint8)).save(path, "TIFF")


FORMS = {
    **{form: READERS[form.partition(",")[0]] for form in ("parquet", "arrow", "arrow, packed", "npy", "npz", "pickle", "csv")},
    **{form: READERS[form.partition(",")[0]] for form in ("csv, packed", "safetensors", "torch", "text", "idx", "image")},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_cut_while_it_is_read_kills_nothing(tmp_path, form):
    """The file is emptied, or halved, at twelve moments of its reading; a mapped file would end the process with SIGBUS."""
    path = tmp_path / "file"
    written(form, path)
    whole = path.read_bytes()
    started = time.monotonic()
    assert is_successful(FORMS[form](path).run())
    took = time.monotonic() - started
    for moment in range(12):
        path.write_bytes(whole)
        timer = threading.Timer(took * moment / 12, os.truncate, (path, 0 if moment % 2 else len(whole) // 2))
        timer.start()
        outcome = FORMS[form](path).run()
        timer.join()
        assert is_successful(outcome) or isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt | FileMissing), outcome


@pytest.mark.parametrize("change", ["cut", "cut in a number", "longer", "other numbers"])
def test_a_cut_text_is_not_read_as_a_whole_one(tmp_path, monkeypatch, change):
    path = tmp_path / "a.csv"
    written("csv", path)
    lines = csv.read_table

    def changing(*arguments):
        for number, line in enumerate(lines(*arguments)):
            if number == 2:
                with path.open("r+b") as file:
                    match change:
                        case "cut":
                            file.truncate(4 + 9 * 200_000)
                        case "cut in a number":
                            file.truncate(4 + 9 * 200_000 - 2)  # 0.25,1. and no line feed
                        case "longer":
                            file.seek(0, os.SEEK_END)
                            file.write(b"1,2\n3,4")
                        case "other numbers":
                            file.seek(-9, os.SEEK_END)
                            file.write(b"9.75,9.5\n")
            yield line

    monkeypatch.setattr("fnlamp.data.readers.csv.read_table", changing)
    found = fault(data.read_csv(path))
    assert isinstance(found, FileCorrupt) and "does not change while" in str(found)


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrow, packed"])
def test_a_table_that_was_read_does_not_need_its_file(tmp_path, form):
    path = tmp_path / "file"
    written(form, path)
    table = unsafe_perform_io(FORMS[form](path).run().unwrap())
    os.truncate(path, 0)
    np.testing.assert_array_equal(table.features, NUMBERS.astype(np.float32))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "where", ["fnlamp.data.readers.arrow._chosen", "fnlamp.data.readers.arrow._width", "fnlamp.data.readers.arrow._table"]
)
def test_cut_between_any_two_steps_of_pyarrow(tmp_path, monkeypatch, form, where):
    path = tmp_path / "file"
    written(form, path)
    module, name = where.rsplit(".", 1)
    step = getattr(__import__(module, fromlist=[name]), name)

    def cutting(*arguments):
        os.truncate(path, 10)
        return step(*arguments)

    monkeypatch.setattr(where, cutting)
    outcome = FORMS[form](path).run()
    if not is_successful(outcome):
        assert "does not change while" in str(unsafe_perform_io(outcome.failure()))


def test_a_file_that_grows_is_read_as_it_was_or_refused(tmp_path):
    for form in ("parquet", "npy", "npz", "idx", "safetensors", "torch"):
        path = tmp_path / form
        written(form, path)
        end = threading.Event()

        def grow(path=path, end=end):
            with path.open("ab") as file:
                while not end.wait(0.001):
                    file.write(bytes(100))
                    file.flush()

        thread = threading.Thread(target=grow)
        thread.start()
        outcome = FORMS[form](path).run()
        end.set()
        thread.join()
        assert is_successful(outcome) or isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt)


def test_a_file_that_is_replaced_is_read_as_the_one_that_was_opened(tmp_path):
    first, second = tmp_path / "first.npy", tmp_path / "second.npy"
    np.save(first, np.zeros((1000, 1000)))
    for _ in range(5):
        np.save(second, np.ones((1000, 1000)))
        timer = threading.Timer(0.002, os.replace, (second, first))
        timer.start()
        found = unsafe_perform_io(data.read_npy(first).run().unwrap())
        timer.join()
        assert found.min() == found.max()
        np.save(first, np.zeros((1000, 1000)))
