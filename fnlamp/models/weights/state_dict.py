"""Other people's weights: arrays by torch's names, as the parameters and state of a fnlamp layer, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, array_spec, describe, is_float, to_device
from fnlamp.convert import as_array
from fnlamp.fault import FaultError, StateMismatch
from fnlamp.given import dtype_of, instance, several, shown
from fnlamp.layer import Init
from fnlamp.models.weights.layout import Numbers, blank
from fnlamp.models.weights.names import Entry, Leaf, Table

WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What DataParallel, `torch.compile` and training loops put before all names."""


@dataclass(frozen=True)
class Weights:
    """The names and layouts of a family of torch models, beside the paths of the same architecture in fnlamp; no arrays.

    `read` gives a layer's parameters and state, and `write` torch's state dict; both are pure, and `read(write(...))` has the
    same bits.

    >>> names = models.weights.of_layer(nn.linear(2), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> theirs = names.write({"weight": jnp.zeros((3, 2)), "bias": jnp.ones(2)})
    >>> {name: array.shape for name, array in theirs.items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    table: Table
    name: str = "weights"

    def read(
        self,
        arrays: Mapping[str, Any],
        like: Init | tuple[Params, State],
        *,
        dtype: Any = None,
        keep: Iterable[str] = (),
        ignore: Iterable[str] = (),
    ) -> tuple[Params, State]:
        """The parameters and state of a layer, from a state dict: arrays by torch's names.

        `like` says what the layer has: its `Init`, or a pair of parameters and state; of arrays, or of specs if nothing is
        kept.  Every array of the layer has one in the file and the other way round, but for buffers without weights; `keep`
        are paths, or their beginnings, that stay as in `like`, `ignore` names, or their beginnings, that are not used.  What
        data parallelism or `torch.compile` put before all names is left out.  Parameters have the file's dtype, such as
        bfloat16, or `dtype`; state has that of `like`.
        Fails: `StateMismatch`, which lists each array that is missing, has no place, or has another shape or no fractions,
        and one that is not the array to which it should be tied.
        Raises: `TypeError` for anything but a dict of arrays; `ValueError` for a `keep` or `ignore` that matches nothing.

        >>> layer, spec = nn.linear(2), jax.ShapeDtypeStruct((1, 3), jnp.float32)
        >>> names = models.weights.of_layer(layer, spec)
        >>> params, state = names.read({"weight": np.eye(2, 3), "bias": np.ones(2)}, layer.init(key, spec), dtype=jnp.float32)
        >>> params["weight"].shape
        (3, 2)
        >>> names.read({"weight": np.eye(3), "scale": np.ones(2)}, layer.init(key, spec))
        Traceback (most recent call last):
        fnlamp.fault.FaultError: StateMismatch: the saved state does not fit; missing: bias; extra: scale; ...
        """
        dtype = None if dtype is None else dtype_of("read: dtype", dtype)
        ours = _leaves(*_pair(like))
        kept = _chosen("keep", keep, {"/".join(_path(leaf)): leaf for leaf in ours}, "/")
        read = {leaf: x for leaf, (_, x) in ours.items() if leaf not in kept}
        entries, unnamed = self.table.entries(read)
        given = _named(arrays, self.table, [self.table.short(name) for entry in entries for name in entry.theirs])
        ignored = _chosen("ignore", ignore, {name: short for short, (name, _) in given.items()}, ".")
        found = _Found(given, self.table, {self.table.short(name) for name in self.table.extra(read)})
        made = {leaf: x for entry in entries for leaf, x in found.of(entry, ours).items()}
        found.missing += [f"{self.name} has no name for {'/'.join(_path(leaf))}" for leaf in unnamed]
        found.check_tied(self.table.ties(entries))
        unused = {short: name for short, (name, _) in given.items() if short not in found.used | ignored}
        extra = sorted(name for short, name in unused.items() if not self.table.ignores(short))
        if found.missing or extra or found.differing:
            hint = "keep= leaves out what the file lacks, ignore= what the layer lacks"
            raise FaultError(StateMismatch(tuple(found.missing), tuple(extra), tuple(found.differing), hint=hint))
        return _placed(ours, made, dtype)

    def write(self, params: Params, state: State | None = None) -> dict[str, Numbers]:
        """The state dict: arrays by torch's names and in its layout, as `load_state_dict` and safetensors take them.

        Also what torch has and fnlamp does not, such as a tied weight again, or `num_batches_tracked`, as 0.
        Fails: `StateMismatch` for an array that has no name in torch.

        >>> layer = nn.sequence(nn.linear(2), nn.relu, nn.linear(1))
        >>> spec = jax.ShapeDtypeStruct((1, 3), jnp.float32)
        >>> list(models.weights.of_layer(layer, spec).write(layer.init(key, spec).params))
        ['0.weight', '0.bias', '2.weight', '2.bias']
        """
        state = {} if state is None else instance("write: state", state, dict, "a tree of arrays")
        ours = _leaves(instance("write: params", params, dict, "a tree of arrays"), state)
        leaves = {leaf: x for leaf, (_, x) in ours.items()}
        entries, unnamed = self.table.entries(leaves)
        if unnamed:
            raise FaultError(
                StateMismatch(extra=tuple("/".join(_path(leaf)) for leaf in unnamed), where=f"{self.name} in torch")
            )
        made: dict[str, Numbers] = {}
        for entry in entries:
            theirs = entry.layout.write(tuple(np.asarray(leaves[leaf]) for leaf in entry.ours))
            made |= {name: np.array(x, order="C") for name, x in zip(entry.theirs, theirs, strict=True)}
        made |= {name: made[source].copy() for name, source in self.table.ties(entries).items()}
        return made | {name: np.asarray(x) for name, x in self.table.extra(leaves).items()}

    def __repr__(self) -> str:
        return self.name


class _Found:
    """The arrays of a file that were used, and what is wrong with others."""

    def __init__(self, given: dict[str, tuple[str, Any]], table: Table, used: set[str]) -> None:
        self.given, self.table, self.used = given, table, used
        self.missing: list[str] = []
        self.differing: list[str] = []

    def of(self, entry: Entry, ours: Mapping[Leaf, tuple[str, Any]]) -> dict[Leaf, Numbers]:
        """The leaves of an entry, empty if its arrays are missing or differ."""
        shapes = entry.layout.write(tuple(blank(ours[leaf][1].shape, ours[leaf][1].dtype) for leaf in entry.ours))
        arrays = [self._one(name, expected.shape) for name, expected in zip(entry.theirs, shapes, strict=True)]
        if any(x is None for x in arrays):
            return {}
        return dict(zip(entry.ours, entry.layout.read(tuple(arrays)), strict=True))

    def _one(self, name: str, shape: tuple[int, ...]) -> Any:
        short = self.table.short(name)
        if short not in self.given:
            self.missing.append(name)
            return None
        self.used.add(short)
        name, x = self.given[short]
        if x.shape != shape or not is_float(x):
            dtype = x.dtype if is_float(x) else "float32"
            self.differing.append(f"{name}: expected {describe(array_spec(shape, dtype))}, got {describe(x)}")
            return None
        return x

    def check_tied(self, ties: Mapping[str, str]) -> None:
        for name, source in ties.items():
            short, first = self.table.short(name), self.table.short(source)
            if short in self.given:
                self.used.add(short)
                if first in self.given and not _same_bits(self.given[short][1], self.given[first][1]):
                    self.differing.append(f"{name}: expected the numbers of {source}, to which it is tied, got others")


def _same_bits(a: Numbers, b: Numbers) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _pair(like: Any) -> tuple[Params, State]:
    if isinstance(like, Init):
        return like.params, like.state
    if isinstance(like, tuple | list) and len(like) == 2 and all(isinstance(part, dict) for part in like):
        return like[0], like[1]
    raise TypeError(f"read: like is what layer.init gives, or a pair of parameters and state, got {shown(like)}")


def _leaves(params: Params, state: State) -> dict[Leaf, tuple[str, Any]]:
    """Each leaf, and whether it is one of `params` or of `state`."""
    found: dict[Leaf, tuple[str, Any]] = {}
    for root, part in {"params": params, "state": state}.items():
        for path, x in tree.named(part).items():
            if not path or not hasattr(x, "shape"):
                raise TypeError(f"{root} is a tree of arrays: nested dicts, got {shown(x)} at {'/'.join(map(str, path))!r}")
            found["/".join(path[:-1]), path[-1]] = root, x
    return found


def _path(leaf: Leaf) -> tuple[str, ...]:
    return (*filter(None, leaf[0].split("/")), leaf[1])


def _named(arrays: Any, table: Table, wanted: list[str]) -> dict[str, tuple[str, Numbers]]:
    """The arrays by their names without base, and without wrappers that are not in the wanted names; with the whole name."""
    instance("read: arrays", arrays, Mapping, "a dict of arrays by name, as read_safetensors and read_torch give it")
    for name, x in arrays.items():
        if not isinstance(name, str) or isinstance(x, Mapping | str) or not hasattr(x, "shape"):
            hint = f"; the weights may be at {name!r} in it" if isinstance(x, Mapping) else ""
            raise TypeError(f"read: arrays is a dict of arrays by name, got {shown(x)} at {name!r}{hint}")
    wrappers = [start for start in WRAPPERS if not any(name.startswith(start) for name in wanted)]
    wrapped = ""
    while start := next((start for start in wrappers if _all_start(arrays, wrapped + start)), ""):
        wrapped += start
    found: dict[str, tuple[str, Numbers]] = {}
    for name, x in arrays.items():
        short = table.short(name.removeprefix(wrapped))
        # The same array with and without the base would be found once, and is extra once.
        found[f"{short}, again" if short in found else short] = name, np.asarray(as_array(x, name))
    return found


def _all_start(names: Iterable[str], start: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(start) and len(name) > len(start) for name in names)


def _chosen(argument: str, given: Iterable[str], known: Mapping[str, Any], separator: str) -> set[Any]:
    """What has a name that is given, or begins with it.  Raises: `ValueError` for one that matches nothing."""
    chosen: set[Any] = set()
    for start in several(f"read: {argument}", given):
        start = start.rstrip(separator)
        found = {what for name, what in known.items() if name == start or name.startswith(start + separator)}
        if not found:
            raise ValueError(f"read: {argument} has {start!r}, which is not there; there are {', '.join([*known][:10])}")
        chosen |= found
    return chosen


def _placed(ours: Mapping[Leaf, tuple[str, Any]], made: Mapping[Leaf, Numbers], dtype: Any) -> tuple[Params, State]:
    parts: dict[str, Tree] = {"params": {}, "state": {}}
    for leaf, (root, old) in ours.items():
        x = made.get(leaf, old)
        if leaf in made:
            wanted = old.dtype if root == "state" else dtype
            x = to_device(x if wanted is None else x.astype(wanted))
        parts[root] = tree.put(parts[root], _path(leaf), x)
    return parts["params"], parts["state"]
