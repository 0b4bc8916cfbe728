"""Evaluators against a plain loop: values, shapes, compilations, cost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import evaluate

_N = 6
_WEIGHTS = np.float32([1, -2, 0.5, 3, 0, 1])


def _masks(count, seed=0):
  """Distinct masks."""
  rows = np.random.default_rng(seed).permutation(2**_N)[:count]
  return (rows[:, None] >> np.arange(_N) & 1).astype(bool)


def _one(mask):
  return jnp.where(mask, _WEIGHTS, 0).sum() + mask[0] * mask[3]


def _two(mask):
  return jnp.stack([_one(mask), -_one(mask)])


def _expected(masks):
  return masks @ _WEIGHTS.astype(float) + masks[:, 0] * masks[:, 3]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("wrap", ["compiled", "host"])
def test_values_keep_their_order_at_any_count(count, wrap):
  masks = _masks(count)
  seen = []
  progress = lambda done, asked: seen.append((done, asked))
  if wrap == "compiled":
    value_fn = evaluate.compiled(_one, _N, batch_size=8, progress=progress)
  else:
    value_fn = evaluate.host(_expected, _N, batch_size=8, progress=progress)
  values = value_fn(masks)
  assert values.dtype == np.float64 and values.shape == (count,)
  # Small halves and integers: float32 is exact.
  np.testing.assert_array_equal(values, _expected(masks))
  batches = -(-count // 8)
  assert seen == [(min(8 * (i + 1), count), count) for i in range(batches)]
  assert value_fn.stats.evaluations == count
  assert value_fn.stats.batches == batches


def test_many_targets():
  masks = _masks(11)
  values = evaluate.compiled(_two, _N, batch_size=4)(masks)
  expected = np.stack([_expected(masks), -_expected(masks)], axis=1)
  np.testing.assert_array_equal(values, expected)


def test_compiles_once_for_every_call_and_says_what_it_cost():
  chex.clear_trace_counter()
  # One abstract evaluation checks the output, one traces the program.
  value_fn = evaluate.compiled(
    chex.assert_max_traces(_one, n=2), _N, batch_size=8
  )
  assert value_fn.stats.compile_seconds == 0
  for count in (3, 8, 20):
    value_fn(_masks(count))
    if count == 3:
      compiled = value_fn.stats.compile_seconds
  stats = value_fn.stats
  assert stats.evaluations == 31
  assert (stats.batches, stats.padded) == (5, 9)
  assert stats.compile_seconds == compiled > 0
  assert stats.run_seconds > 0
  assert stats.batch_shape == (8, _N)
  assert stats.device.startswith(f"{len(jax.devices())} x ")


def test_shared_operands_are_arguments():
  value_fn = evaluate.compiled(
    lambda mask, weights: jnp.where(mask, weights["w"], 0).sum(),
    _N,
    batch_size=4,
    shared={"w": _WEIGHTS},
  )
  masks = _masks(9)
  np.testing.assert_array_equal(value_fn(masks), masks @ _WEIGHTS.astype(float))


def test_a_value_does_not_depend_on_its_company():
  """A matrix product, whose last digits do depend on the batch's shape."""
  weights = np.random.default_rng(0).normal(size=(_N, 64)).astype(np.float32)

  def f(mask):
    return jnp.tanh(mask.astype(jnp.float32) @ weights).sum()

  value_fn = evaluate.compiled(f, _N, batch_size=16)
  masks = _masks(50)
  alone = np.concatenate([value_fn(mask[None]) for mask in masks])
  np.testing.assert_array_equal(value_fn(masks), alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 13])
def test_bad_values_name_their_row(bad, row):
  masks = np.ones((20, _N), bool)
  masks[row] = False
  f = lambda mask: jnp.where(mask.any(), 1.0, bad)
  with pytest.raises(ValueError, match=rf"first at row {row}\)"):
    evaluate.compiled(f, _N, batch_size=4)(masks)
  on_host = lambda rows: np.where(rows.any(axis=1), 1.0, bad)
  with pytest.raises(ValueError, match=rf"first at row {row}\)"):
    evaluate.host(on_host, _N, batch_size=4)(masks)


