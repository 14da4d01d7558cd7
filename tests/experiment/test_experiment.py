"""A run and its folder: every outcome is recorded, two runs never meet, and nothing that a run cannot record stops it."""

from __future__ import annotations

import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest
from outcomes import fault, value
from returns.result import Success

from fnlamp import track
from fnlamp.config import computed, group, resolve
from fnlamp.effect import CancelToken, Effect, Interrupted, Runtime, collect
from fnlamp.experiment import Place, experiment, git, lease, runs, surroundings
from fnlamp.experiment.edit import edit
from fnlamp.experiment.folder import CRASHED
from fnlamp.experiment.index import listing
from fnlamp.experiment.plain import settings_of
from fnlamp.fault import EmptyEpoch, FaultError, FileMissing, FileUnwritable, RunActive, RunAmbiguous, RunMissing, RunTooNew

SILENT = Runtime(log=None)


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(git, "state_of", lambda *folders: git.GitState({"missing": "not looked at"}))
    monkeypatch.setattr(surroundings, "packages", lambda: {"jax": "0"})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine does not crash here
    return str(tmp_path / "runs")


def told(*losses: float) -> Effect[Any, Any]:
    return collect([track.measure({"loss": loss}, step=step) for step, loss in enumerate(losses, 1)])


def the_json(path: Any, name: str = "run.json") -> dict[str, Any]:
    return json.loads(pathlib.Path(path, name).read_text(), parse_constant=lambda constant: pytest.fail(constant))


# ------------------------------------------------------------------------------- outcomes


def test_a_run_has_its_value_metrics_config_and_source(folder):
    @group
    class Settings:
        rate: float = 0.5
        double: float = computed(lambda rate: 2 * rate)

    def program(place: Place[Any]) -> Effect[Any, Any]:
        return told(1.0, place.config.double, math.nan).map(lambda _: place.checkpoints)

    resolved = resolve(Settings, "rate=0.25").unwrap()
    run = value(experiment("a b", program, resolved, folder=folder, tags=["x"], note="first\nline"), SILENT)
    assert run.value == run.folder / "checkpoints" and run.warnings == ()
    about = the_json(run.folder)
    assert (about["status"], about["error"], about["tags"], about["note"]) == ("completed", None, ["x"], "first\nline")
    settings = the_json(run.folder, "config.json")["settings"]
    assert {path: (each["value"], each["source"]) for path, each in settings.items()} == {
        "rate": (0.25, "overridden"),
        "double": (0.5, "computed"),
    }
    assert the_json(run.folder, "summary.json")["scalars"] == {
        "loss": {"last": "nan", "step": 3, "lowest": 0.5, "highest": 1.0}
    }
    assert "test_a_run_has_its_value" in (run.folder / "source" / "test_experiment.py").read_text()
    assert not (run.folder / "lease.json").exists()
    series = value(value(runs(folder)).scalars("loss"))[run.id]
    np.testing.assert_array_equal(series.values, [1.0, 0.5, math.nan])


