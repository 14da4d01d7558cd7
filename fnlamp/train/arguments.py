"""Checks of the arguments of `epochs`, `evaluate` and `supervised`: each error says what to write instead."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from os import PathLike
from typing import Any, Final

import jax
from returns.primitives.container import BaseContainer

from fnlamp import optim
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.effect.together import Unrecorded
from fnlamp.layer import Layer
from fnlamp.loss import Loss, as_metric
from fnlamp.optim import Optimizer
from fnlamp.scale import Cluster
from fnlamp.stream import BatchStream
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.fold import Fold
from fnlamp.train.gradient import Gradient
from fnlamp.train.indicators.indicator import Indicator
from fnlamp.train.state import EpochReport
from fnlamp.train.supervised import Supervised

EPOCH_FIGURES: Final = ("steps", "samples", "skipped", "seconds", "samples_per_second", "waiting")
"""What observers are told of each epoch under `epoch.`, beside losses and metrics."""


def check_model(model: Any) -> None:
    if isinstance(model, Supervised):
        return
    hint = ""
    if isinstance(model, Layer):
        hint = f": give a layer with its loss, train.supervised({model}, loss.cross_entropy())"
    raise TypeError(f"model is what train.supervised makes, got {_shown(model)}{hint}")


def check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, Optimizer):
        return
    hint = "; use one of fnlamp.optim, as optim.adamw(1e-3)"
    if inspect.isfunction(optimizer) and getattr(optim, _name(optimizer), None) is optimizer:
        hint = f", which makes one: call it, as optim.{_name(optimizer)}(1e-3)"
    elif hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        hint = " of another library; wrap its functions in optim.Optimizer(init, update), whose update gives the new parameters"
    raise TypeError(f"optimizer is an optim.Optimizer, got {_shown(optimizer)}{hint}")


def check_factory(name: str, factory: Any) -> None:
    if isinstance(factory, BatchStream | Resource):
        raise TypeError(
            f"{name} is a function that makes each epoch's stream, got {_shown(factory)}: write {name}=lambda context: ..., "
            "and give its seed on, as in stream.minibatches(x, y, batch_size=32, seed=context.seed)"
        )
    if not callable(factory):
        raise TypeError(
            f"{name} is a function from a LoopContext to a stream, got {_shown(factory)}: write "
            f"{name}=lambda context: stream.minibatches(x, y, batch_size=32, seed=context.seed)"
        )
    with contextlib.suppress(ValueError):  # some functions written in C have no signature
        try:
            inspect.signature(factory).bind(None)
        except TypeError as error:
            raise TypeError(
                f"{name} is called with a LoopContext, got {_shown(factory)}: {error}; write {name}=lambda context: ..."
            ) from None


def check_metrics(metrics: Any, argument: str = "metrics") -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f'{argument} is a dict by name, as {{"accuracy": loss.accuracy}}, got {_shown(metrics)}')
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"{argument} are named by strings, got {_shown(name)}")
        if not callable(metric):
            raise TypeError(f"{argument}[{name!r}] is a function (prediction, target) -> LossValue, got {_shown(metric)}")
        as_metric(metric, f"{argument}[{name!r}]")


def check_gradient(gradient: Any) -> None:
    if not isinstance(gradient, Gradient):
        hint = f": call it, as train.{_name(gradient)}(...)" if inspect.isfunction(gradient) else ""
        raise TypeError(f"gradient is train.plain or a value around it, as train.microbatches(4), got {_shown(gradient)}{hint}")


def check_folds(folds: Any, metrics: Iterable[str]) -> None:
    if not isinstance(folds, Mapping):
        raise TypeError(f'folds is a dict by name, as {{"best": train.best()}}, got {_shown(folds)}')
    known = [field.name for field in fields(EpochReport) if field.name.endswith(("loss", "batches", "seconds"))]
    known = [*known, *metrics]
    for name, fold in folds.items():
        if not isinstance(name, str):
            raise TypeError(f"folds are named by strings, got {_shown(name)}")
        if not isinstance(fold, Fold):
            hint = f": call it, as train.{_name(fold)}(...)" if inspect.isfunction(fold) else ""
            raise TypeError(f"folds[{name!r}] is a train.Fold, got {_shown(fold)}{hint}")
        if isinstance(fold.metric, str) and fold.metric not in known:
            raise ValueError(f"folds[{name!r}] reads {fold.metric!r}, which no report has; figures are {', '.join(known)}")


def check_indicators(indicators: Any, metrics: Iterable[str] = (), train_metrics: Iterable[str] = ()) -> None:
    if not isinstance(indicators, Mapping):
        raise TypeError(f'indicators is a dict by name, as {{"loss": train.step_loss()}}, got {_shown(indicators)}')
    for name, indicator in indicators.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"indicators are named by strings, got {_shown(name)}")
        if not isinstance(indicator, Indicator):
            hint = f": call it, as train.{_name(indicator)}(...)" if inspect.isfunction(indicator) else ""
            raise TypeError(f"indicators[{name!r}] is a train.Indicator, got {_shown(indicator)}{hint}")
    losses = ("loss", "loss_of_batches")
    parts = {"train": (*losses, *train_metrics), "validation": (*losses, *metrics), "epoch": EPOCH_FIGURES}
    for name in [f"{part}.{figure}" for part, figures in parts.items() for figure in figures]:
        if name in indicators:  # one curve would have values of steps and of epochs
            raise ValueError(f"indicators[{name!r}] has the name of a figure of an epoch; choose another, such as 'step.loss'")
    for name in indicators:  # an indicator with several values names them `name.part`
        if (outer := next((each for each in indicators if name.startswith(f"{each}.")), None)) is not None:
            raise ValueError(f"indicators[{name!r}] may have the name of a value of indicators[{outer!r}]; choose another")


def check_hook(hook: Any) -> None:
    if isinstance(hook, Effect):
        raise TypeError(f"on_epoch is a function of a report, got {_shown(hook)}: write on_epoch=lambda report: ...")
    if not callable(hook):
        raise TypeError(f"on_epoch is a function of a report, got {_shown(hook)}")
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"on_epoch is a plain function of a report, got the async {_shown(hook)}: run a coroutine in an Effect")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # some functions written in C have none
        return
    given = ("report", "trained")[: 2 if takes_trained(hook) else 1]
    try:
        signature.bind(*given)
    except TypeError as error:
        hint = "write on_epoch=lambda report: ... or lambda report, trained: ..."
        raise TypeError(f"on_epoch is a function of a report, got {_shown(hook)}: {error}; {hint}") from None


def takes_trained(hook: Callable[..., Any]) -> bool:
    """Whether a hook takes the `Trained` after the report: it has a second positional argument without a default."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have none
        return False
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(by_place) >= 2


