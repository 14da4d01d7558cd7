"""Text: codecs, and batches for language models, for sequences of different lengths, and for BERT's tasks."""
