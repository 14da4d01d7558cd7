"""The speed of single layers, forward and all gradients, compared with PyTorch's better memory format.

    python examples/benchmarks/layers.py                       all cases, 7 rounds each
    python examples/benchmarks/layers.py --cases 28x28 resnet --before --json out.json

Each contestant computes the layer's output, and the gradients of input and parameters for an upstream gradient that equals the
output; fnlamp does so many times inside one compiled loop, where each iteration depends on the one before. Contestants
alternate in one process; a ratio is the median over paired rounds. `--before` adds the one form that convolution had on the CPU
before each shape got its own: patches with the batch last in memory. A case of another layer is a line in `CASES`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from paired import Rounds, fastest, interval, ratios, take_turns
from training import machine

import fnlamp
from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.layer import Init, Layer
from fnlamp.mode import Train
from fnlamp.nn.lowering import im2col
from fnlamp.nn.lowering.window import Window

FORMATS = "torch", "torch channels-last"


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its input, and torch's layer, which has images with the channels first."""

    name: str
    layer: Layer
    shape: tuple[int, ...]
    theirs: Callable[[Any], Any]
    """From `torch.nn`."""
    formats: tuple[str, ...] = FORMATS
    before: Layer | None = None
    """The layer in an earlier form."""


def conv(name: str, *shape: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Case:
    """`conv2d` without bias, padded so that a stride of 1 keeps the size, over images `(batch, height, width, in)`."""
    options: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": groups, "bias": False}
    return Case(
        name,
        nn.conv2d(out, kernel, **options),
        shape,
        lambda torch_nn: torch_nn.Conv2d(shape[3], out, kernel, **options),
        before=with_batch_last(out, Window((kernel, kernel), (stride, stride), padding=kernel // 2), groups),
    )


def with_batch_last(out: int, window: Window, groups: int) -> Layer:
    """`conv2d` as it was for all shapes: patches `(window channels, places, batch)` and one product."""
    initial = nn.conv2d(out, window.size, groups=groups, bias=False, padding=window.padding, stride=window.stride).init

    def apply(params: Any, state: Any, x: Any, mode: Any) -> Any:
        padded = im2col.pad(im2col.batch_last(x), window.sides(*x.shape[1:3]))
        return im2col.batch_first(im2col.convolve(padded, params["weight"], window, groups)), state

    return Layer(initial, apply)


CASES = [
    conv("28x28, 64 to 64", 32, 28, 28, 64, out=64),
    conv("32x32, 16 to 16", 64, 32, 32, 16, out=16),
    conv("32x32, 3 to 64", 64, 32, 32, 3, out=64),
    conv("16x16, 128 to 128", 64, 16, 16, 128, out=128),
    conv("8x8, 256 to 256", 64, 8, 8, 256, out=256),
    conv("32x32, 64 to 128, stride 2", 32, 32, 32, 64, out=128, stride=2),
    conv("56x56, 64 to 64, 1x1", 32, 56, 56, 64, out=64, kernel=1),
    conv("12x12, 20 to 50, 5x5", 64, 12, 12, 20, out=50, kernel=5),
    conv("32x32, depthwise of 128", 32, 32, 32, 128, out=128, groups=128),
    conv("28x28, 128 to 128, 32 groups", 16, 28, 28, 128, out=128, groups=32),
    conv("resnet on CIFAR, 64 to 64", 64, 32, 32, 64, out=64),
    conv("resnet on CIFAR, 64 to 128, stride 2", 64, 32, 32, 64, out=128, stride=2),
    conv("resnet on CIFAR, 64 to 128, 1x1, stride 2", 64, 32, 32, 64, out=128, kernel=1, stride=2),
    conv("resnet on CIFAR, 128 to 256, stride 2", 64, 16, 16, 128, out=256, stride=2),
    conv("resnet on CIFAR, 256 to 512, stride 2", 64, 8, 8, 256, out=512, stride=2),
    conv("resnet on CIFAR, 512 to 512", 64, 4, 4, 512, out=512),
    conv("resnet on ImageNet, 3 to 64, 7x7, stride 2", 8, 224, 224, 3, out=64, kernel=7, stride=2),
    conv("resnet on ImageNet, 64 to 64", 8, 56, 56, 64, out=64),
    conv("resnet on ImageNet, 64 to 128, stride 2", 8, 56, 56, 64, out=128, stride=2),
    conv("resnet on ImageNet, 128 to 128", 8, 28, 28, 128, out=128),
    conv("resnet on ImageNet, 256 to 256", 8, 14, 14, 256, out=256),
    conv("resnet on ImageNet, 512 to 512", 8, 7, 7, 512, out=512),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", help="those whose names contain one of these words")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.15, help="of a round of fnlamp")
    parser.add_argument("--batch", type=int, help="instead of each case's own")
    parser.add_argument("--before", action="store_true", help="measure the earlier form as well")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    fnlamp.keep_memory()
    found: dict[str, Any] = {"machine": machine(), "cases": {}}
    print("machine:", ", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
    for case in CASES:
        if not given.cases or any(word in case.name for word in given.cases):
            found["cases"][case.name] = measure(case, given)
            print(line(case.name, found["cases"][case.name]), flush=True)
    found["ratio to torch"] = summary(found["cases"])
    print("fnlamp's speed by torch's:", found["ratio to torch"])
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def measure(case: Case, given: Any) -> dict[str, Any]:
    """Milliseconds of each contestant, and the ratios of their speeds."""
    shape = (given.batch or case.shape[0], *case.shape[1:])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    made = case.layer.init(jax.random.key(0), array_spec(shape, jnp.float32))
    runs = {"fnlamp": ours(case.layer, made, x)}
    if given.before and case.before is not None:
        runs["before"] = ours(case.before, made, x)
    times = iterations(runs["fnlamp"], given.seconds)
    if not given.no_torch:
        runs |= {mode: theirs(case, mode, x) for mode in case.formats}
    seconds = take_turns({name: partial(again, run, times) for name, run in runs.items()}, given.rounds)
    return figures(seconds, times)


def again(run: Callable[[int], None], times: int, _: int) -> None:
    """A round."""
    run(times)


def iterations(run: Callable[[int], None], seconds: float) -> int:
    """How many take about that time."""
    run(1)
    started = time.perf_counter()
    run(2)
    return max(1, round(seconds / (time.perf_counter() - started) * 2))


def figures(seconds: Rounds, times: int) -> dict[str, Any]:
    found: dict[str, Any] = {"ms": {name: statistics.median(each) / times * 1e3 for name, each in seconds.items()}}
    rivals = [name for name in seconds if name.startswith("torch")]
    if rivals:
        best = fastest(seconds, rivals)
        found |= {"best torch": best, "ratio to torch": interval(ratios(seconds[best], seconds["fnlamp"]))}
    if "before" in seconds:
        found["ratio to before"] = interval(ratios(seconds["before"], seconds["fnlamp"]))
    return found


def ours(layer: Layer, made: Init, x: Any) -> Callable[[int], None]:
    """So many iterations in one compiled loop; the number is an argument of the program."""

    def once(params: Any, x: Any) -> Any:
        def outputs(params: Any, x: Any) -> Any:
            return layer.apply(params, made.state, x, Train(jax.random.key(0)))[0]

        y, pull = jax.vjp(outputs, params, x)
        return y, pull(y)

    @jax.jit
    def loop(times: Any, params: Any, x: Any) -> Any:
        def body(_: Any, carried: Any) -> Any:
            (params, x), results = carried
            last = sum(leaf.ravel()[0] * 1e-30 for leaf in jax.tree.leaves(results))
            # Each iteration depends on all results before, or XLA moved its work out of the loop, and left some out.
            params, x = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(last), (params, x))
            return (params, x), once(params, x)

        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(once, params, x))
        return jax.lax.fori_loop(0, times, body, ((params, x), empty))[1]

    params, x = made.params, jnp.asarray(x)

    def run(times: int) -> None:
        jax.block_until_ready(loop(times, params, x))  # type: ignore[no-untyped-call]

    return run


def theirs(case: Case, mode: str, x: Any) -> Callable[[int], None]:
    """So many iterations of torch's layer, from parameters of its own."""
    import torch

    form = torch.channels_last if mode == "torch channels-last" else torch.contiguous_format
    layer = case.theirs(torch.nn)
    at = torch.from_numpy(x)
    if mode in FORMATS:
        layer, at = layer.to(memory_format=form), at.permute(0, 3, 1, 2).contiguous(memory_format=form)
    at.requires_grad_()

    def run(times: int) -> None:
        for _ in range(times):
            y = layer(at)
            torch.autograd.grad(y, (at, *layer.parameters()), y.detach())

    return run


def line(name: str, found: dict[str, Any]) -> str:
    """One case as text."""
    times = ", ".join(f"{who} {ms:.2f} ms" for who, ms in found["ms"].items())
    by = [f"{found[what]['median']:.2f} {what}" for what in ("ratio to torch", "ratio to before") if what in found]
    return f"{name:46}{times}; {', '.join(by)}"


def summary(cases: dict[str, Any]) -> dict[str, float]:
    """The lowest and the middle of the cases' ratios to torch."""
    each = [found["ratio to torch"]["median"] for found in cases.values() if "ratio to torch" in found]
    return {"lowest": min(each), "median": statistics.median(each)} if each else {}


if __name__ == "__main__":
    main()
