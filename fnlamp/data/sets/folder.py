"""A folder of images per class: finds the files, and numbers the classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from decimal import Decimal
from os import PathLike
from typing import Final

import numpy as np

from fnlamp.data.option import path_of, several
from fnlamp.data.readers.decode import PIXELS, Mode, Size, checked
from fnlamp.data.readers.file import openable, reading
from fnlamp.data.readers.image import ENDINGS, ImageFault, ImageFiles, packed
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileMissing, UnknownClass


def image_folder(
    root: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    mode: Mode = "RGB",
    size: Size | None = None,
    limit: int = PIXELS,
) -> Effect[ImageFiles, ImageFault | UnknownClass]:
    """The images below a folder with one subfolder per class; an image's label is the number of its class.

    Classes are numbered in the order of their names, or by value if all names are numbers (1, 2, 10). `classes`, as in
    `classes=train.classes`, fixes the numbers; then a class may have no images. Read a validation folder this way.
    Images are the files, at any depth in a class's folder, that end in .jpg, .jpeg, .png, .bmp, .gif, .webp, .tif, .tiff,
    .ppm, .pgm or .pbm, in lower or upper case, in the order of their names. Links to folders are followed, each folder once
    per class, except to the root or a folder that contains it. Other files and names that start with a dot are skipped.
    `mode`, `size` and `limit` are those of `read_image`; without a size, images keep their own.

    Fails: `FileMissing` for a missing folder, one without classes, a class without images (unless it is in `classes`), and a
    broken link; `UnknownClass` for a folder that is not in `classes`; `ExtraMissing`.
    """
    top, shape = path_of(root, "root"), checked(mode, size, limit)
    given = None if classes is None else several("classes", classes)
    if given is not None and len(set(given)) < len(given):
        raise ValueError(f"classes have distinct names, got {', '.join(given)}")

    def load() -> ImageFiles:
        need("PIL.Image", "images")
        folders = _classes(top)
        if given is not None and (unknown := [name for name in folders if name not in given]):
            raise FaultError(UnknownClass(os.path.join(top, unknown[0]), unknown[0], given))
        known = tuple(folders) if given is None else given
        around = os.path.join(os.path.realpath(top), "")
        names: list[str] = []
        counts = []
        for name in known:
            found = [os.path.join(name, below) for below in _images(os.path.join(top, name), around)] if name in folders else []
            if not found and given is None:
                expected = f"expected images in the folder of a class, files ending in {', '.join(ENDINGS)}, got none"
                raise FaultError(FileMissing(os.path.join(top, name), expected))
            names += found
            counts.append(len(found))
        if not names:
            raise FaultError(FileMissing(top, "expected images in the folders of its classes, got none"))
        labels = np.repeat(np.arange(len(known), dtype=np.int32), counts)
        return ImageFiles(top, packed(names), labels, known, mode, shape, limit)

    return reading(top, load)


def _classes(top: str) -> list[str]:
    entries = _listed(top)  # first: it fails for an impossible name
    around = os.path.join(os.path.realpath(top), "")
    names = [entry.name for entry in entries if _is_folder(entry, True) and not _leads_back(entry, around)]
    if not names:
        loose = sum(_is_image(entry.name) for entry in entries)
        actual = f"{loose:,} images and no folder" if loose else "no folder"
        raise FaultError(FileMissing(top, f"expected a folder for each class in it, got {actual}"))
    numbers = all(_NUMBER.fullmatch(name) for name in names)
    return sorted(names, key=lambda name: (Decimal(name) if numbers else 0, name))


_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def _images(folder: str, around: str) -> list[str]:
    """Images in the folder and its subfolders, in order; each folder once, by its own name rather than a link's."""
    found, seen = [], set()
    folders, links = [""], list[str]()
    while folders or links:
        prefix = folders.pop() if folders else links.pop()
        path = os.path.join(folder, prefix) if prefix else folder
        entries = _listed(path)
        identity = _identity(path)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in entries:
            name = os.path.join(prefix, entry.name)
            if _is_folder(entry, not os.path.splitext(entry.name)[1]):
                if not entry.is_symlink():
                    folders.append(name)
                elif not _leads_back(entry, around):
                    links.append(name)
            elif _is_image(entry.name):  # a broken link is a missing image on access
                found.append(name)
        links.sort(reverse=True)
    return sorted(found)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    openable(folder)
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _missing(folder, error) from error


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _missing(folder, error) from error
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str], likely: bool) -> bool:
    """Whether it is a folder, or a link to one.  Fails: `FileMissing` for a broken link that `likely` led to one."""
    try:
        found = entry.is_dir()
        if likely and not found and entry.is_symlink() and not _is_image(entry.name):
            entry.stat()
        return found
    except OSError as error:
        if _is_image(entry.name):
            return False
        raise FaultError(FileMissing(entry.path, f"a broken link: {error.strerror}")) from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _leads_back(entry: os.DirEntry[str], folder: str) -> bool:
    """Whether it is a link to the folder, or to one that contains it."""
    return entry.is_symlink() and folder.startswith(os.path.join(os.path.realpath(entry.path), ""))


def _missing(path: str, error: OSError) -> FaultError:
    return FaultError(FileMissing(path, error.strerror or type(error).__name__))
