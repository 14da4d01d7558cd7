"""What surrounds a run: versions, the machine, environment variables that matter, and the source of the program."""

from __future__ import annotations

import functools
import linecache
import os
import platform
import re
import sys
from importlib import metadata
from typing import Any, Final

from fnlamp.experiment.plain import HIDDEN, secret

VARIABLES: Final = re.compile(
    r"(JAX|XLA|FNLAMP|NCCL|OMP|MKL|SLURM_(JOB|ARRAY|NODE|PROC|NTASKS))_?.*|CUDA_VISIBLE_DEVICES|LIBTPU_.*|TF_XLA_.*"
)
MAIN: Final = ("fnlamp", "jax", "jaxlib", "numpy", "returns")
MOST_SOURCE: Final = 2**20


def environment() -> dict[str, str]:
    """The environment variables that change what a run computes; never one whose name suggests a secret."""
    found = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
    return {name: HIDDEN if secret(name) else printed(value) for name, value in sorted(found.items())}


def arguments() -> list[str]:
    """The command line, without the values of options whose names suggest a secret."""
    found: list[str] = []
    hide = False
    for word in map(printed, sys.argv):
        option, equals, _ = word.partition("=")
        found.append(HIDDEN if hide else f"{option}={HIDDEN}" if equals and secret(option) else word)
        hide = not equals and word.startswith("-") and secret(word)
    return found


def printed(text: str) -> str:
    """The text without lone surrogates, which JSON does not have."""
    return text.encode("utf-8", "backslashreplace").decode()


@functools.cache
def packages() -> dict[str, str]:
    """Every installed distribution with its version; found once per process."""
    found = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:
            found[str(name)] = str(each.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def versions() -> dict[str, str]:
    """The versions of the packages that every run uses."""
    installed = {name.lower(): version for name, version in packages().items()}
    found: dict[str, str] = {name: installed[name] for name in MAIN if name in installed}
    if "fnlamp" not in found and hasattr(sys.modules.get("fnlamp"), "__version__"):
        found["fnlamp"] = sys.modules["fnlamp"].__version__
    return found


def machine() -> dict[str, Any]:
    """The machine, in words."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def devices() -> list[str]:
    """JAX's devices, if a program has begun to use them: looking must not claim a GPU, or precede a start of several hosts."""
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    if bridge is None or not getattr(bridge, "backends_are_initialized", lambda: False)():
        return []
    import jax

    return [f"{each.platform}:{each.id} {each.device_kind}" for each in jax.devices()]


def sources(described_in: str) -> dict[str, bytes]:
    """The files of the program by name: where the experiment is described, and the script; in a notebook, the cell."""
    script = str(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    found: dict[str, bytes] = {}
    for path in dict.fromkeys((described_in, script)):
        content = _content(path)
        if content is None or content in found.values() or (path == script and _installed(path)):
            continue
        name = re.sub(r"[^\w.\- ]", "_", os.path.basename(path)) or "program"
        name = name if name.endswith(".py") else f"{name}.py"
        while name in found:
            name = f"script-{name}"
        found[name] = content
    return found


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_SOURCE)
    except (OSError, ValueError):
        lines = linecache.getlines(path)  # a cell of a notebook is in no file
        return "".join(lines).encode("utf-8", "backslashreplace") or None


def _installed(path: str) -> bool:
    """Whether the script is a program such as pytest or ipython."""
    return os.path.realpath(path).startswith(
        (os.path.realpath(sys.prefix) + os.sep, os.path.realpath(sys.base_prefix + "/lib"))
    )
