"""Memory of long attention and of a large vocabulary, and the compilation of deep transformers.

    python examples/benchmarks/attention.py                  all figures, each measured in its own processes
    python examples/benchmarks/attention.py --only head --json out.json

`long`: the peak memory of a process that trains attention over 4,096 time steps, 8 heads of 64, with blocks and without.
`head`: a cross-entropy of 32 x 512 positions over 50,257 classes, in parts and of held logits: memory, and seconds a step.
`compile`: seconds until a transformer's training step is compiled: with dropout, and of 12 and 48 scanned layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import Train, loss, nn, train
from fnlamp.logits import Logits

KEY = jax.random.key(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies lengths, rows and depths")
    parser.add_argument("--width", type=int, default=128, help="of the features of the head")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        name, _, form = given.process.partition(" ")
        print(json.dumps({**MEASURES[name](form, given), "peak_mib": round(peak_memory())}))
        return
    found = {}
    for part in given.only:
        found[part] = PARTS[part](given)
        print(part, json.dumps(found[part], indent=1), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


def process(what: str, given: Any) -> Any:
    """What a process of this script prints, for one form of one measurement."""
    options = ["--scale", str(given.scale), "--width", str(given.width), "--rounds", str(given.rounds)]
    command = [sys.executable, __file__, "--process", what, *options]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def peak_memory() -> float:
    """The peak memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def seconds(step: Callable[[], Any], rounds: int) -> float:
    """The median of some calls after the first."""
    jax.block_until_ready(step())
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(step())
        taken.append(time.perf_counter() - start)
    return round(statistics.median(taken), 3)


# ------------------------------------------------------------------------------- long attention


def long(given: Any) -> dict[str, Any]:
    return {form: process(f"long {form}", given) for form in ("blocks", "whole")}


def one_long(form: str, given: Any) -> dict[str, Any]:
    time_steps = max(2, int(4096 * given.scale))
    block_size = max(1, int(512 * given.scale)) if form == "blocks" else None
    layer = nn.self_attention(8, mask=nn.causal, block_size=block_size)
    x = jax.random.normal(KEY, (1, time_steps, 512))
    params = layer.init(KEY, x).params

    @jax.jit
    def step(params: Any) -> Any:
        grads = jax.grad(lambda params: jnp.sum(jnp.square(layer.apply(params, {}, x, Train(KEY))[0])))(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

    return {"seconds": seconds(lambda: step(params), min(given.rounds, 2))}


# ------------------------------------------------------------------------------- a large vocabulary


def head(given: Any) -> dict[str, Any]:
    """Both forms alternate in one process for their speeds, and run alone for their memory."""
    alone = {form: process(f"head {form}", given)["peak_mib"] for form in ("parts", "held")}
    both = process("head both", given)
    return {"peak_mib": alone, "seconds": both["seconds"], "speed": both["speed"]}


def one_head(form: str, given: Any) -> dict[str, Any]:
    rows, classes = max(2, int(32 * 512 * given.scale)), max(5, int(50_257 * given.scale))
    x, labels = jax.random.normal(KEY, (rows, given.width)), jax.random.randint(KEY, (rows,), 0, classes)
    weight = 0.02 * jax.random.normal(KEY, (given.width, classes))
    forms = {
        "parts": jax.jit(jax.value_and_grad(lambda x, w: loss.cross_entropy()(Logits(x, w), labels).mean, (0, 1))),
        "held": jax.jit(jax.value_and_grad(lambda x, w: loss.cross_entropy()(x @ w, labels).mean, (0, 1))),
    }
    if form != "both":
        jax.block_until_ready(forms[form](x, weight))
        return {}
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for one in forms.values():
        jax.block_until_ready(one(x, weight))
    for _ in range(given.rounds):
        for name, one in forms.items():
            start = time.perf_counter()
            jax.block_until_ready(one(x, weight))
            taken[name].append(time.perf_counter() - start)
    ratio = statistics.median(held / parts for held, parts in zip(taken["held"], taken["parts"], strict=True))
    return {"seconds": {name: round(statistics.median(each), 3) for name, each in taken.items()}, "speed": round(ratio, 3)}


# ------------------------------------------------------------------------------- compilation


def compiling(given: Any) -> dict[str, Any]:
    forms = ("12 layers", "12 layers with dropout", "12 layers scanned", "48 layers scanned")
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(max(1, given.rounds // 2)):
        for form in forms:
            taken[form].append(process(f"compile {form}", given)["seconds"])
    middle = {form: statistics.median(each) for form, each in taken.items()}
    return {
        "seconds": middle,
        "dropout": round(middle[forms[1]] / middle[forms[0]], 3),
        "48 scanned to 12": round(middle[forms[3]] / middle[forms[2]], 3),
    }


def one_compile(form: str, given: Any) -> dict[str, Any]:
    layers = max(1, int(int(form.split()[0]) * given.scale))
    rate = 0.1 if "dropout" in form else 0.0
    attention = nn.self_attention(4, mask=nn.causal, drop_rate=rate)
    block = nn.transformer_block(attention, nn.feed_forward(drop_rate=rate), drop_rate=rate)
    blocks = nn.repeat(block, layers, scan="scanned" in form)
    model = train.supervised(nn.sequence(tokens=nn.embedding(256, 64), blocks=blocks, out=nn.linear(256)), loss.cross_entropy())
    x = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    params, state = jax.eval_shape(lambda key: model.init(key, x), KEY)

    def step(params: Any, key: Any, x: Any, y: Any) -> Any:
        grads = jax.grad(lambda params: model.evaluate(params, state, (x, y), Train(key))[0].mean)(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    start = time.perf_counter()
    jax.jit(step).lower(params, jax.eval_shape(lambda: KEY), x, x).compile()
    return {"seconds": round(time.perf_counter() - start, 3)}


PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {"long": long, "head": head, "compile": compiling}
MEASURES: dict[str, Callable[[str, Any], dict[str, Any]]] = {"long": one_long, "head": one_head, "compile": one_compile}

if __name__ == "__main__":
    main()
