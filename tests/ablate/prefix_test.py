"""A head that runs once, and a tail that runs for every mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import evaluate, prefix

_N, _D, _TOKENS = 7, 16, 20


def _weights():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 4
  return {
    "tokens": draw(_TOKENS, _D),
    "layers": draw(3, _D, _D),
    "head": draw(_D, 2),
  }


def _layer(x, w):
  return x + jnp.tanh(jax.nn.softmax(x @ x.T) @ x @ w)


def _head(shared):
  x = shared["tokens"]
  for w in shared["layers"][:2]:
    x = _layer(x, w)
  return {"x": x}


def _tail(mask, state, shared):
  kept = jnp.append(mask, jnp.ones(_TOKENS - _N, bool))
  x = jnp.where(kept[:, None], state["x"], 0)
  return _layer(x, shared["layers"][2]).mean(axis=0) @ shared["head"]


def _plain(mask, shared):
  return _tail(mask, _head(shared), shared)


def _masks(count):
  rows = np.random.default_rng(0).permutation(2**_N)[:count]
  return (rows[:, None] >> np.arange(_N) & 1).astype(bool)


# Some 100 roundings of numbers of size 1: the two are compiled apart.
_ATOL = 100 * np.finfo(np.float32).eps


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, None])
def test_a_split_equals_the_whole(batch_size):
  shared, masks = _weights(), _masks(50)
  whole = evaluate.compiled(_plain, _N, batch_size=8, shared=shared)
  value_fn = prefix.split(
    _head, _tail, _N, shared=shared, batch_size=batch_size
  )
  np.testing.assert_allclose(value_fn(masks), whole(masks), rtol=0, atol=_ATOL)
  assert value_fn.stats.head_seconds > 0
  assert whole.stats.head_seconds == 0


def test_the_head_runs_once():
  runs = []

  def head(shared):
    jax.debug.callback(lambda: runs.append("head"))
    return _head(shared)

  value_fn = prefix.split(
    head, _tail, _N, shared=_weights(), batch_size=8, devices=jax.devices()[:1]
  )
  for count in (5, 50):
    value_fn(_masks(count))
  jax.effects_barrier()
  assert runs == ["head"]
  # And the tail's program holds none of its work.
  whole = evaluate.compiled(
    lambda mask, shared: _tail(mask, head(shared), shared),
    _N,
    batch_size=8,
    shared=_weights(),
    devices=jax.devices()[:1],
  )
  whole(_masks(50))
  jax.effects_barrier()
  assert len(runs) > 1 + 6


def test_shared_is_cast_before_the_head():
  seen = []

  def head(shared):
    seen.append(shared["tokens"].dtype)
    return shared["tokens"].astype(jnp.float32)

  def tail(mask, state, shared):
    seen.extend([state.dtype, shared["head"].dtype])
    return state.sum() * mask[0]

  prefix.split(head, tail, _N, shared=_weights(), dtype=jnp.bfloat16)(_masks(2))
  assert set(seen[:1]) == {jnp.dtype(jnp.bfloat16)}
  assert set(seen[1::2]) == {jnp.dtype(jnp.float32)}
  assert set(seen[2::2]) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_a_split_on_a_mesh():
  automatic = jax.sharding.AxisType.Auto
  mesh = jax.make_mesh(
    (2, 4), ("masks", "model"), axis_types=(automatic, automatic)
  )
  shared, masks = _weights(), _masks(30)
  specs = {
    "tokens": jax.P(),
    "layers": jax.P(None, None, "model"),
    "head": jax.P("model"),
  }
  whole = evaluate.compiled(
    _plain, _N, batch_size=4, shared=shared, devices=jax.devices()[:1]
  )
  value_fn = prefix.split(
    _head,
    _tail,
    _N,
    shared=shared,
    shared_sharding=specs,
    mesh=mesh,
    batch_size=8,
  )
  np.testing.assert_allclose(value_fn(masks), whole(masks), rtol=0, atol=_ATOL)
  one_axis = prefix.split(
    _head, _tail, _N, shared=shared, batch_size=16, devices=jax.devices()[:4]
  )
  one = prefix.split(
    _head, _tail, _N, shared=shared, batch_size=4, devices=jax.devices()[:1]
  )
  np.testing.assert_array_equal(one_axis(masks), one(masks))


def test_unfit_settings_are_refused():
  ask = lambda **settings: prefix.split(
    _head, _tail, _N, shared=_weights(), **settings
  )(_masks(2))
  with pytest.raises(ValueError, match="floating one"):
    ask(dtype=jnp.int32)
  with pytest.raises(ValueError, match="a tree of them like `shared`"):
    ask(shared_sharding={"tokens": jax.P()})
  with pytest.raises(ValueError, match="batch_size >= 1; got 7, 0"):
    ask(batch_size=0)
  with pytest.raises(TypeError, match="colour"):
    ask(colour="red")
  wrong = lambda mask, state, shared: state["x"]
  with pytest.raises(ValueError, match="must return one real number"):
    prefix.split(_head, wrong, _N, shared=_weights())(_masks(2))
