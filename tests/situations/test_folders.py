"""Folders of images: every image once, every class with the number of its name, in training and in validation."""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest
from outcomes import fault, value
from returns.pipeline import is_successful

from fnlamp import loss, nn, optim, train
from fnlamp.data import image_folder, loader, subset, with_transform
from fnlamp.effect import Runtime
from fnlamp.fault import ClassesDiffer, FileMissing, UnknownClass

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def write(tmp_path):
    """Writes an image whose grey identifies the file."""

    def write(name, shade=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(np.full((4, 4), shade, np.uint8)).save(path, "PNG")
        return path

    return write


def pairs(images):
    """The class name and the shade of each image."""
    return [(images.classes[label], int(image[0, 0, 0])) for image, label in images]


# ------------------------------------------------------------------------------- the order of classes


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "10", "11"],
        ["00", "01", "02", "10", "11"],
        ["-1", "0", "1", "10"],
        ["007", "8", "19", "100"],
        ["0.5", "1.5", "10.5"],
        ["+1", "2", "30"],
    ],
)
def test_numbers_are_in_the_order_of_their_values(tmp_path, write, names):
    for shade, name in enumerate(names):
        write(f"{name}/a.png", shade)
    images = value(image_folder(tmp_path))
    assert images.classes == tuple(names)
    assert [(int(image[0, 0, 0]), label) for image, label in images] == [(i, i) for i in range(len(names))]


@pytest.mark.parametrize("names", [["1", "10", "2b"], ["a", "b", "c10", "c2"], ["Cat", "ant", "dog"], ["1", "1_000"]])
def test_names_are_in_the_order_of_their_characters(tmp_path, write, names):
    for name in names:
        write(f"{name}/a.png")
    assert value(image_folder(tmp_path)).classes == tuple(sorted(names)) == tuple(names)


# ------------------------------------------------------------------------------- classes that are given


def test_a_validation_folder_without_a_class_keeps_the_numbers(tmp_path, write):
    for name in ("train/ant/1.png", "train/bee/2.png", "train/cow/3.png", "val/ant/4.png", "val/cow/5.png"):
        write(name, int(name[-5]))
    trained = value(image_folder(tmp_path / "train"))
    images = value(image_folder(tmp_path / "val", classes=trained.classes))
    assert images.classes == ("ant", "bee", "cow")
    assert images.labels.tolist() == [0, 2]
    assert pairs(images) == [("ant", 4), ("cow", 5)]


def test_the_given_order_is_used(tmp_path, write):
    write("ant/1.png"), write("bee/2.png")
    assert value(image_folder(tmp_path, classes=["bee", "none", "ant"])).labels.tolist() == [0, 2]
    (tmp_path / "none").mkdir()  # as in a split that has none of them
    assert value(image_folder(tmp_path, classes=["bee", "none", "ant"])).labels.tolist() == [0, 2]


@pytest.mark.parametrize("name", ["wasp", "Ant", "ant ", "1"])
def test_a_folder_of_another_class_is_named(tmp_path, write, name):
    write("ant/1.png"), write(f"{name}/2.png")
    found = fault(image_folder(tmp_path, classes=["ant", "bee"]))
    assert isinstance(found, UnknownClass) and found.name == name
    assert repr(name) in str(found) and "'ant', 'bee'" in str(found) and "classes=" in str(found)


@pytest.mark.parametrize(
    ("classes", "error"), [("ant", TypeError), (["a", "a"], ValueError), ([1, 2], TypeError), ([b"ant"], TypeError)]
)
def test_wrong_classes_raise_at_once(tmp_path, classes, error):
    with pytest.raises(error, match="classes"):
        image_folder(tmp_path, classes=classes)


# ------------------------------------------------------------------------------- two folders of one run


def run(training, validation, change=lambda images: images):
    def epochs(both):
        train_images, validation_images = map(change, both)
        model = nn.sequence(nn.rescale(1 / 255), nn.flatten, nn.linear(3), nn.fun(jax.nn.log_softmax))
        return train.epochs(
            model=train.supervised(model, loss.nll()),
            optimizer=optim.sgdw(learning_rate=1e-2),
            train_batches=lambda context: loader(train_images, batch_size=2),
            validation_batches=lambda context: loader(validation_images, batch_size=2),
            epochs=1,
        )

    return training.zip(validation).bind(epochs)


@pytest.fixture
def splits(tmp_path, write):
    for name in ("train/ant/1.png", "train/bee/2.png", "train/cow/3.png", "val/ant/4.png", "val/cow/5.png"):
        write(name)
    return tmp_path / "train", tmp_path / "val"


CHANGES = [
    lambda images: images,
    lambda images: with_transform(images, lambda item: item),
    lambda images: subset(images, [0, 1]),
    lambda images: with_transform(subset(images, [0, 1]), lambda item: item),
]


