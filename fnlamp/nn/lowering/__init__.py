"""What XLA wants: the kernels under the layers, each in the form that its platform runs fastest."""
