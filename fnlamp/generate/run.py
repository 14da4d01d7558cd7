"""A generation between two calls of its program, as a value."""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Params, array_spec, describe, devices_of, is_float, over_devices, platform, spec_after, spec_of
from fnlamp.fault import FaultError, NothingToSample, ShapeMismatch
from fnlamp.generate.beam import Beam, Beams, best, extended
from fnlamp.generate.beam import begun as beams_of
from fnlamp.generate.loop import PIECE, Asked, Rows, Why, continued, forward, started
from fnlamp.generate.result import Generated, Ints, Piece, Reason
from fnlamp.generate.task import Task, check_known, encoded
from fnlamp.generate.texts import without
from fnlamp.identity import identity
from fnlamp.layer import Layer
from fnlamp.mode import Eval, seed_key
from fnlamp.train.execute.programs import PROGRAMS

REASONS = {Why.STOP: Reason.STOP_TOKEN, Why.STOP_TEXT: Reason.STOP_TEXT, Why.LENGTH: Reason.LENGTH}
BROKEN = {Why.NOT_FINITE: "logits that are NaN or infinite", Why.EXCLUDED: "rules, or logits of -inf, that exclude every token"}


class Programs(NamedTuple):
    """The compiled functions of a layer."""

    started: Callable[..., Any]
    continued: Callable[..., Rows]
    extended: Callable[..., Beams]


def programs(layer: Layer, piece: int, params: Params) -> Programs:
    """Those of this layer, for the devices of its parameters, compiled before or on use."""
    divided = over_devices(devices := devices_of(params))

    def made() -> Programs:
        return Programs(*(jax.jit(divided(partial(each, layer, piece))) for each in (started, continued, extended)))

    found: Programs = PROGRAMS.get(("generate", piece, identity(layer), platform(), devices), made)
    return found


@dataclass(frozen=True)
class Run:
    """The rows on the device, and on the host how many new tokens each has and why it ended."""

    task: Task
    piece: int
    asked: Asked
    rows: Rows
    prompts: tuple[int, ...]
    lengths: tuple[int, ...]
    why: tuple[Why, ...]

    @property
    def running(self) -> bool:
        return Why.RUNNING in self.why

    def new(self, row: int) -> Ints:
        """The new tokens of a row."""
        start = self.prompts[row]
        own: Ints = np.asarray(self.rows.tokens)[row, start : start + self.lengths[row]]
        return own


def begun(task: Task) -> Run:
    """The run before its first token.  Fails: as `generate`."""
    ids = encoded(task)
    lengths = tuple(map(len, ids))
    total = max(lengths) + task.count
    vocabulary, piece = _fits(task, len(ids), max(total - 1, max(lengths)))
    check_known(ids, vocabulary)
    room = max(PIECE, 1 << (total - 1).bit_length()) if piece else total
    tokens = np.zeros((len(ids), room), np.int32)
    for row, own in enumerate(ids):
        tokens[row, : len(own)] = own
    start = jnp.asarray(lengths, jnp.int32)
    asked = Asked(start + task.count, jnp.asarray(task.stop, jnp.int32), _keys(task.seed, ids), start)
    state = programs(task.layer, piece, task.params).started(task.params, task.state, jnp.asarray(tokens), task.given)
    why = Why.RUNNING if task.count else Why.LENGTH
    rows = Rows(
        state, jnp.asarray(tokens), start, jnp.zeros(tokens.shape, jnp.float32), jnp.full(len(ids), int(why), jnp.int32)
    )
    return Run(task, piece, asked, rows, lengths, (0,) * len(ids), (why,) * len(ids))


def _fits(task: Task, rows: int, time: int) -> tuple[int, int]:
    """The number of logits, and the time steps that are read at once.  Fails: as `_vocabulary`."""
    if not task.cached:
        return _vocabulary(task, rows, time), 0
    with contextlib.suppress(FaultError):
        return _vocabulary(task, rows, max(time, PIECE)), PIECE
    return _vocabulary(task, rows, time), 1 << (time.bit_length() - 1)  # a context below `PIECE`, or one that is too short


def _vocabulary(task: Task, rows: int, time: int) -> int:
    """The number of logits.  Fails: what the model says of so many tokens; `ShapeMismatch` for other outputs than logits."""

    def logits(params: Any, state: Any, tokens: Array, given: Any) -> Array:
        return forward(task.layer, params, state, tokens, given, Eval())[0]

    specs = (spec_of(part) for part in (task.params, task.state))
    made = spec_after(logits, *specs, array_spec((rows, time), jnp.int32), spec_of(task.given))
    if not hasattr(made, "shape") or made.shape[:-1] != (rows, time) or not is_float(made):
        raise FaultError(ShapeMismatch(f"logits of shape ({rows}, {time}, vocabulary) from the model", describe(made)))
    return int(made.shape[-1])


def _keys(seed: int, prompts: list[Ints]) -> Array:
    """The key of each row: of the seed, its prompt, and how many equal prompts are before it."""
    contents = [ids.astype("<i4").tobytes() for ids in prompts]
    before: Counter[bytes] = Counter()
    numbers = []
    for content in contents:
        numbers.append((zlib.crc32(content), before[content]))
        before[content] += 1

    def of_row(content: Array, equal: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(seed_key(seed), content), equal)

    keys: Array = jax.vmap(of_row)(*jnp.asarray(np.array(numbers, np.uint32)).T)
    return keys


def advanced(run: Run, steps: int) -> Run:
    """The run after at most so many tokens more.  Fails: `NothingToSample`."""
    task, asked = run.task, run.asked
    program = programs(task.layer, run.piece, task.params).continued
    rows = program(task.params, task.given, task.sampling, asked, run.rows, jnp.asarray(steps, jnp.int32))
    return _checked(_stopped(_with(run, rows), run.lengths))


def _with(run: Run, rows: Rows) -> Run:
    lengths = np.asarray(rows.length) - np.asarray(run.prompts)
    return replace(run, rows=rows, lengths=tuple(lengths.tolist()), why=tuple(map(Why, np.asarray(rows.why).tolist())))


def _checked(run: Run) -> Run:
    """The run.  Fails: `NothingToSample`."""
    broken = [(run.lengths[row], row) for row, why in enumerate(run.why) if why in BROKEN]
    if broken:
        step, row = min(broken)
        raise FaultError(NothingToSample(row, step, BROKEN[run.why[row]], state=result(run)))
    return run


@dataclass(frozen=True)
class Search:
    """A beam search between two calls of its program: the run of all its rows, `width` for each prompt, and the beams."""

    run: Run
    beams: Beams
    beam: Beam

    @property
    def running(self) -> bool:
        return bool(np.any(np.asarray(self.beams.rows.why) == Why.RUNNING))

    def found(self) -> Run:
        """The run of the best text of each prompt."""
        width, asked = self.beam.width, self.run.asked
        run = replace(self.run, prompts=self.run.prompts[::width])
        return _with(run, best(self.beam, asked, self.beams))


def search_begun(task: Task, beam: Beam) -> Search:
    """The search before its first token.  Fails: as `generate`."""
    prompts = tuple(prompt for prompt in task.prompts for _ in range(beam.width))
    given = tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), beam.width, axis=0), task.given)
    run = begun(replace(task, prompts=prompts, given=given))
    return Search(run, beams_of(run.rows, beam.width), beam)


def search_advanced(search: Search, steps: int) -> Search:
    """The search after at most so many tokens more.  Fails: `NothingToSample`."""
    task, asked = search.run.task, search.run.asked
    program = programs(task.layer, search.run.piece, task.params).extended
    number = jnp.asarray(steps, jnp.int32)
    new = replace(search, beams=program(task.params, task.state, task.given, search.beam, asked, search.beams, number))
    _checked(new.found())
    return new


def _stopped(run: Run, before: tuple[int, ...]) -> Run:
    """The run with the rows ended that have a stop text."""
    if run.task.texts is None or not run.task.texts.stops:
        return run
    why, lengths = list(run.why), list(run.lengths)
    for row, checked in enumerate(before):
        if lengths[row] > checked and (end := run.task.texts.end(_text_of(run, row), checked)) is not None:
            why[row], lengths[row] = Why.STOP_TEXT, end
    if tuple(why) == run.why:
        return run
    reached = jnp.asarray([start + length for start, length in zip(run.prompts, lengths, strict=True)], jnp.int32)
    rows = replace(run.rows, why=jnp.asarray([int(each) for each in why], jnp.int32), length=reached)
    return replace(run, rows=rows, lengths=tuple(lengths), why=tuple(why))


def _text_of(run: Run, row: int) -> Ints:
    """The new tokens of a row that are text."""
    return without(run.new(row), run.task.stop)


def result(run: Run) -> Generated:
    """What the run has so far."""
    rows, longest = len(run.lengths), max(run.lengths)
    tokens, log_probs = np.full((rows, longest), -1, np.int32), np.zeros((rows, longest), np.float32)
    every = np.asarray(run.rows.log_probs)
    for row, (start, length) in enumerate(zip(run.prompts, run.lengths, strict=True)):
        tokens[row, :length], log_probs[row, :length] = run.new(row), every[row, start : start + length]
    texts = run.task.texts
    written = () if texts is None else tuple(texts.until_stop(_text_of(run, row)) for row in range(rows))
    reasons = tuple(REASONS.get(why) for why in run.why)
    return Generated(tokens, np.array(run.lengths, np.int32), log_probs, reasons, written)


def pieces(run: Run, before: tuple[tuple[int, int], ...]) -> tuple[list[Piece], tuple[tuple[int, int], ...]]:
    """What each row has more than `before`, tokens and characters, and how many of both it has now."""
    new, now = [], []
    for row, (tokens, characters) in enumerate(before):
        texts, own = run.task.texts, run.new(row)
        text = ""
        if texts is not None:
            ended = run.why[row] is not Why.RUNNING
            text = (texts.until_stop if ended else texts.certain)(_text_of(run, row))
        now.append((len(own), max(len(text), characters)))
        if now[-1] != (tokens, characters):
            new.append(Piece(row, own[tokens:], text[characters:]))
    return new, tuple(now)
