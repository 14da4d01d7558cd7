"""Convolution on the CPU: every form against XLA's operation in float64, derivatives, and the form chosen."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnlamp.nn.lowering import chosen, convolution, forms, images
from fnlamp.nn.lowering.geometry import Geometry
from fnlamp.nn.lowering.window import Window

RNG = np.random.default_rng(0)
OPERATIONS = ("outputs", "images", "weight")


def native(x: Any, w: Any, g: Geometry) -> jax.Array:
    """The independent form, with XLA's own derivatives."""
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, g.stride, g.sides, (1, 1), g.dilation, order, g.groups)


def arrays(g: Geometry) -> tuple[Any, Any, Any]:
    """Images, a weight, and something like the outputs."""
    x, w, d = (jnp.asarray(RNG.standard_normal(shape)) for shape in (g.images, g.weight, g.outputs))
    return x, w, d


def expected(x: Any, w: Any, d: Any, g: Geometry) -> dict[str, Any]:
    y, pull = jax.vjp(lambda x, w: native(x, w, g), x, w)
    dx, dw = pull(d)
    return {"outputs": y, "images": dx, "weight": dw}


GRID = {
    "plain": Geometry.of((2, 5, 6, 3), (3, 2, 3, 4), Window((3, 2)), 1),
    "padded": Geometry.of((2, 5, 6, 3), (3, 3, 3, 4), Window((3, 3), padding="same"), 1),
    "dilated": Geometry.of((2, 9, 7, 20), (3, 2, 20, 3), Window((3, 2), dilation=(2, 3), padding=((1, 2), (0, 3))), 1),
    "strided": Geometry.of((2, 8, 9, 3), (3, 3, 3, 4), Window((3, 3), (2, 3), padding=1), 1),
    "strided and dilated": Geometry.of((2, 9, 10, 2), (2, 3, 2, 3), Window((2, 3), (3, 2), (2, 1), ((2, 0), (1, 1))), 1),
    "of one pixel": Geometry.of((3, 4, 5, 6), (1, 1, 6, 3), Window((1, 1), (2, 1)), 1),
    "wide padding": Geometry.of((1, 3, 3, 2), (2, 2, 2, 2), Window((2, 2), padding=3), 1),
    "of one row": Geometry.of((2, 1, 6, 18), (1, 3, 18, 4), Window((1, 3), padding=(0, 1)), 1),
    "in groups": Geometry.of((2, 5, 6, 6), (3, 3, 2, 9), Window((3, 3), padding=1), 3),
    "in groups, strided": Geometry.of((2, 7, 6, 4), (3, 2, 2, 6), Window((3, 2), (2, 2), padding=1), 2),
    "in groups of many channels": Geometry.of((1, 4, 4, 40), (2, 2, 20, 2), Window((2, 2)), 2),
    "in groups of few": Geometry.of((2, 4, 3, 36), (2, 2, 2, 54), Window((2, 2), dilation=(2, 1), padding=1), 18),
    "depthwise": Geometry.of((2, 5, 6, 4), (3, 3, 1, 4), Window((3, 3), padding=1), 4),
    "depthwise, strided, two outputs": Geometry.of((2, 7, 6, 3), (3, 2, 1, 6), Window((3, 2), (2, 1), padding=1), 3),
}


def fitting(g: Geometry) -> dict[str, set[str]]:
    """The forms that apply."""
    inside = all(max(sides) < span for sides, span in zip(g.sides, g.window.span, strict=True))
    if g.groups > 1:
        return {operation: {"shifts"} for operation in OPERATIONS} if g.weight[2] == 1 else {}
    found = {operation: {"patches", "native"} for operation in OPERATIONS}
    if g.stride != (1, 1) or not inside:
        found["images"].remove("native")
    return found


@pytest.mark.broad
@pytest.mark.parametrize("name", sorted(GRID, key=lambda name: name != "dilated"))
def test_every_form_equals_xlas_convolution_in_float64(name: str) -> None:
    g = GRID[name]
    with jax.enable_x64(True):
        x, w, d = arrays(g)
        given = {"outputs": (x, w), "images": (d, w), "weight": (x, d)}
        cases = {(operation, form) for operation, names in fitting(g).items() for form in names}

        def all_of_them() -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
            made = {(what, how): getattr(forms, f"{what}_by_{how}")(*given[what], g) for what, how in cases}
            made |= {(what, "the one chosen"): getattr(chosen, what)(*given[what], g) for what in OPERATIONS}
            return expected(x, w, d, g), made

        wanted, made = jax.jit(all_of_them)()
        for (operation, form), ours in made.items():
            np.testing.assert_allclose(ours, wanted[operation], rtol=1e-12, atol=1e-12, err_msg=f"{operation} by {form}")


def test_no_form_promotes_dtypes_or_ranks() -> None:
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for g in GRID.values():
            for dtype in (jnp.float32, jnp.bfloat16):
                x, w, d = (jax.ShapeDtypeStruct(shape, dtype) for shape in (g.images, g.weight, g.outputs))
                for operation, given in (("outputs", (x, w)), ("images", (d, w)), ("weight", (x, d))):
                    made = jax.eval_shape(partial(getattr(chosen, operation), g=g), *given)
                    assert (made.shape, made.dtype) == (getattr(g, operation), dtype)


def test_the_form_chosen_applies() -> None:
    for g in GRID.values():
        for operation, names in fitting(g).items():
            for dtype in ("float32", "float64", "bfloat16"):
                assert getattr(chosen, f"for_{operation}")(g, dtype) in names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dilated", "strided", "in groups", "depthwise"])
