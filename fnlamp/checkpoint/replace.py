"""A file replaced as a whole: written to a temporary name, flushed, renamed, and its folder flushed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from os import PathLike

from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileUnwritable
from fnlamp.given import path_of


def expanded(path: str | PathLike[str], name: str = "path") -> str:
    """The path as text, with `~` as the home folder."""
    return os.path.expanduser(path_of(path, name))


def replaced(
    path: str,
    put: Callable[[io.BufferedWriter], object],
    *,
    check: Callable[[], object] = polled.check,
    part: str = ".write",
    commit: Callable[[Callable[[], None]], None] = lambda rename: rename(),
) -> None:
    """Give a file new contents, those that `put` writes: all of them, or after a crash or a fault none.

    They are written to a temporary file beside it, flushed and renamed, and the folder is flushed.  Fails: `FileUnwritable`.
    """
    with writing(path):
        target = _target(path)
        folder = os.path.dirname(target) or "."
        temporary = os.path.join(folder, f"{part}-{secrets.token_hex(8)}.part")
        with open(temporary, "xb") as file:  # "x" follows no link
            try:
                put(file)
                file.flush()
                os.fsync(file.fileno())
                check()
                commit(lambda: os.replace(temporary, target))
            except BaseException:  # a stop too: no part is left behind
                with contextlib.suppress(OSError):
                    os.remove(temporary)
                raise
        flush_folder(folder)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn the system's errors into a fault.  Fails: `FileUnwritable`."""
    try:
        check_name(path)
        yield
    except (OSError, MemoryError) as error:
        raise FaultError(FileUnwritable(path, reason_of(error))) from error


def check_name(path: str) -> None:
    """Raises: `OSError` for a path that no file can have, of which Python's own error is a `ValueError`."""
    try:
        if "\0" not in path:
            os.fsencode(path)
            return
    except UnicodeEncodeError:
        pass
    raise OSError(errno.EINVAL, "a file name cannot have such a character")


def _target(path: str) -> str:
    """The file to replace: a link's target, so that the link stays.  Raises: `OSError` for anything but a regular file."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a file")
    return target


def flush_folder(folder: str) -> None:
    """Make the names in a folder durable, if the file system can."""
    with contextlib.suppress(PermissionError):  # a folder that can be written to, but not listed
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems without it
                raise
        finally:
            os.close(descriptor)


def reason_of(error: BaseException) -> str:
    """The reason in words."""
    return getattr(error, "strerror", None) or ("out of memory" if isinstance(error, MemoryError) else str(error))
