"""Generation as a program: the compiled loop, call by call, with pieces of text and interruptions between the calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from returns.result import Success

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, placed_on
from fnlamp.data import Codec
from fnlamp.effect import Effect, Runtime, do
from fnlamp.fault import DtypeMismatch, NotDecodable, NothingToSample, ShapeMismatch, UnknownToken, located
from fnlamp.generate.beam import Beam
from fnlamp.generate.loop import PIECE
from fnlamp.generate.result import Generated, Piece
from fnlamp.generate.rules import Sampling, greedy
from fnlamp.generate.run import Run, Search, advanced, begun, pieces, result, search_advanced, search_begun
from fnlamp.generate.task import Task, after_source, prompts_of, stops_of
from fnlamp.given import arguments, flag, function, instance, shown, whole
from fnlamp.layer import Layer
from fnlamp.train.supervised import Supervised

GenerateFault: TypeAlias = ShapeMismatch | DtypeMismatch | UnknownToken | NotDecodable | NothingToSample
Each: TypeAlias = Callable[[Piece], Effect[Any, Any]]
A = TypeVar("A")
R = TypeVar("R", Run, Search)


@arguments("generate(model, params, prompts): a language model, its parameters, and texts or tokens to continue")
def generate(
    model: Layer | Supervised,
    params: Params,
    prompts: Sequence[Any],
    *,
    state: State | None = None,
    codec: Codec | None = None,
    tokens: int = 256,
    sampling: Sampling | Beam = greedy,
    stop: Sequence[int | str] = (),
    seed: int = 0,
    given: Tree = None,
    source: Tree = None,
    cached: bool = True,
    each: Callable[[Piece], Effect[Any, Any]] | None = None,
    every: int | None = None,
) -> Effect[Generated, GenerateFault]:
    """A program that continues each prompt by up to `tokens` tokens, and ends a row at a token or text of `stop`.

    `model` maps tokens `(batch, time)` to logits of the next token `(batch, time, vocabulary)`; with `given`, the rest of a
    decoder's input, rows first, it takes `(tokens, given)`, and with `source`, as `models.seq2seq`, `(source, tokens)`, where
    a prompt is the token that targets start with.  `prompts` are sequences of ids, or with a `codec` texts.
    The random numbers of a row are a function of the seed, its prompt, how many equal prompts are before it, and the number of
    the token: a row is continued alike alone and among others, and equal prompts differently.
    Layers keep what the next token needs of those before (`Decode`); with `cached=False` the whole text is computed again for
    each token, which any model can do whose outputs do not depend on later tokens.
    `each` is called with every `Piece` of at most `every` tokens, while others are computed, and its program is run.
    One program is compiled for each batch size and each power of two, from 64, that prompt and new tokens reach; numbers of
    rules do not matter.  An interruption, and a fault of a row, carry what was generated.
    Fails: `ShapeMismatch` for an empty prompt, or what the model says of a text longer than its context; `DtypeMismatch`;
    `UnknownToken`; `NotDecodable` if a layer needs `cached=False`; `NothingToSample` for logits that are NaN or infinite, or
    rules that exclude every token.

    >>> model = models.gpt(11, layers=1, width=8, heads=2, context=32)
    >>> params = model.init(key, jax.ShapeDtypeStruct((1, 8), jnp.int32)).params
    >>> made = generate.generate(model, params, [[1, 2, 3], [4]], tokens=5).run_or_raise()
    >>> made.tokens.shape, made.lengths.tolist(), str(made.reasons[0])
    ((2, 5), [5, 5], 'the length')
    """
    layer, dtype = (model.layer, model.precision.compute) if isinstance(model, Supervised) else (model, None)
    instance("generate: model", layer, Layer, "a Layer, such as models.gpt(...), or a Supervised")
    instance("generate: sampling", sampling, Sampling | Beam, "greedy, sampled(temperature(0.8), ...), or beam(4)")
    instance("generate: params", params, dict, "the parameters of the model, a dict")
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise TypeError(f"generate: codec has encode and decode, as data.byte_codec(), got {shown(codec)}")
    if source is not None and given is not None:
        raise TypeError("generate: source is for (source, tokens), given for (tokens, given); give one of them")
    ids, texts = stops_of(stop, codec)
    usual = PIECE if each is None else 4
    pace = whole("generate: every", every) if every is not None else min(usual, 16) if texts and texts.stops else usual
    if each is not None:
        function("generate: each", each, "a function of a Piece that returns an effect")
    if isinstance(sampling, Beam) and (each is not None or (texts and texts.stops)):
        raise ValueError("generate: a beam search has no texts before its end: give neither each nor a text in stop, but ids")
    task = Task(
        layer if source is None else after_source(layer),
        params if dtype is None else tree.cast(params, dtype),
        {} if state is None else instance("generate: state", state, dict, "layer state, a dict, or None"),
        source if given is None else given,
        prompts_of(prompts, codec),
        whole("generate: tokens", tokens, 0),
        sampling,
        ids,
        texts,
        whole("generate: seed", seed, None),
        flag("generate: cached", cached),
    )
    return _program(task, each, pace)


def _program(task: Task, each: Each | None, pace: int) -> Effect[Generated, Any]:
    if isinstance(task.sampling, Beam):
        return _looped(partial(search_begun, task, task.sampling), partial(search_advanced, steps=PIECE), Search.found, None)
    return _looped(partial(begun, task), partial(advanced, steps=pace), lambda run: run, each)


def _looped(
    begin: Callable[[], R], advance: Callable[[R], R], found: Callable[[R], Run], each: Each | None
) -> Effect[Generated, Any]:
    """A run, or a search, from its begin until it has ended; `each` is called with what is new."""

    @do
    def generate() -> Generator[Effect[Any, Any], Any, Generated]:
        first: R = yield from _call(begin)
        latest = [first]

        @do
        def loop() -> Generator[Effect[Any, Any], Any, Generated]:
            said = ((0, 0),) * len(found(first).lengths)
            while latest[0].running:
                latest[0] = yield from _call(partial(advance, latest[0]))
                if each is not None:
                    new, said = pieces(found(latest[0]), said)
                    for piece in new:
                        yield from each(piece)
            return result(found(latest[0]))

        return (yield from loop().salvaged(lambda: result(found(latest[0]))))

    return generate()


def _call(function: Callable[[], A]) -> Effect[A, Any]:
    def call(runtime: Runtime) -> Success[A]:
        with placed_on(runtime.device), located("generate"):
            return Success(function())

    return Effect.call(call)
