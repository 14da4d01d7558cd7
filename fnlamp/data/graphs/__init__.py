"""Graphs: files of them, and batches of whole graphs, of small ones, and of the nodes around some."""
