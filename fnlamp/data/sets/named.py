"""Named data sets: read from a folder, or downloaded into it; every file that is read has the published SHA-256."""

from __future__ import annotations

import hashlib
import math
import struct
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from fnlamp.data.option import path_of, seconds_of, several
from fnlamp.data.readers.file import openable, read_all, reading
from fnlamp.data.sets import published
from fnlamp.data.sets.download import digest, fetch
from fnlamp.effect import Effect, Outline, Standing
from fnlamp.extra import need
from fnlamp.fault import ChecksumMismatch, DownloadFailed, ExtraMissing, FaultError, FileCorrupt, FileFault, FileMissing
from fnlamp.given import flag

E = TypeVar("E")
Images: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Split: TypeAlias = Literal["train", "test"]
NamedFault: TypeAlias = FileFault | DownloadFailed | ChecksumMismatch | ExtraMissing
"""The faults of a named data set."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels, all in memory: a data set whose item is `(image, label)`.

    Shapes: `images` `(rows, height, width, channels)` uint8, `labels` `(rows,)` int32, indices into `classes`.

    >>> pair = ImageSet(np.zeros((2, 8, 8, 1), np.uint8), np.array([1, 0], np.int32), ("cat", "dog"))
    >>> pair
    <ImageSet: 2 images of 8x8x1 in 2 classes>
    >>> image, label = pair[0]
    >>> pair.classes[label]
    'dog'
    """

    images: Images
    labels: np.ndarray[Any, np.dtype[np.int32]]
    classes: tuple[str, ...]

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Images and labels, for streams and loaders."""
        return self.images, self.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Images, np.int32]:
        position = index(position)
        return self.images[position], self.labels[position]

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"<ImageSet: {len(self):,} images of {shape} in {len(self.classes)} classes>"


def mnist(
    root: str | PathLike[str],
    split: Split,
    *,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
    timeout: float = 20.0,
) -> Effect[ImageSet, NamedFault]:
    """MNIST: 60,000 handwritten digits for training, 10,000 for testing. Shape of an image: `(28, 28, 1)`.

    Files in `root` or `root/MNIST/raw`, packed with gzip or not, are read; if all exist, nothing is downloaded, and the extra
    `datasets` is not needed. A missing file is downloaded into `root/MNIST/raw`, from `mirrors`, which are folders on servers,
    by default those of its publishers. Every file is checked by its SHA-256, packed or unpacked, and never overwritten.
    Progress goes to standard error, unless `Runtime.log` is `None`. Fails: `ChecksumMismatch`; `DownloadFailed`;
    `FileMissing` with `download=False`; `ExtraMissing`.
    Source: LeCun, Cortes & Burges; LeCun et al. 1998, "Gradient-based learning applied to document recognition".

    >>> mnist("nowhere", "train", download=False).run()
    failed: ...
    <IOResult: <Failure: nowhere/MNIST/raw/train-images-idx3-ubyte.gz: cannot be read (not there, nor in nowhere, ...)>>
    """
    return _idx_set(published.MNIST, root, split, download, mirrors, timeout)


def fashion_mnist(
    root: str | PathLike[str],
    split: Split,
    *,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
    timeout: float = 20.0,
) -> Effect[ImageSet, NamedFault]:
    """Fashion-MNIST: images of clothes, in MNIST's sizes; in `root` or `root/FashionMNIST/raw`. Otherwise as `mnist`.

    Source: Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a novel image dataset ...".
    """
    return _idx_set(published.FASHION_MNIST, root, split, download, mirrors, timeout)


def kmnist(
    root: str | PathLike[str],
    split: Split,
    *,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
    timeout: float = 20.0,
) -> Effect[ImageSet, NamedFault]:
    """Kuzushiji-MNIST: cursive Japanese characters, in MNIST's sizes; in `root` or `root/KMNIST/raw`, packed as published.

    Unpacked files are not read: no checksums of them are published. Otherwise as `mnist`.
    Source: Clanuwat et al. 2018, "Deep learning for classical Japanese literature".
    """
    return _idx_set(published.KMNIST, root, split, download, mirrors, timeout)


def cifar10(
    root: str | PathLike[str],
    split: Split,
    *,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
    timeout: float = 20.0,
) -> Effect[ImageSet, NamedFault]:
    """CIFAR-10: 50,000 photographs in ten classes for training, 10,000 for testing. Shape of an image: `(32, 32, 3)`.

    This reads the binary version, which has no pickles: `cifar-10-binary.tar.gz` in `root`, without unpacking it to disk, or
    its contents in `root` or `root/cifar-10-batches-bin`. Otherwise as `mnist`.
    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    names = ["test_batch.bin"] if _checked(split) == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    timeout, download = seconds_of(timeout), flag("download", download)
    folder = Path(path_of(root, "root"))
    archive = folder / "cifar-10-binary.tar.gz"

    def unpacked() -> list[bytes] | None:
        for place in (folder / "cifar-10-batches-bin", folder):
            if all(_is_there(place / name) for name in names):
                return [_same(place / name, published.CIFAR_BATCHES[name], published.CIFAR_BYTES) for name in names]
        return None

    def packed() -> list[bytes] | None:
        return _members(archive, names) if _is_there(archive) else None

    found = reading(str(folder), lambda: unpacked() or packed())
    url = [f"{base.rstrip('/')}/{archive.name}" for base in _bases(mirrors, published.CIFAR_MIRRORS)]

    def or_download(batches: list[bytes] | None) -> Effect[list[bytes], NamedFault]:
        if batches is not None:
            return Effect.from_value(batches)
        if not download:
            return Effect.from_failure(_absent(archive, folder))
        fetched = fetch(url, archive, sha256=published.CIFAR_SHA256, size=published.CIFAR_SIZE, timeout=timeout)
        return fetched.bind(lambda path: reading(str(folder), lambda: _members(path, names)))

    rows = 10_000 * len(names)
    return _known(found.bind(or_download).map(_cifar), f"CIFAR-10, {split}", folder, (rows, 32, 32, 3), published.CIFAR_CLASSES)


