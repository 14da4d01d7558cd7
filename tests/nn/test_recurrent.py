"""Recurrent layers: numbers, lengths, carried state, cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Init, Layer, loss, nn, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.mode import Eval, Train
from fnlamp.tag import Matrix, Role, Tag

KEY = jax.random.key(0)
TRAIN = Train(KEY)


def made(shape: tuple[int, ...] = (3, 5, 4), hidden: int = 6, **options: object) -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters with a bias that is nowhere 0, and an input."""
    layer = nn.lstm(hidden, bias_init=jax.nn.initializers.normal(1), **options)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    return layer.init(KEY, array_spec(shape, jnp.float32)).params, jnp.asarray(x)


def by_hand(params: dict[str, jax.Array], x: jax.Array) -> np.ndarray:
    """The equations of the docstring, one time step after the other, in float64."""
    w, r = (np.asarray(params[name], np.float64) for name in ("input_weight", "recurrent_weight"))
    b = np.asarray(params["bias"], np.float64) if "bias" in params else 0
    h = c = np.zeros((x.shape[0], r.shape[0]))
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(np.asarray(x[:, t], np.float64) @ w + h @ r + b, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_numbers(bias: bool) -> None:
    params, x = made(bias=bias)
    y, state = nn.lstm(6, bias=bias).apply(params, {}, x, Eval())
    np.testing.assert_allclose(y, by_hand(params, x), atol=1e-6)
    assert state == {}


def test_params_tags_and_initial_values() -> None:
    init = nn.lstm(6).init(KEY, array_spec((3, 5, 4), jnp.float32))
    shapes = {name: leaf.shape for name, leaf in init.params.items()}
    assert shapes == {"input_weight": (4, 24), "recurrent_weight": (6, 24), "bias": (24,)}
    roles = {"input_weight": Role.WEIGHT, "recurrent_weight": Role.WEIGHT, "bias": Role.BIAS}
    assert init.tags == {
        name: Tag("lstm", role, matrix=Matrix(blocks=4) if role is Role.WEIGHT else None) for name, role in roles.items()
    }
    assert init.spec.shape == (3, 5, 6)
    np.testing.assert_array_equal(init.params["bias"].reshape(4, 6)[:, 0], [0, 1, 0, 0])
    recurrent = init.params["recurrent_weight"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
    assert sorted(nn.lstm(6, bias=False).init(KEY, array_spec((3, 5, 4), jnp.float32)).params) == [
        "input_weight",
        "recurrent_weight",
    ]


def test_a_later_input_does_not_change_earlier_outputs() -> None:
    params, x = made()
    first, second = (nn.lstm(6).apply(params, {}, at, Eval())[0] for at in (x, x.at[:, 3].add(1.0)))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert np.all(first[:, 3:] != second[:, 3:])


def test_every_batch_starts_from_zeros() -> None:
    params, x = made()
    together, alone = (nn.lstm(6).apply(params, {}, at, Eval())[0] for at in (x, x[1:2]))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (5, 1, 2)])
def test_sizes_of_one(shape: tuple[int, ...]) -> None:
    params, x = made(shape, 2)
    np.testing.assert_allclose(nn.lstm(2).apply(params, {}, x, Eval())[0], by_hand(params, x), atol=1e-6)


@pytest.mark.slow
def test_half_precision_flows_through_and_its_gradients_have_it() -> None:
    params, x = made(hidden=8)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    apply = jax.jit(lambda p: nn.lstm(8).apply(p, {}, x, Eval())[0])
    y = apply(half)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), by_hand(params, x), atol=0.03)
    grads, wide = (jax.jit(jax.grad(lambda p: apply(p).astype(jnp.float32).sum()))(p) for p in (half, params))
    for name, leaf in grads.items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(leaf.astype(jnp.float32), wide[name], atol=0.05 * float(jnp.abs(wide[name]).max()))
    spec = nn.lstm(8).init(KEY, array_spec((3, 5, 4), jnp.bfloat16))
    assert {spec.spec.dtype, *(leaf.dtype for leaf in spec.params.values())} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("x", [jnp.ones((3, 4)), jnp.ones((3, 5, 3)), jnp.ones((3, 5, 4, 1))])
