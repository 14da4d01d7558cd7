"""The command `fnlamp runs`: one file a verb. A verb has its arguments and what it does."""
