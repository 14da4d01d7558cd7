"""Readers: the bytes of a file to arrays, as programs that may fail with a typed fault; nothing in a file is ever run."""
