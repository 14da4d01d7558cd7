"""Normalisation: over the batch, over the features, over groups of channels."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax.lax import rsqrt

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, spec_after, wide
from fnlamp.fault import BatchTooSmall, FaultError
from fnlamp.given import arguments, flag, number, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Eval, Mode, Train
from fnlamp.nn.check import check_features, check_shape
from fnlamp.nn.shape import whole_only
from fnlamp.tag import Role, Tag

INFERRED = "the number of features is inferred"


@arguments("the number of features is inferred: nn.batch_norm(); decay is 1 - torch's momentum")
def batch_norm(decay: float = 0.9, eps: float = 1e-5) -> Layer:
    """Normalise each feature by batch statistics, then scale and shift; `decay` weighs the old moments (1 - torch's momentum).

    `Train` uses the batch's mean and biased variance, and moves the running moments (the variance there is unbiased, as
    torch's); `Eval` uses the running moments and leaves them unchanged.  Features are the last axis, all others are batch.
    Shapes: `(batch, ..., features) -> (batch, ..., features)`.  Params: `scale`, `shift`.  State: `mean`, `variance`.
    Fails: `BatchTooSmall` for a training batch with one value per feature.  Reference: Ioffe & Szegedy 2015, Algorithm 1.

    >>> import jax
    >>> made = batch_norm().init(jax.random.key(0), jax.ShapeDtypeStruct((32, 64), jnp.float32))
    >>> sorted(made.params), sorted(made.state)
    (['scale', 'shift'], ['mean', 'variance'])
    """

    decay = number("batch_norm: decay", decay, "a number from 0 to below 1", lambda d: 0 <= d < 1, INFERRED)
    eps = _eps("batch_norm", eps)

    def init(key: Key, spec: Spec) -> Init:
        del key
        params, tags = _scale_and_shift("batch_norm", spec)
        features, kept = spec.shape[-1:], wide(spec)  # in half precision a moving average stops moving
        state = {"mean": jnp.zeros(features, kept), "variance": jnp.ones(features, kept)}
        return Init(params, state, spec, tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        _check_params(x, params, "batch_norm")
        x_wide = x.astype(wide(x))
        if not isinstance(mode, Train):
            return _affine(x_wide, state["mean"], state["variance"], eps, params).astype(x.dtype), state
        size = math.prod(x.shape[:-1])
        if size < 2:
            raise FaultError(BatchTooSmall("batch_norm", size, where="batch_norm"))
        mean, variance = moments(x_wide, tuple(range(x.ndim - 1)))
        new = {
            "mean": running(state["mean"], mean, decay),
            "variance": running(state["variance"], variance * (size / (size - 1)), decay),
        }
        return _affine(x_wide, mean, variance, eps, params).astype(x.dtype), new

    return Layer(init, apply, "batch_norm")


@arguments("the number of features is inferred: nn.layer_norm()")
def layer_norm(eps: float = 1e-5, *, scale: bool = True, shift: bool = True) -> Layer:
    """Normalise each row over its features (the last axis), then scale and shift.

    The same in both modes, without state.  Shapes: `(batch, ..., features) -> (batch, ..., features)`.
    Params: `scale`, `shift`, each unless switched off.  Reference: Ba, Kiros & Hinton 2016, eq. 4.

    >>> from fnlamp import Eval
    >>> layer_norm(scale=False, shift=False).apply({}, {}, jnp.array([[1.0, 3.0]]), Eval())[0].round(3)
    Array([[-1.,  1.]], dtype=float32)
    """

    eps, scale, shift = _eps("layer_norm", eps), flag("layer_norm: scale", scale), flag("layer_norm: shift", shift)

    def init(key: Key, spec: Spec) -> Init:
        del key
        params, tags = _scale_and_shift("layer_norm", spec, scale, shift)
        return Init(params, {}, spec, tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        _check_params(x, params, "layer_norm")
        x_wide = x.astype(wide(x))
        mean, variance = moments(x_wide, -1)
        return _affine(x_wide, mean[..., None], variance[..., None], eps, params).astype(x.dtype), state

    return Layer(init, apply, "layer_norm")


@arguments("the number of channels is inferred: nn.group_norm(32)")
def group_norm(groups: int, eps: float = 1e-5, *, scale: bool = True, shift: bool = True) -> Layer:
    """Normalise each row over all its positions and the channels of a group, then scale and shift each channel.

    The same in both modes, without state, so any batch size trains alike.  Channels are the last axis.
    Shapes: `(batch, ..., channels) -> (batch, ..., channels)`.  Params: `scale`, `shift`, each unless switched off.
    Fails: `ShapeMismatch` unless `groups` divides the channels, and for groups of one value, which would all become 0.
    Reference: Wu & He 2018, eq. 1 and 7.

    >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
    >>> group_norm(2, scale=False, shift=False).apply({}, {}, x, Eval())[0].round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    groups = whole("group_norm: groups", groups)
    layer = _norm("group_norm", f"group_norm({groups})", eps, scale, shift, lambda x: _grouped(x, groups, "group_norm"))
    return whole_only(layer)


@arguments("the number of channels is inferred: nn.instance_norm()")
def instance_norm(eps: float = 1e-5, *, scale: bool = True, shift: bool = True) -> Layer:
    """Normalise each channel of each row over its positions, then scale and shift: `group_norm` with a group per channel.

    The same in both modes, without state; torch's has neither scale nor shift unless `affine=True`.
    Shapes: `(batch, ..., channels) -> (batch, ..., channels)`.  Params: `scale`, `shift`, each unless switched off.
    Fails: `ShapeMismatch` for rows of a single position.  Reference: Ulyanov, Vedaldi & Lempitsky 2016, eq. 4.

    >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])
    >>> instance_norm(scale=False, shift=False).apply({}, {}, x, Eval())[0].round(3)
    Array([[[-1., -1.],
            [ 1.,  1.]]], dtype=float32)
    """
    layer = _norm("instance_norm", "instance_norm", eps, scale, shift, lambda x: _grouped(x, x.shape[-1], "instance_norm"))
    return whole_only(layer)


@arguments("the number of features is inferred: nn.rms_norm()")
def rms_norm(eps: float = 1e-6, *, scale: bool = True) -> Layer:
    """Divide each row by the root mean square of its features (the last axis), then scale: `x / sqrt(mean(x^2) + eps)`.

    The same in both modes, without state; a row of zeros stays one.  torch's default `eps` is 1.2e-7 in float32.
    Shapes: `(batch, ..., features) -> (batch, ..., features)`.  Params: `scale`, unless switched off.
    Reference: Zhang & Sennrich 2019, eq. 4.

    >>> rms_norm(scale=False).apply({}, {}, jnp.array([[3.0, -3.0], [0.0, 0.0]]), Eval())[0].round(3)
    Array([[ 1., -1.],
           [ 0.,  0.]], dtype=float32)
    """

    def centred(x: Array) -> tuple[Array, Array]:
        return x, jnp.mean(jnp.square(x), -1, keepdims=True)

    return _norm("rms_norm", "rms_norm", eps, scale, False, centred)


def _norm(kind: str, name: str, eps: float, scale: bool, shift: bool, centred: Callable[[Array], tuple[Array, Array]]) -> Layer:
    """A norm of each row: `centred` returns the values without their mean, and their mean square, which broadcasts."""
    eps, scale, shift = _eps(kind, eps), flag(f"{kind}: scale", scale), flag(f"{kind}: shift", shift)

    def init(key: Key, spec: Spec) -> Init:
        del key
        params, tags = _scale_and_shift(kind, spec, scale, shift)
        return Init(params, {}, spec_after(lambda x: apply(params, {}, x, Eval())[0], spec), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        _check_params(x, params, kind)
        values, square = centred(x.astype(wide(x)))
        return _scaled(values * rsqrt(square + eps), params).astype(x.dtype), state

    return Layer(init, apply, name)


def _grouped(x: Array, groups: int, where: str) -> tuple[Array, Array]:
    """The values without the mean of their group, and their mean square in the group, both in the shape of `x`."""
    channels = x.shape[-1]
    check_shape(x, lambda shape: channels % groups == 0, f"channels that {groups} groups divide", where)
    size = math.prod(x.shape[1:-1]) * channels // groups
    check_shape(x, lambda shape: size != 1, "at least two values in a group", where, "a norm of one value is always 0")
    split = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), groups, channels // groups)
    split = split - jnp.mean(split, (1, 3), keepdims=True)
    square = jnp.broadcast_to(jnp.mean(jnp.square(split), (1, 3), keepdims=True), split.shape)
    return split.reshape(x.shape), square.reshape(x.shape)


def _scale_and_shift(layer: str, spec: Spec, scale: bool = True, shift: bool = True) -> tuple[Params, dict[str, Tag]]:
    check_features(spec, layer, least=2)
    shape, dtype = spec.shape[-1:], spec.dtype
    params = ({"scale": jnp.ones(shape, dtype)} if scale else {}) | ({"shift": jnp.zeros(shape, dtype)} if shift else {})
    return params, tag_all(layer, **{name: Role(name) for name in params})


def _eps(name: str, eps: float) -> float:
    return number(f"{name}: eps", eps, "a small number from 0 to below 1", lambda e: 0 <= e < 1, INFERRED)


def moments(x: Array, axes: int | tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes`; the variance from centred values, which does not cancel for large means."""
    mean = jnp.mean(x, axes, keepdims=True)
    return jnp.squeeze(mean, axes), jnp.mean(jnp.square(x - mean), axes)


def running(old: Array, new: Array, decay: float) -> Array:
    """The exponential moving average `decay old + (1 - decay) new`, in the dtype of the old."""
    return decay * old + (1 - decay) * new.astype(old.dtype)


def _affine(x: Array, mean: Array, variance: Array, eps: float, params: Params) -> Array:
    mean, variance = (along_last(moment, x.ndim).astype(x.dtype) for moment in (mean, variance))
    return _scaled((x - mean) * rsqrt(variance + eps), params)


def _scaled(y: Array, params: Params) -> Array:
    y = y * along_last(params["scale"], y.ndim).astype(y.dtype) if "scale" in params else y
    return y + along_last(params["shift"], y.ndim).astype(y.dtype) if "shift" in params else y


def _check_params(x: Array, params: Params, where: str) -> None:
    for features in {param.shape[0] for param in params.values()} or {None}:
        check_features(x, where, features, least=2)
