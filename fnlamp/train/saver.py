"""The saves of one run: when one is due, and the last one when the run ends."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from returns.result import Result, Success

from fnlamp.checkpoint import Saved, Writer
from fnlamp.checkpoint.shards import Shards
from fnlamp.checkpoint.writer import ONE_FILE, Form
from fnlamp.effect import Defect, Effect, Exit, Runtime
from fnlamp.fault import Fault, FaultError, FileUnwritable, Interrupted, RunExists
from fnlamp.scale import gathered
from fnlamp.scale.gather import is_here
from fnlamp.scale.ready import dispatched, give_up, unsaved
from fnlamp.stream import BatchStream
from fnlamp.train.checkpoints import Checkpoints, Fork
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.program import Program
from fnlamp.train.progress import Progress
from fnlamp.train.start import print_of, state_of
from fnlamp.train.state import Trained
from fnlamp.train.stored import check_position, note_of, stored

SAVE: Final = 3600.0
"""Seconds for which processes wait for process 0 to write a save. One that is lost is found sooner, as everywhere."""


class Saver:
    """Hands the progress of a run to a writer. Like the workspace, it changes while the run proceeds.

    `savable` is the last progress that a run may be resumed from: after a dispatch, or after an epoch and its hook, never
    between the report of an epoch and its hook.  Raises: `FaultError` of `RunExists`.

    In a cluster, process 0 decides when to save. Others only give their parts of the arrays to it, and have no writer; or write
    them, in a sharded save.
    """

    def __init__(self, of: Program, policy: Checkpoints, writer: Writer | None, runtime: Runtime, workspace: Workspace) -> None:
        self.of, self.policy, self.writer, self.runtime, self.workspace = of, policy, writer, runtime, workspace
        self.leads = workspace.cluster is None or not workspace.cluster.process
        self.savable: Progress | None = None
        self.failed: tuple[Fault, ...] = ()
        self.words: Mapping[str, str] = {}
        self._submitted: Progress | None = None
        self._stream: BatchStream[Any] | None = None
        self._print: tuple[BatchStream[Any], Any] | None = None
        self._time = runtime.clock.now()
        self._step = 0 if of.resume is None else int(state_of(of.resume).step)
        newest = None if writer is None else writer.newest
        if newest is not None and (of.resume is None or newest.step > self._step):
            raise FaultError(RunExists(str(policy.folder), newest.path, newest.step, None if of.resume is None else self._step))

    def reached(self, progress: Progress, stream: BatchStream[Any]) -> None:
        """After a dispatch.  Raises: `FaultError` if a save has failed and the policy is to stop."""
        self.savable, self._stream = progress, stream
        self._look()
        if self._agreed(self.writer is not None and self.leads and not self.writer.busy and self._due(progress)):
            self._save(progress)

    def ended(self, progress: Progress) -> None:
        """After an epoch and its hook.  Raises: as `reached`."""
        self.savable, self._stream = progress, None
        self._look()
        every = self.policy.epochs
        if self._agreed((every is not None and (progress.epoch - 1) % every == 0) or self._due(progress)):
            self._save(progress)

    def last(self, exit: Exit[Any, Any]) -> Effect[None, Any]:
        """Save what is not saved yet, and wait: within the grace, and until a second signal, if the run was interrupted."""

        def call(runtime: Runtime) -> Result[None, Any]:
            stopped = not isinstance(exit, Success)
            seconds = self.policy.grace if stopped else None
            end = runtime.clock.now() + self.policy.grace
            idle = self._idle(seconds)
            now = isinstance(exit, Defect) and not isinstance(exit.cause, Exception)  # a second signal
            last = None if self.savable is self._submitted else self.savable
            together = isinstance(exit, Success) or (isinstance(exit, Interrupted) and self.workspace.stopping)
            if last is not None and self._wanted(together, last, idle and not now and not self.failed):
                self._save(last, together=together)
                idle = self._idle(max(end - runtime.clock.now(), 0.0) if stopped else None)
            if together and self.policy.form == "shards" and self.workspace.cluster is not None:
                self.workspace.cluster.meet("the last save", deadline=self._longest())  # process 0 may wait for parts
            if not idle:
                runtime.say(f"the last save in {self.policy.folder} is not finished, the one before it is whole")
            self._look(stop=not stopped)
            return Success(None)

        return Effect.call(call)

    def signed(self, trained: Trained) -> Trained:
        """With the newest finished save of the run, and the faults of those that failed."""
        newest: Saved | None = None if self.writer is None else self.writer.newest
        return replace(trained, saved=None if newest is None else newest.path, unsaved=self.failed)

    # ---- the parts

    def _idle(self, seconds: float | None) -> bool:
        return self.writer is None or self.writer.wait(seconds, self._insisted)

    def _wanted(self, together: bool, last: Progress, ready: bool) -> bool:
        """Whether the last save is made. Arrays of other processes can be had while these come to the same end."""
        return self._agreed(ready, self._longest()) if together else ready and self.leads and is_here(last.carry)

    def _due(self, progress: Progress) -> bool:
        steps, seconds = self.policy.steps, self.policy.seconds
        if steps is not None and int(progress.carry.step) // steps > self._step // steps:
            return True
        return seconds is not None and self.runtime.clock.now() - self._time >= seconds

    def _save(self, progress: Progress, *, together: bool = True) -> None:
        if self._stream is not None and progress.position is not None:
            if self._print is None or self._print[0] is not self._stream:
                self._print = self._stream, print_of(self._stream, self.of.seed)
            progress = replace(progress, stream=self._print[1])
            check_position(progress.position, self._stream)
        cluster, form = self.workspace.cluster, self._form(together)
        if form is ONE_FILE and cluster is not None and not is_here(progress.carry):
            progress = replace(progress, carry=gathered(progress.carry, cluster))
        trained, start = progress.trained(self.of), self.of.resume
        parent = start.path if isinstance(start, Fork) else None
        self._step, self._time = int(trained.state.step), self.runtime.clock.now()
        if self.writer is not None and form is not None and (self.leads or form is not ONE_FILE):
            self._submit(self.writer, stored(trained, self.words), note_of(trained, parent), form)
        self._submitted = self.savable

    def _submit(self, writer: Writer, content: Any, note: Mapping[str, Any], form: Form) -> None:
        cluster, step = self.workspace.cluster, self._step
        if cluster is None or form is ONE_FILE:
            writer.submit(step, content, note, form=form)
            return
        try:  # Orbax asks the coordinator, which may not answer
            dispatched(lambda: writer.submit(step, content, note, form=form), cluster, "copying the parts of a save")
        except FaultError as error:
            if not isinstance(error.fault, FileUnwritable):
                raise
            self._tell((error.fault,), stop=True)

    def _form(self, together: bool) -> Form | None:
        """The form of the next save; `None` if its folder cannot be made. Process 0 alone saves one file."""
        cluster = self.workspace.cluster
        if self.policy.form == "file" or not (together or cluster is None):
            return ONE_FILE
        token = secrets.token_hex(8)
        if self.leads and self.writer is not None:
            try:
                Shards(token).prepare(self.writer.folder)
            except FaultError as error:
                self._tell((error.fault,), stop=True)
                token = ""
        if cluster is None:
            return Shards(token) if token else None
        token = cluster.meet("the folder of the save", token)[0]
        if not token:
            return None
        return Shards(
            token, cluster.process, cluster.processes, partial(unsaved, cluster, token), partial(give_up, cluster, token)
        )

    def _agreed(self, due: bool, deadline: float | None = None) -> bool:
        """What process 0 decides."""
        cluster, due = self.workspace.cluster, bool(self.workspace.same("whether to save", float(due), deadline))
        if due and cluster is not None:
            cluster.doing("writing the save before")
            self._idle(None)
            cluster.meet("saving", deadline=self._longest())
        return due

    def _longest(self) -> float:
        cluster = self.workspace.cluster
        return SAVE if cluster is None else max(SAVE, cluster.deadline)

    def _look(self, *, stop: bool = True) -> None:
        if self.writer is not None:
            self._tell(self.writer.failures(), stop=stop)

    def _tell(self, found: tuple[Fault, ...], *, stop: bool) -> None:
        self.failed = (*self.failed, *found)
        for fault in found:
            self.runtime.say(f"not saved: {fault}")
        if found and stop and self.policy.on_failure == "stop":
            raise FaultError(found[0])

    def _insisted(self) -> bool:
        return self.runtime.cancel.insisted
