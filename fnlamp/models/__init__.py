"""Whole networks, one per file."""

from fnlamp.models.gpt import gpt as gpt