def test_every_outcome_is_recorded_and_passes_through(folder):
    wrong = EmptyEpoch(rows=0, batch_size=2)
    assert fault(experiment("a", Effect.from_failure(wrong), folder=folder), SILENT) == wrong
    with pytest.raises(ZeroDivisionError):
        experiment("a", Effect.suspend(lambda: 1 // 0), folder=folder).run(SILENT)
    with pytest.raises(TypeError, match="returned int"):
        experiment("a", lambda place: 3, folder=folder).run(SILENT)  # type: ignore[arg-type, return-value]
    token = CancelToken()
    stop = Effect.suspend(token.cancel).then(told(0.5))
    assert isinstance(experiment("a", stop, folder=folder).run_exit(Runtime(log=None, cancel=token)), Interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment("a", Effect.suspend(lambda: (_ for _ in ()).throw(KeyboardInterrupt)), folder=folder).run(SILENT)
    found = listing(folder)
    assert [each.status for each in found] == ["failed", "defect", "defect", "interrupted", "interrupted"]
    assert found[0].problem == f"EmptyEpoch: {wrong}"
    assert "1 // 0" in the_json(found[1].folder)["error"]["traceback"]


def test_nothing_is_written_before_the_program_is_run_and_explain_runs_nothing(folder):
    program = experiment("a", told(1.0), {"rate": 1}, folder=folder)
    assert "experiment a: a run in" in program.explain() and "1 settings" in program.explain()
    assert not os.path.exists(folder)


def test_no_socket_is_opened(folder, monkeypatch):
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    value(experiment("a", told(1.0), folder=folder), SILENT)


# ------------------------------------------------------------------------------- what cannot be recorded


def test_a_folder_that_cannot_be_written_fails_before_the_program_starts(tmp_path):
    (tmp_path / "runs").write_text("a file")
    started = []
    found = fault(experiment("a", Effect.suspend(lambda: started.append(1)), folder=tmp_path / "runs"), SILENT)
    assert isinstance(found, FileUnwritable) and not started


def test_a_full_disk_at_the_end_is_a_warning(folder, monkeypatch):
    from fnlamp.experiment import attempt

    def full(*args: Any) -> Any:
        raise FaultError(FileUnwritable("run.json", "No space left on device"))

    program = Effect.suspend(lambda: monkeypatch.setattr(attempt, "edit", full)).map(lambda _: 42)
    run = value(experiment("a", program, folder=folder), SILENT)
    assert run.value == 42 and run.warnings == (FileUnwritable("run.json", "No space left on device"),)
    assert listing(folder)[0].status == CRASHED  # its end is unknown


def test_a_run_that_cannot_begin_leaves_no_folder(folder, monkeypatch):
    monkeypatch.setattr(surroundings, "machine", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        experiment("a", told(1.0), folder=folder).run(SILENT)
    assert os.listdir(os.path.join(folder, "a")) == []


def test_a_writer_that_fails_is_a_warning_of_the_run(folder):
    def broken() -> Any:
        raise ValueError("no")

    run = value(experiment("a", told(1.0), folder=folder, writers=lambda place: [broken]), SILENT)
    assert len(run.warnings) == 1 and "no" in str(run.warnings[0])
    assert "no" in the_json(run.folder)["warnings"][0]
    assert listing(folder)[0].last == {"loss": 1.0}


def test_a_folder_that_is_taken_away_meanwhile_is_a_warning(folder):
    def program(place: Place[Any]) -> Effect[Any, Any]:
        return told(1.0).then(Effect.suspend(lambda: os.rename(place.folder, f"{folder}.gone")))

    run = value(experiment("a", program, folder=folder), SILENT)
    # A writer may have made the folder again.
    assert run.value is None and any(isinstance(each, FileMissing | FileUnwritable) for each in run.warnings)


def test_a_forked_child_that_leaves_the_program_does_not_end_the_run(folder):
    from fnlamp.experiment import attempt

    def child(place: Place[Any]) -> Effect[Any, Any]:
        def leave() -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attempt.os, "getpid", lambda: -1)
                attempt.end(made[0], Success(None))
            assert _status(folder) == "running"

        return Effect.suspend(leave)

    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        begin = attempt.begin
        patch.setattr(attempt, "begin", lambda plan: made.append(begin(plan)) or made[0])
        value(experiment("a", child, folder=folder), SILENT)
    assert _status(folder) == "completed"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".a", "-a", " a", "a\n", "a\0", "a\\b", "\udce9", "x" * 300])
def test_a_name_that_is_not_one_of_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="name is a name of a folder"):
        experiment(name, told(1.0))


# ------------------------------------------------------------------------------- configs


class Color(Enum):
    RED = "r"


