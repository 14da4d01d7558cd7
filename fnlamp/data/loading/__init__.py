"""Loading: data sets, items to batches, and the threads and processes that do it ahead of training."""
