"""Streams of graphs: their batches hold what was given, once, in one size."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from fnlamp import data, graph, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import EmptyEpoch, FaultError, FileCorrupt
from fnlamp.train.explain.totals import totals

TARGETS = np.zeros(16, np.int32)
CHANCE = np.random.default_rng(0)


def small(count: int) -> list[graph.Graph]:
    sizes = CHANCE.integers(2, 6, count)
    return [
        graph.from_edges(np.full((n, 1), i, np.float32), CHANCE.integers(n, size=(int(n) + 1, 2)), undirected=True)
        for i, n in enumerate(sizes)
    ]


def test_batches_of_small_graphs_have_one_form_and_each_graph_once():
    graphs, targets = small(11), np.arange(11, dtype=np.int32)
    s = data.graph_batches(graphs, targets, 4, seed=3)
    batches = list(stream.items(s))
    assert len({str(jax.tree.map(np.shape, batch)) for batch in batches}) == 1 and len(batches) == s.length == 3
    seen = []
    for x, y in batches:
        starts = np.cumsum([0, *x.sizes])
        for number, target in enumerate(y.tolist()):
            if target == -100:
                assert x.sizes[number] == 0
                continue
            seen.append(target)
            own, at = graphs[target], int(starts[number])
            np.testing.assert_array_equal(x.nodes[at : at + own.rows], own.nodes)
            inside = (x.senders >= at) & (x.senders < at + own.rows)
            pairs = sorted(zip((x.senders[inside] - at).tolist(), (x.receivers[inside] - at).tolist(), strict=True))
            assert pairs == sorted(zip(own.senders.tolist(), own.receivers.tolist(), strict=True))
    assert sorted(seen) == list(range(11))
    again = list(stream.items(data.graph_batches(graphs, targets, 4, seed=3)))
    jax.tree.map(np.testing.assert_array_equal, batches, again)


def test_a_short_batch_of_numbers_and_no_batch_are_faults():
    graphs = small(3)
    with pytest.raises(FaultError, match="drop_last=True"):
        data.graph_batches(graphs, np.zeros(3, np.float32), 2)
    assert data.graph_batches(graphs, np.zeros(3, np.float32), 2, drop_last=True).length == 1
    with pytest.raises(FaultError) as raised:
        data.graph_batches(graphs, np.zeros(3, np.int32), 4, drop_last=True)
    assert isinstance(raised.value.fault, EmptyEpoch)
    with pytest.raises(FaultError, match="a target for each graph"):
        data.graph_batches(graphs, np.zeros(2, np.int32), 2)


def test_sampled_neighbours_are_edges_of_the_graph_and_at_most_as_many_as_asked():
    n = 60
    pairs = np.unique(CHANCE.integers(n, size=(500, 2)), axis=0)
    x, y = graph.from_edges(np.arange(n, dtype=np.float32)[:, None], pairs), np.arange(n, dtype=np.int32)
    known = set(map(tuple, pairs.tolist()))
    s = data.neighbour_batches(x, y, np.arange(10, 43), 8, fanouts=[3, 2], seed=1)
    seen, forms = [], set()
    for part, targets in stream.items(s):
        forms.add(str(jax.tree.map(np.shape, (part, targets))))
        own = targets[targets != -100]
        seen += own.tolist()
        real = part.senders < part.rows
        ids = part.nodes[:, 0].astype(int)
        edges = list(zip(ids[part.senders[real]].tolist(), ids[part.receivers[real]].tolist(), strict=True))
        assert len(set(edges)) == len(edges) and set(edges) <= known
        np.testing.assert_array_equal(ids[: len(own)], own)
        met = ids[: int(part.sizes[0])].tolist()
        assert len(set(met)) == len(met)
        for node in own.tolist():  # as many as there are, if fewer than asked
            assert sum(to == node for _, to in edges) == min(3, sum(to == node for _, to in known))
    assert sorted(seen) == list(range(10, 43)) and len(forms) == 1


def test_all_neighbours_give_what_the_whole_graph_gives():
    n = 30
    x = graph.from_edges(CHANCE.standard_normal((n, 4)).astype(np.float32), CHANCE.integers(n, size=(80, 2)))
    model = nn.sage(5) >> nn.on_nodes(nn.relu) >> nn.sage(2) >> nn.node_features()
    params = model.init(jax.random.key(0), jax.eval_shape(lambda: x)).params
    from fnlamp import Eval

    whole, _ = model.apply(params, {}, x, Eval())
    s = data.neighbour_batches(x, np.arange(n, dtype=np.int32), np.arange(n), 7, fanouts=[100, 100], seed=0)
    for part, targets in stream.items(s):
        own = targets[targets != -100]
        np.testing.assert_allclose(model.apply(params, {}, part, Eval())[0][: len(own)], whole[own], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_classes_of_graphs_are_learned_from_padded_batches():
    """Rings and stars, told apart by their edges alone; one program for all batches."""
    graphs, targets = [], []
    for size in range(4, 24):
        ring = [(i, (i + 1) % size) for i in range(size)]
        star = [(0, i) for i in range(1, size)]
        for label, pairs in enumerate((ring, star)):
            graphs.append(graph.from_edges(np.ones((size, 1), np.float32), pairs, undirected=True))
            targets.append(label)
    body = (
        nn.message_passing(nn.linear(8) >> nn.relu)
        >> nn.message_passing(nn.linear(8) >> nn.relu)
        >> nn.pool_nodes(graph.max_at)
    )
    program = train.epochs(
        model=train.supervised(body >> nn.linear(2), loss.cross_entropy()),
        optimizer=optim.adamw(1e-2),
        train_batches=lambda context: data.graph_batches(graphs, np.array(targets), 16, seed=context.seed),
        metrics={"accuracy": loss.accuracy},
        validation_batches=lambda context: data.graph_batches(graphs, np.array(targets), 16),
        epochs=30,
    )
    last = program.run_or_raise(Runtime(log=None)).curve[-1]
    assert last.validation_metrics["accuracy"] == 1.0


def test_a_whole_graph_is_trained_in_any_number_of_steps():
    x = graph.from_edges(np.eye(4, dtype=np.float32), [(0, 1), (2, 3)], undirected=True)
    model = train.supervised(nn.graph_convolution(nn.linear(2)) >> nn.node_features(), loss.cross_entropy())

    def trained(epochs: int, steps: int):
        program = train.epochs(
            model=model,
            optimizer=optim.sgdw(0.5),
            train_batches=lambda context: data.whole_graph(x, np.array([0, -100, 1, -100]), steps=steps),
            epochs=epochs,
        )
        return program.run_or_raise(Runtime(log=None))

    one, other = trained(6, 1), trained(2, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one.params, other.params)
    with pytest.raises(FaultError, match="a target for each node"):
        data.whole_graph(x, np.zeros(3, np.int32))


def test_graphs_are_not_cut_or_joined_row_by_row():
    x = graph.from_edges(np.eye(4, dtype=np.float32), [(0, 1), (2, 3)], undirected=True)
    s = data.whole_graph(x, np.zeros(4, np.int32))
    for cut in (lambda: s.chunk(2), lambda: s.unchunk(2)):
        with pytest.raises(FaultError, match="the same number of rows"):
            cut()


@pytest.mark.parametrize("line", ["0", "0 x", "0 -1", "0.5 1", "a b", "0 99999999999999999999"])
def test_a_line_that_is_no_edge_is_a_fault_with_its_number(tmp_path, line):
    path = tmp_path / "edges.txt"
    path.write_text(f"# comment\n0 1 0.5\n{line}\n")
    fault = data.read_edge_list(path).run().failure()._inner_value
    assert isinstance(fault, FileCorrupt) and "line 3" in str(fault)


def test_an_edge_list_has_any_ends_of_lines_and_a_matrix_is_not_one(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_bytes("\ufeff# one\u2028line\r\n0 1\r\n\r\n1,2\r2\t0".encode())
    assert data.read_edge_list(path).run().unwrap()._inner_value.tolist() == [[0, 1], [1, 2], [2, 0]]
    path.write_text("%%MatrixMarket matrix coordinate pattern general\n3 3 1\n1 2\n")
    assert "Matrix Market" in str(data.read_edge_list(path).run().failure()._inner_value)


def test_sparse_rows_hold_real_numbers_in_columns_of_32_bits():
    with pytest.raises(FaultError, match="columns below"):
        data.sparse_rows([0], [2**32 + 3], rows=1)
    with pytest.raises(FaultError, match="real numbers"):
        data.sparse_rows([0], [1], np.array([1j]), rows=1)


def test_streams_of_graphs_are_joined():
    graphs, targets = small(4), np.arange(4, dtype=np.int32)
    s = data.graph_batches(graphs, targets, 2)
    seen = [y.tolist() for _, y in stream.items(s.concat(s).interleave(s))]
    assert seen == [[0, 1], [0, 1], [2, 3], [2, 3], [0, 1], [2, 3]]
    ids = [graph.from_edges(np.zeros(x.rows, np.int32), []) for x in graphs]
    with pytest.raises(FaultError, match="concat"):
        s.concat(data.graph_batches(ids, targets, 2))


def test_explain_counts_a_whole_graph_for_each_step_and_in_memory():
    x = graph.from_edges(np.ones((64, 3), np.float32), [(0, i) for i in range(64)])

    def program(steps: int) -> Any:
        return train.epochs(
            model=train.supervised(nn.fun(lambda g: g.nodes.reshape(16, 4, 3).sum(1)) >> nn.linear(2), loss.cross_entropy()),
            optimizer=optim.sgdw(0.1),
            train_batches=lambda context: data.whole_graph(dataclasses.replace(x, sizes=np.full(16, 4)), TARGETS, steps=steps),
            epochs=2,
            seed=0,
        )

    (one,), (five,) = totals(program(1)), totals(program(5))
    assert five.work.flops == 5 * one.work.flops > 0
    assert one.memory >= sum(leaf.nbytes for leaf in jax.tree.leaves((x, TARGETS)))
    assert "5 steps of 64 rows, in order" in str(program(5).explain())
