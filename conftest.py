"""The names that docstrings may use without an import, and settings of the suite: two processes, quick compilation.

Pages of the documentation import what they use.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

# Most of the suite's time is XLA's, which compiles small programs in half of the time with its older emitters and fewer passes.
# `XLA_FLAGS= python -m pytest` compiles as users do; .ci/run does so for the tests of numbers. JAX 0.11.2 has no older
# emitters, and ends the process for a flag that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    ("--xla_cpu_use_fusion_emitters=false " if version("jaxlib").startswith("0.10.") else "")
    + "--xla_backend_optimization_level=1",
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import fault, generate, graph, loss, models, nn, optim, stream, tree
from fnlamp.arrays import array_spec
from fnlamp.config import cli, computed, group, options, resolve
from fnlamp.effect import Effect, Runtime
from fnlamp.mode import Decode, Eval, Train
from fnlamp.summary import table
from fnlamp.train import supervised

collect_ignore = ["docs/site"]  # building the site needs the extra `docs`
# Programs that tests start in processes of their own, with more devices.
collect_ignore += [
    "tests/train/sharded_run.py",
    "tests/train/sharded_situations.py",
    "tests/train/sharded_saves.py",
    "tests/scale/sharding.py",
    "tests/scale/steps.py",
    "tests/scale/training.py",
]


@pytest.hookimpl(tryfirst=True)  # before xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in two processes, a file at a time; files named on the command line, or -n 0, run in one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    several = (os.cpu_count() or 1) > 1 and config.pluginmanager.hasplugin("xdist") and not config.option.usepdb
    if whole and several and config.option.numprocesses is None and not config.option.collectonly:
        config.option.numprocesses, config.option.dist = 2, "loadfile"


# Two processes divide the tests by name, so names must be equal in both: without addresses and gzip's times.


class _Steady:
    """The names that a function gives to values, without the addresses of objects."""

    def __init__(self, ids: Callable[[Any], Any]) -> None:
        self.ids = ids

    def __call__(self, value: Any) -> Any:
        name = self.ids(value)
        return re.sub(r" at 0x[0-9a-f]+", "", name) if isinstance(name, str) else name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The ordinary suite runs only the first case of a test marked `broad`, and no page of `docs`."""
    seen: set[tuple[object, str]] = set()
    pages = config.rootpath / "docs"
    whole = config.args == config.getini("testpaths")
    for item in items:
        if whole and pages in item.path.parents:
            item.add_marker("slow")
        if item.get_closest_marker("broad") and not item.get_closest_marker("slow"):
            test = item.path, item.nodeid.partition("[")[0]
            if test in seen:
                item.add_marker("slow")
            seen.add(test)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("parametrize"):
        ids = mark.kwargs.get("ids")
        if callable(ids) and not isinstance(ids, _Steady):
            mark.kwargs["ids"] = _Steady(ids)


def pytest_make_parametrize_id(val: object) -> str | None:
    return "gzip" if isinstance(val, bytes) and val.startswith(b"\x1f\x8b\x08") else None  # its time changes its length too


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Many tests build the same small programs; XLA compiles each of them once per process."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """Drop the compiled programs after each file: thousands of them would take gigabytes, and the collector's time."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Shells and supervisors start background processes with signals ignored; the tests send signals to themselves."""
    for number, default in [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)]:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


@pytest.fixture(autouse=True)
def _names(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.clear()  # the session has one of these
    if request.node.path.suffix == ".md":
        return
    doctest_namespace.update(
        {
            "jax": jax,
            "generate": generate,
            "graph": graph,
            "jnp": jnp,
            "np": np,
            "models": models,
            "nn": nn,
            "loss": loss,
            "optim": optim,
            "fault": fault,
            "stream": stream,
        },
        graph=graph,
        tree=tree,
        Decode=Decode,
        Eval=Eval,
        Train=Train,
        table=table,
        Effect=Effect,
        Runtime=Runtime,
        supervised=supervised,
        cli=cli,
        computed=computed,
        group=group,
        options=options,
        resolve=resolve,
        key=jax.random.key(0),
        spec=array_spec((32, 784), jnp.float32),
    )
