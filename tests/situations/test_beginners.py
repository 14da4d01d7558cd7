"""Beginners' mistakes, one per row: the code, and what its message must contain: what, where, and the line to write."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.io import IOSuccess
from returns.result import Success
from returns.unsafe import unsafe_perform_io

from fnlamp import Eval, data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import FaultError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 12)
IDS = RNG.integers(0, 9, (8, 5))
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
CLASSIFIER = nn.linear(8) >> nn.relu >> nn.linear(3)


def batches(x: Any = X, y: Any = Y, **options: Any) -> Any:
    return lambda context: stream.minibatches(x, y, **{"batch_size": 4, "seed": context.seed, **options})


def epochs(layer: Any = CLASSIFIER, of: Any = None, x: Any = X, y: Any = Y, **changes: Any) -> Any:
    """A training program with one mistake."""
    given = {"optimizer": optim.adamw(1e-2), "train_batches": batches(x, y), "epochs": 1}
    if "model" not in changes:
        given["model"] = train.supervised(layer, loss.cross_entropy() if of is None else of)
    return train.epochs(**{**given, **changes})


def run(*args: Any, runtime: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The output of such a program: its log, and its fault or `trained`."""
    lines: list[str] = []
    ended = epochs(*args, **changes).run(Runtime(**{"log": lines.append, **(runtime or {})}))
    return "\n".join([*lines, "trained" if isinstance(ended, IOSuccess) else str(unsafe_perform_io(ended.failure()))])


def trained(*args: Any, **changes: Any) -> train.Trained:
    key = repr((args, changes))
    if key not in MADE:
        MADE[key] = epochs(*args, **changes).run_or_raise(Runtime(log=None))
    return MADE[key]


MADE: dict[str, train.Trained] = {}


def evaluated(model: train.Trained, batches: Any, **metrics: Any) -> Any:
    return train.evaluate(batches, metrics)(model).run_or_raise(Runtime(log=None))


