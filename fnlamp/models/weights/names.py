"""The names of a torch model's arrays, and the paths of a fnlamp layer's: a table of modules, and what it says of a tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from fnlamp.models.weights.kind import Kind, Part
from fnlamp.models.weights.layout import Layout, joined, stacked

Leaf = tuple[str, str]
"""An array of a fnlamp layer: the path of its module, and its name there."""


@dataclass(frozen=True)
class Row:
    """One module of fnlamp, or as many as `#` has numbers, and the modules of torch whose arrays it has.

    `ours` is a path such as `block_#/norm`, `theirs` names such as `h.#.ln_1`, with the same numbers in this order.  The name
    of an array comes after a point, or in place of `*`.  Several `theirs` are side by side in fnlamp's, as queries, keys and
    values.  If only `theirs` has a `#`, fnlamp's arrays have the modules along a new first axis.  `after` is a further layout
    of fnlamp's arrays, side by side as they are.
    """

    ours: str
    theirs: tuple[str, ...]
    kind: Kind
    after: Layout | None = None

    def numbers(self, path: str) -> tuple[str, ...] | None:
        """The numbers of a module's path; `None` for another path."""
        found = re.fullmatch(re.escape(self.ours).replace(r"\#", r"(\d+)"), path)
        return None if found is None else found.groups()


@dataclass(frozen=True)
class Entry:
    """Arrays that are read and written together."""

    ours: tuple[Leaf, ...]
    theirs: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True)
class Table:
    """The rows of a family, the first that matches a module's path counts.

    `tied` are names of torch's that are another array again, by that array's name, unless fnlamp has its own; `ignored` are
    buffers, patterns of names with `#`; `base` is a start of names that a file may lack; `aliases` are patterns of other names,
    without the base, and what they are replaced by.
    """

    rows: tuple[Row, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    base: str = ""
    aliases: tuple[tuple[str, str], ...] = ()

    def entries(self, leaves: Mapping[Leaf, Any]) -> tuple[list[Entry], list[Leaf]]:
        """What is read and written for the leaves of a layer, and those without a name in torch."""
        entries: list[Entry] = []
        for path in dict.fromkeys(path for path, _ in leaves):
            entries += self._of_module(path, leaves)
        named = {leaf for entry in entries for leaf in entry.ours}
        return entries, [leaf for leaf in leaves if leaf not in named]

    def extra(self, leaves: Mapping[Leaf, Any]) -> dict[str, Any]:
        """The arrays of torch's modules that fnlamp's lack, by name."""
        found: dict[str, Any] = {}
        for path in dict.fromkeys(path for path, _ in leaves):
            for row, numbers in self._rows(path):
                found |= {filled(name, numbers, part): x for name in row.theirs for part, x in row.kind.extra}
        return found

    def ignores(self, name: str) -> bool:
        """Whether this array of a file is a buffer, which fnlamp does not need."""
        return any(re.fullmatch(re.escape(each).replace(r"\#", r"\d+"), name) for each in self.ignored)

    def short(self, name: str) -> str:
        """The name without the base and aliases, under which names are compared."""
        name = name.removeprefix(self.base)
        for alias, known in self.aliases:
            name = re.sub(alias, known, name)
        return name

    def ties(self, entries: Iterable[Entry]) -> dict[str, str]:
        """The names of torch's that are another array again."""
        own = {name for entry in entries for name in entry.theirs}
        return {name: source for name, source in self.tied.items() if name not in own and source in own}

    def _rows(self, path: str) -> Iterator[tuple[Row, tuple[str, ...]]]:
        for row in self.rows:
            if (numbers := row.numbers(path)) is not None:
                yield row, numbers

    def _of_module(self, path: str, leaves: Mapping[Leaf, Any]) -> Iterator[Entry]:
        taken: set[Leaf] = set()
        for row, numbers in self._rows(path):
            for part in row.kind.parts:
                ours = tuple((path, name) for name in part.ours)
                if not taken & {*ours} and all(leaf in leaves for leaf in ours):
                    taken |= {*ours}
                    yield _entry(row, part, ours, numbers, leaves[ours[0]].shape)


def _entry(row: Row, part: Part, ours: tuple[Leaf, ...], numbers: tuple[str, ...], shape: tuple[int, ...]) -> Entry:
    layout = part.layout if len(row.theirs) == 1 else joined(part.layout, len(row.theirs))
    layout = layout if row.after is None else layout >> row.after
    copies: tuple[tuple[str, ...], ...] = (numbers,)
    if row.theirs[0].count("#") > len(numbers):
        copies = tuple((*numbers, str(i)) for i in range(shape[0]))
        layout = stacked(layout, len(copies))
    theirs = tuple(filled(name, each, of) for each, name, of in product(copies, row.theirs, part.theirs))
    return Entry(ours, theirs, layout)


def filled(theirs: str, numbers: tuple[str, ...], name: str) -> str:
    """The name of an array in torch.

    >>> filled("h.#.ln_1", ("3",), "bias"), filled("rnn.*_l0", (), "bias_ih"), filled("", (), "weight")
    ('h.3.ln_1.bias', 'rnn.bias_ih_l0', 'weight')
    """
    for number in numbers:
        theirs = theirs.replace("#", number, 1)
    return theirs.replace("*", name) if "*" in theirs else f"{theirs}.{name}" if theirs else name


def row(ours: str, theirs: str | tuple[str, ...], kind: Kind, after: Layout | None = None) -> Row:
    """A row, of one module of torch or of several."""
    return Row(ours, (theirs,) if isinstance(theirs, str) else theirs, kind, after)
