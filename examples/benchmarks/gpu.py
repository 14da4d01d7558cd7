"""The speed of training on a GPU: the models of training.py, GPT-2's smallest, CIFAR-10, and the cost of determinism.

    python examples/benchmarks/gpu.py --json out.json            on a GPU
    python examples/benchmarks/gpu.py --scale 0.01 --rounds 1    a tiny form for a CPU, whose figures say nothing of a GPU

Each model is trained by fnlamp through `epochs`, by the loop written by hand, and by torch if it has CUDA: eager, with fused
optimizers, with torch.compile, and with CUDA graphs. All see the same batches, in rounds one after the other; figures are
medians. The share of the peak counts 6 operations for each parameter and token, and 12 x layers x width x time for
attention (Chowdhery et al. 2022, PaLM, appendix B), against the peak of the card's data sheet, or against the best product
measured here for a card that is not listed. GPT is in bfloat16. CIFAR-10 is the training of airbench.py, if `--cifar` or
FNLAMP_CIFAR names its folder. The cost of determinism is that of `--xla_gpu_deterministic_ops=true`, in processes that take
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import airbench
import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, pseudo_text
from training import figures, machine, summary

import fnlamp
from fnlamp import loss, models, optim, stream, train, tree
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.mode import name_key

PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100-SXM4": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second by the data sheets of NVIDIA, by a part of the name that JAX gives the card."""
GPT2: dict[str, Any] = {"vocabulary": 50_257, "layers": 12, "width": 768, "heads": 12, "context": 1024}
TINY: dict[str, Any] = {"vocabulary": 96, "layers": 2, "width": 32, "heads": 2, "context": 32}
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

