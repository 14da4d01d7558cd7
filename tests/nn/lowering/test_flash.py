"""cuDNN's attention without a GPU: its numbers by JAX's other form of the same arguments, its calls by lowering."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import jax._src.cudnn.fused_attention_stablehlo as of_jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Decode, Eval, Train, nn
from fnlamp.arrays import exporting, over_devices
from fnlamp.nn.lowering import flash
from fnlamp.nn.lowering.attend import How
from fnlamp.train.execute.lifted import Collected

RNG = np.random.default_rng(0)
LENGTHS = nn.key_lengths(jnp.array([5, 0, 300, 7]))  # of 7 keys: 300 is not possible
MASKS = {
    "all": (None, "NO_MASK", 0),
    "causal": (nn.causal, "CAUSAL", 0),
    "window": (nn.window(2), "CAUSAL", 3),
    "causal window": (nn.causal & nn.window(3), "CAUSAL", 4),
    "lengths": (LENGTHS, "PADDING", 0),
    "causal and lengths": (LENGTHS & nn.causal, "PADDING_CAUSAL", 0),
}


def arrays(*shape, kv_heads=2, dtype=np.float32):
    batch, time, _, features = shape
    shapes = shape, (batch, time, kv_heads, features), (batch, time, kv_heads, features)
    return [jnp.asarray(RNG.standard_normal(each), dtype) for each in shapes]


@pytest.fixture
def on_cpu(monkeypatch):
    """JAX's form without a kernel takes the place of the kernel."""
    monkeypatch.setattr(flash, "IMPLEMENTATION", "xla")


@pytest.fixture
def cuda(monkeypatch):
    """As with a device that has the kernel: JAX asks for the version of cuDNN before it lowers."""
    monkeypatch.setattr(flash, "capability", lambda: (9, 0))
    monkeypatch.setattr(of_jax, "cuda_versions", SimpleNamespace(cudnn_get_version=lambda: 91002))


@pytest.mark.parametrize("mask", [nn.window(2), LENGTHS & nn.causal, None], ids=["window", "causal and lengths", "all"])
def test_numbers_and_first_derivatives_are_those_of_the_other_form(mask, on_cpu):
    given, how = arrays(4, 7, 4, 8), How(0.3)
    dy = jnp.asarray(RNG.standard_normal((4, 7, 4, 8)), jnp.float32)
    along = tuple(arrays(4, 7, 4, 8))

    def found(attend):
        y, pull = jax.vjp(attend, *given)
        return y, pull(dy), jax.jvp(attend, tuple(given), along)[1]

    kernel = jax.jit(lambda: found(lambda *given: flash.attend(*given, mask, how)))()
    other = jax.jit(lambda: found(lambda *given: flash._plain(mask, how, *given)))()
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


@pytest.mark.slow
def test_second_derivatives_and_vmap(on_cpu):
    """In each order, and with lanes whose lengths are all the same, are those of the other form."""
    q, k, v = arrays(4, 7, 4, 8)
    masked = nn.causal & LENGTHS
    lanes, along = jnp.stack([q, 2 * q]), arrays(4, 7, 4, 8)[0]

    def found(attend):
        def total(q, mask=masked):
            return jnp.sum(jnp.sin(attend(q, k, v, mask)))

        ahead = jax.jvp(jax.grad(total), (q,), (along,))[1]
        back = jax.grad(lambda q: jnp.vdot(jax.grad(total)(q), along))(q)
        twice = jax.jvp(lambda q: jax.jvp(total, (q,), (along,))[1], (q,), (along,))[1]
        mapped = jax.vmap(jax.grad(total))(lanes)
        total_of_lanes = jax.grad(lambda lanes: jnp.sum(jax.vmap(total)(lanes)))(lanes)
        last = jax.vmap(total, in_axes=-1)(jnp.moveaxis(lanes, 0, -1))
        return ahead, back, twice, mapped, total_of_lanes, last

    kernel = jax.jit(lambda: found(lambda *given: flash.attend(*given, How(0.3))))()
    other = jax.jit(lambda: found(lambda q, k, v, mask: flash._plain(mask, How(0.3), q, k, v)))()
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def lowered(attend, *given):
    return jax.jit(attend).trace(*given).lower(lowering_platforms=("cuda",)).as_text()


def calls(text):
    return re.findall(r"custom_call @([\w$]+)", text)


SHAPE = 4, 64, 4, 64


