"""The speed and correctness of fnlamp's loading, compared with pandas, pyarrow, PyTorch's DataLoader and Grain.

    python examples/benchmarks/loading.py --mnist FOLDER --json out.json       every case, 15 paired rounds each
    python examples/benchmarks/loading.py --only memory jpeg64 --rounds 30     some cases
    python examples/benchmarks/loading.py --quick                              a smoke test; its figures mean nothing

Each case runs in its own process. Contestants alternate on the same data; a ratio is the median over paired rounds, with a
bootstrap 95 % interval, and passes if the median is on the right side of its target. `--mnist` names a folder with MNIST's IDX
files and its test set as mnist_test.csv.gz (or set FNLAMP_MNIST); other data is generated from fixed seeds, in a temporary
folder, or in the folder `--work`, which is kept. Needs the extras images, parity and tables; grain is optional.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from paired import Finding
from terms import Given, Outcome

CASES = {
    "idx": "reading",
    "csv": "reading",
    "memory": "batches",
    "jpeg64": "batches",
    "jpeg224": "batches",
    "overlap": "alongside",
    "mapped": "alongside",
    "kills": "enduring",
    "resume": "enduring",
}
"""The cases, and the modules whose functions of those names run them."""
QUICK = {"rounds": 2, "times": 2, "gigabytes": 0.02, "scale": 0.02}
PACKAGES = ("fnlamp", "jax", "numpy", "pandas", "pyarrow", "torch", "grain", "pillow")
UNHEARD = "ignore:The given NumPy array is not writable:UserWarning"
"""torch's warning for read-only images."""
GRACE = 5.0
"""Seconds after a case within which its processes must have ended."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, help="paired rounds of each contest: 15")
    parser.add_argument("--times", type=int, help="number of killed workers, and of resumed runs: 50")
    parser.add_argument("--gigabytes", type=float, help="size of the mapped file: 8")
    parser.add_argument("--mnist", type=Path, default=os.environ.get("FNLAMP_MNIST"), help="folder of MNIST's files")
    parser.add_argument("--work", type=Path, help="folder for generated data")
    parser.add_argument("--no-grain", action="store_true", help="leave out Grain even if it is installed")
    parser.add_argument("--quick", action="store_true", help="small data and few rounds")
    parser.add_argument("--deadline", type=float, default=3600, help="seconds after which a case has hung")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = chosen.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fnlamp-loading-")))
        work.mkdir(parents=True, exist_ok=True)
        named = {"rounds": chosen.rounds, "times": chosen.times, "gigabytes": chosen.gigabytes}
        options = {**(QUICK if chosen.quick else {}), **{name: n for name, n in named.items() if n is not None}}
        if chosen.quick:  # apart from the files of full size
            work = work / "quick" if not chosen.case else work
            work.mkdir(exist_ok=True)
        given = replace(Given(work, Path(chosen.mnist) if chosen.mnist else None, grain=not chosen.no_grain), **options)
        if chosen.case:
            chosen.json.write_text(json.dumps(as_json(run(chosen.case, given))))
            return 0
        found: dict[str, Any] = {"machine": machine(), "quick": chosen.quick, "rounds": given.rounds, "cases": {}}
        print("machine:", ", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
        for name in chosen.only:
            found["cases"][name] = in_a_process(name, given, chosen)
            print(as_text(name, found["cases"][name]), flush=True)
    verdicts = {name: case["passed"] for name, case in found["cases"].items()}
    print("\n" + ", ".join(f"{name}: {'pass' if passed else 'FAIL'}" for name, passed in verdicts.items()))
    found["passed"] = all(verdicts.values())
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1))
    return 0 if found["passed"] or chosen.quick else 1


def run(name: str, given: Given) -> Outcome:
    """One case, in this process."""
    outcome: Outcome = getattr(importlib.import_module(CASES[name]), name)(given)
    return outcome


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {"findings": [finding.as_json() for finding in outcome.findings], "figures": outcome.figures}


def in_a_process(name: str, given: Given, chosen: Any) -> dict[str, Any]:
    """One case in its own process group, and the number of processes that it left behind."""
    out = given.work / f"{name}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--case", name, "--work", str(given.work), "--json", str(out)]
    command += ["--rounds", str(given.rounds), "--times", str(given.times), "--gigabytes", str(given.gigabytes)]
    command += ["--mnist", str(given.mnist)] if given.mnist else []
    command += ["--quick"] if chosen.quick else []
    command += ["--no-grain"] if chosen.no_grain else []
    started = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONWARNINGS": UNHEARD})
    try:
        status = process.wait(chosen.deadline)
        problem = f"ended with status {status}" if status else ""
    except subprocess.TimeoutExpired:
        problem = f"had not ended after {chosen.deadline:g} s"
    finally:
        left = _left(process)
    found = json.loads(out.read_text()) if out.exists() else {"findings": [], "figures": {}}
    if left is not None:
        found["findings"].append(Finding("processes left behind", "", left, 0, at_least=False).as_json())
    passed = not problem and all(finding["passed"] for finding in found["findings"])
    return {"passed": passed, "problem": problem, "seconds": time.perf_counter() - started, **found}


def _left(process: subprocess.Popen[bytes]) -> int | None:
    """The number of processes that outlive the case by some seconds, and are then killed. `None` if it is unknown."""
    if process.poll() is None:  # it hung, or this process is interrupted
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not Path("/proc/self/stat").exists():
        return None
    end = time.monotonic() + GRACE
    while (left := list(_of_session(process.pid))) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _of_session(session: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may contain blanks.
            state, _, _, its_session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_session) == session and state != "Z":
                yield int(stat.parent.name)


def as_text(name: str, case: dict[str, Any]) -> str:
    """A case as text: a line per finding."""
    lines = [f"\n{name}: {case['seconds']:.0f} s"]
    for finding in case["findings"]:
        lines.append(f"  {Finding(**{key: value for key, value in finding.items() if key != 'passed'})}")
    for what in ("rows per second", "milliseconds per batch"):
        of_each = case["figures"].get(what)
        if isinstance(of_each, dict):
            lines += [f"    {who:40}{value:>12,.6g} {what}" for who, value in of_each.items()]
    return "\n".join([*lines, *([f"  FAIL  it {case['problem']}"] if case["problem"] else [])])


def machine() -> dict[str, Any]:
    """The machine on which the figures were measured."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


if __name__ == "__main__":
    raise SystemExit(main())