Epoch = Callable[[Any], tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of a round; below 1, a tiny GPT")
    parser.add_argument("--batch", type=int, default=16, help="rows of 1,024 tokens in a batch of GPT")
    parser.add_argument("--data", type=Path, default=os.environ.get("FNLAMP_MNIST"), help="folder of MNIST's IDX files")
    parser.add_argument(
        "--cifar", type=Path, default=os.environ.get("FNLAMP_CIFAR"), help="folder of CIFAR-10's binary version"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.no_processes = True
    if given.alone:
        print(json.dumps(Gpt(given).alone()))
        return
    fnlamp.keep_memory()
    cost = determinism(given)  # in processes that need the card's memory: before this one takes it
    found: dict[str, Any] = {"machine": machine(), "models": {}, "deterministic": cost}
    peak, source = card_peak()
    found["peak"] = {"bfloat16 operations a second": peak, "from": source}
    print(f"{found['machine']['device']}: {peak / 1e12:.1f} TFLOP/s in bfloat16, {source}", flush=True)
    for name in given.models:
        found["models"][name] = figures(CASES[name], "uint8", given, found["machine"]["product peak GFLOP/s"])
    if found["models"]:
        print(summary(found["models"]))
    found["gpt"] = Gpt(given).figures(peak)
    found["cifar"] = airbench.figures(given.cifar, 5) if given.scale >= 1 else {"skipped": "a tiny form"}
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


def card_peak() -> tuple[float, str]:
    """The dense bfloat16 operations a second of the card, and where they are from."""
    kind = jax.devices()[0].device_kind
    for name, peak in PEAKS.items():
        if name in kind:
            return peak, "by its data sheet"
    n = 8192 if jax.default_backend() != "cpu" else 512
    a = jnp.ones((n, n), jnp.bfloat16)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        multiply(a).block_until_ready()
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best, f"measured by a product of {n} x {n}"


class Gpt:
    """GPT-2's smallest model in bfloat16 over float32 parameters, or a tiny one."""

    def __init__(self, given: Any) -> None:
        self.given, self.sizes = given, GPT2 if given.scale >= 1 else TINY
        self.batch, self.steps = given.batch if given.scale >= 1 else 4, max(2, round(20 * given.scale))
        time_steps, rows = self.sizes["context"], self.batch * self.steps
        windows = np.lib.stride_tricks.sliding_window_view(
            pseudo_text(rows + time_steps + 1, self.sizes["vocabulary"]), time_steps + 1
        )
        self.x, self.y = np.ascontiguousarray(windows[:rows, :-1]), np.ascontiguousarray(windows[:rows, 1:])
        self.model = train.supervised(models.gpt(**self.sizes), loss.cross_entropy(), precision=train.bfloat16)

    def program(self, **options: Any) -> Any:
        return train.epochs(
            model=self.model,
            optimizer=optim.adamw(1e-3),
            train_batches=lambda context: stream.from_arrays((self.x, self.y), batch_size=self.batch),
            epochs=self.given.rounds + 1,
            **options,
        )

    def alone(self) -> float:
        """The seconds of a step of fnlamp, the median of the rounds."""
        reports = self.program().run_or_raise(Runtime(log=None)).curve[1:]
        seconds: float = statistics.median(report.seconds / self.steps for report in reports)
        return seconds

    def figures(self, peak: float) -> dict[str, Any]:
        peers, failed = self.peers()
        seconds: dict[str, list[float]] = {name: [] for name in ("fnlamp", *peers)}
        losses: dict[str, float] = {}

        def others(report: train.EpochReport) -> None:
            took = {"fnlamp": (report.seconds, report.train_loss_of_batches)}
            for name, epoch in peers.items():
                if name not in failed:
                    try:
                        took[name] = epoch(np.arange(len(self.x)).reshape(self.steps, self.batch))
                    except Exception as error:  # torch.compile needs a C++ compiler, and CUDA graphs have conditions
                        failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            for name, (taken, mean) in took.items():
                losses.setdefault(name, mean)
                if report.epoch > 1:  # all compile in the first one
                    seconds[name].append(taken / self.steps)

        trained = self.program(on_epoch=others).run_or_raise(Runtime(log=None))
        parameters, (_, length) = tree.count(trained.params), self.x.shape
        tokens = self.batch * length
        work = tokens * (6 * parameters + 12 * self.sizes["layers"] * self.sizes["width"] * length)
        medians = {name: statistics.median(each) for name, each in seconds.items() if each}
        print(f"\nGPT of {parameters:,} parameters, {self.batch} x {length} tokens, bfloat16")
        for name, step in medians.items():
            share = work / step / peak
            print(f"  {name:20}{1000 * step:>10.1f} ms a step{tokens / step:>14,.0f} tokens/s{100 * share:>8.1f} % of the peak")
        for name, why in failed.items():
            print(f"  {name}: not run, {why}")
        shares = {name: work / step / peak for name, step in medians.items()}
        found = {"parameters": parameters, "tokens": tokens, "seconds": seconds, "loss of first round": losses}
        return {**found, "share of the peak": shares, "failed": failed}

    def peers(self) -> tuple[dict[str, Epoch], dict[str, str]]:
        if self.given.no_torch:
            return {}, {}
        try:
            import torch
            import torch_peers
        except ImportError as error:
            return {}, {"torch": f"{error}; pip install -e '.[parity]'"}
        if jax.default_backend() != "cpu" and not torch.cuda.is_available():
            return {}, {"torch": "its build has no CUDA"}
        spec = array_spec((self.batch, self.sizes["context"]), np.int32)
        params, _ = self.model.init(name_key(jax.random.key(0), "init"), spec)
        modes = torch_peers.modes(CASES["gpt"]) if self.given.scale >= 1 else ["torch fused"]
        return {mode: self.peer(torch_peers, mode, params) for mode in modes}, {}

    def peer(self, torch_peers: Any, mode: str, params: Any) -> Epoch:
        import torch
        from torch.nn import functional

        model = torch_peers.load(CASES["gpt"], torch_peers.Transformer(**self.sizes), params).to(torch_peers.DEVICE).train()
        rule = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=mode != "torch eager")
        x, y = (torch.from_numpy(a.astype(np.int64)).to(torch_peers.DEVICE) for a in (self.x, self.y))

        def of_batch(x: Any, y: Any) -> Any:
            with torch.autocast(torch_peers.DEVICE, torch.bfloat16):
                return functional.cross_entropy(model(x).float(), y.flatten())

        loss_of = torch_peers.compiled(of_batch, mode)

        def epoch(rows: Any) -> tuple[float, float]:
            began = time.perf_counter()
            total = torch.zeros((), device=torch_peers.DEVICE)
            for chosen in torch.from_numpy(rows).to(torch_peers.DEVICE):
                rule.zero_grad(set_to_none=True)
                found = loss_of(x[chosen], y[chosen])
                found.backward()
                rule.step()
                total += found.detach()
            mean = float(total) / len(rows)
            return time.perf_counter() - began, mean

        return epoch


def determinism(given: Any) -> dict[str, Any]:
    """The seconds of a step of GPT in processes with and without deterministic kernels, two of each in turns."""
    seconds: dict[str, list[float]] = {"default": [], "deterministic": []}
    command = [sys.executable, __file__, "--alone", "--rounds", str(given.rounds), "--scale", str(given.scale)]
    for name in ("default", "deterministic", "deterministic", "default")[: 4 if given.scale >= 1 else 2]:
        flags = os.environ.get("XLA_FLAGS", "") + (f" {DETERMINISTIC}" if name == "deterministic" else "")
        # The parent has most of the card's memory: the children take what they need.
        environment = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        done = subprocess.run(
            [*command, "--batch", str(given.batch)], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-1:]}
        seconds[name].append(json.loads(done.stdout.splitlines()[-1]))
    cost = statistics.median(seconds["deterministic"]) / statistics.median(seconds["default"])
    print(f"\ndeterministic kernels ({DETERMINISTIC}): {cost:.2f} of the time of a step of GPT")
    return {"seconds": seconds, "cost": cost}


if __name__ == "__main__":
    main()