@pytest.mark.parametrize(("mask", "kind", "window"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_kernel_has_the_mask(mask, kind, window, dtype, cuda):
    text = lowered(lambda *given: nn.attend(*given, mask, block_size=16), *arrays(*SHAPE, dtype=dtype))
    assert calls(text) == ["__cudnn$fmhaSoftmax"]
    assert re.findall(r"mask_type\\22: \\22(\w+)", text) == [kind]
    assert re.findall(r"sliding_window_length\\22: (\d+)", text) == [str(window)]
    assert "dot_general" not in text


def test_gradients_are_the_kernels(cuda):
    """The forward pass and that of the gradients are the same call, so that XLA makes one of them."""
    given = arrays(*SHAPE, dtype=jnp.bfloat16)
    text = lowered(jax.grad(lambda *given: jnp.sum(nn.attend(*given, nn.causal).astype(jnp.float32) ** 2), (0, 1, 2)), *given)
    assert calls(text) == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    forward = {re.sub(r"%\w+", "", line) for line in text.splitlines() if "fmhaSoftmax(" in line}
    assert len(forward) == 1 and "dot_general" not in text


def test_two_traces_are_one_program_for_sweeps_and_lifted_numbers(cuda):
    def form(factor, mask):
        def total(*given):
            return factor * jnp.sum(nn.attend(*given, mask).astype(jnp.float32))

        made = jax.make_jaxpr(jax.grad(total))(*arrays(*SHAPE, dtype=jnp.bfloat16))
        return Collected().of(made.jaxpr, made.consts)

    assert form(1.5, nn.causal & LENGTHS) == form(2.5, nn.causal & LENGTHS)
    assert form(1.5, nn.causal & LENGTHS) != form(1.5, LENGTHS)


ATTEND = {"mask": nn.causal}
FALLS_BACK = {
    "float32": (SHAPE, {**ATTEND}, {"dtype": jnp.float32}),
    "soft cap": (SHAPE, {**ATTEND, "soft_cap": 20.0}, {}),
    "dropout": (SHAPE, {**ATTEND, "drop_rate": 0.1, "mode": Train(jax.random.key(0))}, {}),
    "features not of 8": ((4, 64, 4, 20), ATTEND, {}),
    "many features": ((4, 64, 4, 136), ATTEND, {}),
    "short": ((4, 63, 4, 64), ATTEND, {}),
    "odd, which JAX refuses": ((4, 65, 4, 64), ATTEND, {}),
    "window ahead": (SHAPE, {"mask": nn.window(3, 1)}, {}),
    "documents": (SHAPE, {"mask": nn.documents(jnp.ones((4, 64), int))}, {}),
    "booleans": (SHAPE, {"mask": nn.mask(jnp.ones((64, 64), bool))}, {}),
    "either": (SHAPE, {"mask": nn.causal | nn.window(3)}, {}),
    "window and lengths": (SHAPE, {"mask": nn.window(3) & LENGTHS}, {}),
    "two lengths": (SHAPE, {"mask": LENGTHS & LENGTHS}, {}),
    "causal and booleans": (SHAPE, {"mask": nn.causal & nn.mask(jnp.ones((64, 64), bool))}, {}),
    "decoding": (SHAPE, {**ATTEND, "mode": Decode(jnp.zeros(4, jnp.int32), jnp.full(4, 64), room=64)}, {}),
}


@pytest.mark.parametrize(("shape", "options", "made"), FALLS_BACK.values(), ids=FALLS_BACK)
def test_what_the_kernel_cannot_is_computed_by_xla(shape, options, made, cuda):
    text = lowered(lambda *given: nn.attend(*given, **options), *arrays(*shape, **{"dtype": jnp.bfloat16, **made}))
    assert not calls(text) and "dot_general" in text


def test_causal_needs_as_many_keys_as_queries_and_values_as_wide_as_keys(cuda):
    q, k, v = arrays(*SHAPE, dtype=jnp.bfloat16)
    for changed in ((jnp.pad(q, ((0, 0), (0, 2), (0, 0), (0, 0))), k, v), (q, k, v[..., :32])):
        assert not calls(lowered(lambda *given: nn.attend(*given, nn.causal), *changed))
    longer = jnp.pad(q, ((0, 0), (0, 2), (0, 0), (0, 0)))
    assert calls(lowered(lambda *given: nn.attend(*given), longer, k, v)) == ["__cudnn$fmhaSoftmax"]


def test_a_device_without_it_has_the_other_form(monkeypatch, cuda):
    given = arrays(*SHAPE, dtype=jnp.bfloat16)

    def attend(*given):
        return nn.attend(*given, nn.causal)

    assert calls(lowered(attend, *given))
    with over_devices(2):
        assert not calls(lowered(lambda *given: attend(*given), *given))
    with exporting():
        assert not calls(lowered(lambda *given: attend(*given), *given))
    for capability, cudnn in (((7, 5), of_jax.cuda_versions), ((9, 0), None)):  # Turing; no cuDNN
        monkeypatch.setattr(flash, "capability", lambda capability=capability: capability)
        monkeypatch.setattr(of_jax, "cuda_versions", cudnn)
        assert not calls(lowered(lambda *given: attend(*given), *given))


def test_a_cpu_has_no_capability():
    assert flash.capability() == (0, 0)
    with jax.default_device("cpu"):
        assert flash.capability() == (0, 0)


def test_rows_that_see_nothing_and_impossible_lengths(on_cpu, monkeypatch):
    """Zeros with zero gradients, and NaN, as on the CPU."""
    monkeypatch.setattr(flash, "capability", lambda: (8, 0))
    q, k, v = arrays(4, 64, 4, 8, dtype=jnp.bfloat16)
    mask = nn.key_lengths(jnp.array([64, 0, 65, -1], jnp.int8))

    @jax.jit
    def found(*given):
        y, pull = jax.vjp(lambda *given: nn.attend(*given, mask), *given)
        return y, pull(jnp.ones_like(y))

    y, gradients = found(q, k, v)
    assert [bool(jnp.isnan(row).all()) for row in y] == [False, False, True, True]
    assert not y[1].any() and jnp.isfinite(y[0]).all()
    assert all(not each[1].any() and jnp.isfinite(each).all() for each in gradients)


def test_eval_of_a_layer_with_dropout_uses_the_kernel(cuda):
    layer = nn.self_attention(2, mask=nn.causal, drop_rate=0.1)
    x = jnp.ones((2, 64, 32), jnp.bfloat16)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), layer.init(jax.random.key(0), x).params)
    assert calls(lowered(lambda x: layer.apply(params, {}, x, Eval())[0], x))
    assert not calls(lowered(lambda x: layer.apply(params, {}, x, Train(jax.random.key(0)))[0], x))