@dataclass
class Inner:
    path: pathlib.Path = pathlib.Path("a/b")
    color: Color = Color.RED
    dtype: Any = field(default_factory=lambda: np.dtype("float32"))
    kind: Any = np.float32
    function: Any = math.sin
    rate: float = math.nan
    array: Any = field(default_factory=lambda: np.arange(3))
    large: Any = field(default_factory=lambda: np.zeros((100, 100), np.float32))
    api_key: str = "s3cret"
    pad_token: str = "<pad>"
    name: str = "\udce9"


def test_values_that_json_does_not_have_are_recorded_as_text():
    cyclic: dict[str, Any] = {"sizes": (1, 2), "empty": {}, "inner": Inner(), "object": object(), "flag": np.bool_(True)}
    cyclic["self"] = [cyclic]
    found = {path: each["value"] for path, each in settings_of(cyclic).items()}
    json.dumps(found, allow_nan=False)
    assert found["inner.path"] == "a/b" and found["inner.color"] == "RED" and found["inner.dtype"] == "float32"
    assert found["inner.kind"] == "numpy.float32" and found["inner.function"] == "math.sin" and found["inner.rate"] == "nan"
    assert found["inner.array"] == [0, 1, 2] and found["inner.large"] == "float32[100, 100]"
    assert found["inner.api_key"] == "(not recorded)" and found["inner.pad_token"] == "<pad>"
    assert found["inner.name"] == "\\udce9" and found["object"] == "<object object>"
    assert found["sizes"] == [1, 2] and found["empty"] == {} and found["flag"] is True


def test_secrets_of_the_environment_and_the_command_line_are_not_recorded(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key=k1", "--token", "k2", "--rate", "0.1", "--max-tokens=5"])
    monkeypatch.setenv("JAX_API_KEY", "k3")
    monkeypatch.setenv("XLA_FLAGS", "--flag")
    monkeypatch.setenv("HOME_PAGE", "k4")
    assert not any(secret in str([surroundings.arguments(), surroundings.environment()]) for secret in ("k1", "k2", "k3", "k4"))
    assert surroundings.arguments()[-3:] == ["--rate", "0.1", "--max-tokens=5"]
    assert surroundings.environment()["XLA_FLAGS"] == "--flag"


# ------------------------------------------------------------------------------- several at once


def test_two_runs_in_one_process_at_once_do_not_see_each_other(folder):
    barrier = threading.Barrier(2)

    def one(number: float) -> None:
        meet = Effect.suspend(lambda: barrier.wait(10))
        program = meet.then(told(*[number] * 50)).then(meet)
        value(experiment("a", program, {"n": number}, folder=folder), SILENT)

    threads = [threading.Thread(target=one, args=(float(n),)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = value(runs(folder))
    assert len({each.id for each in found}) == 2 and {each.status for each in found} == {"completed"}
    for id, series in value(found.scalars("loss")).items():
        assert set(series.values) == {found[id].config["n"]} and len(series) == 50


def test_an_experiment_inside_another_records_its_own(folder):
    inner = experiment("inner", told(1.0, 2.0), folder=folder)
    value(experiment("outer", told(9.0).then(inner), folder=folder), SILENT)
    last = {each.name: (each.last, each.step) for each in listing(folder)}
    assert last == {"inner": ({"loss": 2.0}, 2), "outer": ({"loss": 9.0}, 1)}


def test_the_same_name_in_the_same_millisecond_gives_two_runs(folder, monkeypatch):
    from fnlamp.experiment import place

    numbers = iter(["000000", "000000", "000001"])
    monkeypatch.setattr(place.secrets, "token_hex", lambda count: next(numbers))
    first, second = place.create(folder, "a", 1.0), place.create(folder, "a", 1.0)
    assert (first[-6:], second[-6:]) == ("000000", "000001")


# ------------------------------------------------------------------------------- leases


def _running(folder: str, **lease_of: Any) -> str:
    """A run that has begun and did not end."""
    run = value(experiment("a", told(1.0), folder=folder), SILENT)
    edit(str(run.folder), lambda about: {**about, "status": "running"})
    lease.write(str(run.folder), {**lease.mine(), **lease_of})
    return str(run.folder)


def _status(folder: str) -> str:
    return listing(folder)[-1].status


def test_the_time_between_the_attempts_of_a_running_run_does_not_count(folder):
    path, now = _running(folder), time.time()
    attempts = [{"created": now - 7200, "seconds": 10.0}, {"created": now - 5}]
    edit(path, lambda about: {**about, "created": now - 7200, "seconds": 10.0, "attempts": attempts})
    assert listing(folder)[-1].elapsed == pytest.approx(15, abs=2)
    edit(path, lambda about: {**about, "status": "completed", "seconds": 17.0})
    assert listing(folder)[-1].elapsed == 17.0


def test_a_killed_run_reads_as_crashed_at_once_even_as_a_zombie(folder):
    process = subprocess.Popen(["sleep", "60"])
    _running(folder, pid=process.pid, started=lease._started(process.pid))
    assert _status(folder) == "running"
    process.kill()
    deadline = time.monotonic() + 5
    while (found := _status(folder)) == "running" and time.monotonic() < deadline:
        time.sleep(0.001)  # the system delivers the signal
    assert found == "crashed" and process.returncode is None  # nobody has waited for it yet
    process.wait()
    assert _status(folder) == "crashed"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "running"),
        ({"started": "1"}, "crashed"),  # another process has the number by now
        ({"pid": "text"}, "crashed"),
        ({"namespace": "pid:[1]", "pid": 1, "started": "1"}, "running"),  # another container: its sign of life is fresh
        ({"namespace": "pid:[1]", "beat": 0.0}, "crashed"),
        ({"boot": "another", "host": "another"}, "running"),
        ({"boot": "another", "time": 0.0}, "crashed"),
        ({"boot": "another", "time": "text"}, "crashed"),
        ({"boot": "another", "time": time.time() + 10**6}, "crashed"),  # a clock that was far ahead
        ({"time": 0.0}, "running"),  # the wall clock was set meanwhile
    ],
)
def test_the_lease_says_whether_the_process_lives(folder, change, status):
    _running(folder, **change)
    assert _status(folder) == status


