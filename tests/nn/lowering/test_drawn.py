"""The masks of dropout: their statistics against those of independent draws, and what they are functions of."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from fnlamp import Train, nn
from fnlamp.nn.lowering.drawn import kept

KEY = jax.random.key(0)
MANY = 2**20


def draws(key, path, rate, size=MANY):
    return np.asarray(kept(key, path, rate, (size,)))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_masks_of_many_keys_and_paths_have_the_counts_of_independent_draws(rate):
    counts = [draws(jax.random.key(seed), path, rate, 2**14).sum() for seed in range(20) for path in range(50)]
    expected = stats.binom(2**14, 1 - rate)
    # Counts of 1,000 masks: their distribution, by Kolmogorov and Smirnov on the randomised quantiles, and their variance.
    uniform = np.random.default_rng(0).uniform(size=len(counts))
    quantiles = expected.cdf(np.array(counts) - 1) + uniform * expected.pmf(counts)
    assert stats.kstest(quantiles, "uniform").pvalue > 1e-3
    spread = (len(counts) - 1) * np.var(counts, ddof=1) / expected.var()
    assert 1e-3 < stats.chi2(len(counts) - 1).cdf(spread) < 1 - 1e-3


def test_neighbours_in_any_distance_are_independent():
    one = draws(KEY, 7, 0.5).astype(np.float32) - 0.5
    at = np.fft.rfft(one, 2 * MANY)
    correlation = np.fft.irfft(at * at.conj())[1 : MANY // 2] / (0.25 * np.sqrt(MANY - np.arange(1, MANY // 2)))
    assert abs(correlation).max() < 6.2  # of half a million standard normals, the largest is above this once in a thousand
    assert stats.kstest(correlation, "norm").pvalue > 1e-3


def test_words_of_sixteen_draws_come_equally_often():
    words = draws(jax.random.key(5), 1, 0.5).reshape(-1, 16) @ (1 << np.arange(16))
    assert 1e-3 < stats.chisquare(np.bincount(words, minlength=2**16)).pvalue < 1 - 1e-3


@pytest.mark.slow
def test_masks_of_near_keys_and_paths_are_independent():
    near = [(jax.random.key(seed), path) for seed in (0, 1, 3) for path in (0, 1, 2, 3, 2**16, 2**32 - 1)]
    near += [(jax.random.fold_in(KEY, step), 0) for step in range(8)]
    words = [(0, 2), (1, 0), (1, 1), (2**28, 0), (2**31, 2**31), (2**32 - 1, 2**32 - 1)]
    near += [(jax.random.wrap_key_data(np.array(pair, np.uint32)), 0) for pair in words]
    masks = np.stack([draws(key, path, 0.5) for key, path in near]).astype(np.float32) - 0.5
    same = masks @ masks.T / (0.25 * np.sqrt(MANY))
    assert abs(same[np.triu_indices(len(near), 1)]).max() < 5
    spectra = np.fft.rfft(masks, axis=1)  # nor is one mask another, moved
    for a in range(0, len(near), 5):
        for b in range(a + 1, len(near), 4):
            moved = np.fft.irfft(spectra[a] * spectra[b].conj()) / (0.25 * np.sqrt(MANY))
            assert abs(moved).max() < 6.5


def test_rows_and_columns_of_a_mask_have_the_counts_of_independent_draws():
    mask = np.asarray(kept(KEY, 3, 0.1, (1024, 1024)))
    for axis in (0, 1):
        z = (mask.sum(axis) - 0.9 * 1024) / np.sqrt(0.09 * 1024)
        assert abs(z).max() < 5
        assert 1e-3 < stats.chi2(1024).cdf((z**2).sum()) < 1 - 1e-3


def test_a_mask_does_not_change_between_versions():
    # Published numbers depend on it: the hash, written once more in whole numbers of Python.
    def mixed(x):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    path, (first, second) = 3904355907, jax.random.key_data(jax.random.key(2**40 + 7)).tolist()
    near, far = (mixed(path) + first) % 2**32, ((mixed(path + 1) * 0x7FEB352D + first) * 0x7FEB352D + second) % 2**32
    bits = [mixed((mixed((i + near) % 2**32) + far) % 2**32) for i in range(100)]
    np.testing.assert_array_equal(draws(jax.random.key(2**40 + 7), path, 0.25, 100), np.array(bits) >> 8 < 0.75 * 2**24)


def test_rates_that_round_to_none_and_all():
    assert draws(KEY, 0, 1e-12).all()
    assert not draws(KEY, 0, 1 - 1e-12).any()


def test_a_mask_is_the_same_compiled_batched_and_by_a_traced_path():
    eager = draws(KEY, 9, 0.3, 64)
    np.testing.assert_array_equal(jax.jit(lambda key, path: kept(key, path, 0.3, (64,)))(KEY, np.uint32(9)), eager)
    keys = jax.random.split(KEY, 3)
    batched = jax.vmap(lambda key: kept(key, 9, 0.3, (64,)))(keys)
    np.testing.assert_array_equal(batched, [draws(key, 9, 0.3, 64) for key in keys])


def test_dropout_by_every_generator_of_jax():
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        y, _ = nn.dropout(0.5).apply({}, {}, np.ones((64, 1024), np.float32), Train(jax.random.key(0, impl=name)))
        assert abs(float(y.mean()) - 1) < 0.02


def test_a_mask_of_more_numbers_than_the_hash_has_places_is_drawn_by_jax():
    shape = jax.eval_shape(lambda: kept(KEY, 1, 0.5, (2**17, 2**16)))
    assert shape.shape == (2**17, 2**16)
    text = str(jax.make_jaxpr(lambda: kept(KEY, 1, 0.5, (2**17, 2**16)))())
    assert "random_bits" in text and "random_bits" not in str(jax.make_jaxpr(lambda: kept(KEY, 1, 0.5, (2**16, 2**16)))())
