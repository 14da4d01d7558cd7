"""The gauntlet of killed and resumed trainings: what its comparison finds, and each contestant that is installed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from outcomes import needs

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
MODULES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def notes(first=0, last=40, **changed):
    """What a run of two epochs notes from one step to another; `changed` are functions of the step."""
    made = []
    for step in range(first, last):
        rows = [(step % 20) * 8 + at for at in range(8)]
        note = {"step": step, "epoch": 1 + step // 20, "rate": 1 / (1 + step), "rows": rows}
        note |= {key: f"{key} {step}" for key in ("params", "moments", "mask")}
        note |= {key: of(step) for key, of in changed.items()}
        made += [note, *([{"waited": step // 20, "epoch": 1 + step // 20}] if step % 20 == 19 else [])]
    return [*made, {"end": "end"}]


def test_an_exact_resume_has_every_fact(benchmarks):
    probe = benchmarks("gauntlet_probe")
    found = probe.facts(notes(), [notes(0, 27), notes(25, 31), notes(30)])
    assert all(fact.same for fact in found)
    assert {str(fact) for fact in found} == {"yes"}


@pytest.mark.parametrize(
    ("key", "of", "what", "detail"),
    [
        ("params", lambda step: "other", "parameters at the resume", ""),
        ("moments", lambda step: "other", "moments at the resume", ""),
        ("mask", lambda step: "other" if step > 29 else f"mask {step}", "dropout masks", "5 of 15 steps"),
        ("rate", lambda step: 0.0, "learning rate of each step", "0 of 15 steps"),
    ],
)
def test_what_did_not_come_back_is_found(benchmarks, key, of, what, detail):
    probe = benchmarks("gauntlet_probe")
    found = probe.facts(notes(), [notes(0, 27), notes(25, **{key: of})])
    assert {fact.what: fact.detail for fact in found if not fact.same} == {what: detail}


def test_repeated_rows_are_counted_in_the_steps_that_count(benchmarks):
    probe = benchmarks("gauntlet_probe")
    resumed = notes(25, rows=lambda step: list(range(8)) if step == 25 else [(step % 20) * 8 + at for at in range(8)])
    found = {fact.what: fact for fact in probe.facts(notes(), [notes(0, 27), resumed]) if not fact.same}
    assert found["each row once per epoch"].detail == "epoch 2: 8 more than once, 8 never"
    assert found["order of the rows"].detail == "14 of 15 steps"
    assert found.keys() == {"each row once per epoch", "order of the rows"}


def test_a_run_that_repeats_its_epoch_has_more_steps(benchmarks):
    probe = benchmarks("gauntlet_probe")
    again = notes(25, 45, epoch=lambda step: 2, rows=lambda step: [(step - 25) % 20 * 8 + at for at in range(8)])
    found = {fact.what: fact for fact in probe.facts(notes(), [notes(0, 27), again]) if not fact.same}
    assert found["number of steps"].detail == "45, not 40"
    assert found["each row once per epoch"].detail == "epoch 2: 40 more than once, 0 never"


def test_a_counter_and_an_end_that_differ(benchmarks):
    probe = benchmarks("gauntlet_probe")
    resumed = [note | {"waited": 0} if "waited" in note else note for note in notes(25)]
    resumed[-1] = {"end": "other"}
    found = [fact for fact in probe.facts(notes(), [notes(0, 27), resumed]) if not fact.same]
    assert [(fact.what, fact.detail) for fact in found] == [
        ("early-stopping counter", "[0], not [1]"),
        ("parameters at the end", ""),
    ]


def test_the_probe_writes_a_step_when_it_has_all_parts(benchmarks, tmp_path):
    probe = benchmarks("gauntlet_probe")
    x, y, x_held, _ = probe.problem()
    assert (len(x), len(y), len(x_held)) == (probe.ROWS, probe.ROWS, probe.HELD)
    one = probe.Probe(tmp_path / "notes")
    for rows in (x[:2, 0], x[2:4, :1]):  # the parts of a step in another order
        one.forward(rows)
        one.state(step=0, epoch=1, rate=0.1, params=[x], moments=[])
        one.dropped(x)
    with (tmp_path / "notes").open("a") as file:
        file.write('{"step": ')  # cut by a kill
    first, second = probe.read(tmp_path / "notes")
    assert (first["rows"], second["rows"]) == ([0, 1], [2, 3])
    assert first["mask"] == second["mask"]


def test_a_contestant_that_is_not_installed_is_left_out(benchmarks, monkeypatch, capsys):
    gauntlet = benchmarks("gauntlet")
    monkeypatch.setattr(gauntlet.importlib.util, "find_spec", lambda name: None)
    assert gauntlet.main(["--only", "trainer"]) == 0
    assert "trainer is left out: transformers, accelerate, torch not installed" in capsys.readouterr().out


PACKAGES = {"lightning-stateful": "torchdata", "lightning": "lightning", "keras-epoch": "keras", "trainer": "transformers"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(package)) for name, package in PACKAGES.items()])
def test_each_contestant_is_measured(benchmarks, tmp_path, name):
    out = tmp_path / "figures.json"
    benchmarks("gauntlet").main(["--only", name, "--work", str(tmp_path / "work"), "--json", str(out)])
    facts = {fact["what"]: fact for fact in json.loads(out.read_text())["contestants"][name]["facts"]}
    assert len(facts) == 10
    assert facts["two runs are the same until the kill"]["same"]  # else nothing is compared
    assert facts["parameters at the resume"]["same"]