def test_derivatives_of_any_order_forward_and_in_reverse(name: str) -> None:
    g = GRID[name]

    def derivatives(convolve: Any, x: Any, w: Any, u: Any, v: Any) -> list[Any]:
        """Of a function that is not linear in either: forward, in reverse, and one over the other in each order."""

        def objective(x: Any, w: Any) -> Any:
            return jnp.sum(jnp.sin(convolve(x, w, g)))

        def slope(x: Any, w: Any) -> Any:
            return jax.jvp(objective, (x, w), (u, v))[1]

        forward_over_reverse = jax.jvp(jax.grad(objective, (0, 1)), (x, w), (u, v))
        third = jax.grad(lambda x, w: jax.jvp(slope, (x, w), (u, v))[1], (0, 1))
        return jax.tree.leaves((slope(x, w), jax.grad(slope, (0, 1))(x, w), forward_over_reverse, third(x, w)))

    with jax.enable_x64(True):
        (x, w, _), (u, v, _) = arrays(g), arrays(g)
        both = [jax.jit(derivatives, static_argnums=0)(convolve, x, w, u, v) for convolve in (convolution.outputs, native)]
        for ours, theirs in zip(*both, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_whole_matrix_of_second_derivatives() -> None:
    g = Geometry.of((1, 3, 3, 2), (2, 2, 2, 1), Window((2, 2)), 1)
    x, w, _ = arrays(g)
    both = [
        jax.jit(jax.hessian(lambda w, f=f: jnp.sum(f(x, w, g) ** 3)))(w)  # forward over reverse: both are mapped
        for f in (convolution.outputs, native)
    ]
    np.testing.assert_allclose(*both, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 3)])
def test_mapped_over_images_and_weights(axes: tuple[Any, Any]) -> None:
    g = GRID["padded"]
    x, w, d = arrays(g)
    stacked = [a if axis is None else jnp.stack([a, 2 * a, a - 1], axis) for a, axis in zip((x, w), axes, strict=True)]

    def pulled(convolve: Any) -> Any:
        return jax.jit(jax.vmap(lambda x, w: jax.vjp(lambda x, w: convolve(x, w, g), x, w)[1](d), axes))(*stacked)

    for ours, theirs in zip(pulled(convolution.outputs), pulled(native), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_a_loop_all_convolutions_are_in_xlas_own_order() -> None:
    """In any other order, they are a naive loop there."""
    g = Geometry.of((17, 8, 8, 18), (3, 3, 18, 20), Window((3, 3), padding=1), 1)
    x, w, _ = (a.astype(jnp.float32) for a in arrays(g))

    def step(_: int, w: Any) -> Any:
        y, pull = jax.vjp(lambda x, w: convolution.outputs(x, w, g), x, w)
        dx, dw = pull(y)
        return w - dw * dx.sum()

    text = jax.jit(lambda w: lax.fori_loop(0, 3, step, w)).lower(w).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) == 3
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line and "batch_group_count = 1" in line for line in lines)
    assert all("lhs_dilate = [2, 1]" in line for line in lines)  # the kernel is XLA's own


def test_the_forms_of_networks() -> None:
    """Those that were measured: `examples/benchmarks/layers.py` has the times."""

    def names(*shape: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[str]:
        window = Window((kernel, kernel), (stride, stride), padding=kernel // 2)
        g = Geometry.of(shape, (kernel, kernel, shape[3] // groups, out), window, groups)
        return [getattr(chosen, f"for_{operation}")(g, "float32") for operation in OPERATIONS]

    assert names(64, 32, 32, 3, out=64) == ["native", "patches", "native"]
    assert names(64, 32, 32, 64, out=64) == ["native", "native", "native"]
    assert names(64, 16, 16, 128, out=128) == ["native", "native", "native"]
    assert names(64, 16, 16, 128, out=256, stride=2) == ["native", "patches", "native"]
    assert names(32, 56, 56, 64, out=64, kernel=1) == ["native", "patches", "patches"]
    assert names(32, 32, 32, 64, out=64, groups=64) == ["shifts", "shifts", "shifts"]


@pytest.mark.parametrize("name", ["padded", "dilated", "strided", "in groups"])
def test_the_work_is_that_of_xlas_convolution(name: str) -> None:
    from fnlamp.train.explain.work import work_of

    g = GRID[name]
    x, w, d = arrays(g)
    for ours, theirs in (
        (lambda x, w: convolution.outputs(x, w, g), lambda x, w: native(x, w, g)),
        (lambda x, w: convolution.images(d, w, g), lambda x, w: native(x, w, g)),
    ):
        assert work_of(jax.make_jaxpr(ours)(x, w)) == work_of(jax.make_jaxpr(theirs)(x, w))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_images_in_shards_and_a_weight_that_all_devices_have(kind: Any) -> None:
    """The weight's gradient is summed over the devices: here one, whose program is that of any number."""
    part, whole = jax.P("data"), jax.P()
    x, w, _ = (a.astype(jnp.float32) for a in arrays(GRID["padded"]))

    def gradients(x: Any, w: Any) -> Any:
        def objective(x: Any, w: Any) -> Any:
            window = Window((3, 3), padding="same")
            return lax.psum(jnp.sum(jnp.sin(images.convolve(x, w, None, window))), "data")

        return jax.grad(objective, (0, 1))(x, w)

    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        x, w = (jax.device_put(a, jax.NamedSharding(mesh, spec)) for a, spec in ((x, part), (w, whole)))
        dx, dw = jax.jit(jax.shard_map(gradients, in_specs=(part, whole), out_specs=(part, whole)))(x, w)
    wanted = jax.grad(lambda x, w: jnp.sum(jnp.sin(native(x, w, GRID["padded"]))), (0, 1))(np.asarray(x), np.asarray(w))
    np.testing.assert_allclose(dx, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dw, wanted[1], rtol=1e-4, atol=1e-5)
