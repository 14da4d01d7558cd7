"""Reading what a run recorded."""

from __future__ import annotations

from os import PathLike

from fnlamp.effect import Effect, Outline, Unknown
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, OutOfMemory, printable
from fnlamp.given import path_of
from fnlamp.track.curves import History
from fnlamp.track.place import index_file, lines_file
from fnlamp.track.reading import of_lines
from fnlamp.track.tables import of_index


def history(path: str | PathLike[str]) -> Effect[History, FileMissing | FileCorrupt | OutOfMemory]:
    """What a run recorded, from its file of lines or the folder that contains `metrics.jsonl`; the run may still be writing.

    A path that ends in `.db` is the SQLite index, which has the same. A last line that a kill cut is left out. Nothing in a
    file is executed.  Fails: `FileMissing`; `FileCorrupt`, which names the line; `OutOfMemory`.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "metrics.jsonl").write_text('{"schema":1}\\n{"step":50,"time":0.0,"values":{"loss":0.25}}\\n{"st')
    63
    >>> history(folder).map(lambda found: found.last).run()
    <IOResult: <Success: {'loss': 0.25}>>
    """
    indexed = path_of(path).endswith(".db")
    name = index_file(path) if indexed else lines_file(path)

    def run() -> History:
        try:
            return of_index(name) if indexed else of_lines(name)
        except MemoryError:
            raise FaultError(OutOfMemory(name)) from None

    read = Effect.checked(run).named(f"read {printable(name)}")
    return read.outlined(lambda: Outline((f"read {printable(name)}",), Unknown("the contents of a file are unknown")))
