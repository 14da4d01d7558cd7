"""Writers: each stores or shows entries, on its own thread."""
