"""One graph, or several side by side: a pytree of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe
from fnlamp.convert import as_array, as_arrays
from fnlamp.fault import DtypeMismatch, FaultError, NodeOutOfRange, ShapeMismatch
from fnlamp.given import flag, instance, whole


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Graph:
    """Directed graphs side by side: `nodes` in order of their graph, an edge from `senders[e]` to `receivers[e]`.

    `nodes` is an array `(nodes, ...)` or a pytree of such arrays, `edges` the same for edges, or `None`; `sizes` is the number
    of nodes of each graph.  A `padded` graph has more rows of nodes than its sizes add up to, and edges without an end: their
    sender and receiver is the number of rows.  Layers ignore both.  An edge to another row that does not exist makes NaN, at
    which training stops.  Make graphs by `from_edges`, which checks them, and `union`.

    >>> pair = Graph(np.ones((2, 3), np.float32), np.array([0, 1]), np.array([1, 0]), None, np.array([2]))
    >>> jax.tree.map(np.shape, pair).senders
    (2,)
    """

    nodes: Tree
    senders: Any
    receivers: Any
    edges: Tree
    sizes: Any
    padded: bool = field(default=False, metadata={"static": True})

    @property
    def rows(self) -> int:
        """How many rows of nodes it has, padding included."""
        return int(tree.leaves(self.nodes)[0].shape[0])


def from_edges(nodes: Tree, pairs: Any, *, edges: Tree = None, undirected: bool = False) -> Graph:
    """A graph of nodes, and of edges as pairs `(sender, receiver)` of their numbers.

    With `undirected`, each pair is an edge in both directions, both with its features; a node with itself is one.
    Shapes: nodes `(nodes, ...)`, pairs `(edges, 2)`, edges `(edges, ...)`; each of the first and the last a pytree of arrays.
    Fails: `ShapeMismatch`, also for no nodes; `DtypeMismatch`; `NodeOutOfRange` for a node that does not exist.

    >>> triangle = from_edges(np.eye(3, dtype=np.float32), [(0, 1), (1, 2), (2, 0)], undirected=True)
    >>> triangle.senders.tolist(), triangle.receivers.tolist()
    ([0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2])
    """
    nodes, undirected = tree.map(np.asarray, as_arrays(nodes, "from_edges/nodes")), flag("from_edges: undirected", undirected)
    count = _count(nodes, "nodes")
    if not count:
        raise FaultError(ShapeMismatch("at least one node", describe(nodes), where="from_edges"))
    ends = np.asarray(as_array(pairs, "from_edges/pairs"))
    ends = ends.reshape(0, 2).astype(np.int32) if ends.size == 0 else ends
    if ends.ndim != 2 or ends.shape[1] != 2:
        hint = "transpose an array of shape (2, edges)" if ends.ndim == 2 and ends.shape[0] == 2 else ""
        raise FaultError(ShapeMismatch("pairs of shape (edges, 2)", describe(ends), hint, where="from_edges"))
    if ends.dtype.kind not in "iu":
        raise FaultError(DtypeMismatch("integer numbers of nodes", describe(ends), where="from_edges/pairs"))
    outside = (ends < 0) | (ends >= count)
    if outside.any():
        row, column = (int(at[0]) for at in np.nonzero(outside))
        raise FaultError(NodeOutOfRange(int(ends[row, column]), count, row, where="from_edges/pairs"))
    features = tree.map(np.asarray, as_arrays(edges, "from_edges/edges"))
    if features is not None and _count(features, "edges") != len(ends):
        expected = f"features of {len(ends):,} edges"
        raise FaultError(ShapeMismatch(expected, describe(features), where="from_edges/edges"))
    if undirected:
        back = ends[:, 0] != ends[:, 1]
        features = tree.map(lambda each: np.concatenate([each, each[back]]), features)
        ends = np.concatenate([ends, ends[back, ::-1]])
    ends = ends.astype(np.int32)
    return Graph(nodes, ends[:, 0].copy(), ends[:, 1].copy(), features, np.array([count], np.int32))


def union(graphs: Sequence[Graph], *, rows: int | None = None, edges: int | None = None, count: int | None = None) -> Graph:
    """Graphs side by side as one, whose edges stay inside each: a block-diagonal adjacency matrix.

    `rows`, `edges` and `count` are the sizes to which nodes, edges and graphs are padded; a padding graph has no nodes.
    Fails: `ShapeMismatch` for graphs with other features, and for sizes that are too small.

    >>> pair = from_edges(np.ones((2, 1), np.float32), [(0, 1)])
    >>> both = union([pair, pair], rows=5, edges=3)
    >>> both.senders.tolist(), both.sizes.tolist(), both.nodes.ravel().tolist()
    ([0, 2, 5], [2, 2], [1.0, 1.0, 1.0, 1.0, 0.0])
    """
    graphs = list(instance("union: graphs", graphs, (list, tuple), "a list of graphs"))
    for graph in graphs:
        instance("union: graphs", graph, Graph, "a list of graphs")
    if not graphs:
        raise FaultError(ShapeMismatch("at least one graph", "none", where="union"))
    _check_like(graphs)
    have = {"rows": sum(g.rows for g in graphs), "edges": sum(len(g.senders) for g in graphs)}
    have["count"] = sum(len(g.sizes) for g in graphs)
    given = {"rows": rows, "edges": edges, "count": count}
    to = {name: have[name] if size is None else whole(f"union: {name}", size, 0) for name, size in given.items()}
    for name, size in to.items():
        if size < have[name]:
            what = "graphs" if name == "count" else name
            raise FaultError(ShapeMismatch(f"at least {have[name]:,} {what}", f"{name}={size:,}", where="union"))
    starts = np.cumsum([0, *(graph.rows for graph in graphs)], dtype=np.int32)

    def ends(of: str) -> Any:
        moved = [np.asarray(getattr(graph, of), np.int32) + at for graph, at in zip(graphs, starts, strict=False)]
        return padded_to(moved, to["edges"], to["rows"])

    return Graph(
        tree.map(lambda *each: padded_to(each, to["rows"]), *(graph.nodes for graph in graphs)),
        ends("senders"),
        ends("receivers"),
        tree.map(lambda *each: padded_to(each, to["edges"]), *(graph.edges for graph in graphs)),
        padded_to([graph.sizes for graph in graphs], to["count"]),
        padded=any(to[name] > have[name] for name in ("rows", "edges")),
    )


def _check_like(graphs: Sequence[Graph]) -> None:
    def features(graph: Graph) -> Tree:
        return tree.map(lambda each: (each.shape[1:], str(each.dtype)), (graph.nodes, graph.edges))

    for graph in graphs:
        if graph.padded:
            hint = "its padding would be between the nodes of two graphs; join graphs before they are padded"
            raise FaultError(ShapeMismatch("graphs without padding", "a padded graph", hint, where="union"))
        if features(graph) != features(graphs[0]):
            expected, actual = (describe((each.nodes, each.edges)) for each in (graphs[0], graph))
            raise FaultError(ShapeMismatch(f"graphs with features as {expected}", actual, where="union"))


def padded_to(parts: Sequence[Any], size: int, value: int = 0) -> Any:
    """The rows of several arrays, and rows of `value` up to that size."""
    joined = np.concatenate([np.asarray(part) for part in parts])
    rest = np.full((size - len(joined), *joined.shape[1:]), value, joined.dtype)
    return np.concatenate([joined, rest])


def _count(features: Tree, what: str) -> int:
    """How many rows the arrays have.  Fails: `ShapeMismatch` for different numbers of rows."""
    counts = {leaf.shape[:1] for leaf in tree.leaves(features)}
    if len(counts) != 1 or counts == {()}:
        raise FaultError(ShapeMismatch(f"arrays with a row for each of the {what}", describe(features), where="from_edges"))
    return int(next(iter(counts))[0])
