"""Steps of several runs in one dispatch: carries, keys, numbers and orders of rows are stacked along an axis of lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree, placed_on, platform, spec_of
from fnlamp.effect import Reached
from fnlamp.stream import BatchStream, Recipe
from fnlamp.train.execute.body import Body
from fnlamp.train.execute.fused import FIRST, Fused, last_good, reading
from fnlamp.train.execute.lifted import Traced, trace
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.execute.record import Rows
from fnlamp.train.execute.supply import of_view
from fnlamp.train.execute.workspace import Placed, Workspace


class Asked(NamedTuple):
    """Steps that a lane wants: from `at` up to `stop` of its rows, or fewer.

    Arrays in `fixed` that all lanes have in common are given to the program once; `own` is stacked.
    """

    traced: Traced
    fixed: tuple[Any, ...]
    own: tuple[Any, ...]
    at: int
    stop: int
    device: Any


class Answer(NamedTuple):
    """A lane after so many steps, with 0 or a code for what broke its carry, and the buffers of its recorder."""

    carry: Any
    code: int
    rows: Any
    steps: int


@dataclass(eq=False)
class Lanes:
    """What the lanes of one sweep share. `taken` counts steps of lanes, and `computed` those of lanes that only fill up too."""

    fused: Fused
    taken: int = 0
    computed: int = 0
    programs: set[Hashable] = field(default_factory=set)
    placed: WeakValueDictionary[Any, Placed] = field(default_factory=WeakValueDictionary)
    paces: dict[Hashable, int] = field(default_factory=dict)
    widest: dict[Hashable, int] = field(default_factory=dict)
    differing: dict[Hashable, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict)

    def chosen(self, asked: Sequence[Asked]) -> list[int]:
        """Which of them take steps now: the most that can do so together, and of equally many those with the most steps left.

        The others wait until lanes that are behind have reached them: so lanes of a kind stay together.
        """
        groups: dict[Hashable, list[int]] = {}
        for at, each in enumerate(asked):
            groups.setdefault((each.traced.form, each.device), []).append(at)
        return max(groups.values(), key=lambda group: (len(group), max(asked[n].stop - asked[n].at for n in group)))

    def answers(self, asked: Sequence[Asked]) -> list[Answer]:
        """The same number of steps for each of these lanes, in one dispatch."""
        form = asked[0].traced.form
        width = self.width(form, len(asked))
        key = form, width
        steps = min(self.fused.chunk or self.paces.get(key, FIRST), *(each.stop - each.at for each in asked))
        began = time.perf_counter()
        answers = self.run(asked, steps, width)
        if key in self.paces:
            taken = (time.perf_counter() - began) / steps
            self.paces[key] = max(1, min(int(self.fused.seconds / max(taken, 1e-9)), 4 * self.paces[key]))
        else:  # it may have compiled: its time says nothing
            self.paces[key] = FIRST
        return answers

    def width(self, form: Hashable, count: int) -> int:
        """How many lanes are computed for so many: a power of two, so that few widths are compiled, or the most so far."""
        most = self.widest[form] = max(self.widest.get(form, 0), count)
        return min(1 << (count - 1).bit_length(), most)

    def run(self, asked: Sequence[Asked], steps: int, width: int = 1) -> list[Answer]:
        """So many steps of each lane. What more lanes there are room for repeat the first one, and nobody reads them."""
        lanes = [*asked, *[asked[0]] * (width - len(asked))]
        self.taken, self.computed = self.taken + len(asked) * steps, self.computed + width * steps
        with placed_on(asked[0].device):
            numbers = self.numbers([each.traced for each in lanes])
            fixed, common = _in_common([jax.tree.leaves((each.traced.numbers[1], each.fixed)) for each in lanes])
            own = [jax.tree.leaves(each.own) for each in lanes]
            key = "lanes", asked[0].traced.form, width, common, jax.tree.structure(numbers), platform()
            self.programs.add(key)
            program = PROGRAMS.get(key, lambda: _program(asked[0].traced, common))
            starts = np.array([each.at for each in lanes], np.int32)
            codes, found = program(numbers, fixed, own, starts, np.int32(steps))
        answers = []
        for each, code, leaves in zip(asked, np.asarray(codes), found, strict=False):
            carry, _, rows = jax.tree.unflatten(each.traced.after, leaves)
            answers.append(Answer(carry, int(code), rows, steps))
        return answers

    def numbers(self, traced: Sequence[Traced]) -> dict[str, Mixed]:
        """The scalars of the lanes. One that never differed is not stacked: else each lane would have its own loop counter."""
        found, seen = {}, self.differing.setdefault(traced[0].form, {})
        for dtype, first in traced[0].numbers[0].items():
            every = np.stack([each.numbers[0][dtype] for each in traced])
            differs = seen[dtype] = seen.get(dtype, np.zeros(len(first), bool)) | (every != first).any(0)
            places = np.where(differs, np.cumsum(differs) - 1, -1)
            found[dtype] = Mixed(first, every[:, differs], tuple(places.tolist()))
        return found


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixed:
    """Numbers of which some are the same in all lanes; `places` are those of the others in `own`, -1 for the same."""

    common: Any
    own: Any
    places: tuple[int, ...] = field(metadata={"static": True})

    def __getitem__(self, at: int) -> Any:
        return self.common[at] if self.places[at] < 0 else self.own[self.places[at]]


def _in_common(lanes: list[list[Any]]) -> tuple[list[Any], tuple[bool, ...]]:
    """Each leaf once if all lanes have the same array, or else that of each lane; and which is which."""
    columns = list(zip(*lanes, strict=True))
    common = tuple(isinstance(column[0], jax.Array) and all(x is column[0] for x in column) for column in columns)
    return [column[0] if same else column for column, same in zip(columns, common, strict=True)], common


def _program(traced: Traced, common: tuple[bool, ...]) -> Callable[..., Any]:
    """`(numbers, fixed, own leaves of each lane, starts, count) -> (codes, leaves of each lane)`, compiled by shapes."""
    arrays = len(traced.numbers[1])

    def lane(numbers: Any, fixed: list[Any], own: list[Any], start: Array, count: Array) -> list[Any]:
        return traced((numbers, fixed[:arrays]), [*fixed[arrays:], *own, start, count])

    def program(numbers: Any, fixed: list[Any], own: list[list[Any]], starts: Array, count: Array) -> Any:
        stacked = [jnp.stack(each) for each in zip(*own, strict=True)]
        fixed = [each if same else jnp.stack(each) for each, same in zip(fixed, common, strict=True)]
        axes = {dtype: Mixed(None, 0, each.places) for dtype, each in numbers.items()}
        over = axes, [None if same else 0 for same in common], 0, 0, None
        out = jax.vmap(lane, over)(numbers, fixed, stacked, starts, count)
        _, codes, _ = jax.tree.unflatten(traced.after, out)
        return codes, [[leaf[n] for leaf in out] for n in range(len(own))]

    return jax.jit(program, keep_unused=True)


@dataclass(frozen=True, eq=False)
class Vmapped:
    """The executor of one lane, whose steps `ask` takes with those of others: `None` is its answer if the sweep stops.

    A stream without a compiled view runs by itself, as `Fused` runs it.
    """

    lanes: Lanes
    ask: Callable[[Asked], Answer | None]

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, workspace: Workspace
    ) -> Iterator[Reached]:
        """What is reached after each dispatch."""
        if stream.view is None:
            yield from self.lanes.fused.fold(body, shared, carry, stream, position, workspace)
            return
        workspace.elsewhere = self.lanes.placed
        workspace.begin(body)
        for supply in of_view(stream, position, body, workspace):
            fixed = workspace.arguments(supply.recipe), supply.arrays
            given = *fixed, shared, supply.rows, carry
            chunk: Any = body.program("lanes", supply.recipe, given, partial(_traced, body, supply.recipe, given))
            read, most = reading(body, supply, shared, carry)
            placed = chunk, fixed, supply.rows

            def asked(carry: Tree, at: int, stop: int, placed: Any = placed) -> Asked:
                chunk, fixed, rows = placed
                return Asked(chunk, fixed, (shared, rows, carry), at, stop, workspace.device)

            def again(carry: Tree, at: int, stop: int, asked: Any = asked) -> Answer:
                (found,) = self.lanes.run([asked(carry, at, stop)], stop - at)
                return found

            at = supply.start
            while at < supply.stop:
                wanted = asked(carry, at, min(at + most, supply.stop))
                answer = self.ask(wanted)
                if answer is None:
                    yield Reached(carry, supply.position(at))
                    (answer,) = self.lanes.answers([wanted])
                if answer.code:
                    good, last, code = last_good(again, carry, at, at + answer.steps, answer.code)
                    yield Reached(good, supply.position(last), int(code), recorded=read([answer.rows], last + 1 - at))
                    return
                carry, at = answer.carry, at + answer.steps
                yield Reached(carry, supply.position(at), recorded=read([answer.rows], answer.steps))

    def __str__(self) -> str:
        return f"{self.lanes.fused}, side by side with other lanes"


def form_of(body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any]) -> Hashable | None:
    """What is equal for lanes that take their steps together, from specs; `None` for data that is not on the device."""
    if stream.view is None or not stream.view.segments:
        return None
    segment = stream.view.segments[0]
    given = segment.recipe.arguments, spec_of(segment.arrays), shared, spec_of(segment.rows()), carry
    form: Hashable = _traced(body, segment.recipe, given).form
    return form


def _traced(body: Body, recipe: Recipe, given: tuple[Any, ...]) -> Any:
    start: Any = np.int32(0)
    return trace(_chunk(body, recipe), (*given, start, start))


def _chunk(body: Body, recipe: Recipe) -> Callable[..., Any]:
    """`(arguments, arrays, shared, rows, carry, start, count) -> (carry, broken, buffers)`: `count` steps of one lane."""
    recipe = replace(recipe, arguments=())

    def chunk(arguments: Any, arrays: Tree, shared: Tree, rows: Array, carry: Tree, start: Array, count: Array) -> Any:
        batch = partial(replace(recipe, arguments=arguments), arrays)

        def step(at: Array, carry: Tree) -> Tree:
            return body.function(shared, carry, batch(rows[start + at]))

        def guarded(at: Array, carry: Tree) -> Tree:  # as in `Fused`
            return jax.lax.cond(at < count, step, lambda _, carry: carry, at, carry)

        def plain(first: Array, stop: Array, carry: Tree) -> Tree:
            return jax.lax.fori_loop(first, stop, guarded if platform() == "cpu" else step, carry)

        buffers: Any = ()
        if (recorder := body.recorder) is None:
            carry = plain(jnp.int32(0), count, carry)
        else:

            def measured(at: Array, carry: Tree) -> tuple[Tree, Rows]:
                return recorder.measured(shared, carry, batch(rows[start + at]))

            specs = recorder.specs(shared, carry, batch(rows[0]))
            carry, buffers = recorder.loop(plain, measured, specs)(carry, jnp.int32(0), count)
        return carry, body.broken(carry), buffers

    return chunk