def test_another_shape_is_a_fault(x: object) -> None:
    with pytest.raises(FaultError) as caught:
        nn.lstm(6).apply(made()[0], {}, x, Eval())
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "an array of shape (batch, time, 4)"


def test_integers_are_a_fault() -> None:
    for call in (
        lambda: nn.lstm(6).init(KEY, array_spec((3, 5, 4), jnp.int32)),
        lambda: nn.lstm(6).apply(made()[0], {}, jnp.ones((3, 5, 4), int), Eval()),
    ):
        with pytest.raises(FaultError, match="embed tokens first") as caught:
            call()
        assert isinstance(caught.value.fault, DtypeMismatch)


def test_at_least_one_hidden_feature() -> None:
    with pytest.raises(ValueError, match="at least one hidden feature, got 0"):
        nn.lstm(0)


# ------------------------------------------------------------------------------- lengths


KINDS = {"rnn": nn.rnn, "gru": nn.gru, "lstm": nn.lstm, "both": lambda n: nn.bidirectional(nn.lstm(n))}
each_kind = pytest.mark.parametrize(
    "make", [pytest.param(make, marks=[] if make is nn.gru else pytest.mark.slow) for make in KINDS.values()], ids=KINDS
)
LENGTHS = jnp.array([3, 0, 5])


@each_kind
def test_padding_is_not_read_and_a_row_is_as_it_would_be_alone(make) -> None:
    layer, x = make(4), made()[1]
    params = layer.init(KEY, array_spec(x.shape, x.dtype)).params
    padding = jnp.arange(5)[None, :, None] >= LENGTHS[:, None, None]

    @jax.jit
    def total(params, x):
        y = layer.apply(params, {}, (x, LENGTHS), Eval())[0][0]
        return jnp.sum(jnp.sin(y)), y

    (_, y), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(params, jnp.where(padding, jnp.nan, x))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    np.testing.assert_array_equal(grads[1] * padding, 0)
    np.testing.assert_array_equal(y * padding, 0)
    alone = layer.apply(params, {}, x[:1, :3], Eval())[0]
    np.testing.assert_allclose(y[:1, :3], alone, atol=1e-6)


@pytest.mark.broad
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("layer", [nn.gru(4), nn.bidirectional(nn.gru(2)), nn.last_step], ids=str)
def test_a_length_that_is_not_possible_is_nan(layer: Layer, dtype: type) -> None:
    params, x = layer.init(KEY, array_spec((3, 5, 4), jnp.float32)).params, made()[1]
    y = layer.apply(params, {}, (x, np.array([6, 5, 100 if dtype is np.uint8 else -1], dtype)), Eval())[0]
    y = y if layer is nn.last_step else y[0]
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
    assert np.isnan(y[2]).all()


def test_the_last_step() -> None:
    x = jnp.arange(12.0).reshape(3, 4, 1) + 1
    assert nn.last_step.apply({}, {}, x, Eval())[0].ravel().tolist() == [4, 8, 12]
    assert nn.last_step.apply({}, {}, (x, jnp.array([1, 0, 4])), Eval())[0].ravel().tolist() == [1, 0, 12]
    with pytest.raises(FaultError, match="at least one time step"):
        nn.last_step.apply({}, {}, x[:, :0], Eval())


@each_kind
def test_no_time_steps_and_no_rows(make) -> None:
    layer = make(4)
    params = layer.init(KEY, array_spec((3, 5, 4), jnp.float32)).params
    width = 8 if make is KINDS["both"] else 4
    for shape in ((3, 0, 4), (0, 5, 4)):
        assert layer.apply(params, {}, jnp.ones(shape), Eval())[0].shape == (*shape[:2], width)
        y, lengths = layer.apply(params, {}, (jnp.ones(shape), jnp.zeros(shape[0], int)), Eval())[0]
        assert (y.shape, lengths.shape) == ((*shape[:2], width), shape[:1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((jnp.ones((3, 5, 4)), jnp.ones(3)), "integer lengths"),
        ((jnp.ones((3, 5, 4)), jnp.ones(2, int)), "lengths of shape (3,)"),
        ((jnp.ones((3, 5, 4)),), "x or (x, lengths)"),
        ((jnp.ones((3, 5, 4)), jnp.ones(3, bool)), "integer lengths"),
    ],
)
def test_lengths_of_another_kind_are_a_fault(given: object, expected: str) -> None:
    for layer in (nn.gru(4), nn.bidirectional(nn.gru(4))):
        params = layer.init(KEY, array_spec((3, 5, 4), jnp.float32)).params
        with pytest.raises(FaultError) as caught:
            layer.apply(params, {}, given, Eval())
        assert expected in caught.value.fault.expected or expected == "x or (x, lengths)"


