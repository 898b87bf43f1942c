"""Drawing by the inverse of the cumulated distribution, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from pretrainrl_jax.decoding import draw
from pretrainrl_jax.decoding.draw import Exact, inverse_cdf, uniform

jitted = jax.jit(inverse_cdf)
of_each = jax.jit(jax.vmap(inverse_cdf, (None, 0)))


def keys_of(number: int, samples: int) -> jax.Array:
    return jax.random.split(jax.random.key(3), (number, samples))


def exactly(numbers: Exact) -> np.ndarray:
    return np.asarray(numbers.high, np.float64) + np.asarray(numbers.low, np.float64)


def pair(numbers: np.ndarray) -> Exact:
    """The pairs of float32 that are these float64."""
    high = np.floor(numbers * 2**23) / 2**23
    return Exact(jnp.asarray(high, jnp.float32), jnp.asarray(numbers - high, jnp.float32))


def cumulated(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64) - logits.max(-1, keepdims=True))
    sums = weights.cumsum(-1)
    return sums / sums[..., -1:]


def found(logits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The token of each number, of the same logits, whose weights are summed once."""
    return np.asarray(of_each(logits[None, None], pair(numbers[:, None, None]))[0]).ravel()


def test_numbers_are_uniform_and_finer_than_a_float32():
    numbers = uniform(keys_of(64, 128))
    values = np.sort(exactly(numbers).ravel())
    assert 0 <= values[0] < values[-1] < 1
    assert len(np.unique(values)) == values.size  # on the grid of 2**-23 some of 8192 would be equal
    np.testing.assert_array_equal(np.asarray(numbers.high) * 2**23 % 1, 0)
    np.testing.assert_array_less(numbers.low, 2**-23)
    ranks = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(values - ranks).max() < 1.95 / np.sqrt(values.size)  # Kolmogorov-Smirnov, one in a thousand


@pytest.mark.parametrize("vocabulary", [1, 7, 128, 129, 1000])
def test_tokens_are_as_frequent_as_they_are_probable(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = (2 * rng.normal(size=vocabulary)).astype(np.float32)
    logits[rng.random(vocabulary) < 0.3] = -np.inf
    logits[-1] = 0.5
    expected = np.diff(cumulated(logits), prepend=0)
    tokens, logps = jitted(np.broadcast_to(logits, (256, 128, vocabulary)), uniform(keys_of(256, 128)))
    tokens = np.asarray(tokens)
    assert tokens.dtype == np.int32
    np.testing.assert_allclose(logps, np.log(expected[tokens]), rtol=2e-6, atol=1e-5)
    counts = np.bincount(tokens.ravel(), minlength=vocabulary)
    assert not counts[expected == 0].any()
    size = counts.sum()
    often = expected * size > 5
    cells = [*zip(counts[often], expected[often] * size, strict=True)]
    if (rest := expected[~often].sum() * size) > 5:
        cells.append((counts[~often].sum(), rest))
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    assert len(cells) > min(vocabulary // 3, 100)
    assert chi2.sf(statistic, max(1, len(cells) - 1)) > 1e-3


@pytest.mark.parametrize("rare_first", [True, False])
def test_rare_tokens_are_drawn_where_float64_draws_them(rare_first):
    """Thousands of tokens of 1e-7 to 1e-6 after or before a common one: each keeps its share of the numbers.

    Numbers fall all over the rare tokens, which a float32 of 1 - 1e-7 could not even tell apart.
    """
    rng = np.random.default_rng(0)
    rare = np.log(rng.uniform(1e-7, 1e-6, 6000))
    logits = np.array([3.0, *rare + 3.0] if rare_first else [*rare + 3.0, 3.0], np.float32)
    sums = cumulated(logits)
    low, high = (sums[0], 1) if rare_first else (0, sums[-2])
    numbers = np.sort(rng.uniform(low, high, 4096))
    tokens = found(logits, numbers)
    wanted = np.searchsorted(sums, numbers, side="right")
    # Sums of float32 weights are right to some 1e-7 of themselves, and all boundaries move together.
    before, after = np.concatenate([[0.0], sums])[tokens], sums[tokens]
    gap = 1.5e-7 if rare_first else 1e-9
    assert (numbers > before - gap).all()
    assert (numbers < after + gap).all()
    assert (tokens == wanted).mean() > (0.8 if rare_first else 0.99)
    assert len(np.unique(tokens)) > 2500
    # Their sizes do not move: numbers on a fine grid over some of them find each as often as is probable.
    grid = np.linspace(sums[200], sums[400], 65536)
    drawn = found(logits, grid)
    counts = np.bincount(drawn, minlength=401)[220:380]
    sizes = np.diff(sums)[219:379] / (grid[1] - grid[0])
    np.testing.assert_allclose(counts, sizes, atol=1.01)


def test_of_the_numbers_ends_come_the_first_and_the_last_possible_token():
    logits = np.full((1, 2, 700), -np.inf, np.float32)
    logits[..., [5, 300, 640]] = 0.0, -80.0, 1.0
    logits[..., 641:] = -200.0  # no float32 has such a probability
    edge = np.array([[0.0, 1 - 2.0**-47]])
    tokens, logps = jitted(logits, pair(edge))
    assert tokens.tolist() == [[5, 640]]
    assert np.isfinite(logps).all()
    beyond = Exact(jnp.full((1, 2), 1.0), jnp.full((1, 2), 1e-6))
    assert jitted(logits, beyond)[0].tolist() == [[640, 640]]


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    logits = (3 * rng.normal(size=(4, 64, 777))).astype(np.float32)
    numbers = uniform(keys_of(4, 64))
    sums, drawn = cumulated(logits), []
    for block in (1, 100, 777, 1000):
        monkeypatch.setattr(draw, "BLOCK", block)
        drawn.append(np.asarray(jax.jit(lambda *x: inverse_cdf(*x))(logits, numbers)[0]))  # compiled anew
    values = exactly(numbers)
    clear = np.abs(sums - values[..., None]).min(-1) > 1e-6
    assert clear.mean() > 0.9
    wanted = (sums <= values[..., None]).sum(-1)
    for tokens in drawn:
        np.testing.assert_array_equal(tokens[clear], wanted[clear])
