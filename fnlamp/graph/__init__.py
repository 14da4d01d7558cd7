"""Graphs as values: nodes and edges as arrays of static sizes, so that a batch of graphs compiles once."""

from fnlamp.graph.graph import Graph as Graph
from fnlamp.graph.graph import from_edges as from_edges
from fnlamp.graph.graph import union as union
from fnlamp.graph.segment import max_at as max_at
from fnlamp.graph.segment import mean_at as mean_at
from fnlamp.graph.segment import softmax_at as softmax_at
from fnlamp.graph.segment import sum_at as sum_at
