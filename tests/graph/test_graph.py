"""Graphs are checked when they are made, and padded exactly."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import graph
from fnlamp.fault import DtypeMismatch, FaultError, NodeOutOfRange, ShapeMismatch

NODES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("nodes", "pairs", "edges", "fault", "match"),
    [
        (NODES, [(0, 3)], None, NodeOutOfRange, "from 0 to 2, got 3 in edge 0"),
        (NODES, [(0, 1), (-1, 0)], None, NodeOutOfRange, "got -1 in edge 1"),
        (NODES, np.array([[0, 1, 2], [1, 2, 0]]), None, ShapeMismatch, "transpose"),
        (NODES, [(0.0, 1.0)], None, DtypeMismatch, "integer numbers of nodes"),
        (NODES, [(0, 1)], np.ones((2, 1)), ShapeMismatch, "features of 1 edges"),
        (NODES[:0], [], None, ShapeMismatch, "at least one node"),
        ((NODES, NODES[:2]), [], None, ShapeMismatch, "a row for each of the nodes"),
        (np.float32(1), [], None, ShapeMismatch, "a row for each of the nodes"),
    ],
)
def test_what_is_no_graph_is_a_fault(nodes, pairs, edges, fault, match):
    with pytest.raises(FaultError, match=match) as raised:
        graph.from_edges(nodes, pairs, edges=edges)
    assert isinstance(raised.value.fault, fault)


def test_undirected_edges_go_both_ways_but_for_loops():
    x = graph.from_edges(NODES, [(0, 1), (2, 2)], edges=np.array([[5.0], [6.0]]), undirected=True)
    assert list(zip(x.senders.tolist(), x.receivers.tolist(), x.edges[:, 0].tolist(), strict=True)) == [
        (0, 1, 5.0),
        (2, 2, 6.0),
        (1, 0, 5.0),
    ]


def test_a_union_without_padding_is_not_padded_and_sizes_too_small_are_faults():
    x = graph.from_edges(NODES, [(0, 1)])
    assert not graph.union([x, x]).padded and graph.union([x, x], edges=3).padded
    for name in ("rows", "edges", "count"):
        with pytest.raises(FaultError, match=f"at least . {'graphs' if name == 'count' else name}, got {name}=1"):
            graph.union([x, x], **{name: 1})
    with pytest.raises(FaultError, match="a padded graph"):
        graph.union([graph.union([x], rows=4), x])
    with pytest.raises(FaultError, match="graphs with features as"):
        graph.union([x, graph.from_edges(NODES[:, :1], [(0, 1)])])
    with pytest.raises(FaultError, match="at least one graph"):
        graph.union([])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8"])
def test_many_small_numbers_add_up_in_any_dtype(dtype):
    rows, segment = jnp.ones((4096, 1), dtype), jnp.zeros(4096, jnp.int8)
    assert graph.sum_at(rows, segment, 1).item() == 4096
    assert graph.mean_at(rows, segment, 1).item() == 1
    if "float" in dtype:
        share = graph.softmax_at(rows, segment, 1)
        assert share.dtype == dtype and np.all(np.asarray(share, float) == 2.0**-12)


def test_segments_that_do_not_exist_have_no_rows():
    rows, segment = jnp.array([1.0, 2.0, 3.0]), jnp.array([-1, 0, 200], jnp.int16)
    assert graph.softmax_at(rows, segment, 200).tolist() == [0, 1, 0]
    assert graph.sum_at(rows, segment, 200).sum() == 2
    assert graph.softmax_at(rows, segment, 0).tolist() == [0, 0, 0]