# ------------------------------------------------------------------------------- carried state


@pytest.mark.parametrize("make", [nn.lstm, pytest.param(nn.gru, marks=pytest.mark.slow)], ids=["lstm", "gru"])
def test_pieces_of_a_sequence_are_as_the_whole_one(make) -> None:
    layer, x = make(6, carried=True), made((3, 8, 4))[1]
    piece = (array_spec((3, 4, 4), jnp.float32), array_spec((3,), bool))
    init = layer.init(KEY, piece)
    step, new, old = jax.jit(layer.apply), jnp.ones(3, bool), jnp.zeros(3, bool)
    first, state = step(init.params, init.state, (x[:, :4], new), TRAIN)
    second, state = step(init.params, state, (x[:, 4:], old), TRAIN)
    whole = make(6).apply(init.params, {}, x, Eval())[0]
    np.testing.assert_allclose(jnp.concatenate([first[0], second[0]], 1), whole, atol=1e-6)
    again, _ = step(init.params, state, (x[:, :4], new), TRAIN)  # the next epoch begins from zeros
    np.testing.assert_allclose(again[0], first[0], atol=1e-6)
    mixed, _ = step(init.params, state, (x[:, :4], jnp.array([True, False, True])), TRAIN)
    np.testing.assert_allclose(mixed[0][::2], first[0][::2], atol=1e-6)
    assert not np.allclose(mixed[0][1], first[0][1])
    y, after = layer.apply(init.params, state, (x[:, :4], old), Eval())
    np.testing.assert_allclose(y[0], first[0], atol=1e-6)
    assert after is state


def test_a_row_of_length_zero_keeps_its_carry() -> None:
    layer, x = nn.lstm(6, carried=True), made((3, 5, 4))[1]
    spec = (array_spec((3, 5, 4), jnp.float32), array_spec((3,), jnp.int32), array_spec((3,), bool))
    init = layer.init(KEY, spec)
    state = {"carry": {"h": jnp.ones((3, 6)), "c": jnp.full((3, 6), 2.0)}}
    _, after = layer.apply(init.params, state, (x, jnp.array([0, 2, 0]), jnp.array([False, False, True])), TRAIN)
    np.testing.assert_array_equal(after["carry"]["h"][0], 1)
    np.testing.assert_array_equal(after["carry"]["c"][0], 2)
    np.testing.assert_array_equal(after["carry"]["h"][2], 0)
    _, two = nn.unroll(nn.lstm_cell(6), init.params, x[1:2, :2], jax.tree.map(lambda a: a[1:2], state["carry"]))
    np.testing.assert_allclose(after["carry"]["c"][1:2], two["c"], atol=1e-6)


@pytest.mark.slow
def test_no_gradient_flows_into_the_carried_state() -> None:
    layer, x = nn.gru(3, carried=True), made((3, 5, 4))[1]
    init = layer.init(KEY, (array_spec((3, 5, 4), jnp.float32), array_spec((3,), bool)))

    def second_loss(params, scale):
        _, state = layer.apply(init.params, init.state, (x * scale, jnp.ones(3, bool)), TRAIN)
        return jnp.sum(layer.apply(params, state, (x, jnp.zeros(3, bool)), TRAIN)[0][0])

    assert jax.grad(second_loss, 1)(init.params, 1.0) == 0


def test_what_a_carried_layer_is_given() -> None:
    layer, x = nn.lstm(6, carried=True), made()[1]
    init = layer.init(KEY, (array_spec((3, 5, 4), jnp.float32), array_spec((3,), bool)))
    for given, hint in (
        (x, "starts is a boolean for each row"),
        ((x, jnp.zeros(3, int)), "starts that are booleans"),
        ((x[:2], jnp.zeros(2, bool)), "drop_last=True"),
    ):
        with pytest.raises(FaultError, match=hint):
            layer.apply(init.params, init.state, given, TRAIN)
    with pytest.raises(FaultError, match="integer lengths"):
        nn.bidirectional(layer).init(KEY, (array_spec((3, 5, 4), jnp.float32), array_spec((3,), bool)))


