"""A few static sizes: which are chosen, and which one a mask takes."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import evaluate, shapes

_N = 6
_ALL = np.array([[m >> i & 1 for i in range(_N)] for m in range(2**_N)], bool)
_WEIGHTS = np.float32([1, -2, 0.5, 3, 0, 1])


def _mean_cost(likely, sizes):
  needs = np.arange(len(likely))
  return (likely * np.array(sizes)[np.searchsorted(sizes, needs)]).sum()


def test_no_other_sizes_cost_less():
  rng = np.random.default_rng(0)
  for _ in range(40):
    largest = int(rng.integers(1, 10))
    likely = rng.random(largest + 1) * (rng.random(largest + 1) < 0.7)
    likely[-1] += 1e-3
    likely /= likely.sum()
    for count in range(1, 5):
      got = shapes.choose(likely, count)
      assert got[-1] == largest and len(got) <= count
      least = min(
        _mean_cost(likely, [*some, largest])
        for size in range(count)
        for some in itertools.combinations(range(largest), size)
      )
      # Each of three sizes may be left out for 1 %.
      assert _mean_cost(likely, got) <= 1.031 * least


def test_chances_are_those_of_all_masks():
  kept, gone = np.array([3, 1, 1, 2, 5, 1]), np.array([1, 0, 1, 0, 1, 0])
  need = 2 + _ALL @ kept + ~_ALL @ gone
  expected = np.bincount(need, minlength=16) / len(_ALL)
  np.testing.assert_array_equal(shapes.chances(kept, gone, 2), expected)


def _shaped(sizes=(2, 4, _N), traced=lambda f: f):
  """Counts what is kept; the value also tells which size it ran at."""
  at = lambda size: traced(lambda mask: mask @ _WEIGHTS + 100 * size)
  return shapes.Shaped(sizes, at, lambda masks: masks.sum(axis=1))


def test_each_mask_runs_at_the_least_size_that_fits():
  seen = []
  value_fn = evaluate.compiled(
    _shaped(), _N, batch_size=8, microbatch=2, devices=jax.devices()[:1],
    progress=lambda done, asked: seen.append((done, asked)),
  )  # fmt: skip
  need = _ALL.sum(axis=1)
  size = np.array([2, 4, _N])[np.searchsorted([2, 4, _N], need)]
  expected = _ALL @ _WEIGHTS.astype(float) + 100 * size
  # Twice in a request, in an order that mixes sizes: halves are exact.
  rows = np.random.default_rng(0).permutation(np.repeat(np.arange(64), 2))
  np.testing.assert_array_equal(value_fn(_ALL[rows]), expected[rows])
  counts = {2: 1 + 6 + 15, 4: 20 + 15, _N: 6 + 1}
  assert value_fn.stats.sizes == counts
  assert value_fn.stats.batch_shape == (8, _N)
  assert value_fn.stats.padded == 2 + 5 + 1
  assert seen[-1] == (128, 128) and len(seen) == 3 + 5 + 1
  assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_value_does_not_depend_on_what_else_is_asked():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(_N, 16)).astype(np.float32)

  def at(size):
    def f(mask):
      place = jnp.where(mask, jnp.cumsum(mask) - 1, size)
      rows = jnp.zeros((size, 16)).at[place].set(weights, mode="drop")
      return jnp.tanh(rows @ rows.T).sum()

    return f

  shaped = shapes.Shaped((2, 4, _N), at, lambda masks: masks.sum(axis=1))
  settings = {"batch_size": 8, "microbatch": 4, "devices": jax.devices()[:1]}
  together = evaluate.compiled(shaped, _N, **settings)(_ALL)
  value_fn = evaluate.compiled(shaped, _N, **settings)
  order = rng.permutation(len(_ALL))
  for some in np.split(order, [1, 4, 17, 40]):
    np.testing.assert_array_equal(value_fn(_ALL[some]), together[some])
  whole = evaluate.compiled(at(_N), _N, **settings)(_ALL)
  # Sums of 36 numbers of size 1, in another order.
  np.testing.assert_allclose(
    together, whole, rtol=0, atol=36 * np.finfo(np.float32).eps
  )


def test_each_size_is_compiled_once_before_the_first_mask():
  chex.clear_trace_counter()
  # Of the largest, an abstract evaluation checks the output as well.
  value_fn = evaluate.compiled(
    _shaped((_N - 1, _N), lambda f: chex.assert_max_traces(f, n=2)),
    _N,
    batch_size=8,
  )
  value_fn.prepare()
  compiled = value_fn.stats.compile_seconds
  assert compiled > 0 and value_fn.stats.sizes == {_N - 1: 0, _N: 0}
  value_fn(_ALL[:20])
  value_fn(_ALL)
  assert value_fn.stats.compile_seconds == compiled
  assert evaluate.compiled(jnp.sum, _N).prepare().sizes == {}


def test_called_itself_it_is_the_largest():
  assert float(_shaped()(np.zeros(_N, bool))) == 100 * _N
  doubled = _shaped().wrap(lambda f: lambda mask: 2 * f(mask))
  assert float(doubled.at(4)(np.zeros(_N, bool))) == 800


def test_sizes_that_are_refused():
  for sizes in ((), (3, 2), (2, 2)):
    with pytest.raises(ValueError, match="Sizes must ascend"):
      _shaped(sizes)
  value_fn = evaluate.compiled(_shaped((2, 4)), _N, batch_size=8)
  with pytest.raises(ValueError, match=r"needs 6, more than the .* \(2, 4\)"):
    value_fn(_ALL)


def test_microbatches_of_padding_are_not_computed():
  ran = []

  def f(mask):
    jax.debug.callback(lambda: ran.append("row"))
    return mask.sum()

  value_fn = evaluate.compiled(
    f, _N, batch_size=16, microbatch=2, devices=jax.devices()[:1]
  )
  np.testing.assert_array_equal(value_fn(_ALL[:5]), _ALL[:5].sum(axis=1))
  jax.effects_barrier()
  assert value_fn.stats.padded == 11
  assert len(ran) == 3  # Of eight.
