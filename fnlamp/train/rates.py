"""The learning-rate range test: one short run in which the rate grows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp.arrays import placed_on, to_device
from fnlamp.effect import Effect, Interrupted, Resource, Runtime
from fnlamp.fault import Broken, NonFinite, TrainFault
from fnlamp.given import number, shown, whole
from fnlamp.optim import Optimizer
from fnlamp.stream import BatchStream
from fnlamp.train import tally
from fnlamp.train.arguments import check_factory, device_of
from fnlamp.train.execute import Stepwise
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.explain.explained import Explained
from fnlamp.train.factory import LoopContext, check_stream_type, use_stream
from fnlamp.train.gradient import plain
from fnlamp.train.program import Program
from fnlamp.train.supervised import Supervised

E = TypeVar("E")
Numbers = np.ndarray[Any, np.dtype[np.float64]]

SMOOTH = 0.9
"""What a loss counts for in the smoothed loss of the step after it."""
DIVERGED = 4.0
"""The smoothed loss, as a multiple of its lowest, above which a run has diverged."""


@dataclass(frozen=True, eq=False)
class RateRange:
    """The curve of a range test: for each step its learning rate and the loss of its batch before the update.

    `smoothed` is the mean of the losses up to the step, each counting 0.9 times what the next one does. `diverged` says whether
    the curve ended because the loss did, before the highest rate.
    """

    rates: Numbers
    losses: Numbers
    smoothed: Numbers
    diverged: bool

    @property
    def suggested(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest; `None` if it never falls below the first loss."""
        at = int(np.argmin(self.smoothed))
        return float(self.rates[at]) / 10 if at else None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest as the rate is multiplied; `None` if it never falls.

        It is where the slope over log(rate), by central differences, is most negative.
        """
        if len(self.rates) < 2:
            return None
        slope = np.gradient(self.smoothed, np.log(self.rates))
        at = int(np.argmin(slope))
        return float(self.rates[at]) if slope[at] < 0 else None

    def __repr__(self) -> str:
        most = f"{len(self.rates)} rates up to {self.rates[-1]:.3g}"
        rate = "none" if self.suggested is None else f"{self.suggested:.3g}"
        return f"<RateRange: {most}{', where the loss diverged' if self.diverged else ''}; suggested: {rate}>"


def learning_rate_range(
    *,
    model: Supervised,
    optimizer: Callable[[float], Optimizer],
    train_batches: Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]],
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    seed: int = 0,
) -> Effect[RateRange, TrainFault | E]:
    """The program that finds a learning rate: `steps` steps of training, in which the rate grows from `lowest` to `highest`.

    `optimizer` is a function from a rate to an optimizer: `optim.adamw`, or `lambda rate: optim.sgdw(rate, momentum=0.9)`. Step
    i has the rate `lowest (highest / lowest)^(i / (steps - 1))`. `train_batches` is as in `epochs`; a stream of fewer batches
    starts again. The run ends early when the loss diverges: when its smoothed value is above 4 times the lowest so far, or a
    loss or a parameter is not finite. Parameters are fresh ones of `seed`, and thrown away. One dispatch is one step, whatever
    the runtime's executor. `plots.rate_range` draws the curve.
    Fails: as `epochs`; `NonFinite` only if the first step is not finite. Ctrl-C ends it; `Interrupted` has the curve so far.
    References: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", section 3.3, with an exponential range as
    Gugger 2018; Smith 2018, section 4.1.

    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> program = learning_rate_range(
    ...     model=supervised(nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw,
    ...     train_batches=lambda context: stream.minibatches(x, 3 * x, batch_size=8, seed=context.seed),
    ...     highest=100.0,
    ... )
    >>> program.run(Runtime(log=None)).map(lambda found: (found.diverged, 0.01 < found.suggested < 1))
    <IOResult: <Success: (True, True)>>
    """
    first = number("lowest", lowest, "a rate above 0", lambda rate: rate > 0)
    last = number("highest", highest, "a rate above lowest", lambda rate: rate > first)
    count = whole("steps", steps, 2)
    growth = math.log(last / first) / (count - 1)
    check_factory("train_batches", train_batches)

    def long(stream: Any) -> BatchStream[Any]:
        return check_stream_type(stream, "train_batches").repeat_or_take(count)

    def batches(context: LoopContext) -> Any:
        made = train_batches(context)
        return made.map(long) if isinstance(made, Resource) else long(made)

    chosen = {"model": model, "optimizer": _optimizer(optimizer), "train_batches": batches, "seed": seed}
    nothing = {"validation_batches": None, "initial": None, "resume": None, "on_epoch": None, "checkpoints": None}
    none: dict[str, Any] = {
        "metrics": {},
        "train_metrics": {},
        "folds": {},
        "validate_every": 1,
        "epochs": 1,
        "parameter_bound": None,
    }
    program = Program(**chosen, **nothing, **none, schedule=lambda step: first * jnp.exp(growth * step), gradient=plain)  # type: ignore[arg-type]
    search = partial(_search, program, np.geomspace(first, last, count))
    context = program.context("train", 1, (None, None))
    found = use_stream(program.train_batches, context, lambda stream: Effect.call(partial(search, stream)), "train_batches")
    return found.named("learning_rate_range").outlined(Explained(program))


def _search(of: Program, rates: Numbers, stream: BatchStream[Any], runtime: Runtime) -> Result[RateRange, Any] | Interrupted:
    """One step for each rate, until the loss diverges."""
    workspace, executor = Workspace(device_of(runtime.device)), Stepwise()
    seen: list[tuple[float, float, float]] = []
    diverged, steps, total = False, 0, 0.0
    with placed_on(workspace.device):
        plan = of.plan(stream, None)
        runtime.say(f"{plan.summary(executor, workspace.device)}, rates from {rates[0]:.3g} to {rates[-1]:.3g}")
        shared = *of.shared(plan.made, workspace.device), to_device(np.float32(1), workspace.device)
        carry = of.carry(plan, stream, workspace.device)
        taken = executor.fold(plan.body, shared, carry, stream, stream.init, workspace)
        for rate, reached in zip(rates, taken, strict=False):
            sums = tally.sums(reached.carry.tally)
            if diverged := bool(reached.broken):
                break
            if sums.steps > steps:  # not one that the optimizer skipped
                seen.append(_point([loss for _, loss, _ in seen], float(rate), float(sums.of_batches) - total))
                steps, total = int(sums.steps), float(sums.of_batches)
                if diverged := _diverged([smooth for _, _, smooth in seen]):
                    break
            if runtime.cancel.requested:
                return Interrupted(_curve(seen, diverged=False) if seen else None)
    if seen:
        return Success(_curve(seen, diverged=diverged))
    return Failure(NonFinite(Broken.LOSS, 1, 1) if diverged else stream.why_empty)


def _point(losses: list[float], rate: float, loss: float) -> tuple[float, float, float]:
    """A point of the curve: rate, loss, smoothed loss."""
    so_far = [*losses, loss]
    return rate, loss, float(np.average(so_far, weights=SMOOTH ** np.arange(len(so_far))[::-1]))


def _diverged(smoothed: list[float]) -> bool:
    lowest = min(smoothed)  # losses may be negative, such as likelihoods of densities
    return not math.isfinite(smoothed[-1]) or smoothed[-1] - lowest > (DIVERGED - 1) * abs(lowest)


def _curve(seen: list[tuple[float, float, float]], *, diverged: bool) -> RateRange:
    rates, losses, smoothed = np.array(seen, np.float64).T
    return RateRange(rates, losses, smoothed, diverged)


def _optimizer(function: Any) -> Optimizer:
    """The optimizer of rate 1, which the schedule multiplies.  Raises: `TypeError`."""
    expected = "a function from a rate to an optimizer, as optim.adamw or lambda rate: optim.sgdw(rate, momentum=0.9)"
    if not callable(function):
        raise TypeError(f"optimizer is {expected}, got {shown(function)}")
    try:
        inspect.signature(function).bind(1.0)
    except TypeError as error:
        raise TypeError(f"optimizer is {expected}, got {shown(function)}: {error}") from None
    made = function(1.0)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer is {expected}, got a function that returned {shown(made)}")
    return made