@pytest.mark.parametrize(
  "f",
  [
    lambda mask: jnp.ones((2, 2)),
    lambda mask: jnp.ones((0,)),
    lambda mask: jnp.ones(()) * 1j,
    lambda mask: {"logit": jnp.ones(())},
  ],
)
def test_bad_outputs_are_refused_before_compiling(f):
  with pytest.raises(ValueError, match="must return one real number"):
    evaluate.compiled(f, _N)(_masks(2))


def test_bad_requests_are_refused():
  with pytest.raises(ValueError, match="batch_size >= 1; got 6, 0"):
    evaluate.compiled(_one, _N, batch_size=0)
  with pytest.raises(ValueError, match="n >= 1"):
    evaluate.host(_expected, 0)
  with pytest.raises(ValueError, match="5 players; expected n=6"):
    evaluate.compiled(_one, _N)(np.ones((2, 5), bool))
  with pytest.raises(ValueError, match="one value per mask"):
    evaluate.host(lambda masks: np.ones(3), _N)(_masks(2))
  with pytest.raises(TypeError, match="must return real numbers"):
    evaluate.host(lambda masks: ["high"] * len(masks), _N)(_masks(2))
  ragged = lambda masks: np.ones((len(masks), len(masks)))
  with pytest.raises(ValueError, match=r"\(4,\) targets .* and \(1,\) for"):
    evaluate.host(ragged, _N, batch_size=4)(_masks(5))
  with pytest.raises(ValueError, match="at least one mask"):
    evaluate.compiled(_one, _N)(_masks(0))


def test_masks_may_be_written_to():
  def careless(rows):
    values = _expected(rows)
    rows[:] = False
    return values

  masks = _masks(9)
  expected = _expected(masks)
  for _ in range(2):
    values = evaluate.host(careless, _N, batch_size=4)(masks)
    np.testing.assert_array_equal(values, expected)


def test_integers_and_booleans_become_floats():
  masks = _masks(5)
  counts = evaluate.host(lambda rows: rows.sum(axis=1), _N, batch_size=2)(masks)
  assert counts.dtype == np.float64
  np.testing.assert_array_equal(counts, masks.sum(axis=1))
  any_kept = evaluate.compiled(lambda mask: mask.any(), _N)(masks)
  np.testing.assert_array_equal(any_kept, masks.any(axis=1))


@pytest.mark.parametrize("num_devices", [2, 5, 8])
def test_many_devices_equal_one_bit_for_bit(num_devices):
  """At 4 masks per device; five devices divide neither batch nor request."""
  devices = jax.devices("cpu")[:num_devices]
  assert len(devices) == num_devices  # `conftest.py` asks for eight.
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(9, 32)).astype(np.float32)
  f = lambda mask, w: jnp.tanh(mask.astype(jnp.float32) @ w).sum()
  masks = rng.random((53, 9)) < 0.5
  many = evaluate.compiled(
    f, 9, batch_size=4 * num_devices - 1, shared=weights, devices=devices
  )
  one = evaluate.compiled(
    f, 9, batch_size=4, shared=weights, devices=devices[:1]
  )
  np.testing.assert_array_equal(many(masks), one(masks))
  assert many.stats.batch_shape == (4 * num_devices, 9)
  assert many.stats.device == f"{num_devices} x cpu"


def test_what_is_shared_may_be_replaced_without_compiling():
  value_fn = evaluate.compiled(
    lambda mask, scale: scale * mask.sum(),
    3,
    batch_size=8,
    shared=np.float32(1),
  )
  masks = np.array([[True, False, True]])
  assert value_fn(masks) == 2
  spent = value_fn.stats.compile_seconds
  value_fn.share(np.float32(5))
  assert value_fn(masks) == 10
  assert value_fn.stats.compile_seconds == spent
  with pytest.raises(ValueError, match="same structure, shapes and dtypes"):
    value_fn.share(jnp.ones(2))
  alone = evaluate.compiled(lambda mask: mask.sum(), 3, batch_size=8)
  with pytest.raises(ValueError, match="with `shared` arrays"):
    alone.share(jnp.ones(()))
