"""Images in files, against Pillow and literals; every damaged file is a typed fault."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import fault, value
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import image_folder, image_table, read_image
from fnlamp.fault import BadCell, FaultError, FileCorrupt, FileMissing, TooLarge

RNG = np.random.default_rng(0)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:120:24j, 40:250:36j], 77), axis=-1).astype(np.uint8)
NOISE = RNG.integers(0, 256, (24, 36, 3), np.uint8)


def encoded(pixels, format, mode=None, **options):
    file = io.BytesIO()
    image = PIL.Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(raw, name="image"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return path

    return write


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_lossless_format_gives_the_same_pixels(write, format):
    options = {"lossless": True} if format == "WEBP" else {}
    image = value(read_image(write(encoded(NOISE, format, **options))))
    np.testing.assert_array_equal(image, NOISE)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("format", ["JPEG", "GIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_format_is_decoded_as_by_pillow(write, format, mode):
    path = write(encoded(SMOOTH, format))
    image = value(read_image(path, mode=mode))
    with PIL.Image.open(path) as expected:
        np.testing.assert_array_equal(image, np.asarray(expected.convert(mode)).reshape(image.shape))


def test_grey_by_the_standards_weights(write):
    image = value(read_image(write(encoded(NOISE, "PNG")), mode="L"))
    assert image.shape == (24, 36, 1)
    assert np.abs(image[..., 0] - NOISE @ np.array([0.299, 0.587, 0.114])).max() <= 0.51  # ITU-R BT.601


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_pixels_becomes_the_mode(write, mode):
    format = {"CMYK": "JPEG", "YCbCr": "TIFF"}.get(mode, "PNG")
    path = write(encoded(SMOOTH, format, mode))
    for wanted, channels in (("L", 1), ("RGB", 3), ("RGBA", 4)):
        image = value(read_image(path, mode=wanted))
        assert image.shape == (24, 36, channels)
        with PIL.Image.open(path) as opened:
            np.testing.assert_array_equal(image, np.asarray(opened.convert(wanted)).reshape(image.shape))


def test_alpha_is_dropped_and_a_palettes_transparency_is_kept_in_rgba(write):
    clear = np.dstack([NOISE, np.zeros((24, 36), np.uint8)])
    np.testing.assert_array_equal(value(read_image(write(encoded(clear, "PNG")))), NOISE)
    palette = PIL.Image.fromarray(NOISE).quantize(8)
    for transparency in (3, bytes(range(0, 80, 10))):  # one colour, or an alpha for each
        file = io.BytesIO()
        palette.save(file, "PNG", transparency=transparency)
        image = value(read_image(write(file.getvalue()), mode="RGBA"))
        index = np.asarray(palette)
        alpha = np.where(index == 3, 0, 255) if transparency == 3 else np.frombuffer(transparency, np.uint8)[index]
        np.testing.assert_array_equal(image[..., 3], alpha)
        colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
        np.testing.assert_array_equal(image[..., :3], colours[index])
        np.testing.assert_array_equal(value(read_image(write(file.getvalue()))), colours[index])


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_upper_eight_are_taken(write, format):
    wide = RNG.integers(0, 2**16, (5, 7), np.uint16)
    image = value(read_image(write(encoded(wide, format)), mode="L"))
    np.testing.assert_array_equal(image[..., 0], wide >> 8)
    grey = value(read_image(write(encoded(wide, format))))
    np.testing.assert_array_equal(grey, np.repeat(image, 3, axis=-1))


@pytest.mark.parametrize("pixels", [np.ones((3, 3), np.float32), np.ones((3, 3), np.int32)])
def test_numbers_of_unknown_range_are_a_fault(write, pixels):
    assert "8 or 16 bits" in str(fault(read_image(write(encoded(pixels, "TIFF")))))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_rotated_by_its_exif_orientation(write, format, turn):
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if format == "WEBP" else {}
    path = write(encoded(SMOOTH, format, exif=exif, **options))
    image = value(read_image(path))
    with PIL.Image.open(path) as opened:
        expected = np.asarray(PIL.ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(image, expected)
    assert image.shape == ((24, 36, 3) if turn < 5 else (36, 24, 3))
    assert value(read_image(path, size=(8, 10))).shape == (8, 10, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's, once
def test_damaged_exif_does_not_affect_the_pixels(write):
    raw = encoded(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40)))
    np.testing.assert_array_equal(value(read_image(write(raw))), value(read_image(write(encoded(SMOOTH, "JPEG"), "b"))))


def test_an_animation_gives_its_first_frame(write):
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(np.full((4, 4), n, np.uint8)) for n in (10, 20, 30)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(value(read_image(write(file.getvalue()))), np.full((4, 4, 3), 10))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(10, 12), (24, 36), (50, 20)])
def test_resized_as_pillow_does(write, format, size):
    path = write(encoded(SMOOTH, format))
    with PIL.Image.open(path) as opened:
        expected = np.asarray(opened.resize(size[::-1], PIL.Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(value(read_image(path, size=size)), expected)


def test_a_large_jpeg_is_decoded_smaller_with_hardly_any_difference(write):
    y, x = np.mgrid[0:800, 0:1000]
    waves = 127 + 60 * np.sin(x / 31)[..., None] * np.cos(y / 17)[..., None] + RNG.normal(0, 20, (800, 1000, 3))
    path = write(encoded(waves.clip(0, 255).astype(np.uint8), "JPEG", quality=95))
    with PIL.Image.open(path) as opened:
        expected = np.asarray(opened.resize((125, 100), PIL.Image.Resampling.BILINEAR)).astype(float)
    difference = np.abs(value(read_image(path, size=(100, 125))) - expected)
    assert difference.mean() < 1 and difference.max() <= 8


@pytest.mark.parametrize(
    ("raw", "got"),
    [(b"", "an empty file"), (b"no image", "something else"), (encoded(NOISE, "PNG")[:300], "damaged"),
     (encoded(NOISE, "JPEG")[:300], "damaged"), (encoded(NOISE, "PNG").replace(b"IDAT", b"IDAX"), "damaged")],
)  # fmt: skip
def test_a_damaged_file_is_corrupt(write, raw, got):
    path = write(raw)
    found = fault(read_image(path))
    assert isinstance(found, FileCorrupt), found
    assert found.path == str(path) and got in found.actual
    assert " at 0x" not in str(found)


def test_a_missing_file(tmp_path):
    assert isinstance(fault(read_image(tmp_path / "none.png")), FileMissing)
    assert "directory" in fault(read_image(tmp_path)).reason


def test_a_format_that_runs_a_program_is_not_decoded(write):
    path = write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert isinstance(fault(read_image(path)), FileCorrupt)


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (13_000, 13_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_too_large(write, width, height):
    found = fault(read_image(write(png(width, height))))
    assert found == TooLarge(found.path, 2**28, 3 * width * height)


def test_the_limit_is_the_callers(write):
    path = write(encoded(NOISE, "PNG"))
    assert fault(read_image(path, limit=24 * 36 * 3 - 1)).size == 24 * 36 * 3
    assert value(read_image(path, limit=24 * 36 * 3)).shape == (24, 36, 3)


def test_pillows_own_bound_is_named_and_its_warning_is_not_shown(write, monkeypatch):
    path = write(encoded(NOISE, "PNG"))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 24 * 36 // 2 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(read_image(path)).shape == (24, 36, 3)
        kept = list(warnings.filters)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 24 * 36 // 2 - 1)
    found = fault(read_image(path))
    assert isinstance(found, FileCorrupt) and "MAX_IMAGE_PIXELS, which can be raised, got 864" in str(found)
    assert fault(read_image(path, limit=100)) == TooLarge(str(path), 100, 3 * 864)
    assert kept[0][0] == "error" and not [entry for entry in warnings.filters if entry[0] == "ignore" and entry[3]]


SEEDS = [
    encoded(NOISE, "PNG"), encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "JPEG", progressive=True), encoded(SMOOTH, "GIF"),
    encoded(SMOOTH, "WEBP"), encoded(NOISE, "BMP"), encoded(NOISE, "TIFF"), encoded(NOISE, "TIFF", compression="tiff_lzw"),
    encoded(NOISE, "PPM"), encoded(NOISE[..., 0].astype(np.uint16) * 200, "PNG"), encoded(SMOOTH, "PNG", "P"),
]  # fmt: skip


@given(st.data())
@settings(max_examples=int(os.environ.get("FNLAMP_FUZZ", 200)), deadline=None)
def test_a_mutated_file_reads_or_fails_typed(tmp_path_factory, data):
    raw = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 400) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("image") / "mutated"
    path.write_bytes(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]))
    limit = 2**22
    outcome = read_image(path, size=data.draw(st.sampled_from([None, (7, 9)])), limit=limit).run()
    if is_successful(outcome):
        image = unsafe_perform_io(outcome.unwrap())
        assert image.dtype == np.uint8 and image.ndim == 3 and image.size <= limit
    else:
        assert isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt | TooLarge)


def test_no_file_stays_open(write):
    paths = [write(raw, f"{i}") for i, raw in enumerate([*SEEDS, b"damaged", encoded(NOISE, "PNG")[:200]])]
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for path in paths:
        read_image(path).run()
    assert not before or len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path, write):
    for i, name in enumerate(["dog/b.PNG", "dog/a.png", "cat/deep/er/c.jpeg", "cat/z.bmp", "ant/.hidden.png", "ant/x.gif"]):
        format = {".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}.get(Path(name).suffix, "PNG")
        write(encoded(np.full((4, 5), 40 * i, np.uint8), format), name)
    write(b"", "dog/notes.txt")
    write(b"", ".git/a.png")
    write(b"", "README.md")
    return tmp_path


def test_a_folder_for_each_class(folder):
    images = value(image_folder(folder))
    assert images.classes == ("ant", "cat", "dog")
    assert [os.path.relpath(images.path(i), folder) for i in range(len(images))] == [
        "ant/x.gif", "cat/deep/er/c.jpeg", "cat/z.bmp", "dog/a.png", "dog/b.PNG"
    ]  # fmt: skip
    assert images.labels.tolist() == [0, 1, 1, 2, 2] and images.labels.dtype == np.int32
    items = list(images)  # iteration ends by IndexError, as for a list
    assert [int(image.mean().round()) for image, _ in items] == [200, 80, 120, 40, 0]
    assert [label for _, label in items] == [0, 1, 1, 2, 2]
    assert all(image.shape == (4, 5, 3) and type(label) is int for image, label in items)
    assert images[-1][1] == 2
    assert repr(images) == f"<ImageFiles: 5 images in 3 classes in {folder}>"


def test_the_options_are_those_of_an_image(folder):
    images = value(image_folder(folder, mode="L", size=(6, 7)))
    assert images[0][0].shape == (6, 7, 1)
    assert isinstance(_raised(value(image_folder(folder, limit=10)), 0), TooLarge)


def _raised(images, position):
    with pytest.raises(FaultError) as caught:
        images[position]
    return caught.value.fault


def test_an_image_is_decoded_on_access(folder):
    images = value(image_folder(folder))
    (folder / "cat" / "z.bmp").unlink()
    (folder / "dog" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert images[0][1] == 0
    assert isinstance(_raised(images, 2), FileMissing)
    assert _raised(images, 2).path == str(folder / "cat" / "z.bmp")
    assert isinstance(_raised(images, 3), FileCorrupt)
    with pytest.raises(IndexError):
        images[5]


@pytest.mark.slow
def test_small_in_memory_and_read_in_other_processes(folder):
    images = value(image_folder(folder, size=(4, 5)))
    assert len(pickle.dumps(images)) < 1000
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        for (there, label), (here, same) in zip(pool.map(images.__getitem__, range(5)), images, strict=True):
            np.testing.assert_array_equal(there, here)
            assert label == same


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    (tmp_path / "class").mkdir()
    name = os.fsencode(tmp_path) + b"/class/\xff\xe9.png"
    try:
        with open(name, "wb") as file:
            file.write(encoded(NOISE, "PNG"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    np.testing.assert_array_equal(value(image_folder(tmp_path))[0][0], NOISE)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "got no folder"),
        (["a.png", "b.jpg", "c.txt"], "got 2 images and no folder"),
        (["full/a.png", "empty/notes.txt"], "expected images in the folder of a class"),
        (["full/a.png", "empty/.a.png"], "expected images in the folder of a class"),
    ],
)
def test_a_folder_without_classes_or_images_is_a_fault(tmp_path, write, names, says):
    for name in names:
        write(b"", name)
    found = fault(image_folder(tmp_path))
    assert isinstance(found, FileMissing) and says in str(found)
    assert found.path == str(tmp_path / "empty" if "full/a.png" in names else tmp_path)


def test_a_missing_folder(tmp_path, write):
    assert isinstance(fault(image_folder(tmp_path / "none")), FileMissing)
    assert "Not a directory" in fault(image_folder(write(b"", "file"))).reason


def test_links_are_followed_to_classes_and_images_but_not_in_circles(folder):
    (folder / "wolf").symlink_to(folder / "dog")
    (folder / "dog" / "loop").symlink_to(folder)
    (folder / "ant" / "y.png").symlink_to(folder / "dog" / "a.png")
    images = value(image_folder(folder))
    assert images.classes == ("ant", "cat", "dog", "wolf")
    assert len(images) == 8


def test_a_link_to_the_root_or_above_it_is_not_a_class(folder):
    for name, to in (("self", folder), ("above", folder.parent), ("ant2", folder / "ant")):
        (folder / name).symlink_to(to)
    (folder / "cat" / "link.png").symlink_to(folder / "dog")
    (folder / "cat" / "folder.png").mkdir()
    images = value(image_folder(folder))
    assert not {"self", "above"} & set(images.classes)
    assert not {b"cat/link.png", b"cat/folder.png"} & set(images.names.tolist())


# ------------------------------------------------------------------------------- tables


@pytest.fixture
def table(folder, write):
    def table(text, **options):
        return image_table(write(text if isinstance(text, bytes) else text.encode(), "t.csv"), folder, **options)

    return table


def test_a_table_of_files_and_numbers(table, folder):
    images = value(table("file,label\ndog/a.png,3\ncat/z.bmp,0\n"))
    assert images.labels.tolist() == [3, 0]
    assert images.classes == ("0", "1", "2", "3")
    assert images.path(1) == str(folder / "cat/z.bmp")
    assert int(images[0][0].mean()) == 40 and images[0][1] == 3


def test_a_table_of_files_and_names_of_classes(table):
    images = value(table("﻿kind;file\r\ndog;dog/a.png\r\n 7 ;cat/z.bmp\r\n\r\n", file="file", label="kind", separator=";"))
    assert images.classes == ("7", "dog") and images.labels.tolist() == [1, 0]
    images = value(table("cat/z.bmp,x,dog\ndog/a.png,y,cat\n", header=False, label=2, classes=["cat", "dog", "ant"]))
    assert images.classes == ("cat", "dog", "ant") and images.labels.tolist() == [1, 0]
    quoted = value(table('file,label\n"a, ""b"".png","x, y"\n'))
    assert quoted.names.tolist() == [b'a, "b".png'] and quoted.classes == ("x, y",)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "dog/../../a.png", "..", "", "  ", ".", "dog/..", "a\0b.png"])
def test_a_name_that_leads_out_of_the_root_is_a_fault(table, name):
    found = fault(table(f"file,label\ndog/a.png,1\n{name},2\n"))
    assert isinstance(found, BadCell), found
    assert (found.row, found.column, found.actual) == (3, "file", repr(name))


def test_a_name_with_dots_that_stays_inside(table):
    assert value(table("f,l\ncat/../dog/./a.png,1\n..a.png,2\n")).names.tolist() == [b"dog/a.png", b"..a.png"]


@pytest.mark.parametrize(
    ("text", "options", "row", "column"),
    [
        ("f,l\na.png,1\nb.png\n", {}, 3, None),
        ("f,l\na.png,1\n\nb.png,2\n", {}, 3, None),
        ("f,l\na.png,\n", {}, 2, "l"),
        ("f,l\na.png,1\nb.png,70000\n", {}, 3, "l"),
        ("f,l\na.png,99999999999999999999\n", {}, 2, "l"),
        ("a.png,1\nb.png,dog\n", {"header": False, "classes": ["dog"]}, 1, 2),
        ('f,l\n"a.png,1\n', {}, 2, None),
        ("f,l\na,0\nb,10\nc,-1\n", {}, 4, "l"),
        ("f,l\na,0\nb,1.5\n", {}, 3, "l"),
        ("f,l\na,nan\nb,1\n", {}, 2, "l"),
    ],
)
def test_a_bad_row_is_named(table, text, options, row, column):
    found = fault(table(text, **options))
    assert isinstance(found, BadCell), found
    assert (found.row, found.column) == (row, column)


def test_labels_that_are_numbers_are_never_renumbered(table):
    assert value(table("f,l\na,0.0\nb,10.0\nc,2e0\n")).labels.tolist() == [0, 10, 2]
    assert "give classes=[...]" in str(fault(table("f,l\na,0\nb,-1\n")))
    assert value(table("f,l\na,0\nb,-1\n", classes=["0", "-1"])).labels.tolist() == [0, 1]


def test_columns_by_numpys_integers(table):
    assert value(table("1,a.png\n", file=np.int64(1), label=np.int64(0), header=False)).labels.tolist() == [1]


def test_a_table_has_a_limit(table, monkeypatch):
    monkeypatch.setattr("fnlamp.data.readers.image.LIMIT", 100)
    assert isinstance(fault(table("f,l\n" + "a,1\n" * 100)), TooLarge)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("f,l\n", {}),
        ("f\na.png\n", {}),
        ("f,l\na.png,1\n", {"label": "kind"}),
        ("f,l\na.png,1\n", {"label": 2}),
        ("l,l\na.png,1\n", {"label": "l"}),
        ("a.png,1\n", {"label": "1", "header": False}),
        (b"f,l\n\xff.png,1\n", {}),
    ],
)
def test_anything_but_a_table_is_corrupt(table, text, options):
    assert isinstance(fault(table(text, **options)), FileCorrupt)


def test_a_missing_table_and_a_missing_image(table, tmp_path):
    assert isinstance(fault(image_table(tmp_path / "none.csv", tmp_path)), FileMissing)
    assert _raised(value(table("f,l\nnone.png,1\n")), 0).path == str(tmp_path / "none.png")


@pytest.mark.parametrize(
    "options",
    [
        *({"mode": "CMYK"}, {"size": (0, 5)}, {"size": (5,)}, {"separator": ",,"}, {"separator": "\n"}),
        {"classes": ["x", "y", "x"]},
    ],
)
def test_wrong_arguments_are_bugs(tmp_path, options):
    with pytest.raises(ValueError):
        image_table(tmp_path / "a.csv", tmp_path, **options)


@pytest.mark.parametrize(
    "options", [{"size": 32}, {"size": (32.0, 32.0)}, {"size": ("a", 1)}, {"classes": "xy"}, {"label": True}, {"file": 1.0}]
)
def test_arguments_of_other_types_are_bugs(tmp_path, options):
    with pytest.raises(TypeError):
        image_table(tmp_path / "a.csv", tmp_path, **options)
    if "size" in options:
        for reader in (read_image, image_folder):
            with pytest.raises(TypeError, match="height, width"):
                reader(tmp_path, **options)


def test_a_size_of_numpys_integers(write):
    assert value(read_image(write(encoded(NOISE, "PNG")), size=np.array([5, 6]))).shape == (5, 6, 3)


def test_nothing_is_opened_before_run(tmp_path):
    for program in (read_image(tmp_path / "a"), image_folder(tmp_path / "a"), image_table(tmp_path / "a", tmp_path)):
        assert isinstance(fault(program), FileMissing)