def test_a_lease_that_is_cut_or_gone_is_that_of_a_crashed_run(folder):
    path = _running(folder)
    pathlib.Path(path, "lease.json").write_text('{"pid"')
    assert _status(folder) == "crashed"
    os.remove(os.path.join(path, "lease.json"))
    assert _status(folder) == "crashed"


def test_a_running_run_gives_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    beats = []

    def look(place: Place[Any]) -> Effect[None, Any]:
        def watch() -> None:
            assert _status(folder) == "running"
            while len(set(beats)) < 3:
                beats.append(the_json(place.folder, "lease.json")["beat"])

        return Effect.suspend(watch)

    value(experiment("a", look, folder=folder), SILENT)
    assert _status(folder) == "completed"


def test_a_single_writer_in_place_of_a_list_is_refused(folder):
    with pytest.raises(TypeError, match="got one writer; give it in a list"):
        experiment("a", told(1.0), folder=folder, writers=track.console())


# ------------------------------------------------------------------------------- resuming


def test_a_run_is_resumed_in_its_folder(folder):
    first = fault_of_run(folder, "a", told(1.0, 5.0), {"rate": 1, "epochs": 2})
    again = Effect.asks(lambda runtime: runtime.tell(track.Started(1))).then(collect([track.measure({"loss": 0.5}, step=2)]))
    run = value(
        experiment(
            "a", lambda place: again.map(lambda _: place.resumed), {"rate": 1, "epochs": 4}, folder=folder, resume=first[-6:]
        ),
        SILENT,
    )
    assert run.id == first and run.value is True
    about = the_json(run.folder)
    assert about["status"] == "completed" and about["error"] is None
    assert [each["status"] for each in about["attempts"]] == ["failed", "completed"]
    assert about["attempts"][1]["changed"] == {"epochs": [2, 4]}
    assert about["seconds"] == sum(each["seconds"] for each in about["attempts"])
    record = listing(folder)[0]
    assert (record.last, record.lowest, record.highest) == ({"loss": 0.5}, {"loss": 0.5}, {"loss": 1.0})  # 5.0 does not count
    assert (run.folder / "explain.2.txt").exists() and (run.folder / "source.2").is_dir()


