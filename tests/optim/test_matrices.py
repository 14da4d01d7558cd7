"""Rules on matrices: the axes and blocks that tags say, the orthogonalization of Muon, true inverse roots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Matrix, Role, Tag, nn, optim, tree
from fnlamp.arrays import array_spec
from fnlamp.optim.matrices import first_by_rest, from_matrices, to_matrices
from fnlamp.optim.muon import CONVERGENT, JORDAN, orthogonalized
from fnlamp.optim.shampoo import inverse_root

RNG = np.random.default_rng(5)
RULES = {
    "muon": lambda: optim.muon(0.1),
    "shampoo": lambda: optim.shampoo(0.1, momentum=0.5, every=2),
    "soap": lambda: optim.soap(0.1, every=2),
}


def steps(optimizer, tags, params, grads):
    state = optimizer.init(params, tags)
    step = jax.jit(lambda g, params, state: optimizer.advance(g, state, params, tags))
    for g in grads:
        params, state = step(g, params, state)
    return params


def weight(matrix):
    return Tag("own", Role.WEIGHT, matrix=matrix)


def test_blocks_are_side_by_side_along_the_outputs():
    qkv = RNG.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(to_matrices(qkv, Matrix(blocks=3)), [qkv[:, :2], qkv[:, 2:4], qkv[:, 4:]])


@pytest.mark.broad
@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((4, 6), Matrix()),
        ((4, 6), Matrix((1,), (0,))),
        ((4, 6), Matrix(blocks=3)),
        ((3, 2, 4, 6), Matrix((0, 1, 2), (3,), 2)),
        ((4, 3, 2), Matrix((2, 0), (1,))),
        ((5,), first_by_rest((5,))),
        ((), first_by_rest(())),
        ((2, 3, 4), first_by_rest((2, 3, 4))),
    ],
)
def test_matrices_and_back(shape, matrix):
    x = np.asarray(RNG.standard_normal(shape), np.float32)
    y = to_matrices(x, matrix)
    inputs = int(np.prod([shape[axis] for axis in matrix.inputs]))
    assert y.shape == (matrix.blocks, inputs, x.size // inputs // matrix.blocks)
    np.testing.assert_array_equal(from_matrices(y, matrix, shape), x)


def test_the_matrix_of_a_kernel_is_that_of_its_patches():
    """A convolution whose patches do not overlap is the product of its patches and `to_matrices` of its kernel, per group."""
    made = nn.conv2d(6, 2, stride=2, groups=2, bias=False).init(jax.random.key(0), array_spec((1, 4, 6, 4), jnp.float32))
    x = RNG.standard_normal((1, 4, 6, 4)).astype(np.float32)
    layer = nn.conv2d(6, 2, stride=2, groups=2, bias=False)
    y, _ = layer.apply(made.params, {}, jnp.asarray(x), None)
    kernels = to_matrices(made.params["weight"], made.tags["weight"].matrix)
    for i in range(2):
        for j in range(3):
            patch = x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            parts = [patch[..., 2 * g : 2 * g + 2].reshape(-1) @ np.asarray(kernels[g]) for g in range(2)]
            np.testing.assert_allclose(y[0, i, j], np.concatenate(parts), atol=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("rule", RULES)
def test_three_blocks_are_updated_as_three_weights(rule):
    whole, grads = RNG.standard_normal((4, 6)).astype(np.float32), RNG.standard_normal((5, 4, 6)).astype(np.float32)
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    together = steps(RULES[rule](), {"w": weight(Matrix(blocks=3))}, {"w": jnp.asarray(whole)}, [{"w": g} for g in grads])
    names = dict(zip("qkv", parts, strict=True))
    alone = steps(
        RULES[rule](),
        {name: weight(Matrix()) for name in names},
        {name: jnp.asarray(whole[:, part]) for name, part in names.items()},
        [{name: g[:, part] for name, part in names.items()} for g in grads],
    )
    np.testing.assert_allclose(together["w"], np.concatenate([alone[n] for n in names], 1), atol=2e-6)


@pytest.mark.broad
@pytest.mark.parametrize("rule", RULES)
def test_a_weight_with_outputs_first_is_updated_as_its_transpose(rule):
    w, grads = RNG.standard_normal((4, 6)).astype(np.float32), RNG.standard_normal((5, 4, 6)).astype(np.float32)
    plain = steps(RULES[rule](), {"w": weight(Matrix())}, {"w": jnp.asarray(w)}, [{"w": g} for g in grads])
    turned = steps(RULES[rule](), {"w": weight(Matrix((1,), (0,)))}, {"w": jnp.asarray(w.T)}, [{"w": g.T} for g in grads])
    np.testing.assert_allclose(turned["w"].T, plain["w"], atol=2e-6)


@pytest.mark.broad
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (1, 4), (7, 1)])
def test_newton_schulz_that_converges_is_u_v_of_the_svd(shape):
    with jax.enable_x64(True):
        x = RNG.standard_normal((3, *shape))
        u, _, v = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(orthogonalized(jnp.asarray(x), CONVERGENT, 30), u @ v, atol=1e-10)
    np.testing.assert_allclose(orthogonalized(jnp.asarray(x, jnp.float32), CONVERGENT, 30), u @ v, atol=1e-5)


def test_newton_schulz_of_five_steps_keeps_the_directions_of_the_svd():
    """With the published coefficients all but tiny singular values are about 0.7 to 1.2."""
    x = RNG.standard_normal((4, 16, 24)).astype(np.float32)
    u, _, v = np.linalg.svd(x, full_matrices=False)
    inside = u.mT @ np.asarray(orthogonalized(jnp.asarray(x), JORDAN, 5)) @ v.mT
    values = np.diagonal(inside, axis1=1, axis2=2)
    np.testing.assert_allclose(inside - values[..., None] * np.eye(16), 0, atol=1e-5)
    assert (values > 0.65).all()
    assert (values < 1.25).all()


@pytest.mark.broad
@pytest.mark.parametrize("size", [1e-35, 1e-20, 1e-8, 1.0, 1e20, 1e37])
def test_newton_schulz_does_not_depend_on_the_size(size):
    x = RNG.uniform(-1, 1, (1, 4, 6)).astype(np.float32)
    expected = orthogonalized(jnp.asarray(x), CONVERGENT, 20)
    np.testing.assert_allclose(orthogonalized(jnp.asarray(x * np.float32(size)), CONVERGENT, 20), expected, atol=1e-5)
    assert (orthogonalized(jnp.zeros((1, 2, 3)), JORDAN, 5) == 0).all()


def test_a_compiled_iteration_is_as_exact_as_an_eager_one():
    # Fused with the expression that makes its argument, an unrolled iteration doubled its rounding errors with each step.
    g = RNG.standard_normal((1, 4, 9)).astype(np.float32)
    made = jax.jit(lambda x: orthogonalized(0.95 * (0.05 * x) + 0.05 * x, CONVERGENT, 30))(g)
    np.testing.assert_allclose(np.linalg.svd(made[0])[1], 1.0, rtol=1e-5)


@pytest.mark.slow
def test_update_scales():
    """sqrt(max(1, out / in)) of Jordan et al., 0.2 sqrt(max(in, out)) of Liu et al., for 4 inputs and 9 outputs and turned."""
    g = RNG.standard_normal((4, 9)).astype(np.float32)
    for scale, wide, tall in ((optim.UpdateScale.BY_SHAPE, 1.5, 1.0), (optim.UpdateScale.AS_ADAMW, 0.6, 0.6)):
        for x, factor in ((g, wide), (g.T, tall)):
            optimizer = optim.muon(1.0, scale=scale, coefficients=CONVERGENT, steps=30)
            new = steps(optimizer, {"w": weight(Matrix())}, {"w": jnp.zeros(x.shape)}, [{"w": x}])["w"]
            np.testing.assert_allclose(np.linalg.svd(new)[1], factor, rtol=1e-5)


@pytest.mark.parametrize("tag", [None, Tag("linear", Role.BIAS, ("out",)), Tag("conv2d", Role.WEIGHT, ("0",))])
def test_muon_refuses_what_is_not_a_matrix(tag):
    with pytest.raises(ValueError, match=r"muon is for matrices, and .* of shape \[2, 2\] is not one; .*optim.by_tag"):
        optim.muon().init({"x": jnp.ones((2, 2))}, {"x": tag})


def test_inverse_roots_are_true_ones():
    """The fourth power of the root, times the moment, is the identity."""
    g = RNG.standard_normal((1, 6, 9))
    with jax.enable_x64(True):
        moment = jnp.asarray(g @ g.mT + 1e-4 * np.eye(6))
        root = inverse_root(moment, 1e-4)
        np.testing.assert_allclose(root @ root @ root @ root @ moment, np.eye(6)[None], atol=1e-9)


def test_one_step_of_shampoo_by_hand():
    """lamp's parameters (1, 1) and gradients (.5, .75); its own second figure, .2101, is of a wrong root."""
    params = steps(optim.shampoo(0.1), {"w": None}, {"w": jnp.ones(2)}, [{"w": jnp.array([0.5, 0.75])}])
    np.testing.assert_allclose(params["w"], [0.9445, 0.9168], atol=5e-5)


def test_the_slots_of_long_sides_are_diagonal_or_left_out():
    params, tags = {"w": jnp.zeros((3, 5))}, {"w": weight(Matrix())}
    state = optim.shampoo(largest=4).init(params, tags)
    assert {n: s.shape for n, s in tree.paths(state).items() if "root" in n} == {
        "left_root/w": (1, 3, 3),
        "right_root/w": (1, 5),
    }
    paths = tree.paths(optim.soap(largest=4).init(params, tags))
    assert sorted(paths) == ["left/w/basis", "left/w/moment", "m/w", "step", "v/w"]


def test_the_bases_of_soap_stay_orthonormal():
    optimizer, tags = optim.soap(0.01, every=2), {"w": weight(Matrix())}
    params = {"w": jnp.zeros((4, 7))}
    state = optimizer.init(params, tags)
    step = jax.jit(lambda g, params, state: optimizer.advance({"w": g}, state, params, tags))
    for _ in range(30):
        params, state = step(jnp.asarray(RNG.standard_normal((4, 7)), jnp.float32), params, state)
    for side, n in (("left", 4), ("right", 7)):
        basis = state[side]["w"]["basis"][0]
        np.testing.assert_allclose(basis @ basis.T, np.eye(n), atol=1e-5)
