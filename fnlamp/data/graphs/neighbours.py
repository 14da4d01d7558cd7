"""Batches of a large graph: some nodes, and a sample of the nodes around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe, take_rows
from fnlamp.convert import as_array, as_arrays
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, NodeOutOfRange, ShapeMismatch
from fnlamp.given import flag, instance, whole
from fnlamp.graph import Graph
from fnlamp.graph.graph import padded_to
from fnlamp.stream import BatchStream, Order, from_function
from fnlamp.stream.view import check_seed

Ints = np.ndarray[Any, Any]


def neighbour_batches(
    graph: Graph,
    targets: Tree,
    nodes: Any,
    batch_size: int,
    *,
    fanouts: Sequence[int],
    seed: int,
    shuffle: bool = True,
    drop_last: bool = False,
) -> BatchStream[Never]:
    """Batches `(graph, targets)` around `batch_size` of the `nodes`: the part of a large graph from which they learn.

    For each of them at most `fanouts[0]` of its incoming edges are drawn without replacement, for the senders of these at most
    `fanouts[1]`, and so on: as many numbers as the model has layers on graphs.  The nodes of the batch come first, and only
    they have targets: the others' are -100, which a loss ignores, so targets are integers.  A node that is met twice is there
    once.  All batches have one size, padded.  The draw is a function of the seed and the position of the batch.
    Shapes: targets `(nodes of the graph, ...)`, nodes `(count,)`, integers.
    Fails: `ShapeMismatch`; `DtypeMismatch`; `NodeOutOfRange`; `EmptyEpoch` without batches.
    Reference: Hamilton et al. 2017, Algorithm 2.

    >>> line = graph.from_edges(np.arange(4, dtype=np.float32)[:, None], [(0, 1), (1, 2), (2, 3)])
    >>> s = neighbour_batches(line, np.array([5, 6, 7, 8]), [2, 3], 1, fanouts=[1, 1], seed=0, shuffle=False)
    >>> [(g.nodes.ravel().tolist(), targets.tolist()) for g, targets in stream.items(s)]
    [([2.0, 1.0, 0.0], [7, -100, -100]), ([3.0, 2.0, 1.0], [8, -100, -100])]
    """
    graph = instance("neighbour_batches: graph", graph, Graph, "a Graph, as of graph.from_edges")
    batch_size, drop_last = whole("batch_size", batch_size), flag("drop_last", drop_last)
    seed, shuffle = check_seed(whole("seed", seed, 0)), flag("shuffle", shuffle)
    fanouts = instance("fanouts", fanouts, (list, tuple), "a list of numbers, one for each layer on graphs")
    sizes = [whole("fanouts", each) for each in fanouts]
    chosen, targets = _nodes(nodes, graph.rows), as_arrays(targets, "neighbour_batches/targets")
    given = tree.leaves(targets)
    if not given or any(leaf.shape[:1] != (graph.rows,) or leaf.dtype.kind != "i" for leaf in given):
        expected = f"integer targets of {graph.rows:,} nodes"
        raise FaultError(ShapeMismatch(expected, describe(targets), where="neighbour_batches"))
    count = len(chosen) // batch_size if drop_last else -(-len(chosen) // batch_size)
    if not count:
        raise FaultError(EmptyEpoch(len(chosen), batch_size, drop_last, where="neighbour_batches"))
    order, incoming, senders = Order(len(chosen), seed if shuffle else None), _incoming(graph), np.asarray(graph.senders)
    reach = np.cumprod([batch_size, *sizes])
    rows, edges = min(int(reach.sum()), graph.rows), min(int(reach[1:].sum()), len(senders))

    def make(position: int) -> Tree:
        own = chosen[order[position * batch_size : (position + 1) * batch_size]]
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, position)))
        met, drawn = _sampled(own, senders, incoming, sizes, generator)
        return _part(graph, targets, met, drawn, len(own), rows, edges)

    return from_function(count, make, spec=make(0))


def _nodes(nodes: Any, count: int) -> Ints:
    """The numbers of some nodes.  Fails: `ShapeMismatch`, `DtypeMismatch`, `NodeOutOfRange`."""
    chosen = np.asarray(as_array(nodes, "neighbour_batches/nodes"))
    if chosen.ndim != 1 or len(np.unique(chosen)) != len(chosen):
        raise FaultError(ShapeMismatch("different nodes, of shape (count,)", describe(chosen), where="neighbour_batches"))
    if len(chosen) and chosen.dtype.kind not in "iu":
        raise FaultError(DtypeMismatch("integer numbers of nodes", describe(chosen), where="neighbour_batches"))
    outside = np.flatnonzero((chosen < 0) | (chosen >= count))
    if len(outside):
        at = int(outside[0])
        raise FaultError(NodeOutOfRange(int(chosen[at]), count, at, where="neighbour_batches/nodes"))
    return chosen.astype(np.int64)


def _incoming(graph: Graph) -> tuple[Ints, Ints]:
    """The edges sorted by receiver, and where each receiver's begin."""
    receivers = np.asarray(graph.receivers)
    by_receiver = np.argsort(receivers, kind="stable")
    return by_receiver, np.searchsorted(receivers[by_receiver], np.arange(graph.rows + 1))


def _sampled(own: Ints, senders: Ints, incoming: tuple[Ints, Ints], sizes: Sequence[int], generator: Any) -> tuple[Ints, Ints]:
    """The nodes in the order in which they are met, and the edges that were drawn."""
    edges, starts = incoming
    met, drawn, frontier = own, [np.zeros(0, np.int64)], own
    for size in sizes:
        degree = starts[frontier + 1] - starts[frontier]
        of = np.repeat(np.arange(len(frontier)), degree)  # each incoming edge, by the place of its receiver
        within = np.arange(len(of)) - np.repeat(np.cumsum(degree) - degree, degree)
        every = edges[starts[frontier][of] + within]
        # The edges of each receiver in random order: the first ones are drawn.
        shuffled = every[np.lexsort((generator.random(len(every)), of))]
        picked = shuffled[within < size]
        sent = senders[picked]
        _, first = np.unique(sent, return_index=True)
        fresh = sent[np.sort(first)]
        frontier = fresh[~np.isin(fresh, met)]
        met, drawn = np.concatenate([met, frontier]), [*drawn, picked]
    return met, np.concatenate(drawn)


def _part(graph: Graph, targets: Tree, met: Ints, drawn: Ints, own: int, rows: int, edges: int) -> Tree:
    """The nodes that were met and the edges that were drawn, padded; targets of the first `own` nodes."""
    number = np.full(graph.rows, rows, np.int32)
    number[met] = np.arange(len(met), dtype=np.int32)

    part = Graph(
        tree.map(lambda leaf: padded_to([take_rows(np.asarray(leaf), met)], rows), graph.nodes),
        padded_to([number[np.asarray(graph.senders)[drawn]]], edges, rows),
        padded_to([number[np.asarray(graph.receivers)[drawn]]], edges, rows),
        tree.map(lambda leaf: padded_to([take_rows(np.asarray(leaf), drawn)], edges), graph.edges),
        np.array([len(met)], np.int32),
        padded=True,
    )
    return part, tree.map(lambda leaf: padded_to([take_rows(np.asarray(leaf), met[:own])], rows, -100), targets)
