"""The writer to MLflow."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from fnlamp.extra import installed, need
from fnlamp.given import instance, text
from fnlamp.track.entry import SUFFIXES, Alert, Entry, Figure, Image, Text
from fnlamp.track.media import png
from fnlamp.track.writers.output import Output, called
from fnlamp.track.writers.tensorboard import NOTHING, hyperparameter

MOST: Final = 1000
"""Metrics in one request, which MLflow limits."""


def mlflow(
    tracking_uri: str, *, experiment: str = "Default", run_name: str | None = None, hyper: Mapping[str, Any] = NOTHING
) -> Output:
    """Send scalars, images, figures and texts to MLflow, as a new run of an experiment, which is created if missing.

    `tracking_uri` is a server's address, or a store such as `sqlite:///mlflow.db`, which needs the whole package mlflow;
    `hyper` are the run's parameters. Characters that MLflow does not allow in names become `_`. MLflow deletes nothing: of
    a run that resumes, it has what was sent before, too, in another run. Its own reports of usage are switched off, unless
    `MLFLOW_DISABLE_TELEMETRY` says otherwise. It needs the extra `mlflow`.  Fails: `ExtraMissing`.
    """
    address, of = text("tracking_uri", tracking_uri), text("experiment", experiment)
    if run_name is not None:
        text("run_name", run_name)
    found = instance("hyper", hyper, Mapping, "a dict of numbers and texts")
    chosen = {_name(str(key)): str(hyperparameter(key, value)) for key, value in found.items()}
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    installed("mlflow", "mlflow")

    @contextlib.contextmanager
    def open_mlflow() -> Iterator[Callable[[Sequence[Entry]], None]]:
        sink = _Run(address, of, run_name, chosen)
        try:
            yield sink.write
        except BaseException:  # an interruption too: MLflow would show the run as running for good
            sink.end("FAILED")
            raise
        sink.end("FINISHED")

    return called(f"mlflow({tracking_uri})", open_mlflow)


class _Run:
    """One run of MLflow."""

    def __init__(self, address: str, experiment: str, name: str | None, hyper: Mapping[str, str]) -> None:
        self._client = need("mlflow.tracking", "mlflow").MlflowClient(tracking_uri=address)
        self._entities = need("mlflow.entities", "mlflow")
        self._error = need("mlflow.exceptions", "mlflow").MlflowException
        with self._as_system_errors():
            self._id = self._client.create_run(self._experiment(experiment), run_name=name).info.run_id
            params = [self._entities.Param(key, value) for key, value in hyper.items()]
            for at in range(0, len(params), 100):
                self._client.log_batch(self._id, params=params[at : at + 100])

    def write(self, entries: Sequence[Entry]) -> None:
        """Raises: `OSError` if the server does not answer."""
        metrics = [
            self._entities.Metric(_in_lane(name, entry), value, int(1000 * entry.time), entry.step)
            for entry in entries
            for name, value in entry.values.items()
            if type(value) is float
        ]
        with self._as_system_errors():
            for at in range(0, len(metrics), MOST):
                self._client.log_batch(self._id, metrics=metrics[at : at + MOST])
            for entry in entries:
                for name, value in entry.values.items():
                    self._file(f"{_in_lane(name, entry)}/{entry.step:012}", value)

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, status)

    def _file(self, path: str, value: Any) -> None:
        match value:
            case Text(content):
                self._client.log_text(self._id, content, f"{path}.txt")
            case Alert(content, level):
                self._client.log_text(self._id, f"{level}: {content}", f"{path}.txt")
            case Image(pixels):
                self._bytes(path, ".png", png(pixels))
            case Figure(content, media_type):
                self._bytes(path, SUFFIXES[media_type], content)

    def _bytes(self, path: str, suffix: str, content: bytes) -> None:
        place, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, name + suffix)
            with open(file, "xb") as opened:
                opened.write(content)
            self._client.log_artifact(self._id, file, place)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            with contextlib.suppress(self._error):  # another process was faster
                return str(self._client.create_experiment(name))
            found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id)

    @contextlib.contextmanager
    def _as_system_errors(self) -> Iterator[None]:
        """Turn a server that does not answer into an `OSError`, after which a tracker tries again."""
        try:
            yield
        except self._error as error:
            if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"):
                raise OSError(errno.EIO, str(error)) from error
            raise


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII).strip("/") or "_"


def _in_lane(name: str, entry: Entry) -> str:
    return f"lane{entry.lane}/{_name(name)}" if entry.lane else _name(name)
