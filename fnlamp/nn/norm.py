"""Normalisation: batch norm over the batch, layer norm over the features."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.lax import rsqrt

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, wide
from fnlamp.fault import BatchTooSmall, FaultError
from fnlamp.given import arguments, flag, number
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode, Train
from fnlamp.nn.check import check_features
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
    y = (x - mean) * rsqrt(variance + eps)
    y = y * along_last(params["scale"], x.ndim).astype(x.dtype) if "scale" in params else y
    return y + along_last(params["shift"], x.ndim).astype(x.dtype) if "shift" in params else y


def _check_params(x: Array, params: Params, where: str) -> None:
    for features in {param.shape[0] for param in params.values()} or {None}:
        check_features(x, where, features, least=2)
