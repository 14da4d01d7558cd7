"""Kernels under the layers, each in the form that XLA runs fastest on its platform."""
