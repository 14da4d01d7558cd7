"""Training steps of ResNet-18 in its form for CIFAR, compared with PyTorch's channels-last form.

    python examples/benchmarks/resnet.py --json out.json

Both train from random parameters on one batch of random images, with momentum; fnlamp takes its steps in one compiled loop.
The two alternate in one process; the ratio is the median over paired rounds. Compilation and peak memory are measured in
processes of their own. Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", table 1, with the
first layer for 32x32 pixels of section 4.2: a 3x3 convolution of stride 1 and no pooling.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from paired import Finding, ratios, take_turns
from training import machine, peak_memory

import fnlamp
from fnlamp import loss, models, optim
from fnlamp.arrays import array_spec
from fnlamp.layer import Init, Layer
from fnlamp.mode import Train

WIDTHS = 64, 128, 256, 512
RATE, MOMENTUM = 0.01, 0.9


def resnet18(widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> Layer:
    """Two blocks of each width, the first of each width but the first with a stride of 2."""
    return models.resnet(classes, blocks=(2,) * len(widths), widths=widths, small=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--process", choices=["fnlamp", "torch"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    fnlamp.keep_memory()
    if given.process:
        return alone(given)
    found: dict[str, Any] = {"machine": machine()}
    print("machine:", ", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
    ran, rival = ours(given), theirs(given)
    seconds = take_turns({"fnlamp": lambda _: ran(given.steps), "torch": lambda _: rival(given.steps)}, given.rounds)
    for name, each in seconds.items():
        found[name] = {"images a second": given.batch * given.steps / float(np.median(each)), **process(name)}
        print(name, ", ".join(f"{what} {value:,.1f}" for what, value in found[name].items()))
    ratio = Finding.of("ResNet-18, speed by torch's", "", ratios(seconds["torch"], seconds["fnlamp"]), 0.7)
    print(ratio)
    found["ratio to torch"] = ratio.as_json()
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def process(name: str) -> dict[str, float]:
    """What a process that takes a few steps says about itself."""
    command = [sys.executable, __file__, "--process", name, *sys.argv[1:]]
    last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    figures: dict[str, float] = json.loads(last)
    return figures


def alone(given: Any) -> None:
    """Seconds of the first call beyond those of the next, which for fnlamp are those of compilation, and the peak memory."""
    run, seconds = (ours if given.process == "fnlamp" else theirs)(given), []
    for _ in range(2):
        started = time.perf_counter()
        run(given.steps)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds of the first call": seconds[0] - seconds[1], "peak MiB": peak_memory()}))


def batch_of(given: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((given.batch, 32, 32, 3), np.float32), rng.integers(0, 10, given.batch)


def ours(given: Any) -> Callable[[int], float]:
    """So many steps, and the loss before the last."""
    layer, rule = resnet18(tuple(given.widths)), optim.sgdw(RATE, momentum=MOMENTUM)
    x, y = map(jnp.asarray, batch_of(given))
    return loop(layer, rule, layer.init(jax.random.key(0), array_spec(x.shape, x.dtype)), x, y)


def loop(layer: Layer, rule: optim.Optimizer, made: Init, x: Any, y: Any) -> Callable[[int], float]:
    """So many steps on one batch in one compiled loop, and the loss before the last."""
    objective = loss.cross_entropy()

    def step(carried: Any, x: Any, y: Any) -> Any:
        params, state, moments, _ = carried

        def mean(params: Any) -> Any:
            logits, after = layer.apply(params, state, x, Train(jax.random.key(0)))
            return objective(logits, y).mean, after

        (value, state), grads = jax.value_and_grad(mean, has_aux=True)(params)
        params, moments = rule.advance(grads, moments, params, made.tags)
        return params, state, moments, value

    @jax.jit
    def steps(times: Any, carried: Any, x: Any, y: Any) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, carried: step(carried, x, y), carried)

    carried = made.params, made.state, rule.init(made.params, made.tags), jnp.float32(0)

    def run(times: int) -> float:
        nonlocal carried
        carried = steps(times, carried, x, y)
        return float(carried[-1])

    return run


def theirs(given: Any) -> Callable[[int], float]:
    """So many steps of torch's modules in their better memory format, with the optimizer's fused form."""
    import torch

    model = torch_resnet18(tuple(given.widths)).to(memory_format=torch.channels_last).train()
    rule = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)
    x, y = batch_of(given)
    return torch_loop(model, rule, channels_last(x), torch.from_numpy(y))


def channels_last(images: Any) -> Any:
    """Images as torch has them, in the memory format that is faster for it."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def torch_loop(model: Any, rule: Any, x: Any, y: Any) -> Callable[[int], float]:
    """So many steps on one batch, and the loss before the last."""
    import torch

    def run(times: int) -> float:
        value = torch.zeros(())
        for _ in range(times):
            rule.zero_grad(set_to_none=True)
            value = torch.nn.functional.cross_entropy(model(x), y)
            value.backward()
            rule.step()
        return float(value.detach())

    return run


def torch_resnet18(widths: tuple[int, ...]) -> Any:
    """The same model in torch."""
    import torch
    from torch import nn as torch_nn

    def conv_norm(before: int, width: int, kernel: int, stride: int) -> list[Any]:
        convolution = torch_nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
        return [convolution, torch_nn.BatchNorm2d(width)]

    class Block(torch_nn.Module):  # type: ignore[misc]
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            first, second = conv_norm(before, width, 3, stride), conv_norm(width, width, 3, 1)
            self.inner = torch_nn.Sequential(*first, torch_nn.ReLU(inplace=True), *second)
            self.shortcut = torch_nn.Sequential(*(conv_norm(before, width, 1, stride) if stride > 1 else []))

        def forward(self, x: Any) -> Any:
            return torch.relu_(self.inner(x) + self.shortcut(x))

    layers, before = [*conv_norm(3, widths[0], 3, 1), torch_nn.ReLU(inplace=True)], widths[0]
    for i, width in enumerate(widths):
        layers += [Block(before, width, 1 if i == 0 else 2), Block(width, width, 1)]
        before = width
    return torch_nn.Sequential(*layers, torch_nn.AdaptiveAvgPool2d(1), torch_nn.Flatten(), torch_nn.Linear(before, 10))


if __name__ == "__main__":
    main()