def digits(split: Split) -> Effect[ImageSet, ExtraMissing]:
    """The handwritten digits that come with scikit-learn: shape of an image `(8, 8, 1)`, numbers from 0 to 16.

    They have no official split: here the first 1,437 are for training, the last 360 for testing.
    Fails: `ExtraMissing` without the extra `examples`. Source: Alpaydin & Kaynak 1998, UCI Machine Learning Repository.

    >>> digits("test").run()
    <IOResult: <Success: <ImageSet: 360 images of 8x8x1 in 10 classes>>>
    """
    rows = slice(1437, None) if _checked(split) == "test" else slice(0, 1437)

    def load() -> ImageSet:
        bundled = need("sklearn.datasets", "examples").load_digits()
        images, labels = bundled.images[rows, :, :, None].astype(np.uint8), bundled.target[rows].astype(np.int32)
        return ImageSet(images, labels, published.DIGITS)

    shape = (360 if split == "test" else 1437, 8, 8, 1)
    return _known(Effect.checked(load), f"digits, {split}", "scikit-learn", shape, published.DIGITS)


def _known(
    program: Effect[ImageSet, E], name: str, place: object, shape: tuple[int, ...], classes: tuple[str, ...]
) -> Effect[ImageSet, E]:
    """The program; `explain`, which reads no images, uses blank ones that take no memory."""

    def outline() -> Outline:
        blank = ImageSet(
            np.broadcast_to(np.zeros((), np.uint8), shape), np.broadcast_to(np.zeros((), np.int32), shape[:1]), classes
        )
        return Outline((f"read {name}, from {place}: {blank!r}",), Standing(blank))

    return program.named(name).outlined(outline)


# ------------------------------------------------------------------------------- reading


def _checked(split: str) -> str:
    if not isinstance(split, str) or split not in ("train", "test"):
        raise ValueError(f'a split is "train" or "test", got {split!r}')
    return split


def _bases(mirrors: str | Sequence[str] | None, published: tuple[str, ...]) -> tuple[str, ...]:
    return ((mirrors,) if isinstance(mirrors, str) else several("mirrors", () if mirrors is None else mirrors)) or published


def _is_there(path: Path) -> bool:
    """Whether the path exists.  Fails: `FileMissing` if it cannot be accessed."""
    openable(str(path))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FaultError(FileMissing(str(path), error.strerror or type(error).__name__)) from error
    return True


def _absent(path: Path, *places: Path) -> FileMissing:
    return FileMissing(str(path), f"not there, nor in {', '.join(map(str, places))}, and download=False")