def check_start(name: str, start: Any, *kinds: type) -> None:
    """Raises: `TypeError` for a program or a container of what to start from, or anything but the `kinds`."""
    if start is None:
        return
    if isinstance(start, Effect):
        raise TypeError(f"{name} is what a run gave, got {_shown(start)}: run it first, or program.bind(lambda trained: ...)")
    if isinstance(start, BaseContainer):
        raise TypeError(f"{name} is a Trained, got {_shown(start)}: take it out, as in case IOSuccess(Success(trained))")
    if isinstance(start, str | bytes | PathLike):
        raise TypeError(f"{name} is what a run gave or a tree of arrays, got {_shown(start)}: read the file first")
    if kinds and not isinstance(start, kinds):
        hint = "; to start from parameters, write initial=" if isinstance(start, dict) else ""
        raise TypeError(f"{name} is a {' or a '.join(kind.__name__ for kind in kinds)}, got {_shown(start)}{hint}")


def device_of(device: Any) -> Any:
    """The device that a runtime names: one of JAX's, or the first of a platform.

    Raises: `TypeError` for anything else, `ValueError` for a platform that is not here.
    """
    if device is None or isinstance(device, jax.Device):
        return device
    if isinstance(device, str):
        try:
            return jax.devices(device)[0]
        except RuntimeError as error:
            raise ValueError(f"Runtime.device is the name of a platform of this machine, got {device!r}: {error}") from error
    raise TypeError(f"Runtime.device is a jax.Device, as jax.devices()[0], or the name of a platform, got {_shown(device)}")


def workspace_of(runtime: Runtime) -> Workspace:
    """What a run mutates, on the devices of the runtime and with the processes of its executor."""
    cluster = getattr(runtime.executor, "cluster", None)
    return Workspace(place_of(runtime), cluster if cluster is not None and cluster.processes > 1 else None, runtime.cancel)


def quiet(runtime: Runtime, cluster: Cluster | None) -> Runtime:
    """The runtime, which in a cluster logs and tells observers in process 0 alone."""
    if cluster is None or not cluster.process:
        return runtime
    # With observers or without, a step is another program, which must be the same in each process.
    return replace(runtime, log=None, observers=(Unrecorded(),) if runtime.observers else ())


def place_of(runtime: Runtime) -> Any:
    """Where a run computes: its device, or for an executor with many devices the sharding of an array that all of them have."""
    check_executor(runtime.executor)
    place = getattr(runtime.executor, "place", None)
    return device_of(runtime.device) if place is None else place(runtime.device)


def check_executor(executor: Any) -> None:
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "fold")):
        raise TypeError(f"Runtime.executor is an executor, as train.Fused(), got {_shown(executor)}")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _shown(value: Any) -> str:
    if isinstance(value, Layer):
        return f"the layer {value}"
    if isinstance(value, Loss):
        return f"the loss {value}"
    if inspect.isroutine(value) or isinstance(value, type):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    text = repr(value)
    return f"{type(value).__name__}: {text if len(text) < 80 else text[:77] + '...'}"
