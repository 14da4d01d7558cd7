"""The commit and the changes of a program's git repository, read by git, which changes nothing and may be missing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any, Final

PATIENCE: Final = 10.0
"""Seconds that git may take altogether; in a huge repository the diff is then left out."""
MOST_DIFF: Final = 4 * 2**20
"""Bytes of a diff above which it is cut."""
MOST_FILES: Final = 500
MOST_FILE: Final = 256 * 2**10
"""Bytes of an untracked file above which its contents are not recorded."""
MOST_CONTENT: Final = 4 * 2**20
_PRIVATE: Final = re.compile(
    r"(^|/)(\.env|\.netrc|\.pypirc|\.npmrc|id_[a-z0-9]+$|.*(secret|credential|password|token)s?($|[._-])|.*\.(pem|key|p12|pfx|kdbx)$)",
    re.I,
)
_OPTIONS: Final = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "--no-optional-locks", "--no-pager")
_DIFF: Final = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


@dataclass(frozen=True)
class GitState:
    """`facts` for `run.json`, the diff against the commit, and the untracked files by path."""

    facts: dict[str, Any]
    diff: bytes = b""
    untracked: dict[str, dict[str, Any]] = field(default_factory=dict)


def state_of(folder: str, without: str = "") -> GitState:
    """The state of the repository around a folder; without one, or without git, the facts say why.

    The diff has what is staged and what is not. Untracked files are listed with their hashes, and with their contents if they
    are small texts whose names do not suggest a secret; not those that are ignored, or in the folder `without`, that of the
    runs. Of a submodule, its commit is recorded.
    """
    limit = _Limit()
    if not os.path.isdir(folder):
        return GitState({"missing": f"{folder} is not a folder"})
    try:
        with limit:
            return _state(folder, without, limit)
    except FileNotFoundError:
        return GitState({"missing": "git is not installed"})
    except (OSError, ValueError) as error:
        return GitState({"missing": str(error)})


def _state(folder: str, without: str, limit: _Limit) -> GitState:
    root = limit.text(folder, "rev-parse", "--show-toplevel")
    if not root:
        return GitState({"missing": limit.reason or "no git repository"})
    head = limit.text(root, "rev-parse", "--verify", "--quiet", "HEAD")
    base = head or limit.text(root, "hash-object", "-t", "tree", "/dev/null")  # no commit yet: against the empty tree
    listing = limit.start(
        root, MOST_DIFF, "ls-files", "-z", "--others", "--exclude-standard", *_excluded(root, without)
    )  # beside the diff
    diff, cut = limit.start(root, MOST_DIFF, *_DIFF, base).read()
    names, _ = listing.read()
    paths = [os.fsdecode(name) for name in names.split(b"\0") if name]
    facts = {
        "root": root,
        "commit": head or None,
        "branch": limit.text(root, "symbolic-ref", "--quiet", "--short", "HEAD") or None,
        "remote": _without_password(limit.text(root, "config", "--get", "remote.origin.url")) or None,
        "dirty": bool(diff) or bool(paths),
        "diff": "left out: git took too long" if limit.over else "cut" if cut else "whole",
        "untracked": len(paths),
    }
    return GitState(facts, diff, _untracked(root, paths))


def _excluded(root: str, folder: str) -> tuple[str, ...]:
    """The option that leaves out a folder, which git then does not walk through."""
    inside = os.path.relpath(os.path.realpath(folder), os.path.realpath(root)) if folder else ".."
    if inside == "." or inside.split(os.sep)[0] == "..":
        return ()
    pattern = re.sub(r"([*?[\\ ])", r"\\\1", inside)
    return (f"--exclude=/{pattern}/",)


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def _untracked(root: str, paths: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    left = MOST_CONTENT
    for path in paths[:MOST_FILES]:
        about: dict[str, Any] = {}
        found[path.encode("utf-8", "backslashreplace").decode()] = about
        with contextlib.suppress(OSError):
            full = os.path.join(root, path)
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            about["bytes"] = os.stat(full).st_size
            if about["bytes"] > MOST_FILE or _PRIVATE.search(path):
                continue
            with open(full, "rb") as file:
                content = file.read(MOST_FILE + 1)
            about["sha256"] = hashlib.sha256(content).hexdigest()
            if len(content) <= min(MOST_FILE, left) and b"\0" not in content:
                with contextlib.suppress(UnicodeDecodeError):
                    about["text"] = content.decode()
                    left -= len(content)
    return found


class _Limit:
    """Runs git, all commands together for at most `PATIENCE` seconds, and reads at most so many bytes of each."""

    def __init__(self) -> None:
        self.over = False
        self.reason = ""
        self._running: list[subprocess.Popen[bytes]] = []
        self._timer = threading.Timer(PATIENCE, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> _Limit:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        for process in self._running:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def _stop(self) -> None:
        self.over = True
        for process in list(self._running):
            process.kill()

    def start(self, folder: str, most: int, *command: str, errors: int = subprocess.DEVNULL) -> _Output:
        # Variables such as GIT_DIR, which a hook of git sets, would lead to another repository.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
        process = subprocess.Popen(
            ["git", *_OPTIONS, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        self._running.append(process)
        if self.over:
            process.kill()
        return _Output(process, most)

    def text(self, folder: str, *command: str) -> str:
        output = self.start(folder, MOST_FILE, *command, errors=subprocess.PIPE)
        found, _ = output.read()
        if output.process.wait() == 0:
            return os.fsdecode(found).strip()
        assert output.process.stderr is not None
        self.reason = "git took too long" if self.over else os.fsdecode(output.process.stderr.read(1000)).strip()
        return ""


@dataclass(frozen=True)
class _Output:
    process: subprocess.Popen[bytes]
    most: int

    def read(self) -> tuple[bytes, bool]:
        """At most so many bytes, and whether there were more."""
        assert self.process.stdout is not None
        found = self.process.stdout.read(self.most + 1)
        if len(found) > self.most:
            self.process.kill()
        return found[: self.most], len(found) > self.most
