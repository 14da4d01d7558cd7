"""Batches of graphs: one graph as a whole, and small graphs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe, spec_of, take_rows
from fnlamp.convert import as_arrays
from fnlamp.fault import EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.given import flag, instance, whole
from fnlamp.graph import Graph, union
from fnlamp.graph.graph import padded_to
from fnlamp.stream import BatchStream, Order, from_arrays, from_function
from fnlamp.stream.view import check_seed


def whole_graph(graph: Graph, targets: Tree, *, steps: int = 1) -> BatchStream[Never]:
    """Batches `(graph, targets)` of one graph as a whole: `steps` times the same.

    A loss ignores targets of -100, so that a split into training, validation and test is one array of targets for each.
    The graph is on the device once, as an argument of the compiled step.
    Shapes: targets, a pytree of arrays, `(nodes, ...)`, or `(graphs, ...)` for a model that pools.
    Fails: `ShapeMismatch` for another number of targets; `DtypeMismatch`.

    >>> pair = graph.from_edges(np.ones((2, 1), np.float32), [(0, 1)])
    >>> [targets.tolist() for _, targets in stream.items(whole_graph(pair, np.array([1, -100]), steps=2))]
    [[1, -100], [1, -100]]
    """
    graph, steps = instance("whole_graph: graph", graph, Graph, "a Graph, as of graph.from_edges"), whole("steps", steps)
    targets = as_arrays(targets, "whole_graph/targets")
    _check_targets(targets, (graph.rows, len(graph.sizes)), "a target for each node, or for each graph")
    nothing = from_arrays(np.zeros(steps, np.int8), batch_size=1)
    return nothing.map(_given, graph, targets)


def _given(batch: Tree, graph: Graph, targets: Tree) -> Tree:
    del batch
    return graph, targets


def graph_batches(
    graphs: Sequence[Graph],
    targets: Tree,
    batch_size: int,
    *,
    rows: int | None = None,
    edges: int | None = None,
    seed: int | None = None,
    drop_last: bool = False,
) -> BatchStream[Never]:
    """Batches `(graph, targets)` of small graphs side by side, all padded to one size, so that one program serves them.

    `rows` and `edges` are the sizes to which nodes and edges are padded: by default those of the `batch_size` graphs that have
    the most, which is always enough.  In order without a seed, else shuffled by it.  A batch has `batch_size` graphs; the
    last is filled with graphs without nodes, whose targets are -100 if they are integers (a loss ignores these); other targets
    need `drop_last`, or a `batch_size` that divides the number of graphs.
    Shapes: targets, a pytree of arrays, `(graphs, ...)`.
    Fails: `ShapeMismatch`, for a batch that is larger than given sizes when it is made; `EmptyEpoch` without batches.

    >>> graphs = [graph.from_edges(np.ones((n, 1), np.float32), [(0, 1)]) for n in (2, 3, 2)]
    >>> s = graph_batches(graphs, np.array([0, 1, 1]), batch_size=2)
    >>> [(g.sizes.tolist(), len(g.nodes), targets.tolist()) for g, targets in stream.items(s)]
    [([2, 3], 5, [0, 1]), ([2, 0], 5, [1, -100])]
    """
    graphs = list(instance("graph_batches: graphs", graphs, (list, tuple), "a list of graphs"))
    for one in graphs:
        instance("graph_batches: graphs", one, Graph, "a list of graphs")
    batch_size, drop_last, seed = whole("batch_size", batch_size), flag("drop_last", drop_last), check_seed(seed)
    targets = as_arrays(targets, "graph_batches/targets")
    _check_targets(targets, (len(graphs),), "a target for each graph")
    count = len(graphs) // batch_size if drop_last else -(-len(graphs) // batch_size)
    if count * batch_size > len(graphs) and any(leaf.dtype.kind != "i" for leaf in tree.leaves(spec_of(targets))):
        hint = "drop the last batch (drop_last=True), or take a batch_size that divides the number of graphs"
        expected = f"integer targets, or full batches of {batch_size:,} graphs"
        raise FaultError(ShapeMismatch(expected, f"{len(graphs):,} graphs", hint, where="graph_batches"))
    if not count:
        raise FaultError(EmptyEpoch(len(graphs), batch_size, drop_last, where="graph_batches"))
    most = {
        "rows": _largest([one.rows for one in graphs], batch_size) if rows is None else whole("rows", rows),
        "edges": _largest([len(one.senders) for one in graphs], batch_size) if edges is None else whole("edges", edges, 0),
    }
    order = Order(len(graphs), seed)

    def make(position: int) -> Tree:
        chosen = order[position * batch_size : (position + 1) * batch_size]
        joined = union([graphs[at] for at in chosen.tolist()], **most, count=batch_size)
        return joined, tree.map(lambda leaf: padded_to([take_rows(np.asarray(leaf), chosen)], batch_size, -100), targets)

    first = make(0)
    # Each batch may have padding, so all have the form of a padded graph: one program.
    return from_function(count, lambda position: _as_padded(make(position)), spec=_as_padded(first))


def _as_padded(batch: Tree) -> Tree:
    graph, targets = batch
    return Graph(graph.nodes, graph.senders, graph.receivers, graph.edges, graph.sizes, padded=True), targets


def _largest(sizes: Sequence[int], count: int) -> int:
    return int(np.sort(np.array(sizes))[::-1][:count].sum())


def _check_targets(targets: Tree, counts: tuple[int, ...], expected: str) -> None:
    if not tree.leaves(targets) or any(leaf.shape[:1] not in {(count,) for count in counts} for leaf in tree.leaves(targets)):
        raise FaultError(ShapeMismatch(expected, describe(targets), where="graph targets"))
