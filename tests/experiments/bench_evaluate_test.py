"""The benchmark of the evaluator runs, and measures what it says."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bench_evaluate
from spex_jax.ablate import evaluate

_QUICK = bench_evaluate.CONFIGS["quick"]


def _by_numpy(mask, w, config, gates):
  """The encoder in float64, one head at a time."""
  from scipy import special

  w = jax.tree.map(lambda x: np.asarray(x, np.float64), w)
  dense = lambda x, p: x @ p["kernel"] + p["bias"]

  def norm(x, p):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / x.std(axis=1, keepdims=True) * p["scale"] + p["bias"]

  kept = np.array([True, *mask, True])
  tokens = np.where(kept, w["tokens"], 0).astype(int)
  x = norm(w["embed"][tokens] + w["places"], w["embed_norm"])
  h = config.width // config.heads
  for layer, gate in zip(w["layers"], gates):
    q, k, v = (dense(x, layer[name]) for name in ("q", "k", "v"))
    z = np.zeros_like(x)
    for head in range(config.heads):
      part = slice(head * h, (head + 1) * h)
      pattern = np.exp(q[:, part] @ k[:, part].T / np.sqrt(h))
      pattern /= pattern.sum(axis=1, keepdims=True)
      z[:, part] = gate[head] * (pattern @ v[:, part])
    x = norm(x + dense(z, layer["out"]), layer["attn_norm"])
    up = dense(x, layer["up"])
    up = up * special.ndtr(up)
    x = norm(x + dense(up, layer["down"]), layer["mlp_norm"])
  mean = x.mean(axis=0)
  return mean @ w["head"] / np.linalg.norm(mean)


def test_the_encoder_is_the_one_described():
  params = bench_evaluate.weights(_QUICK)
  masks = bench_evaluate._masks(6, _QUICK.players, 0)
  value_fn = evaluate.compiled(
    lambda mask, params: bench_evaluate.value(mask, params, config=_QUICK),
    _QUICK.players,
    batch_size=4,
    shared=params,
  )
  ones = np.ones((_QUICK.layers, _QUICK.heads))
  expected = [_by_numpy(mask, params, _QUICK, ones) for mask in masks]
  # Three layers of some 100 roundings, of numbers of size 1 to 5.
  np.testing.assert_allclose(value_fn(masks), expected, rtol=0, atol=2e-4)
  assert np.ptp(expected) > 0.1


@pytest.mark.slow
def test_the_three_of_the_prefix_are_one_function():
  params = bench_evaluate.weights(_QUICK)
  n = bench_evaluate._EDITED * _QUICK.heads
  masks = np.concatenate(
    [np.ones((1, n), bool), np.zeros((1, n), bool)]
    + [bench_evaluate._masks(5, n, 1)]
  )
  everyone = np.ones(_QUICK.players, bool)
  early = np.ones((_QUICK.layers - bench_evaluate._EDITED, _QUICK.heads))
  expected = [
    _by_numpy(
      everyone,
      params,
      _QUICK,
      np.concatenate([early, mask.reshape(-1, _QUICK.heads)]),
    )
    for mask in masks
  ]
  found = bench_evaluate._prefixes(_QUICK, params, jax.devices()[:1])
  names = []
  for name, value_fn in found:
    names.append(name)
    np.testing.assert_allclose(value_fn(masks), expected, rtol=0, atol=2e-4)
  assert names == ["prefix, whole", "prefix, unbatched", "prefix, split"]


def test_work_is_what_the_compiler_counts():
  """All but norms, softmax and gelu, which are few beside the products."""
  config = bench_evaluate.Config(layers=2, vocabulary=10)
  params = bench_evaluate.weights(config)
  layers = jax.jit(lambda layers, x: bench_evaluate.encode(layers, x, config))
  x = jnp.ones((config.players + 2, config.width))
  counted = layers.lower(params["layers"], x).cost_analysis()["flops"]
  assert 0.95 * counted < bench_evaluate.flops(config) < counted


@pytest.mark.slow
@pytest.mark.skipif(
  not pathlib.Path("/proc/self/clear_refs").exists(),
  reason="peak memory is read from Linux's /proc",
)
def test_quick_rows_are_whole():
  rows = list(bench_evaluate.run(_QUICK, "quick"))
  assert [row["who"] for row in rows] == [
    "matrix",
    "evaluator",
    "evaluator",
    "measured",
    "prefix, whole",
    "prefix, unbatched",
    "prefix, split",
    "memory",
  ]
  assert rows[0]["gflops"] > 0
  for row in rows[1:-1]:
    assert row["masks_per_s"] > 0
    assert row["share"] > 0  # On a busy machine a chance clock may pass 1.
    assert row["first_s"] >= 0
  assert [(r["batch"], r["microbatch"]) for r in rows[1:3]] == [(2, 2), (8, 2)]
  sizes = [tuple(tried[:2]) for tried in rows[3]["candidates"]]
  assert (rows[3]["batch"], rows[3]["microbatch"]) in sizes
  memory = rows[-1]
  assert memory["batch"] == 4096
  assert (
    memory["parameters_mb"] < memory["bound_mb"] < memory["resident_mb"] * 2
  )
  # Some 5 % off where both batches that a CPU computes at once are at their
  # peaks together; on a busy machine they may never meet.
  assert 0.8 < memory["bound_over_measured"] < 2.2
