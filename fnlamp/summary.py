"""The table of a model: the output shape, parameters and bytes of each layer."""

from __future__ import annotations

from fnlamp import tree
from fnlamp.arrays import Spec, describe
from fnlamp.layer import Init, Layer, abstract_init, as_layer


def table(layer: Layer, spec: Spec) -> str:
    """The model as a table: layer, output shape, parameters, bytes; nothing is computed.

    >>> import jax, jax.numpy as jnp
    >>> from fnlamp import nn
    >>> print(table(nn.linear(128) >> nn.relu >> nn.linear(10), jax.ShapeDtypeStruct((32, 784), jnp.float32)))
    layer        output            parameters    bytes
    input        float32[32, 784]
    linear(128)  float32[32, 128]     100,480  401,920
    relu         float32[32, 128]           0        0
    linear(10)   float32[32, 10]        1,290    5,160
    total                             101,770  407,080
    """
    init = abstract_init(as_layer(layer, "table: layer"), spec)
    rows = [("layer", "output", "parameters", "bytes"), ("input", describe(spec), "", "")]
    rows += _rows(layer, init, "", "")
    rows.append(("total", "", f"{tree.count(init.params):,}", f"{tree.nbytes(init.params):,}"))
    left, middle, right, last = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(f"{a:<{left}}  {b:<{middle}}  {c:>{right}}  {d:>{last}}".rstrip() for a, b, c, d in rows)


def _rows(layer: Layer, init: Init, name: str, indent: str) -> list[tuple[str, str, str, str]]:
    inner = [row for part in init.parts for row in _rows(part[1], part[2], part[0], indent + "  " * bool(name))]
    if layer.chain is not None and not name:  # the outermost sequence has no line
        return inner
    kind = "sequence" if layer.chain is not None else layer.name
    label = kind if not name or name.isdigit() else f"{name}: {kind}"
    own = (indent + label, describe(init.spec), f"{tree.count(init.params):,}", f"{tree.nbytes(init.params):,}")
    return [own, *inner]