def test_figures_after_a_kill_count_what_the_summary_had_not_recorded(folder):
    first = fault_of_run(folder, "a", told(5.0, 0.1, 3.0))
    path = pathlib.Path(folder, "a", first)
    for start in (2, 3):  # each process is killed within seconds of the resume
        (path / "summary.json").write_text('{"schema": 1, "step": 0, "epoch": null, "scalars": {}}')
        again = Effect.asks(lambda runtime, start=start: runtime.tell(track.Started(start)))
        value(experiment("a", again.then(track.measure({"loss": 3.0}, step=start + 1)), folder=folder, resume=first), SILENT)
        record = listing(folder)[0]
        assert (record.last, record.lowest, record.highest) == ({"loss": 3.0}, {"loss": 0.1}, {"loss": 5.0})


def test_figures_count_earlier_attempts_while_the_run_is_resumed(folder):
    first = fault_of_run(folder, "a", told(5.0, 0.1, 3.0))
    path = pathlib.Path(folder, "a", first)

    def seen(_: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while the_json(path, "summary.json")["step"] != 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        return the_json(path, "summary.json")["scalars"]["loss"]

    started = Effect.asks(lambda runtime: runtime.tell(track.Started(2)))
    run = value(experiment("a", started.map(seen), folder=folder, resume=first), SILENT)
    assert run.value == {"last": 0.1, "step": 2, "lowest": 0.1, "highest": 5.0}


def fault_of_run(folder: str, name: str, program: Effect[Any, Any], config: Any = None) -> str:
    """The id of a run that fails."""
    assert fault(experiment(name, program.then(Effect.from_failure("no")), config, folder=folder), SILENT) == "no"
    return listing(folder)[-1].id


def test_latest_continues_the_newest_unfinished_run_with_this_config(folder):
    def latest(rate: float) -> Any:
        return value(experiment("a", told(1.0), {"rate": rate}, folder=folder, resume="latest"), SILENT)

    first = fault_of_run(folder, "a", told(1.0), {"rate": 0.1})
    fault_of_run(folder, "a", told(1.0), {"rate": 0.2})
    fault_of_run(folder, "b", told(1.0), {"rate": 0.1})
    assert latest(0.1).id == first
    assert latest(0.1).id != first, "a completed run is not continued"
    assert latest(0.3).id not in {each.id for each in listing(folder)[:-1]}


def test_a_running_run_is_not_resumed_nor_one_that_is_not_there(folder):
    assert isinstance(fault(experiment("a", told(1.0), folder=folder, resume="x"), SILENT), RunMissing)
    inside = experiment("a", lambda place: experiment("a", told(2.0), folder=folder, resume=place.id), folder=folder)
    assert isinstance(fault(inside, SILENT), RunActive)
    value(experiment("a", told(1.0), folder=folder), SILENT)
    assert isinstance(fault(experiment("a", told(1.0), folder=folder, resume="20"), SILENT), RunAmbiguous)
    newest = listing(folder)[-1]
    edit(newest.folder, lambda about: about)
    raw = the_json(newest.folder)
    pathlib.Path(newest.folder, "run.json").write_text(json.dumps({**raw, "schema": 2}))
    assert isinstance(fault(experiment("a", told(1.0), folder=folder, resume=newest.id), SILENT), RunTooNew)
    assert listing(folder)[-1].status == "unreadable" and "update fnlamp" in listing(folder)[-1].problem


def test_a_note_that_is_given_while_a_run_is_running_stays(folder):
    def noted(place: Place[Any]) -> Effect[Any, Any]:
        return Effect.suspend(lambda: edit(str(place.folder), lambda about: {**about, "note": "mine"}))

    run = value(experiment("a", noted, folder=folder), SILENT)
    assert (the_json(run.folder)["note"], the_json(run.folder)["status"]) == ("mine", "completed")


# ------------------------------------------------------------------------------- whole processes


SCRIPT = """
import os, sys, time
from fnlamp import track
from fnlamp.effect import Effect, Runtime, collect
from fnlamp.experiment import experiment
folder, seconds, count, processes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
losses = collect([track.measure({"loss": 1.0 / step}, step=step) for step in range(1, 101)])
ready = Effect.suspend(lambda: (os.write(1, b"ready\\n"), time.sleep(seconds)))

def work():
    for number in range(count):
        run = experiment("many", losses.then(ready), {"n": number}, folder=folder).run_or_raise(Runtime(log=None))
        assert run.warnings == (), run

children = []
for _ in range(processes - 1):
    children.append(os.fork())
    if children[-1] == 0:
        work()
        os._exit(0)
work()
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


def start(folder: str, seconds: float, count: int, processes: int = 1) -> subprocess.Popen[str]:
    numbers = [str(each) for each in (seconds, count, processes)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, *numbers]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


@pytest.mark.slow
def test_kill_9_is_seen_at_once(tmp_path):
    process = start(str(tmp_path), 60, 1)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(1.0)  # what was recorded is in the file within half a second
    assert _status(str(tmp_path)) == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _status(str(tmp_path)) == "crashed"
    assert len(value(value(runs(tmp_path)).scalars("loss"))[listing(str(tmp_path))[0].id]) == 100
    process.stdout.close()


@pytest.mark.slow
def test_32_processes_write_runs_in_one_folder(tmp_path):
    process = start(str(tmp_path), 0, 3, 32)
    assert process.communicate(timeout=500)[0].split() == ["ready"] * 96 and process.returncode == 0
    found = value(runs(tmp_path))
    assert len(found) == len({each.id for each in found}) == 96 and {each.status for each in found} == {"completed"}
    for series in value(found.scalars("loss")).values():
        np.testing.assert_array_equal(series.values, 1.0 / np.arange(1, 101))


KILLED = """
import os, random, signal, sys, time
from fnlamp import track
from fnlamp.effect import Effect, Runtime, collect
from fnlamp.experiment import experiment
folder, chance = sys.argv[1], random.Random(int(sys.argv[2]))

def program(place):
    def rest(history):
        begin = max((int(history.scalars(name).steps[-1]) for name in history.last), default=0)
        started = Effect.asks(lambda runtime: runtime.tell(track.Started(begin)))
        waited = Effect.suspend(lambda: time.sleep(0.01))
        return started.then(collect([track.measure({"n": step}, step=step).then(waited) for step in range(begin + 1, 401)]))
    return track.history(place.folder).lash(lambda fault: Effect.from_value(track.History({}, ()))).bind(rest)

kills = 0
while kills <= 25:
    child = os.fork()
    if child == 0:
        experiment("a", program, {"rate": 0.1}, folder=folder, resume="latest").run_or_raise(Runtime(log=None))
        os._exit(0)
    if kills < 25:
        time.sleep(chance.uniform(0, 0.8))
        os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
print(kills)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_continued_and_no_record_is_there_twice(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), "0"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=500)
    assert done.returncode == 0 and int(done.stdout) > 2, done.stderr
    found = listing(str(tmp_path))
    assert {each.status for each in found} <= {"completed", "crashed"}
    assert [each.status for each in found if each.last] == ["completed"], "others were killed before they began"
    series = value(value(runs(tmp_path)).scalars("n"))
    for each in series.values():
        np.testing.assert_array_equal(each.steps, np.arange(1, 401))
        np.testing.assert_array_equal(each.values, np.arange(1, 401))
    about = the_json(found[-1].folder) if found[-1].last else the_json(next(each.folder for each in found if each.last))
    assert [each["status"] for each in about["attempts"]][-1] == "completed"
    assert {each["status"] for each in about["attempts"][:-1]} <= {"crashed"}
