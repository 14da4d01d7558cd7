"""Layers on graphs against dense matrices in float64, and padded graphs against graphs without padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, graph, nn
from fnlamp.fault import FaultError

KEY = jax.random.key(3)


def drawn(nodes: int, edges: int, seed: int, features: int = 4) -> graph.Graph:
    chance = np.random.default_rng(seed)
    pairs = chance.integers(nodes, size=(edges, 2))
    return graph.from_edges(
        chance.standard_normal((nodes, features)).astype(np.float32),
        pairs,
        edges=chance.standard_normal((edges, 2)).astype(np.float32),
    )


def dense(x: graph.Graph) -> np.ndarray:
    """`A[i, j]` counts the edges from j into i."""
    adjacency = np.zeros((x.rows, x.rows))
    np.add.at(adjacency, (x.receivers, x.senders), 1)
    return adjacency


def made(layer, x):
    return layer.init(KEY, jax.eval_shape(lambda: x))


def test_graph_convolution_is_the_normalised_adjacency():
    x, layer = drawn(9, 20, 0), nn.graph_convolution(nn.linear(3, bias=False))
    params = made(layer, x).params | {"bias": jnp.arange(3.0)}
    adjacency = dense(x) + np.eye(9)
    root = np.diag(adjacency.sum(1) ** -0.5)
    expected = root @ adjacency @ root @ x.nodes.astype(float) @ np.asarray(params["transform"]["weight"], float) + np.arange(3)
    np.testing.assert_allclose(layer.apply(params, {}, x, Eval())[0].nodes, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [False, True])
def test_graph_attention_is_the_softmax_over_incoming_edges_and_itself(mean):
    x, layer = drawn(7, 15, 1), nn.graph_attention(nn.linear(6, bias=False), heads=2, mean=mean)
    params = made(layer, x).params
    weight, u, v = (np.asarray(p, float) for p in (params["transform"]["weight"], params["receiver"], params["sender"]))
    u, v = u[..., 0], v[..., 0]
    h = (x.nodes.astype(float) @ weight).reshape(7, 2, 3)
    expected = np.zeros((7, 2, 3))
    for head in range(2):
        for i in range(7):
            around = [int(j) for j, to in zip(x.senders, x.receivers, strict=True) if to == i] + [i]
            score = np.array([u[head] @ h[i, head] + v[head] @ h[j, head] for j in around])
            share = np.exp(np.where(score > 0, score, 0.2 * score))
            expected[i, head] = (share / share.sum()) @ h[around, head]
    expected = expected.mean(1) if mean else expected.reshape(7, 6)
    np.testing.assert_allclose(layer.apply(params, {}, x, Eval())[0].nodes, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("reduce", [graph.sum_at, graph.mean_at, graph.max_at])
def test_message_passing_reduces_the_messages_of_incoming_edges(reduce):
    x = drawn(6, 11, 2)
    layer = nn.message_passing(nn.linear(5), nn.linear(3) >> nn.tanh, reduce=reduce)
    params = made(layer, x).params
    p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    ends = np.concatenate([x.edges, x.nodes[x.receivers], x.nodes[x.senders]], 1).astype(float)
    sent = np.tanh(ends @ p["message"]["0"]["weight"] + p["message"]["0"]["bias"])
    taken = np.zeros((6, 3))
    for i in set(x.receivers.tolist()):
        rows = sent[x.receivers == i]
        taken[i] = {graph.sum_at: rows.sum, graph.mean_at: rows.mean, graph.max_at: rows.max}[reduce](axis=0)
    expected = np.concatenate([x.nodes, taken], 1) @ p["update"]["weight"] + p["update"]["bias"]
    np.testing.assert_allclose(layer.apply(params, {}, x, Eval())[0].nodes, expected, rtol=1e-5, atol=1e-6)


LAYERS = {
    "graph_convolution": nn.graph_convolution(nn.linear(3)),
    "graph_attention": nn.graph_attention(nn.linear(4), heads=2),
    "message_passing": nn.message_passing(nn.linear(3), nn.linear(2)),
    "message_passing of maxima": nn.message_passing(nn.linear(3), nn.linear(2), reduce=graph.max_at),
    "sage": nn.sage(3),
    "pool_nodes": nn.on_nodes(nn.linear(3)) >> nn.pool_nodes(),
    "pool_nodes of maxima": nn.pool_nodes(graph.max_at),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_padding_and_neighbours_in_a_batch_change_nothing_nor_any_gradient(name):
    layer, parts = LAYERS[name], [drawn(5, 9, 0), drawn(3, 4, 1)]
    params, both = made(layer, parts[0]).params, graph.union(parts, rows=11, edges=16, count=4)

    def rows(x, params):
        y, _ = layer.apply(params, {}, x, Eval())
        return y if "pool" in name else y.nodes

    alone = jnp.concatenate([rows(part, params) for part in parts])
    np.testing.assert_allclose(rows(both, params)[: len(alone)], alone, rtol=1e-6, atol=1e-6)
    if "pool" in name:
        assert not np.asarray(rows(both, params)[2:]).any()

    def total(params, x, count):
        return jnp.sum(jnp.sin(rows(x, params)[:count]))

    grads = jax.grad(total)(params, both, len(alone))
    each = [jax.grad(total)(params, part, 10**6) for part in parts]
    jax.tree.map(lambda g, *gs: np.testing.assert_allclose(g, sum(gs), rtol=1e-5, atol=1e-6), grads, *each)


@pytest.mark.parametrize("name", [name for name in LAYERS if "pool" not in name])
@pytest.mark.parametrize(("sender", "receiver"), [(5, 1), (-1, 1), (1, 7), (1, -2), (5, 0)])
def test_an_edge_to_a_node_that_does_not_exist_makes_nan(name, sender, receiver):
    layer, x = LAYERS[name], drawn(5, 2, 0)
    broken = graph.Graph(x.nodes, np.array([sender, 0]), np.array([receiver, 1]), x.edges, x.sizes)
    assert np.isnan(np.asarray(layer.apply(made(layer, x).params, {}, broken, Eval())[0].nodes)).any()


@pytest.mark.slow
def test_no_edges_and_single_nodes_have_their_own_features_only():
    x = graph.from_edges(np.ones((1, 2), np.float32), [])
    y, _ = nn.graph_convolution(nn.sequence(), bias=False).apply({}, {}, x, Eval())
    np.testing.assert_array_equal(y.nodes, x.nodes)
    layer = nn.graph_attention(nn.sequence(), 2, bias=False)
    np.testing.assert_allclose(layer.apply(made(layer, x).params, {}, x, Eval())[0].nodes, x.nodes, rtol=1e-6)


def test_softmax_of_large_scores_is_finite():
    share = graph.softmax_at(jnp.array([1e4, 1e4, -1e4]), jnp.array([0, 0, 1]), 2)
    np.testing.assert_array_equal(share, [0.5, 0.5, 1.0])


@pytest.mark.slow
def test_dropout_of_attention_is_off_in_eval_and_drawn_in_training():
    x = drawn(6, 20, 4)
    layer = nn.graph_attention(nn.linear(4), 2, drop_rate=0.5)
    params = made(layer, x).params
    first, again = (layer.apply(params, {}, x, Eval())[0].nodes for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(layer.apply(params, {}, x, Train(KEY))[0].nodes, first)


def test_batch_norm_counts_no_padding_because_it_refuses_it():
    x = drawn(5, 9, 0)
    layer = nn.on_nodes(nn.batch_norm())
    one = made(layer, x)
    assert layer.apply(one.params, one.state, x, Train(KEY))[0].nodes.shape == (5, 4)
    with pytest.raises(FaultError, match="without state on a padded graph"):
        made(layer, graph.union([x], rows=6))
    with pytest.raises(FaultError, match="without state on a padded graph"):
        layer.apply(one.params, one.state, graph.union([x], rows=6), Train(KEY))


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.on_nodes(nn.fun(lambda x: x[:2])), "features of 5 nodes"),
        (nn.graph_attention(nn.linear(3), 2), "features of 2 heads"),
        (nn.graph_convolution(nn.fun(lambda x: x[:, 0])), "nodes, features"),
    ],
)
def test_a_layer_that_does_not_fit_is_a_fault(layer, match):
    with pytest.raises(FaultError, match=match):
        made(layer, drawn(5, 9, 0))


def test_an_array_is_no_graph():
    for layer in (*LAYERS.values(), nn.node_features()):
        with pytest.raises(FaultError, match="expected a Graph, got"):
            layer.init(KEY, jax.ShapeDtypeStruct((3, 4), jnp.float32))


@pytest.mark.slow
def test_sparse_linear_is_linear_of_the_dense_rows():
    chance = np.random.default_rng(0)
    rows = np.where(chance.random((6, 20)) < 0.2, chance.standard_normal((6, 20)), 0).astype(np.float32)
    row, column = np.nonzero(rows)
    from fnlamp.data import sparse_rows

    pair = sparse_rows(row, column, rows[row, column], rows=6)
    sparse, plain = nn.sparse_linear(3, 20), nn.linear(3)
    params = sparse.init(KEY, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, pair))).params
    for x, layer in ((pair, sparse), (rows, plain)):
        y, _ = layer.apply(params, {}, x, Eval())
        np.testing.assert_allclose(y, rows.astype(float) @ np.asarray(params["weight"], float), rtol=1e-5, atol=1e-6)
    beyond = (np.full((1, 1), 20, np.int32), np.ones((1, 1), np.float32))
    assert np.isnan(np.asarray(sparse.apply(params, {}, beyond, Eval())[0])).all()


@pytest.mark.slow
def test_the_gradient_of_a_hub_in_half_precision_is_a_sum_over_all_its_edges():
    count = 1024
    hub = graph.from_edges(np.zeros((count + 1, 1), np.float32), [(0, i) for i in range(1, count + 1)])
    layer = nn.message_passing(nn.fun(lambda x: x[:, 1:]))

    def total(nodes):
        received = layer.apply({}, {}, graph.Graph(nodes, hub.senders, hub.receivers, None, hub.sizes), Eval())[0].nodes
        return jnp.sum(received.astype(jnp.float32))

    assert jax.grad(total)(jnp.zeros((count + 1, 1), jnp.bfloat16))[0, 0] == count


@pytest.mark.slow
def test_a_residual_of_graphs_adds_their_nodes():
    x, inner = drawn(5, 9, 0), nn.graph_convolution(nn.linear(4))
    layer = nn.residual(inner)
    params = made(layer, x).params
    y, _ = layer.apply(params, {}, x, Eval())
    alone, _ = inner.apply(params["layer"], {}, x, Eval())
    np.testing.assert_array_equal(y.nodes, x.nodes + alone.nodes)
    np.testing.assert_array_equal(y.senders, x.senders)
    for other in (nn.graph_convolution(nn.linear(3)), nn.node_features()):
        with pytest.raises(FaultError, match="shortcut"):
            made(nn.residual(other), x)
