"""Points that Optuna proposes, one after the other, from the lanes so far.

The journal of the study is a file in the folder of the sweep, and only read and written while that folder is held. Optuna's own
lock, which a killed process leaves behind, is not needed. A trial is the lane of its number. If its process was killed, another
process resumes the lane and tells the study of its outcome.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, final

from fnlamp.checkpoint.replace import writing
from fnlamp.experiment.folder import RunRecord
from fnlamp.extra import need
from fnlamp.fault import FaultError, FileMissing, SweepChanged
from fnlamp.given import function, whole
from fnlamp.sweep.axis import Axis, Choice, Integers, LogUniform, Uniform, axes_of
from fnlamp.sweep.job import Job, has_ended
from fnlamp.sweep.rungs import Progress, after, continues

JOURNAL: Final = "study.log"
PLAIN: Final = (type(None), bool, int, float, str)


@final
@dataclass(frozen=True)
class Study:
    """Points that Optuna proposes."""

    axes: Mapping[str, Axis]
    trials: int
    seed: int
    sampler: Callable[[int], Any] | None = field(repr=False)

    def __len__(self) -> int:
        return self.trials

    def described(self) -> dict[str, Any]:
        """The distributions as JSON; the points are in the journal, and in the runs."""
        return {"study": {"axes": {path: repr(axis) for path, axis in self.axes.items()}, "seed": self.seed}}

    def __repr__(self) -> str:
        return f"<Study: {self.trials:,} trials over {', '.join(self.axes)}>"


def optuna(axes: Mapping[str, Axis], *, trials: int, seed: int = 0, sampler: Callable[[int], Any] | None = None) -> Study:
    """Points that Optuna proposes from the lanes so far, with the extra `sweep`; by default tree-structured Parzen estimators.

    `sampler` makes the sampler of one trial from a seed, which is a function of `seed` and the trial: a study that is resumed
    does not begin its random numbers again. Several processes may work on one study by the same call.
    Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", section 4.

    >>> from fnlamp.sweep.axis import log_uniform
    >>> optuna({"rate": log_uniform(1e-4, 1e-1)}, trials=20)
    <Study: 20 trials over rate>
    """
    if sampler is not None:
        function("optuna: sampler", sampler, "a function of a seed, such as lambda seed: optuna.samplers.RandomSampler(seed)")
    named = MappingProxyType(axes_of("optuna", axes))
    return Study(named, whole("optuna: trials", trials), whole("optuna: seed", seed, 0), sampler)


@dataclass
class StudyPoints:
    """The trials of a study as points. Everything but `known` needs the folder of the sweep to be held."""

    study: Study
    job: Job
    found: tuple[Mapping[str, Any], ...] = ()
    storage: Any = None
    pruned: frozenset[int] = frozenset()

    @property
    def most(self) -> int:
        return len(self.study)

    def known(self) -> Sequence[Mapping[str, Any]]:
        return self.found

    def update(self, records: Mapping[int, RunRecord]) -> Sequence[Mapping[str, Any]]:
        """Tell the study of lanes that have ended, and read its trials.

        Fails: `SweepChanged`, `FileMissing`, `ExtraMissing`.
        """
        with self.opened(records) as study:
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                record = records.get(trial.number)
                if not trial.state.is_finished() and record is not None and has_ended(record):
                    self.tell(study, trial.number, record)
            self.found = tuple(self.point(study, trial) for trial in trials)
            self.pruned = frozenset(trial.number for trial in trials if trial.state.name == "PRUNED")
        if missing := [number for number in records if number >= len(self.found)]:
            reason = f"lane {min(missing)} is recorded, and the study has {len(self.found)} trials"
            raise FaultError(FileMissing(self.journal, reason))
        return self.found

    def another(self) -> Mapping[str, Any] | None:
        """The point of a new trial, or `None` if there are enough."""
        if len(self.found) >= self.most:
            return None
        with self.opened({}) as study:
            study.ask()
            self.found = (*self.found, self.point(study, study.get_trials(deepcopy=False)[-1]))
        return self.found[-1]

    def todo(self, lanes: Sequence[Progress]) -> list[tuple[int, int | None]]:
        """A lane continues after a rung, or is a pruned trial, as soon as it has reached it: trials come one by one."""
        found = []
        for number, lane in enumerate(lanes):
            if lane.ended or number in self.pruned or (lane.waits and self.prunes(number, lanes)):
                continue
            found.append((number, after(lane.reached, self.job.rungs)))
        return found

    def prunes(self, number: int, lanes: Sequence[Progress]) -> bool:
        """Whether a lane does not continue after its rung; the study is told, with the values so far."""
        assert self.job.rungs is not None
        stops = not continues(number, lanes, self.job.rungs)
        with self.opened({}) as study:
            trial = study.get_trials(deepcopy=False)[number]
            sign = 1.0 if self.job.lowest else -1.0
            for epoch, value in lanes[number].curve:
                if epoch <= lanes[number].reached and epoch not in trial.intermediate_values:
                    need("optuna", "sweep").trial.Trial(study, trial._trial_id).report(sign * value, epoch)
            if stops:
                study.tell(number, state=need("optuna.trial", "sweep").TrialState.PRUNED)
                self.pruned |= {number}
        return stops

    @property
    def journal(self) -> str:
        return os.path.join(self.job.folder, JOURNAL)

    # ---- Optuna

    @contextlib.contextmanager
    def opened(self, records: Mapping[int, RunRecord]) -> Iterator[Any]:
        """The study, quietly."""
        api = need("optuna", "sweep")
        said = api.logging.get_verbosity()
        try:
            api.logging.set_verbosity(api.logging.ERROR)
            with warnings.catch_warnings(), writing(self.journal):
                warnings.simplefilter("ignore")  # about interfaces that Optuna may change
                _mend(self.journal)
                if self.storage is None:
                    backend = api.storages.journal.JournalFileBackend(self.journal, lock_obj=_Held())
                    self.storage = api.storages.JournalStorage(backend)
                yield self.loaded(api)
        finally:
            api.logging.set_verbosity(said)

    def loaded(self, api: Any) -> Any:
        """The study of the name that it has in the journal.  Fails: `SweepChanged` for another metric."""
        wanted = f"{'lowest' if self.job.lowest else 'highest'} {self.job.column}"
        names = api.get_all_study_names(self.storage)
        if not names:
            direction = "minimize" if self.job.lowest else "maximize"
            study = api.create_study(study_name=self.job.name, storage=self.storage, direction=direction)
        else:
            study = api.load_study(study_name=names[0], storage=self.storage)
        if (before := study.user_attrs.get("metric")) is None:
            study.set_user_attr("metric", wanted)
        elif before != wanted:
            raise FaultError(SweepChanged(self.job.folder, 0, "metric", before, wanted))
        return study

    def point(self, study: Any, trial: Any) -> Mapping[str, Any]:
        """The values of a trial. Those that a killed process has not drawn any more are drawn now."""
        api = need("optuna", "sweep")
        params = dict(trial.params)
        if not trial.state.is_finished() and (missing := [path for path in self.study.axes if path not in params]):
            seed = zlib.crc32(f"{self.study.seed}/{trial.number}".encode())
            study.sampler = (self.study.sampler or (lambda seed: api.samplers.TPESampler(seed=seed)))(seed)
            open_trial = api.trial.Trial(study, trial._trial_id)
            for path in missing:
                params[path] = _suggested(open_trial, path, self.study.axes[path])
        axes = self.study.axes
        return MappingProxyType({path: _value(axes.get(path), params[path]) for path in [*axes, *params] if path in params})

    def tell(self, study: Any, number: int, record: RunRecord) -> None:
        """The outcome of a lane."""
        states = need("optuna.trial", "sweep").TrialState
        value = self.job.value(record) if record.status == "completed" else None
        if value is None or not math.isfinite(value):
            study.tell(number, state=states.FAIL)
        else:
            study.tell(number, value)


def _suggested(trial: Any, path: str, axis: Axis) -> Any:
    match axis:
        case Uniform(low, high):
            return trial.suggest_float(path, low, high)
        case LogUniform(low, high):
            return trial.suggest_float(path, low, high, log=True)
        case Integers(low, high):
            return trial.suggest_int(path, low, high)
        case Choice():
            return trial.suggest_categorical(path, list(_labels(axis)))


def _value(axis: Axis | None, label: Any) -> Any:
    return _labels(axis).get(label, label) if isinstance(axis, Choice) else label


def _labels(axis: Choice) -> dict[Any, Any]:
    """The values of a choice by what the journal calls them: plain values are in it, of others their texts."""
    plain = all(type(value) in PLAIN for value in axis.values)
    found = {value if plain else repr(value): value for value in axis.values}
    return found if len(found) == len(axis.values) else dict(enumerate(axis.values))


def _mend(journal: str) -> None:
    """Remove the half line that a killed process may have left at the end.  Raises: `OSError`."""
    with contextlib.suppress(FileNotFoundError), open(journal, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


class _Held:
    """The lock of a journal whose folder is held."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
