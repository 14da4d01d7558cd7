"""Layers on graphs: each takes a `Graph` and returns it with other nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, Tree, describe, spec_after, wide
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, function, number, whole
from fnlamp.graph import Graph, mean_at, softmax_at, sum_at
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, tag_all, without_empty
from fnlamp.mode import Eval, Mode
from fnlamp.nn.check import check_features, check_float, check_shape
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.tag import Role

Reduce = Callable[[Array, Array, int], Array]
"""`(rows, segment, count) -> one row for each segment`, as `graph.sum_at`, `graph.mean_at` and `graph.max_at`."""


def on_nodes(layer: Layer) -> Layer:
    """A layer on the nodes, one row each: `nn.on_nodes(nn.relu >> nn.dropout(0.5))`.

    Params and state: the layer's.  Fails: `ShapeMismatch` for anything but a graph, for a layer that changes the number of
    rows, and for a layer with state on a padded graph: `batch_norm` would count the padding (`layer_norm` does not).

    >>> pair = graph.from_edges(np.array([[-1.0], [2.0]], np.float32), [(0, 1)])
    >>> nn.on_nodes(nn.relu).apply({}, {}, pair, Eval())[0].nodes.ravel().round(3)
    Array([0., 2.], dtype=float32)
    """
    layer = as_layer(layer, "on_nodes")

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, _graph(spec, "on_nodes").nodes)
        _check_padding(spec, made.state)
        return replace(made, spec=_with_nodes(spec, made.spec), parts=(("layer", layer, made),))

    def apply(params: Params, state: State, x: Graph, mode: Mode) -> tuple[Graph, State]:
        _check_padding(_graph(x, "on_nodes"), state)
        y, state = layer.apply(params, state, x.nodes, mode)
        return _with_nodes(x, y), state

    return Layer(init, apply, f"on_nodes({layer})")


def node_features() -> Layer:
    """The nodes of a graph, at the end of a model of nodes: `(nodes, features)`, padding included.

    >>> pair = graph.from_edges(np.ones((2, 1), np.float32), [(0, 1)])
    >>> nn.node_features().apply({}, {}, pair, Eval())[0].shape
    (2, 1)
    """

    def init(key: Key, spec: Tree) -> Init:
        del key
        return Init({}, {}, _graph(spec, "node_features").nodes, {})

    def apply(params: Params, state: State, x: Graph, mode: Mode) -> tuple[Tree, State]:
        del params, mode
        return _graph(x, "node_features").nodes, state

    return Layer(init, apply, "node_features")


def pool_nodes(reduce: Reduce = mean_at) -> Layer:
    """One row for each graph, of the rows of its nodes: their mean, or `graph.sum_at`, `graph.max_at`.

    Shapes: a graph with nodes `(nodes, features)` and `sizes` of shape `(graphs,)` -> `(graphs, features)`.  Padding does not
    count; a graph without nodes has zeros.

    >>> pair = graph.from_edges(np.array([[1.0], [2.0]], np.float32), [(0, 1)])
    >>> nn.pool_nodes(graph.sum_at).apply({}, {}, graph.union([pair, pair]), Eval())[0].ravel()
    Array([3., 3.], dtype=float32)
    """
    function("pool_nodes: reduce", reduce, "a function (rows, segment, count), such as graph.mean_at")

    def pooled(x: Graph) -> Array:
        check_features(_graph(x, "pool_nodes").nodes, "pool_nodes", axes="nodes")
        graphs = x.sizes.shape[0]
        starts = jnp.cumsum(jnp.asarray(x.sizes))
        return reduce(jnp.asarray(x.nodes), jnp.searchsorted(starts, jnp.arange(x.rows), side="right"), graphs)

    def init(key: Key, spec: Tree) -> Init:
        del key
        return Init({}, {}, spec_after(pooled, spec), {})

    return Layer(init, lambda params, state, x, mode: (pooled(x), state), "pool_nodes")


@arguments("the layer goes before the sum: nn.graph_convolution(nn.linear(16, bias=False))")
def graph_convolution(transform: Layer, *, bias: bool = True) -> Layer:
    """`y_i = sum over j of transform(x_j) / sqrt(d_i d_j) + b`: j is i itself and each sender of an edge into i.

    d counts a node's incoming edges and itself: `D^-1/2 (A + I) D^-1/2 transform(X) + b`.  An edge of a node to itself counts
    besides.  For the papers' undirected graphs, give each edge in both directions.
    Shapes: nodes as `transform` takes them -> `(nodes, features)`.  Children: `transform`.  Params: `bias` unless `bias=False`.
    Fails: `ShapeMismatch` for anything but a graph.  Reference: Kipf & Welling 2017, eq. 2 and 8.

    >>> pair = graph.from_edges(np.array([[1.0], [3.0]], np.float32), [(0, 1)], undirected=True)
    >>> nn.graph_convolution(nn.sequence(), bias=False).apply({}, {}, pair, Eval())[0].nodes.ravel().round(3)
    Array([2., 2.], dtype=float32)
    """
    transform = as_layer(transform, "graph_convolution: transform")
    bias = flag("graph_convolution: bias", bias)

    def update(params: Params, x: Graph, h: Array, mode: Mode) -> Array:
        del mode
        ends = _Ends(x)
        degree = 1 + sum_at(ends.weight, ends.receivers, x.rows)
        factor = jax.lax.rsqrt(degree)
        each = (ends.weight * ends.at_sender(factor) * ends.at_receiver(factor)).astype(h.dtype)
        y = sum_at(each[:, None] * ends.at_sender(h), ends.receivers, x.rows) + h / degree.astype(h.dtype)[:, None]
        return y + params["bias"][None] if bias else y

    own = _bias("graph_convolution") if bias else None
    return _on_graph("graph_convolution", transform, update, own, f"graph_convolution({transform})")


def _bias(where: str) -> Callable[[Key, Any], tuple[Params, Tree]]:
    def made(key: Key, spec: Spec) -> tuple[Params, Tree]:
        del key
        return {"bias": jnp.zeros(spec.shape[-1:], spec.dtype)}, tag_all(where, bias=Role.BIAS)

    return made


@arguments("nn.graph_attention(nn.linear(64, bias=False), heads=8) has 8 heads of 8 features")
def graph_attention(
    transform: Layer,
    heads: int = 1,
    *,
    mean: bool = False,
    drop_rate: float = 0.0,
    slope: float = 0.2,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
) -> Layer:
    """`y_i = sum over j of a_ij h_j + b`, with h = transform(x): j is i itself and each sender of an edge into i.

    `a_ij` is the softmax over all j of `leaky_relu(u . h_i + v . h_j)`, for each head by itself; a share `drop_rate` of the
    `a_ij` is dropped in `Train`.  The heads' features stay side by side; with `mean`, their mean is returned.
    Shapes: `transform` returns `(nodes, heads * features)`; the result is the same, or `(nodes, features)` with `mean`.
    Children: `transform`.  Params: `receiver` (u) and `sender` (v), `(heads, features, 1)`, and `bias` unless `bias=False`.
    Fails: `ShapeMismatch`.  Reference: Velickovic et al. 2018, eq. 3 to 6.

    >>> pair = graph.from_edges(np.ones((2, 4), np.float32), [(0, 1)])
    >>> nn.graph_attention(nn.linear(6), heads=2, mean=True).init(key, jax.eval_shape(lambda: pair)).spec.nodes.shape
    (2, 3)
    """
    heads, mean, bias = whole("graph_attention: heads", heads), flag("graph_attention: mean", mean), flag("bias", bias)
    slope = number("graph_attention: slope", slope, "a finite number")
    drop = dropout(checked_rate("graph_attention: drop_rate", drop_rate))
    check_initializers("graph_attention", weight_init=weight_init)
    transform = as_layer(transform, "graph_attention: transform")

    def own(key: Key, spec: Spec) -> tuple[Params, Tree]:
        _check_heads(spec, heads)
        shape = heads, spec.shape[-1] // heads
        keys = zip(("receiver", "sender"), jax.random.split(key), strict=True)
        params = {name: weight_init(each, shape, spec.dtype)[..., None] for name, each in keys}
        tags = tag_all("graph_attention", receiver=Role.WEIGHT, sender=Role.WEIGHT)
        if bias:
            params["bias"] = jnp.zeros(shape[1:] if mean else (spec.shape[-1],), spec.dtype)
            tags |= tag_all("graph_attention", bias=Role.BIAS)
        return params, tags

    def update(params: Params, x: Graph, h: Array, mode: Mode) -> Array:
        _check_heads(h, heads)
        h = h.reshape(x.rows, heads, -1)
        around = _Ends(x, loops=True)
        to, of = (jnp.sum(h * params[name][None, ..., 0], -1) for name in ("receiver", "sender"))
        score = jax.nn.leaky_relu(around.at_receiver(to) + around.at_sender(of), slope)
        share = softmax_at(score, around.receivers, x.rows) * around.weight[:, None].astype(h.dtype)
        share = drop.apply({}, {}, share, mode)[0]
        y = sum_at(share[..., None] * around.at_sender(h), around.receivers, x.rows)
        y = y.mean(1) if mean else y.reshape(x.rows, -1)
        return y + params["bias"][None] if bias else y

    return _on_graph("graph_attention", transform, update, own, f"graph_attention({transform}, {heads})")


def _check_heads(h: Any, heads: int) -> None:
    check_shape(h, lambda shape: len(shape) == 2 and shape[1] % heads == 0, f"features of {heads} heads", "graph_attention")


@arguments("the layer that makes the new nodes: nn.message_passing(nn.linear(64))")
def message_passing(update: Layer, message: Layer | None = None, *, reduce: Reduce = sum_at) -> Layer:
    """`y_i = update([x_i, reduce of message([e, x_i, x_j]) over the edges e from j into i])`.

    Without `message`, the message is `x_j`.  The features of edges, if there are any, come first.  `reduce` is the sum, or
    `graph.mean_at`, `graph.max_at`, or your own.  A node without incoming edges takes zeros.
    Shapes: nodes `(nodes, features)`, edges `(edges, features)` or `None`.  Children: `message` and `update`.
    Fails: `ShapeMismatch`, `DtypeMismatch`.  Reference: Gilmer et al. 2017, eq. 1 and 2.

    >>> pair = graph.from_edges(np.array([[1.0], [3.0]], np.float32), [(0, 1)])
    >>> nn.message_passing(nn.sequence()).apply({}, {}, pair, Eval())[0].nodes
    Array([[1., 0.],
           [3., 1.]], dtype=float32)
    """
    children = {"update": as_layer(update, "message_passing: update")}
    if message is not None:
        children["message"] = as_layer(message, "message_passing: message")
    function("message_passing: reduce", reduce, "a function (rows, segment, count), such as graph.sum_at")

    def messages(x: Graph) -> Array:
        ends, nodes = _Ends(x), jnp.asarray(x.nodes)
        if message is None:
            return ends.at_sender(nodes)
        features = [] if x.edges is None else [jnp.asarray(x.edges)]
        return jnp.concatenate([*features, ends.at_receiver(nodes), ends.at_sender(nodes)], -1)

    def joined(x: Graph, sent: Array) -> Array:
        ends = _Ends(x)
        weighted = jnp.where(ends.weight[:, None] == 1, sent, ends.weight[:, None].astype(sent.dtype))
        return jnp.concatenate([jnp.asarray(x.nodes), reduce(weighted, ends.receivers, x.rows)], -1)

    def check(x: Graph) -> None:
        check_features(_graph(x, "message_passing").nodes, "message_passing", axes="nodes")
        if x.edges is not None:
            check_features(x.edges, "message_passing", axes="edges")

    def init(key: Key, spec: Tree) -> Init:
        check(spec)
        sent, made = spec_after(messages, spec), {}
        if message is not None:
            made["message"] = init_child("message", message, key, sent)
            sent = made["message"].spec
            check_features(sent, "message_passing: message", axes="edges")
        made["update"] = init_child("update", update, key, spec_after(joined, spec, sent))
        made_all = gather(children, made, _with_nodes(spec, made["update"].spec))
        _check_padding(spec, made_all.state)
        return made_all

    def apply(params: Params, state: State, x: Graph, mode: Mode) -> tuple[Graph, State]:
        check(x)
        _check_padding(x, state)
        sent, new = messages(x), {}
        if message is not None:
            sent, new["message"] = apply_child("message", message, params, state, sent, mode)
        y, new["update"] = apply_child("update", update, params, state, joined(x, sent), mode)
        return _with_nodes(x, y), without_empty(new)

    return Layer(init, apply, f"message_passing({update}{'' if message is None else f', {message}'})")


@arguments("the number of features is inferred: nn.sage(64)")
def sage(out: int, *, bias: bool = True, reduce: Reduce = mean_at) -> Layer:
    """`y_i = W [x_i, mean of x_j] + b`, over the senders j of the edges into i: GraphSAGE's layer before its activation.

    `reduce=graph.max_at` takes the maximum.  Shapes: nodes `(nodes, features) -> (nodes, out)`.
    Reference: Hamilton et al. 2017, Algorithm 1, lines 4 and 5.

    >>> pair = graph.from_edges(np.ones((2, 3), np.float32), [(0, 1)])
    >>> nn.sage(5).init(key, jax.eval_shape(lambda: pair)).params["update"]["weight"].shape
    (6, 5)
    """
    return replace(message_passing(linear(out, bias=bias), reduce=reduce), name=f"sage({out})")


# ------------------------------------------------------------------------------- shared by all


class _Ends:
    """The ends of the edges; a padding edge has weight 0, an edge of a node that does not exist NaN, and all others 1."""

    def __init__(self, x: Graph, loops: bool = False) -> None:
        senders, receivers = (jnp.asarray(each) for each in (x.senders, x.receivers))
        padding = (senders == x.rows) & (receivers == x.rows)
        known = (jnp.minimum(senders, receivers) >= 0) & (jnp.maximum(senders, receivers) < x.rows)
        weight = jnp.where(known, 1.0, jnp.where(padding, 0.0, jnp.nan))
        # A message over an edge that does not exist arrives at its receiver, or else at the first node: it is NaN.
        receivers = jnp.where(known | padding, receivers, jnp.where((receivers < 0) | (receivers >= x.rows), 0, receivers))
        senders = jnp.where(known | padding, senders, 0)
        if loops:
            own = jnp.arange(x.rows, dtype=senders.dtype)
            senders, receivers = jnp.concatenate([senders, own]), jnp.concatenate([receivers, own])
            weight = jnp.concatenate([weight, jnp.ones(x.rows, weight.dtype)])
        self.senders, self.receivers, self.weight = senders, receivers, weight

    def at_sender(self, rows: Array) -> Array:
        return _of_each(rows, self.senders)

    def at_receiver(self, rows: Array) -> Array:
        return _of_each(rows, self.receivers)


def _of_each(rows: Array, at: Array) -> Array:
    """The row at each of these; 0 for padding.  The gradient is a sum over the edges of a node: not in half precision."""
    return rows.astype(wide(rows)).at[at].get(mode="fill", fill_value=0).astype(rows.dtype)


def _on_graph(
    where: str,
    transform: Layer,
    update: Callable[[Params, Graph, Array, Mode], Array],
    own: Callable[[Key, Any], tuple[Params, Tree]] | None,
    name: str,
) -> Layer:
    """`update(params, graph, transform(nodes), mode)`; `own` makes further parameters for the spec of transformed nodes."""

    def init(key: Key, spec: Tree) -> Init:
        made = init_child("transform", transform, key, _graph(spec, where).nodes)
        check_features(made.spec, f"{where}: transform", axes="nodes")
        _check_padding(spec, made.state)
        joined = gather({"transform": transform}, {"transform": made}, spec)
        params, tags = ({}, {}) if own is None else own(jax.random.fold_in(key, 1), made.spec)
        params, tags = {**joined.params, **params}, {**joined.tags, **tags}
        y = spec_after(lambda p, x, h: update(p, x, h, Eval()), params, spec, made.spec)
        return replace(joined, params=params, tags=tags, spec=_with_nodes(spec, y))

    def apply(params: Params, state: State, x: Graph, mode: Mode) -> tuple[Graph, State]:
        _check_padding(_graph(x, where), state)
        h, new = apply_child("transform", transform, params, state, x.nodes, mode)
        check_float(h, f"{where}: transform")
        return _with_nodes(x, update(params, x, jnp.asarray(h), mode)), without_empty({"transform": new})

    return Layer(init, apply, name)


def _graph(x: Any, where: str) -> Graph:
    if not isinstance(x, Graph):
        hint = "make it by graph.from_edges"
        raise FaultError(ShapeMismatch("a Graph", describe(x), hint, where=where))
    return x


def _with_nodes(x: Graph, nodes: Tree) -> Graph:
    rows = {leaf.shape[:1] for leaf in jax.tree.leaves(nodes)}
    if rows != {(x.rows,)}:
        raise FaultError(ShapeMismatch(f"features of {x.rows:,} nodes", describe(nodes), where="on_nodes"))
    return replace(x, nodes=nodes)


def _check_padding(x: Graph, state: State) -> None:
    if x.padded and state:
        expected, hint = "a layer without state on a padded graph", "batch norm would count the padding; use layer_norm"
        raise FaultError(ShapeMismatch(expected, "a layer with state", hint, where="on_nodes"))
