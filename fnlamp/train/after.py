"""Programs after training: one pass of a trained model over a stream, as continuations for `training.bind(...)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from returns.result import Result

from fnlamp.arrays import Tree
from fnlamp.effect import UNKNOWN, Effect, Interrupted, Outline, Resource, Runtime
from fnlamp.given import shown
from fnlamp.stream import BatchStream
from fnlamp.train.arguments import check_factory, check_start, quiet, workspace_of
from fnlamp.train.execute.exhausted import exhaustion
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.explain.memory import of_pass
from fnlamp.train.factory import LoopContext, use_stream
from fnlamp.train.plan import rows_line
from fnlamp.train.state import Kept, Trained

Work: TypeAlias = Callable[[Any, BatchStream[Any], Runtime, Workspace], Result[Any, Any] | Interrupted]
"""What is done with the trained model and the stream; it polls `runtime.cancel`."""


@dataclass(frozen=True, eq=False)
class Pass:
    """A continuation that `explain` can look into: `name(batches)(trained)` does the work on the stream of `batches`.

    `batches` is a stream, a resource of one, or a factory of either, called with a `LoopContext` of the last epoch and seed 0;
    `title` is its line in `explain`, with what it `yields`, and `argument` what messages call `batches`.
    """

    name: str
    batches: Any
    work: Work
    title: str
    yields: str
    argument: str = "batches"

    def __post_init__(self) -> None:
        if not isinstance(self.batches, BatchStream | Resource):
            check_factory(self.argument, self.batches)

    def __call__(self, trained: Trained | Kept) -> Effect[Any, Any]:
        check_start(f"{self.name}: trained", trained)
        if not isinstance(trained, Trained | Kept):
            got = shown(trained)
            hint = f"write training.bind({self.name}(batches))"
            raise TypeError(f"{self.name}: trained is what epochs gave, got {got}; {hint}")
        factory = (lambda _: self.batches) if isinstance(self.batches, BatchStream | Resource) else self.batches

        def program(stream: BatchStream[Any]) -> Effect[Any, Any]:
            def call(runtime: Runtime) -> Result[Any, Any] | Interrupted:
                workspace, weights = workspace_of(runtime), (trained.params, trained.layer_state)
                runtime = quiet(runtime, workspace.cluster)
                with exhaustion(lambda: of_pass(weights, stream), runtime, workspace.device):
                    return self.work(trained, stream, runtime, workspace)

            return Effect.call(call)

        made = use_stream(factory, LoopContext(epoch_of(trained), 0), program, "batches").named(self.title)
        return made.salvaged(lambda: trained)  # an interruption does not cost the training

    def outline(self, trained: Any) -> Outline:
        if not isinstance(self.batches, BatchStream):
            return Outline((f"{self.title}: {self.yields}, on a stream made when it is run",), UNKNOWN)
        fault = self.batches.why_empty if self.batches.length == 0 else None
        return Outline((f"{self.title}: {self.yields}, on {rows_line(self.batches)}",), UNKNOWN, fault)


def epoch_of(trained: Trained | Kept) -> int:
    """The epoch after which the model was as it is."""
    return trained.last.epoch if isinstance(trained, Trained) else trained.epoch


def features_of(batch: Tree) -> Tree:
    """The features of a batch `(features, target)`; anything but a pair is features alone."""
    return batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch
