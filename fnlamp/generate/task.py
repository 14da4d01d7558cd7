"""The arguments of a generation, checked: prompts, stop tokens and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fnlamp.arrays import Params, State, Tree, describe
from fnlamp.data import Codec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, UnknownToken
from fnlamp.generate.beam import Beam
from fnlamp.generate.result import Ints
from fnlamp.generate.rules import Sampling
from fnlamp.generate.texts import Texts
from fnlamp.given import shown, whole
from fnlamp.layer import Layer
from fnlamp.mode import Mode


@dataclass(frozen=True)
class Task:
    """What is to be generated, and how."""

    layer: Layer
    params: Params
    state: State
    given: Tree
    prompts: tuple[Any, ...]
    count: int
    sampling: Sampling | Beam
    stop: tuple[int, ...]
    texts: Texts | None
    seed: int
    cached: bool


def after_source(layer: Layer) -> Layer:
    """The layer of `(tokens, source)`, of one of `(source, tokens)`."""

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        return layer.apply(params, state, (x[1], x[0]), mode)

    return replace(layer, apply=apply)


def stops_of(stop: Any, codec: Codec | None) -> tuple[tuple[int, ...], Texts | None]:
    """The ids that end a row, special tokens by their names among them, and the texts."""
    if isinstance(stop, str | bytes | int) or not isinstance(stop, Sequence | np.ndarray):
        raise TypeError(f"generate: stop is a sequence of ids and texts, got {shown(stop)}; give [{stop!r}]")
    ids, texts = [], []
    for one in stop:
        if not isinstance(one, str):
            ids.append(min(whole("generate: stop", one, 0), 2**31 - 1))
        elif codec is None:
            raise TypeError(f"generate: a stop text needs a codec, got {shown(one)}; give its ids, or codec=")
        elif not one:
            raise ValueError("generate: a stop text has at least one character, got ''")
        elif one in codec.special:
            ids.append(codec.id_of(one))
        else:
            texts.append(one)
    return tuple(ids), None if codec is None else Texts(codec, tuple(texts))


def prompts_of(prompts: Any, codec: Codec | None) -> tuple[Any, ...]:
    """The prompts as they are, one by one.  Raises: `TypeError`."""
    if isinstance(prompts, str | bytes | dict) or not (hasattr(prompts, "__iter__") and hasattr(prompts, "__len__")):
        raise TypeError(f"generate: prompts is a sequence of prompts, got {shown(prompts)}; give [prompt] for a single one")
    for one in prompts:
        if isinstance(one, str) and codec is None:
            raise TypeError(f"generate: prompts that are texts need codec=, got {shown(one)}")
        if not isinstance(one, str) and (not hasattr(one, "__len__") or isinstance(one, bytes | dict)):
            raise TypeError(
                f"generate: prompts are texts or sequences of ids, got {shown(one)}; give [prompt] for a single one"
            )
    return tuple(prompts)


def encoded(task: Task) -> list[Ints]:
    """The ids of each prompt.  Fails: `ShapeMismatch`, `DtypeMismatch`, `UnknownToken`."""
    if not task.prompts:
        raise FaultError(ShapeMismatch("at least one prompt", "none"))
    ids = []
    for row, prompt in enumerate(task.prompts):
        where = f"prompt {row}"
        own = task.texts.codec.encode(prompt) if isinstance(prompt, str) and task.texts else np.asarray(prompt)
        if own.ndim != 1 or not own.size:
            hint = "give a token that texts start with, such as the end of the text before"
            raise FaultError(ShapeMismatch("ids of shape (tokens,), at least one", describe(own), hint, where=where))
        if own.dtype.kind not in "iu":
            raise FaultError(DtypeMismatch("integer ids", describe(own), where=where))
        ids.append(own)
    return ids


def check_known(prompts: list[Ints], vocabulary: int) -> None:
    """Fails: `UnknownToken` for an id that the model has no logit for."""
    for row, ids in enumerate(prompts):
        wrong = (ids < 0) | (ids >= vocabulary)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise FaultError(UnknownToken(int(ids[at]), at, vocabulary, where=f"prompt {row}"))
