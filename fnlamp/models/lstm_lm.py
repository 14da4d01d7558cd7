"""The LSTM language model."""

from __future__ import annotations

from dataclasses import replace

from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Layer
from fnlamp.models.tokens import on_rows, rows, token_vectors
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.linear import linear
from fnlamp.nn.recurrent import lstm
from fnlamp.nn.shape import fun
from fnlamp.nn.share import share


@arguments("models.lstm_lm(10_000, layers=2, width=650)")
def lstm_lm(
    vocabulary: int,
    *,
    layers: int,
    width: int,
    hidden: int | None = None,
    drop_rate: float = 0.0,
    tied: bool = False,
    carried: bool = False,
) -> Layer:
    """The recurrent language model: at each time step the logits of the next token.

    Embedded tokens of `width` features, LSTMs of `hidden` ones (`width` unless given), and a linear layer; dropout, if there
    is a rate, of the embedding and of each LSTM's output, never from one time step to the next.  If `tied`, the last weight is
    the embedding's, which starts normal with deviation `width ** -0.5`.
    Shapes: tokens `(batch, time) -> (batch, time, vocabulary)`; also `(tokens, lengths)`, as `data.padded_batches` makes them,
    and if `carried`, `(tokens, starts)` or `(tokens, lengths, starts)`, as `nn.lstm`: each batch continues the one before.
    Children: `tokens`, `lstm_0`, ..., `out`, and `drop`, `drop_0`, ... after the embedding and each LSTM if there is a rate.
    Fails: `ShapeMismatch` for another rank; `DtypeMismatch` for tokens that are not integers.
    Raises: `ValueError` if `tied` with a `hidden` that is not `width`.
    Reference: Zaremba, Sutskever & Vinyals 2014, section 3; the tied weight: Press & Wolf 2017.

    >>> medium = lstm_lm(10_000, layers=2, width=650, drop_rate=0.5)
    >>> print(table(medium, jax.ShapeDtypeStruct((20, 35), jnp.int32)).splitlines()[-1].split()[1])
    19,775,200
    """
    vocabulary, layers, width = (
        whole(f"lstm_lm: {name}", n) for name, n in {"vocabulary": vocabulary, "layers": layers, "width": width}.items()
    )
    hidden = width if hidden is None else whole("lstm_lm: hidden", hidden)
    rate, tied, carried = (
        checked_rate("lstm_lm: drop_rate", drop_rate),
        flag("lstm_lm: tied", tied),
        flag("lstm_lm: carried", carried),
    )
    if tied and hidden != width:
        raise ValueError(f"lstm_lm: a tied weight needs hidden and width to be the same, got {hidden} and {width}")

    def with_drop(name: str) -> dict[str, Layer]:
        return {name: on_rows(dropout(rate))} if rate else {}

    parts = {"tokens": token_vectors(vocabulary, width, width**-0.5 if tied else 1.0)} | with_drop("drop")
    for i in range(layers):
        parts |= {f"lstm_{i}": lstm(hidden, carried=carried)} | with_drop(f"drop_{i}")
    model = sequence(**parts, features=fun(rows, "features"), out=linear(vocabulary))
    if tied:
        model = share(model, "out/weight", of="tokens/weight", transpose=True)
    return replace(model, name=f"lstm_lm({vocabulary}, layers={layers}, width={width}, hidden={hidden})", chain=None)