@pytest.mark.parametrize("change", CHANGES)
def test_folders_that_number_classes_differently_do_not_train_together(splits, change):
    found = fault(run(image_folder(splits[0]), image_folder(splits[1]), change))
    assert isinstance(found, ClassesDiffer)
    assert "label 1 for 'bee' and for 'cow'" in str(found) and "classes=train.classes" in str(found)


def test_folders_that_number_alike_train_together(splits):
    training = image_folder(splits[0])
    validation = training.bind(lambda images: image_folder(splits[1], classes=images.classes))
    assert is_successful(run(training, validation).run(Runtime(log=None)))


# ------------------------------------------------------------------------------- links, and anything but an image


def test_a_linked_folder_inside_a_class_is_read(tmp_path, write):
    write("root/ant/1.png", 1), write("elsewhere/deep/2.png", 2), write("root/bee/3.PNG", 3), write("elsewhere/4.Jpg", 4)
    (tmp_path / "root/ant/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/bee/again").symlink_to("../ant/more/deep")
    assert sorted(pairs(value(image_folder(tmp_path / "root")))) == [("ant", 1), ("ant", 2), ("ant", 4), ("bee", 2), ("bee", 3)]


def test_links_in_a_circle_end(tmp_path, write):
    write("root/ant/1.png", 1), write("root/ant/deep/2.png", 2), write("other/3.png", 3)
    for name, to in (("deep/up", ".."), ("self", "."), ("top", "../.."), ("out", tmp_path / "other")):
        (tmp_path / "root/ant" / name).symlink_to(to)
    (tmp_path / "other/back").symlink_to(tmp_path / "root/ant")
    (tmp_path / "other/loop").symlink_to(tmp_path / "other")
    assert pairs(value(image_folder(tmp_path / "root"))) == [("ant", 1), ("ant", 2), ("ant", 3)]


def test_many_links_between_folders_take_linear_time(tmp_path, write):
    for i in range(12):
        write(f"root/ant/{i}/{i}.png", i)
    for i in range(12):
        for j in range(12):
            (tmp_path / f"root/ant/{i}/to{j}").symlink_to(tmp_path / f"root/ant/{j}")
    assert sorted(shade for _, shade in pairs(value(image_folder(tmp_path / "root")))) == list(range(12))


@pytest.mark.parametrize("name", ["root/bee", "root/ant/more", "root/ant/deep/more"])
@pytest.mark.parametrize("to", ["nowhere", "more", "bee"])
def test_a_broken_link_does_not_make_a_class_smaller(tmp_path, write, name, to):
    write("root/ant/1.png"), write("root/ant/deep/2.png"), write("root/cow/3.png")
    (tmp_path / name).symlink_to(to)  # to nothing, or to itself
    found = fault(image_folder(tmp_path / "root"))
    assert isinstance(found, FileMissing) and found.path == str(tmp_path / name) and "a broken link" in str(found)


def test_a_broken_link_to_an_image_fails_on_access(tmp_path, write):
    write("ant/1.png")
    (tmp_path / "ant/2.png").symlink_to("nowhere.png")
    assert len(value(image_folder(tmp_path))) == 2
    found = fault(value_of_loader(tmp_path))
    assert isinstance(found, FileMissing) and "2.png" in str(found)


def value_of_loader(path):
    return image_folder(path).bind(lambda images: loader(images, batch_size=2).use(lambda batches: _all(batches)))


def _all(batches):
    from fnlamp import stream

    return stream.to_list(batches)


def test_other_files_than_images_are_skipped(tmp_path, write):
    write("ant/1.png", 1), write(".hidden/2.png"), write("ant/.3.png"), write("ant/.thumbs/4.png"), write("loose.png")
    for name in ("ant/notes.txt", "ant/Thumbs.db", "README", "ant/png"):
        (tmp_path / name).write_text("")
    assert pairs(value(image_folder(tmp_path))) == [("ant", 1)]


def test_names_in_any_bytes(tmp_path, write):
    write("ant/1.png", 7)
    try:
        os.rename(tmp_path / "ant", os.fsencode(tmp_path) + b"/\xffnt")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    images = value(image_folder(tmp_path))
    assert os.fsencode(images.classes[0]) == b"\xffnt"
    assert pairs(images) == [(images.classes[0], 7)]
    assert value(image_folder(tmp_path, classes=images.classes)).labels.tolist() == [0]
    str(fault(image_folder(tmp_path, classes=["ant"]))).encode()


def test_deeply_nested_folders_are_read(tmp_path, write):
    write("root/ant/1.png", 1)
    folder = os.path.join(tmp_path, "root", "ant")
    for _ in range(300):
        folder = os.path.join(folder, "d")
        os.mkdir(folder)
    os.rename(tmp_path / "root/ant/1.png", os.path.join(folder, "1.png"))
    assert pairs(value(image_folder(tmp_path / "root"))) == [("ant", 1)]
