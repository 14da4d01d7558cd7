"""The points of a sweep: what each lane changes in the config, known before anything runs."""

from __future__ import annotations

import importlib
import itertools
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final, overload

import numpy as np

from fnlamp.experiment.plain import plain
from fnlamp.given import function, instance, shown, text, whole
from fnlamp.sweep.axis import Axis, axes_of, values_of


@final
@dataclass(frozen=True)
class Space(Sequence[Mapping[str, Any]]):
    """Points, each a mapping from dotted paths of a config to values. A text is parsed, as in `resolve(config, "path=text")`.

    `a * b` has every combination of a point of `a` with one of `b`, `a + b` the points of both, `a.where(keep)` those for
    which `keep(point)` is true. The place of a point is the number of its lane.

    >>> space = grid({"rate": (0.1, 0.2)}) * grid({"seed": range(2)})
    >>> [tuple(point.values()) for point in space.where(lambda point: point["rate"] > 0.1)]
    [(0.2, 0), (0.2, 1)]
    """

    points: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.points)

    @overload
    def __getitem__(self, at: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Space: ...
    def __getitem__(self, at: Any) -> Any:
        return Space(self.points[at]) if isinstance(at, slice) else self.points[at]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.points)

    def __mul__(self, other: Space) -> Space:
        instance("Space: the other", other, Space, "a Space")
        both = sorted(set(self.axes) & set(other.axes))
        if both:
            raise ValueError(f"Space: {', '.join(both)} is in both factors; each path is in one")
        return Space(tuple(_frozen({**a, **b}) for a, b in itertools.product(self, other)))

    def __add__(self, other: Space) -> Space:
        return Space(self.points + instance("Space: the other", other, Space, "a Space").points)

    def where(self, keep: Callable[[Mapping[str, Any]], bool]) -> Space:
        """The points for which `keep` is true."""
        function("where: keep", keep, "a function of a point that says whether it is kept")
        return Space(tuple(point for point in self if keep(point)))

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values of each path, in the order in which they first occur."""
        found: dict[str, dict[str, Any]] = {}
        for point in self:
            for path, value in point.items():
                found.setdefault(path, {}).setdefault(repr(value), value)
        return {path: tuple(values.values()) for path, values in found.items()}

    def described(self) -> dict[str, Any]:
        """The points as JSON."""
        return {"points": [{path: plain(value) for path, value in point.items()} for point in self]}

    def __repr__(self) -> str:
        return f"<Space: {len(self):,} points over {', '.join(self.axes) or 'nothing'}>"


def grid(axes: Mapping[str, Iterable[Any]]) -> Space:
    """Every combination of the values; the last path changes fastest.

    Raises: `TypeError`; `ValueError` for a path without values, or with one of them twice.

    >>> list(map(dict, grid({"kernel": (3, 5), "rate": np.geomspace(0.01, 0.1, 2)})))[1:3]
    [{'kernel': 3, 'rate': 0.1}, {'kernel': 5, 'rate': 0.01}]
    """
    given = instance("grid: axes", axes, Mapping, "a dict from paths to values")
    named = {text("grid: a path", path): values_of(f"grid: {path}", values) for path, values in given.items()}
    if not named:
        raise ValueError("grid: expected at least one path, got none")
    return Space(tuple(_frozen(dict(zip(named, values, strict=True))) for values in itertools.product(*named.values())))


def listed(points: Iterable[Mapping[str, Any]]) -> Space:
    """The points as they are given.

    >>> len(listed([{"optimizer": "adam", "rate": 1e-3}, {"optimizer": "sgd", "rate": 0.1}]))
    2
    """
    if isinstance(points, str | bytes | Mapping) or not hasattr(points, "__iter__"):
        raise TypeError(f"listed: points is a sequence of dicts from paths to values, got {shown(points)}")
    found = [instance(f"listed: points[{n}]", point, Mapping, "a dict from paths to values") for n, point in enumerate(points)]
    for path in (path for point in found for path in point):
        text("listed: a path", path)
    return Space(tuple(_frozen(dict(point)) for point in found))


def sample(axes: Mapping[str, Axis], *, trials: int, seed: int = 0) -> Space:
    """Random points. The value of a path is a function of the seed, the path and the trial: more trials or paths change none.

    Bergstra & Bengio 2012, "Random search for hyper-parameter optimization".

    >>> from fnlamp.sweep.axis import log_uniform, uniform
    >>> rates = {"rate": log_uniform(1e-4, 1e-1)}
    >>> sample(rates, trials=5)[:3] == sample(rates, trials=3)
    True
    """
    named, count, root = axes_of("sample", axes), whole("sample: trials", trials), whole("sample: seed", seed, 0)

    def share(path: str, trial: int) -> float:
        return float(np.random.default_rng([root, zlib.crc32(path.encode()), trial]).random())

    return Space(tuple(_frozen({path: axis.at(share(path, n)) for path, axis in named.items()}) for n in range(count)))


def halton(axes: Mapping[str, Axis], *, trials: int, seed: int = 0) -> Space:
    """Points of a scrambled Halton sequence, more even than random ones; more trials change no earlier one.

    Owen 2017, "A randomized Halton algorithm in R".
    """
    return _quasi("halton", "Halton", axes, trials, seed)


def sobol(axes: Mapping[str, Axis], *, trials: int, seed: int = 0) -> Space:
    """Points of a scrambled Sobol sequence, most even for 2^n trials; more trials change no earlier one.

    Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points".
    """
    return _quasi("sobol", "Sobol", axes, trials, seed)


def _quasi(name: str, engine: str, axes: Any, trials: Any, seed: Any) -> Space:
    named, count = axes_of(name, axes), whole(f"{name}: trials", trials)
    qmc: Any = importlib.import_module("scipy.stats.qmc")  # SciPy is a dependency of JAX
    rng = np.random.default_rng(whole(f"{name}: seed", seed, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a number of points that is not a power of 2
        shares = getattr(qmc, engine)(len(named), scramble=True, seed=rng).random(count)
    rows = np.minimum(shares, np.nextafter(1.0, 0.0)).tolist()
    return Space(
        tuple(_frozen({path: axis.at(share) for (path, axis), share in zip(named.items(), row, strict=True)}) for row in rows)
    )


def _frozen(point: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(point)
