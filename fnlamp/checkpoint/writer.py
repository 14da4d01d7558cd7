"""Saves written by a thread while the program goes on, one at a time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from os import PathLike
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, Never, Protocol, final

from fnlamp.arrays import Tree
from fnlamp.checkpoint.file import NOTHING, Saved, described, stored
from fnlamp.checkpoint.folder import PART, delete, finished, last_serial, listed, locked_folder, path_of_step, remove_parts
from fnlamp.checkpoint.keep import Keep, keep_all
from fnlamp.checkpoint.lock import BEAT, Lock
from fnlamp.checkpoint.manifest import Packed, packed
from fnlamp.checkpoint.replace import expanded, reason_of, writing
from fnlamp.effect import Effect, Exit, Resource, Runtime
from fnlamp.effect.runtime import GLANCE, polled
from fnlamp.effect.signals import Bell, locked, shielded
from fnlamp.fault import Fault, FaultError, FileMissing, FileTooNew, FileUnwritable, FolderInUse, ResourceExhausted, printable
from fnlamp.given import flag, function, instance, whole


def writer(
    folder: str | PathLike[str], *, keep: Keep = keep_all, leads: bool = True
) -> Resource[Writer, FolderInUse | FileUnwritable | FileMissing | FileTooNew | ResourceExhausted]:
    """A thread that saves trees in a folder, which is created if missing and locked against other runs.

    After each save, the saves that `keep` names are deleted; the newest never is. A release abandons the save in flight: call
    `Writer.wait` before. Of processes that save together, one `leads`; the others only write their parts of a sharded save.

    Fails: `FolderInUse`; `FileUnwritable` or `FileMissing` for a folder that cannot be used;
    `FileTooNew` for one with saves of a newer fnlamp; `ResourceExhausted`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> def two_saves(writer):
    ...     for step in (1, 2):
    ...         writer.submit(step, {"step": step})
    ...     writer.wait()
    ...     return Effect.from_value((writer.newest.step, writer.failures()))
    >>> writer(folder).use(two_saves).run()
    <IOResult: <Success: (2, ())>>
    """
    name = expanded(folder, "folder")
    function("keep", keep, "a function from saves to those to delete, such as keep_last(3)")
    flag("leads", leads)

    def acquire(runtime: Runtime) -> Writer:
        here = os.path.abspath(name)  # the program may change its working directory
        if not leads:
            return Writer(here, keep, None, (), 0)
        lock = locked_folder(here)
        try:
            remove_parts(here)
            files = listed(here)
            for each in files:
                if isinstance(each.fault, FileTooNew):
                    raise FaultError(each.fault)
            return Writer(here, keep, lock, tuple(finished(files, runtime)), last_serial(files))
        except BaseException as error:
            lock.release()
            if isinstance(error, RuntimeError):  # Python's, if it cannot start a thread
                raise FaultError(ResourceExhausted("threads", str(error))) from error
            raise

    def close(each: Writer, _: Exit[Any, Any]) -> Effect[None, Never]:
        return Effect.suspend(each.close)

    start = Effect.access(lambda runtime: Effect.checked(lambda: acquire(runtime)))
    return Resource.make(described(start, f"lock {printable(name)} and start a thread that saves in it"), close)


class Form(Protocol):
    """How a save is written: what the program's thread copies, and what the writer's makes of it."""

    def packed(self, folder: str, tree: Tree, note: Mapping[str, Any]) -> Any: ...

    def write(
        self,
        folder: str,
        content: Any,
        step: int,
        serial: int,
        check: Callable[[], object],
        commit: Callable[[Callable[[], None]], None],
    ) -> Saved | None: ...


class _OneFile:
    """A save is one file, which has all arrays whole."""

    def packed(self, folder: str, tree: Tree, note: Mapping[str, Any]) -> Packed:
        return packed(tree, note, copied=True)

    def write(
        self,
        folder: str,
        content: Packed,
        step: int,
        serial: int,
        check: Callable[[], object],
        commit: Callable[[Callable[[], None]], None],
    ) -> Saved:
        return stored(path_of_step(folder, step), content, step, check=check, serial=serial, part=PART, commit=commit)


ONE_FILE: Final = _OneFile()


class _Job(NamedTuple):
    """A save to write, and its place in the order of saves."""

    form: Form
    content: Any
    step: int
    serial: int


class _Abandoned(BaseException):
    """The writer was released during a save."""


@final
class Writer:
    """Writes one tree at a time; made by `writer`.

    `folder` is where; `busy` says whether a save is in flight, and `newest` is the newest finished one, those from before
    included.
    """

    def __init__(self, folder: str, keep: Keep, lock: Lock | None, saves: tuple[Saved, ...], serial: int) -> None:
        self.folder, self._keep, self._lock = folder, keep, lock
        self._saves, self._serial = saves, serial
        self._submitting = threading.Lock()
        self._gate = threading.Lock()  # guards the renaming against the release; held briefly
        self._failed: SimpleQueue[Fault] = SimpleQueue()
        self._bug: BaseException | None = None  # raised by `keep`; the next call raises it again
        self._work: SimpleQueue[_Job | None] = SimpleQueue()
        self._asked, self._news = Bell(), Bell()  # wake the thread, and a wait
        self._closed = False
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="fnlamp checkpoint", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> Saved | None:
        """The newest finished save, if there is one."""
        saves = self._saves
        return saves[-1] if saves else None

    def submit(self, step: int, tree: Tree, note: Mapping[str, Any] = NOTHING, *, form: Form = ONE_FILE) -> None:
        """Copy the tree to host memory and have the thread save it; waits first while a save is in flight.

        The caller may change or donate the arrays afterwards.  Fails: `NotStorable`, by a `FaultError`, and nothing is saved.
        """
        step = whole("step", step, 0)
        instance("note", note, Mapping, "a dict of plain values")
        with locked(self._submitting):
            polled.wait(self.wait)
            self._check_bug()
            content = form.packed(self.folder, tree, note)
            with shielded():
                if self._closed:
                    raise RuntimeError("a writer of checkpoints was used after it had been released")
                self._serial += 1
                self.busy = True
                self._work.put(_Job(form, content, step, self._serial))
                self._asked.ring()

    def failures(self) -> tuple[Fault, ...]:
        """The faults of saves since the last call, each once: the save is missing, and those before it are whole."""
        self._check_bug()
        found = []
        with contextlib.suppress(Empty):
            while True:
                found.append(self._failed.get_nowait())
        return tuple(found)

    def wait(self, seconds: float | None = None, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait, at most that long and until `give_up()`, until no save is in flight; return whether none is."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.busy:
            left = GLANCE if end is None else end - time.monotonic()
            if left <= 0 or give_up():
                return False
            self._news.wait(min(left, GLANCE))
        return True

    def close(self) -> None:
        """Abandon a save in flight, and give the folder back. No file of this writer gets its final name after this."""
        with self._gate:
            self._closed = True
        self._work.put(None)
        self._asked.ring()
        self._thread.join(GLANCE)
        if self._lock is not None:
            self._lock.release()

    def _check_bug(self) -> None:
        if self._bug is not None:
            raise self._bug

    # ---- the thread

    def _run(self) -> None:
        while True:
            try:
                job = self._work.get_nowait()
            except Empty:
                if not self._asked.wait(BEAT):
                    self._beat()
                continue
            try:
                if job is not None:
                    self._save(job)
            except _Abandoned:
                pass
            except FaultError as error:
                self._failed.put(error.fault)
            except BaseException as error:  # a bug, as in `keep`: the program's own thread raises it
                self._bug = error
            del job  # before the next copy is made
            self.busy = False
            self._news.ring()
            if self._closed:
                return

    def _save(self, job: _Job) -> None:
        self._check()
        with writing(path_of_step(self.folder, job.step)):
            if self._lock is not None:
                self._lock.verify()
        saved = job.form.write(self.folder, job.content, job.step, job.serial, self._check, self._commit)
        if saved is None:
            return
        before = tuple(each for each in self._saves if each.path != saved.path)
        again = {each.path for each in before if each.step == saved.step}  # in another form, or sharded
        self._saves = (*before, saved)
        doomed = {each.path for each in self._keep((*(each for each in before if each.path not in again), saved))}
        for each in before:
            if each.path in doomed | again:
                self._delete(each)

    def _check(self) -> None:
        if self._closed:
            raise _Abandoned
        self._beat()

    def _beat(self) -> None:
        if self._lock is not None:
            self._lock.beat()

    def _commit(self, rename: Callable[[], None]) -> None:
        with self._gate:
            self._check()
            rename()

    def _delete(self, saved: Saved) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):  # deleted by hand
                delete(saved.path)
        except OSError as error:
            self._failed.put(FileUnwritable(saved.path, f"an old save is not deleted: {reason_of(error)}"))
        else:
            self._saves = tuple(each for each in self._saves if each is not saved)