def used(layer: Any, seen: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a layer's output for an input of a shape."""
    made = layer.init(jax.random.key(0), jnp.ones(seen))
    return layer.apply(made.params, made.state, jnp.ones(given), Eval())[0].shape


class Adam:
    """Like another library's optimizer."""

    def init(self, params: Any) -> Any: ...

    def update(self, grads: Any, state: Any, params: Any = None) -> Any: ...


class Sequences:
    """Like a data set that can only be iterated over."""

    def __iter__(self) -> Any:
        return iter([1, 2])


def csv(text: str) -> Path:
    path = TABLES / f"{abs(hash(text))}.csv"
    path.write_text(text)
    return path


TABLES = Path()


@pytest.fixture(autouse=True, scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TABLES
    TABLES = tmp_path_factory.mktemp("tables")


def mean_squares(prediction: Any, target: Any) -> Any:
    return jnp.mean((prediction - jax.nn.one_hot(target, 3)) ** 2)


def with_if(step: Any) -> Any:
    return 1.0 if step < 10 else 0.1


CHANNELS_FIRST = nn.conv2d(2, 5) >> nn.flatten >> nn.linear(3)
two_headed = nn.branch(nn.linear(3), nn.linear(1))
deep = nn.linear(4) >> nn.batch_norm() >> nn.linear(3)
OPTIONAL = {name: importlib.import_module(name) for name in ("pandas", "torch") if importlib.util.find_spec(name)}

MISTAKES: dict[str, str] = {
    # ---- layers
    "nn.linear(2) >> (lambda x: x)": "nn.fun(",
    "nn.linear(2) >> jax.nn.relu": "nn.fun(",
    "nn.linear(2) >> jnp.tanh": "write nn.tanh",
    "nn.linear(2) >> nn.batch_norm": "call it | nn.batch_norm(",
    "nn.linear(2) >> nn.relu()": "relu is a layer already | without ()",
    "nn.linear(2) >> 10": "nn.linear(10)",
    "nn.linear(2) >> 'relu'": "nn.relu",
    "nn.linear(2) >> None": "expected a Layer | None",
    "nn.linear(2) >> torch.nn.ReLU()": "torch | nn.fun",
    "nn.sequence([nn.linear(2), nn.relu])": "nn.sequence(*layers)",
    "nn.sequence(nn.linear, nn.relu)": "call it | nn.linear(",
    "nn.linear(4, 3)": "inferred | nn.linear(10)",
    "nn.linear(2.5)": "out | whole number",
    "nn.linear('10')": "out | whole number",
    "nn.linear(0)": "at least one output",
    "nn.conv2d(3, 16, 3)": "inferred | nn.conv2d(64, 3)",
    "nn.conv2d(16, kernel_size=3)": "kernel_size | kernel",
    "nn.dropout()": "rate | nn.dropout(0.5)",
    "nn.dropout(50)": "0 <= rate < 1 | write 0.5",
    "nn.batch_norm(64)": "decay | inferred",
    "nn.mlp(64, 10)": "hidden=(64,)",
    "nn.Linear(4, 3)": "nn.linear(",
    "nn.Sequential(nn.linear(2))": "nn.sequence(",
    "nn.ReLU()": "nn.relu",
    "nn.Conv2d(3, 16, 3)": "nn.conv2d(",
    "nn.Dense(10)": "nn.linear(",
    "nn.LSTM(10)": "nn.lstm(",
    "nn.Module": "write Layer(init, apply): layers are values",
    "nn.linear(2)(X)": "layer.apply(params, state, x, Eval())",
    "CLASSIFIER.parameters()": "layer.init(",
    "nn.relu(X)": "layer.apply(",
    # ---- losses and optimizers
    "run(of=loss.cross_entropy)": "makes a loss | loss.cross_entropy()",
    "run(of='cross_entropy')": "loss.mse()",
    "run(of=torch.nn.CrossEntropyLoss())": "of torch",
    "run(of=mean_squares)": "mean_squares returned a number | LossValue(m * n, n)",
    "loss.CrossEntropyLoss()": "loss.cross_entropy(",
    "loss.MSELoss()": "loss.mse(",
    "loss.BCEWithLogitsLoss()": "loss.bce_with_logits(",
    "loss.NLLLoss()": "loss.nll(",
    "loss.cross_entropy(X, Y)": "loss.cross_entropy()(prediction, target)",
    "loss.nll(ignore_index=-1)": "ignore_index",
    "loss.cross_entropy().backward()": "train.epochs",
    "epochs(optimizer=optim.adamw)": "optimizer | call it | optim.adamw(1e-3)",
    "epochs(optimizer=Adam())": "another library",
    "epochs(optimizer='adam')": "optim.adamw(1e-3)",
    "epochs(optimizer=0.1)": "optim.adamw(1e-3)",
    "epochs(optimizer=torch.optim.Adam([torch.zeros(1, requires_grad=True)]))": "optim.adamw(1e-3)",
    "optim.Adam(1e-3)": "optim.adamw(",
    "optim.SGD(1e-3)": "optim.sgdw(",
    "optim.AdamW(1e-3)": "optim.adamw(",
    "optim.adamw(1e-3).step()": "train.epochs",
    "optim.adamw(1e-3).zero_grad()": "train.epochs",
    "optim.adamw(CLASSIFIER)": "learning_rate is a number",
    "optim.adamw(learning_rate='1e-3')": "learning_rate is a number | str",
    "optim.adamw(-1e-3)": "learning_rate | 0 or more | -0.001",
    "optim.sgdw(lr=0.1)": "lr",
    "optim.adamw(1e-3, betas=(0.9, 0.999))": "betas",
    "run(optimizer=optim.adamw(optim.cosine(10)))": "learning_rate | epochs(schedule=...)",
    "epochs(schedule=0.1)": "schedule | optim.constant(0.1)",
    "epochs(schedule=optim.cosine)": "schedule | cosine(steps)",
    "run(schedule=with_if)": "with_if | jnp.where",
    "run(schedule=lambda step: 'fast')": "expected a number",
    "optim.linear_ramp(1.0, 0.0)": "steps",
    # ---- training
    "epochs(model=CLASSIFIER)": "model | train.supervised(",
    "epochs(model=nn.linear)": "model | train.supervised",
    "train.supervised(nn.linear, loss.mse())": "call it | nn.linear(",
    "train.supervised(jax.nn.relu, loss.mse())": "layer | write nn.relu",
    "train.supervised(torch.nn.Linear(4, 3), loss.mse())": "expected a Layer | Linear of torch",
    "train.supervised(loss.mse(), CLASSIFIER)": "expected a Layer at layer | mse (Loss)",
    "epochs(train_batches=stream.minibatches(X, Y, batch_size=4))": "train_batches | lambda context: | context.seed",
    "epochs(train_batches=(X, Y))": "train_batches | lambda context: stream.minibatches(",
    "run(train_batches=lambda context: (X, Y))": "train_batches | stream.minibatches",
    "run(train_batches=lambda: stream.minibatches(X, Y, batch_size=4))": "train_batches | context",
    "epochs(epochs=2.5)": "epochs | whole number | 2.5",
    "epochs(epochs='3')": "epochs | whole number",
    "epochs(epochs=-1)": "epochs",
    "epochs(seed='0')": "seed | whole number",
    "epochs(seed=None)": "seed | whole number",
    "epochs(seed=jax.random.key(0))": "seed | whole number",
    "epochs(metrics=[loss.accuracy])": 'metrics is a dict | {"accuracy": loss.accuracy}',
    "epochs(metrics=loss.accuracy)": "metrics is a dict",
    "epochs(metrics={'accuracy': 'accuracy'})": "metrics['accuracy'] is a function",
    "run(metrics={'accuracy': loss.accuracy})": "accuracy | need validation_batches",
    "epochs(on_epoch='print')": "on_epoch is a function",
    "epochs(on_epoch=Effect.suspend(print))": "on_epoch | lambda report:",
    "epochs(batch_size=4)": "batch_size",
    "epochs(resume=IOSuccess(Success(1)))": "resume | case IOSuccess(Success(trained))",
    "epochs(initial=epochs().run(Runtime(log=None)))": "initial | case IOSuccess(Success(trained))",
    "epochs(resume=epochs())": "resume | run it first",
    "epochs(initial='weights.npz')": "initial | read the file first",
    "epochs(resume=__import__('pathlib').Path('run.npz'))": "resume | read the file first",
    "epochs(initial=epochs())": "initial | run it first",
    "epochs(resume=trained().params)": "resume | initial=",
    "epochs(resume=trained().state, initial=trained())": "initial | resume",
    "run(initial=trained().params, layer=nn.linear(3))": "initial: | missing: bias, weight | extra: 0/bias",
    "run(runtime={'executor': train.Fused})": "executor | train.Fused()",
    "run(runtime={'executor': 'fused'})": "executor | train.Fused()",
    "run(runtime={'device': 'tpu!'})": "tpu!",
    "epochs().run('cpu')": "Runtime",
    # ---- programs that were not run, or whose outcome was not unwrapped
    "epochs().predict(X)": "run it | program.run_or_raise()",
    "epochs().params": "run it",
    "len(epochs())": "run it",
    "epochs().run(Runtime(log=None)).predict(X)": "predict",
    "data.read_csv('a.csv').features": "run it",
    "next(epochs())": "run it",
    "trained().fit(X, Y)": "epochs",
    "train.supervised(CLASSIFIER, loss.mse()).fit(X, Y)": "train.epochs(",
    "train.supervised(CLASSIFIER, loss.mse()).parameters()": "layer.init(",
    "train.supervised(CLASSIFIER, loss.mse()).compile(optimizer='adam')": "train.epochs(",
    "train.supervised(CLASSIFIER, loss.mse()).predict(X)": "trained",
    "train.supervised(CLASSIFIER, loss.mse()).train()": "Train(key)",
    "train.supervised(CLASSIFIER, loss.mse()).eval()": "Eval()",
    "train.supervised(CLASSIFIER, loss.mse()).to('cuda')": "Runtime(device=",
    "train.supervised(CLASSIFIER, loss.mse())(X)": "not callable",
    # ---- data
    "run(x=pandas.DataFrame({'a': list('abcdefghijkl')}))": "expected numbers | 'a' (str)",
    "run(x=torch.zeros(12, 4).requires_grad_().to('meta'))": "torch",
    "run(x=[[1.0, 2.0], [3.0]], y=[0, 1])": "rows | 2 | 1",
    "run(x=['a', 'b'], y=[0, 1])": "numbers",
    "run(x=None)": "features",
    "run(y=np.eye(3, dtype=np.int32)[Y])": "target.argmax(-1)",
    "run(y=Y + 1)": "the labels run from 1 to 3: subtract 1",
    "run(y=Y.astype(np.float32))": "target.astype(np.int32)",
    "run(y=Y[:5])": "as many targets as features",
    "run(y=Y[:, None])": "squeeze the target",
    "run(nn.linear(2))": "labels from 0 to 1",
    "run(x=X[:0], y=Y[:0])": "at least one batch",
    "run(train_batches=batches(batch_size=64, drop_last=True))": "at least one batch",
    "run(x=X.astype(np.int32))": "floating-point | nn.rescale",
    "run(x=IMAGES, y=Y[:6], layer=nn.conv2d(2, 3) >> nn.relu)": "nn.rescale(1 / 255)",
    "run(of=loss.mse())": "target",
    "run(two_headed)": "one array as the prediction | prediction[0]",
    "run(y={'a': Y, 'b': Y})": "one array as the target | target['a']",
    "run(validation_batches=batches(X[:, :3]))": "validation | [",
    "run(deep, train_batches=batches(batch_size=11))": "batch",
    "run(nn.conv2d(2, 3) >> nn.relu)": "images (batch, height, width, channels)",
    "nn.lstm(3).init(jax.random.key(0), X)": "(batch, time,",
    "run(x=np.where(np.arange(48).reshape(12, 4) == 21, np.nan, X))": "not finite: the training data | row 5 | column 1",
    "run(of=loss.nll())": "log-probabilities",
    "str(epochs(train_batches=lambda context: stream.minibatches(X, Y, batch_size=4)).explain())": "in order",
    "run(CHANNELS_FIRST, x=np.zeros((6, 3, 32, 32), np.float32), y=Y[:6])": "transpose(0, 2, 3, 1)",
    "data.loader(Sequences(), batch_size=2)": "stream.from_iterable",
    "data.loader(iter([1, 2]), batch_size=2)": "list(dataset)",
    "data.loader(torch.utils.data.DataLoader([1, 2]), batch_size=2)": "dataset",
    "data.loader([1, 2], batch_size=2, shuffle='no')": "shuffle is True or False",
    "data.loader([1, 2], batch_size=True)": "batch_size is a whole number",
    "data.loader([1, 2], batch_size=2, num_workers=4)": "num_workers",
    "data.read_csv(csv('a\\tb\\n1\\t2\\n')).run_or_raise(Runtime(log=None))": "separator='\\t'",
    "data.read_csv(csv('a;b\\n1;2\\n')).run_or_raise(Runtime(log=None))": "separator=';'",
    "data.read_csv(csv('a,b\\n1,x\\n')).run_or_raise(Runtime(log=None))": "row 2, column b",
    "data.read_csv(csv('a,b\\n1,2\\n'), label='c').run_or_raise(Runtime(log=None))": "'c'",
    "data.read_csv('no such file.csv').run_or_raise(Runtime(log=None))": "no such file.csv",
    "data.mnist('root', 'val')": '"train" or "test"',
    "stream.minibatches(X, Y)": "batch_size",
    "stream.minibatches(X, Y, 4)": "positional",
    "stream.minibatches(X, Y, batch_size=4, shuffle=True)": "shuffle",
    "stream.minibatches(X, Y, batch_size=4, seed=jax.random.key(0))": "seed is a whole number",
    # ---- using a trained model
    "trained(nn.embedding(9, 4) >> nn.fun(lambda x: x.mean(1)) >> nn.linear(3), x=IDS, y=Y[:8]).predict(IDS + 2**32)": "int64",
    "trained().predict(X[:, :3])": "float32[12, 3]",
    "trained().predict(X.astype(np.int32))": "int32",
    "trained().predict('X')": "predict | a str",
    "trained().predict(X, batch_size=0)": "batch_size",
    "evaluated(trained(), stream.minibatches(X[:, :3], Y, batch_size=4))": "[",
    "evaluated(trained(), (X, Y))": "batches | stream.minibatches",
    "evaluated(trained(), stream.minibatches(X, Y + 1, batch_size=4))": "labels from 0 to 2",
    "trained().curve[-1].accuracy": "accuracy",
}

WORKS: dict[str, Any] = {
    "run(on_epoch=print).endswith('trained')": True,
    "run(runtime={'device': 'cpu'}).endswith('trained')": True,
    "run(runtime={'executor': train.Stepwise()}).endswith('trained')": True,
    "run(seed=np.int64(3)) == run(seed=jnp.int32(3)) == run(seed=3)": True,
    "run(epochs=np.int32(1)).endswith('trained')": True,
    "run(initial=trained().params).endswith('trained')": True,
    "run(initial=trained()).endswith('trained')": True,
    "run(initial=trained().state).endswith('trained')": True,
    "run(resume=trained(), epochs=2).endswith('trained')": True,
    "run(resume=trained().state, epochs=2).endswith('trained')": True,
    "run(x=pandas.DataFrame(X), y=pandas.Series(Y)).endswith('trained')": True,
    "run(x=torch.tensor(X), y=torch.tensor(Y)).endswith('trained')": True,
    "run(x=X.tolist(), y=Y.tolist()).endswith('trained')": True,
    "run(optimizer=optim.adamw(np.float64(1e-2))).endswith('trained')": True,
    "run(optimizer=optim.adamw(np.float32(1e-2))).endswith('trained')": True,
    "run(optimizer=optim.adamw(lambda tag: 1e-2)).endswith('trained')": True,
    "run(schedule=lambda step: jnp.where(step < 10, 1.0, 0.1)).endswith('trained')": True,
    "used(nn.self_attention(2), (1, 2, 4), (0, 2, 4))": (0, 2, 4),
    "used(nn.self_attention(2), (1, 2, 4), (3, 0, 4))": (3, 0, 4),
    "used(nn.lstm(3), (1, 2, 4), (0, 2, 4))": (0, 2, 3),
    "used(nn.lstm(3), (1, 2, 4), (1, 0, 4))": (1, 0, 3),
    "used(nn.linear(3), (2, 4), (0, 4))": (0, 3),
    "trained().predict(X[:0]).shape": (0, 3),
    "data.read_csv(csv('a\\tb\\n1\\t2\\n'), separator='\\t').run_or_raise().features.tolist()": [[1.0, 2.0]],
}


NAMES = {**globals(), **OPTIONAL, "data": data, "Effect": Effect, "Success": Success}


def needed(written: str) -> None:
    for name in ("pandas", "torch"):
        if f"{name}." in written and name not in OPTIONAL:
            pytest.skip(f"{name} comes with the extra parity")


def said(written: str) -> str:
    """The output that a user of that line sees."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            value = eval(written, NAMES)
    except (TypeError, ValueError, AttributeError, FaultError) as error:
        return "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert isinstance(value, str), f"{written} says nothing, and gives {value!r}"
    return value


def test_the_list_of_mistakes_is_long() -> None:
    assert len(MISTAKES) + len(WORKS) >= 76


@pytest.mark.parametrize("written", MISTAKES)
def test_the_error_says_what_to_write(written: str) -> None:
    needed(written)
    text = said(written)
    for words in MISTAKES[written].split(" | "):
        assert words in text


@pytest.mark.parametrize("written", WORKS)
def test_code_that_looks_like_a_mistake_works(written: str) -> None:
    needed(written)
    assert eval(written, NAMES) == WORKS[written]