@pytest.mark.slow
def test_training_carries_its_state_through_a_stream_and_resumes_with_it() -> None:
    """The target is the first input of the sequence, which only the first of three pieces has."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (4, 6, 1)).astype(np.float32)
    y = np.repeat(x[:, :1, 0], 6, 1)

    def piece(number: int):
        at = slice(2 * number, 2 * number + 2)
        return (x[:, at], np.full(4, number == 0)), y[:, at]

    model = train.supervised(
        nn.lstm(8, carried=True) >> nn.fun(lambda parts: parts[0]) >> nn.linear(1) >> nn.fun(lambda y: y[..., 0]), loss.mse()
    )

    def program(epochs: int, **more: object):
        batches = stream.from_function(3, piece)
        return train.epochs(
            model=model, optimizer=optim.adamw(0.03), train_batches=lambda context: batches, epochs=epochs, **more
        ).run_or_raise(Runtime(log=None))

    trained = program(60)
    assert trained.curve[-1].train_loss < 0.05  # without the carry, it is at least 2/3
    half = program(30)
    resumed = program(60, resume=half.state)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, trained.params)


# ------------------------------------------------------------------------------- cells of one's own


def test_a_cell_with_a_carry_of_its_own() -> None:
    """A running mean with a learned decay, and a count of the time steps."""

    def init(key, spec):
        return Init({"decay": jnp.full(spec.shape[-1:], 0.5)}, {}, spec, {"decay": Tag("mean", Role.SCALE)})

    def start(params, spec):
        return jnp.zeros(spec.shape), jnp.zeros(spec.shape[:1], jnp.int32)

    def step(params, carry, x):
        mean, count = carry
        mean = params["decay"][None] * mean + (1 - params["decay"][None]) * x
        return (mean, count + 1), mean

    cell, x = nn.Cell(init, start, step, name="mean"), made()[1]
    _, (mean, count) = nn.unroll(cell, {"decay": jnp.full(4, 0.5)}, x, lengths=LENGTHS)
    assert count.tolist() == LENGTHS.tolist()
    expected, rows = np.zeros((3, 4)), np.asarray(x, np.float64)
    for t in range(5):
        expected = np.where(t < np.asarray(LENGTHS)[:, None], 0.5 * expected + 0.5 * rows[:, t], expected)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    layer = nn.recurrent(cell, carried=True)
    made_ = layer.init(KEY, (array_spec((3, 5, 4), jnp.float32), array_spec((3,), bool)))
    _, state = layer.apply(made_.params, made_.state, (x, jnp.zeros(3, bool)), TRAIN)
    assert state["carry"][1].tolist() == [5, 5, 5]
    assert repr(layer) == "mean(carried)"


@pytest.mark.slow
@pytest.mark.parametrize("make", [nn.rnn, nn.gru], ids=["rnn", "gru"])
def test_half_precision_of_other_cells(make) -> None:
    x = made((3, 5, 4))[1]
    init = make(8).init(KEY, array_spec(x.shape, jnp.bfloat16))
    y, _ = make(8).apply(init.params, {}, x.astype(jnp.bfloat16), Eval())
    wide = make(8).apply(jax.tree.map(lambda p: p.astype(jnp.float32), init.params), {}, x, Eval())[0]
    assert {y.dtype, init.spec.dtype, *(leaf.dtype for leaf in init.params.values())} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(y.astype(jnp.float32), wide, atol=0.05)


def test_a_cell_that_is_not_one_and_a_layer_that_changes_time() -> None:
    with pytest.raises(TypeError, match="recurrent: cell is a cell, such as"):
        nn.recurrent(nn.lstm(3))
    with pytest.raises(FaultError, match="outputs of 3 rows and 5 time steps"):
        nn.bidirectional(nn.gru(2) >> nn.last_step).init(KEY, array_spec((3, 5, 4), jnp.float32))
