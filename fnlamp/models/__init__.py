"""Whole networks, each in a file of its own."""

from fnlamp.models.gpt import gpt as gpt
