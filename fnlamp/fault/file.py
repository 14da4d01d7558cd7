"""Files that cannot be read or written, or whose contents do not follow their format."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class FileMissing(Fault):
    """No file can be read at `path`.

    >>> print(FileMissing("rows.csv", "No such file or directory"))
    rows.csv: cannot be read (No such file or directory)
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: cannot be read ({self.reason})")


@dataclass(frozen=True)
class FileCorrupt(Fault):
    """The bytes of a file do not follow its format: cut, damaged, or another format.

    >>> print(FileCorrupt("digits.npy", "an NPY file", "a ZIP archive"))
    digits.npy: expected an NPY file, got a ZIP archive
    """

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: expected {self.expected}, got {self.actual}")


@dataclass(frozen=True)
class BadCell(Fault):
    """A row has the wrong width, or a cell is not a number. `row` and `column` count from 1, the header included.

    >>> print(BadCell("rows.csv", row=3, column="age", expected="a number", actual="'n/a'"))
    rows.csv, row 3, column age: expected a number, got 'n/a'
    """

    path: str
    row: int
    column: int | str | None
    expected: str
    actual: str

    def __str__(self) -> str:
        column = "" if self.column is None else f", column {self.column}"
        return self._say(f"{self.path}, row {self.row}{column}: expected {self.expected}, got {self.actual}")


@dataclass(frozen=True)
class TooLarge(Fault):
    """A file declares, or unpacks to, more bytes than the caller's limit; nothing of that size was allocated.

    >>> print(TooLarge("rows.csv.gz", limit=1_000_000, size=2_000_000))
    rows.csv.gz: expected at most 1,000,000 bytes unpacked, got 2,000,000 or more; ...
    """

    path: str
    limit: int
    size: int

    def __str__(self) -> str:
        return self._say(
            f"{self.path}: expected at most {self.limit:,} bytes unpacked, got {self.size:,} or more; "
            "raise limit if the file can be trusted"
        )


@dataclass(frozen=True)
class OutOfMemory(Fault):
    """The machine lacks the memory for a file's contents, although they are within `limit`.

    >>> print(OutOfMemory("digits.npy", 2**40))
    digits.npy: expected no more than the machine's memory holds, got an array of 1,099,511,627,776 bytes; ...
    """

    path: str
    size: int | None = None

    def __str__(self) -> str:
        actual = "more" if self.size is None else f"an array of {self.size:,} bytes"
        return self._say(
            f"{self.path}: expected no more than the machine's memory holds, got {actual}; "
            "free memory, read less of the file (columns=, rows=, size=), or map it, if it is a plain NPY file"
        )


@dataclass(frozen=True)
class FileUnwritable(Fault):
    """Nothing can be written at `path`; its previous contents are unchanged.

    >>> print(FileUnwritable("codec.json", "Permission denied"))
    codec.json: cannot be written (Permission denied)
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: cannot be written ({self.reason})")


@dataclass(frozen=True)
class UnknownClass(Fault):
    """A class, named by the folder `path` or given as `name`, is not one of the numbered `classes`.

    >>> print(UnknownClass("animals/cow", "cow", ("cat", "dog")))
    animals/cow: expected a folder of one of the 2 classes 'cat', 'dog', got 'cow'; rename it, ...
    """

    path: str
    name: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        first = ", ".join(map(repr, self.classes[:20])) + (", ..." if len(self.classes) > 20 else "")
        return self._say(
            f"{self.path}: expected a folder of one of the {len(self.classes)} classes {first}, got {self.name!r}; "
            "rename it, or pass the classes of the data set that has them all, as classes=train.classes"
        )


FileFault = FileMissing | FileCorrupt | BadCell | TooLarge | OutOfMemory
"""The faults of reading a file."""
