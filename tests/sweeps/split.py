"""A value function whose parameters lie on the devices of two processes."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import evaluate

N = 12


@functools.cache
def _evaluator():
  axes = os.environ.get("SPLIT_AXES", "masks,model").split(",")
  mesh = jax.make_mesh(
    (2, 2), axes, axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  weights = np.random.default_rng(0).normal(size=(N, 16)).astype(np.float32)
  return evaluate.compiled(
    lambda mask, w: jnp.tanh(mask.astype(jnp.float32) @ w).sum(),
    N,
    batch_size=8,
    shared=weights,
    shared_sharding=jax.P(None, "model"),
    mesh=mesh,
  )


def value(masks):
  """`[B]`; it fails at some masks if it is asked to."""
  broken = os.environ.get("SPLIT_BROKEN")
  if broken and masks[:, :3].all(axis=1).any():
    raise ValueError("all three of the first")
  return _evaluator()(masks)