def _idx_set(
    source: published.Source,
    root: str | PathLike[str],
    split: str,
    download: bool,
    mirrors: str | Sequence[str] | None,
    timeout: float,
) -> Effect[ImageSet, NamedFault]:
    files, rows = source.files[_checked(split)], source.rows_of(split)
    timeout, download = seconds_of(timeout), flag("download", download)
    folder, bases = Path(path_of(root, "root")), _bases(mirrors, source.mirrors)
    home = folder / source.folder / "raw"

    def array(file: published.File, shape: tuple[int, ...]) -> Effect[np.ndarray[Any, Any], NamedFault]:
        packed = home / f"{file.name}.gz"
        limit = 4 + 4 * len(shape) + math.prod(shape)
        url = [f"{base.rstrip('/')}/{packed.name}" for base in bases]

        def or_download(contents: bytes | None) -> Effect[bytes, NamedFault]:
            if contents is not None:
                return Effect.from_value(contents)
            if not download:
                return Effect.from_failure(_absent(packed, folder))
            fetched = fetch(url, packed, sha256=file.sha256, size=file.size, timeout=timeout)
            return fetched.bind(lambda path: reading(str(folder), lambda: _published(path, file, limit)))

        found = reading(str(folder), lambda: _found(folder, home, file, limit))
        return found.bind(or_download).bind(lambda contents: reading(str(folder), lambda: _idx(str(packed), contents, shape)))

    both = array(files[0], (rows, *source.shape)).zip(array(files[1], (rows,)))
    program = both.map(lambda pair: ImageSet(pair[0][..., None], pair[1].astype(np.int32), source.classes))
    return _known(program, f"{source.folder}, {split}", folder, (rows, *source.shape, 1), source.classes)


def _found(folder: Path, home: Path, file: published.File, limit: int) -> bytes | None:
    """The contents of the first file with the right checksum; a wrong file is a fault only if there is no right one."""
    wrong: FaultError | None = None
    for place in (home, folder):
        for name in (f"{file.name}.gz", file.name):
            if _is_there(place / name) and (name.endswith(".gz") or file.unpacked is not None):
                try:
                    return _published(place / name, file, limit)
                except FaultError as error:
                    wrong = wrong or error
    if wrong is not None:
        raise wrong
    return None


def _published(path: Path, file: published.File, limit: int) -> bytes:
    """The unpacked contents of the file.  Fails: `ChecksumMismatch`, `FileMissing`."""
    actual = digest(path)
    if actual in (file.sha256, file.unpacked):
        return read_all(str(path), limit)
    packed = path.suffix == ".gz"
    if packed and file.unpacked is not None:
        try:
            contents = read_all(str(path), limit)
        except FaultError:
            contents = b""
        if hashlib.sha256(contents).hexdigest() == file.unpacked:
            return contents  # packed again by another program
    raise FaultError(ChecksumMismatch(str(path), file.sha256 if packed else file.unpacked or "", actual))


def _same(path: Path, sha256: str, size: int) -> bytes:
    actual = digest(path)
    if actual != sha256:
        raise FaultError(ChecksumMismatch(str(path), sha256, actual))
    return read_all(str(path), size)


def _idx(path: str, contents: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    if not contents.startswith(header) or len(contents) != len(header) + math.prod(shape):
        raise FaultError(FileCorrupt(path, f"IDX data of shape {list(shape)}", f"{len(contents):,} bytes of something else"))
    return np.frombuffer(contents, np.uint8, offset=len(header)).reshape(shape)


def _members(archive: Path, names: Iterable[str]) -> list[bytes]:
    """Members of the published archive; its checksum is verified first, so that no other archive is opened."""
    actual = digest(archive)
    if actual != published.CIFAR_SHA256:
        raise FaultError(ChecksumMismatch(str(archive), published.CIFAR_SHA256, actual))
    wanted = {f"cifar-10-batches-bin/{name}": name for name in names}
    batches: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and member.isreg() and member.size == published.CIFAR_BYTES:
                file = tar.extractfile(member)
                batches[wanted[member.name]] = file.read() if file else b""
            if len(batches) == len(wanted):
                break
    if len(batches) != len(wanted):
        raise FaultError(FileCorrupt(str(archive), f"the members {', '.join(wanted)}", ", ".join(batches) or "none of them"))
    return [batches[name] for name in wanted.values()]


def _cifar(batches: list[bytes]) -> ImageSet:
    """Records of a label and three planes of 32x32: red, green, blue."""
    records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ImageSet(images, records[:, 0].astype(np.int32), published.CIFAR_CLASSES)
