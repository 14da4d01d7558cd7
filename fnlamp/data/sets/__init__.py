"""Data sets with a name or a folder of their own: what was published, where it is, and how it is downloaded and checked."""
