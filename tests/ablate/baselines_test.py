"""Stand-ins for what is absent: shapes, dtypes and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import baselines, features


@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4)])
def test_zero(shape, dtype):
  got = baselines.zero(jnp.ones(shape, dtype))
  assert (got.shape, got.dtype) == (shape, dtype)
  assert not np.asarray(got, np.float32).any()


def test_constant_takes_the_shape_and_dtype_of_the_input():
  x = np.zeros((2, 3), np.float32)
  got = baselines.constant(x, [[1], [2]])
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, [[1, 1, 1], [2, 2, 2]])
  assert baselines.constant(x.astype(jnp.bfloat16), 1.5).dtype == jnp.bfloat16


def test_a_fraction_beside_integers_is_not_cut_off():
  got = baselines.constant(np.arange(3, dtype=np.int32), 0.5)
  np.testing.assert_array_equal(got, [0.5, 0.5, 0.5])
  got = baselines.constant(np.arange(3, dtype=np.int32), 7)
  assert got.dtype == jnp.int32


def test_constant_of_another_shape():
  with pytest.raises(ValueError, match=r"broadcast"):
    baselines.constant(np.zeros(3), np.zeros(2))


def test_mean_has_the_shape_of_one_example():
  background = np.arange(24).reshape(4, 3, 2)  # Integers, and their mean not.
  got = baselines.mean(background)
  assert (got.shape, got.dtype) == ((3, 2), np.float64)
  np.testing.assert_array_equal(got, 9 + np.arange(6).reshape(3, 2))
  assert baselines.mean(np.array([1, 2])).shape == ()


def test_draws_are_distinct_rows_set_by_the_key():
  background = np.arange(40.0, dtype=np.float32).reshape(20, 2)
  draws = [
    np.asarray(baselines.resample(jax.random.key(seed), background, 8))
    for seed in (0, 0, 1)
  ]
  for one in draws:
    assert one.shape == (8, 2)
    assert len(set(one[:, 0].tolist())) == 8
    np.testing.assert_array_equal(one[:, 1], one[:, 0] + 1)  # Whole rows.
    assert set(one[:, 0].tolist()) <= set(background[:, 0].tolist())
  np.testing.assert_array_equal(draws[0], draws[1])
  assert (draws[0] != draws[2]).any()


def test_as_many_draws_as_examples_are_all_of_them():
  background = np.arange(5)[:, None]
  got = np.asarray(baselines.resample(jax.random.key(3), background, 5))
  np.testing.assert_array_equal(np.sort(got, axis=0), background)


@pytest.mark.slow
def test_draws_are_uniform():
  counts = np.zeros(4)
  keys = jax.random.split(jax.random.key(0), 400)
  for key in keys:
    counts[int(baselines.resample(key, np.arange(4)[:, None], 1)[0, 0])] += 1
  # 100 each, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7; five of them.
  assert np.abs(counts - 100).max() < 44


@pytest.mark.parametrize("num_draws", [0, -1, 3])
def test_too_few_or_too_many_draws(num_draws):
  with pytest.raises(ValueError, match=rf"1\.\.2, the size.*; got {num_draws}"):
    baselines.resample(jax.random.key(0), np.ones((2, 3)), num_draws)


@pytest.mark.parametrize("num_draws", [1.0, "2", True])
def test_draws_are_counted_in_integers(num_draws):
  with pytest.raises(TypeError, match="num_draws must be an integer; got"):
    baselines.resample(jax.random.key(0), np.ones((2, 3)), num_draws)


@pytest.mark.parametrize(
  "background, message",
  [
    (np.float32(1), r"must hold examples \[N, \.\.\.\]; got \(\)"),
    (np.ones((0, 3)), r"got \(0, 3\)"),
    (np.array([[np.inf]]), "must be finite"),
  ],
)
def test_bad_backgrounds(background, message):
  with pytest.raises(ValueError, match=message):
    baselines.mean(background)
  with pytest.raises(ValueError, match=message):
    baselines.resample(jax.random.key(0), background, 1)


def test_median_is_that_of_each_entry():
  background = np.array([[1, 9], [2, 0], [30, 1], [4, 2]])
  got = baselines.median(background)
  assert got.dtype == np.float64
  np.testing.assert_array_equal(got, [3, 1.5])
  with pytest.raises(ValueError, match="must hold examples"):
    baselines.median(np.ones((0, 3)))


def _neighbour(key, x, kept):
  """Each absent entry as the nearest kept one before it, plus noise."""
  at = jnp.where(kept, jnp.arange(x.size), 0)
  near = x[jax.lax.cummax(at)]
  return near[None] + 0.01 * jax.random.normal(key, (4, x.size))


def test_a_conditional_sampler_sees_what_is_kept():
  x = np.float32([10, 20, 30, 40])
  players = features.columns("abcd")
  key = jax.random.key(0)

  def shown(mask):
    kept = players.kept(mask)
    draws = baselines.conditional(_neighbour, key, x, kept)
    return players.apply(mask, x, draws)

  masks = np.array([[1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 0, 1]], bool)
  got = np.asarray(jax.jit(jax.vmap(shown))(masks))
  assert got.shape == (3, 4, 4)
  np.testing.assert_array_equal(got[:, :, 0], 10)
  np.testing.assert_array_equal(got[0, :, 3], 40)
  # Five standard deviations of the noise.
  np.testing.assert_allclose(got[0, :, 1:3], 10, rtol=0, atol=0.05)
  np.testing.assert_allclose(got[1, :, 3], 30, rtol=0, atol=0.05)
  np.testing.assert_array_equal(got[0], got[2])  # The same mask.


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3), (2, 1, 4)])
def test_a_sampler_of_another_shape(shape):
  sampler = lambda key, x, kept: jnp.zeros(shape)
  x, kept = np.zeros(4), np.ones(4, bool)
  with pytest.raises(ValueError, match=r"draws \[R, \.\.\.\].*\(4,\); got"):
    baselines.conditional(sampler, jax.random.key(0), x, kept)
  with pytest.raises(ValueError, match=r"`kept` must have the shape"):
    baselines.conditional(sampler, jax.random.key(0), x, kept[:2])
