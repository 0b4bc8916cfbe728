"""What cut edges carry instead: the `ref` of `sites.Edits`, by kind.

  resample        what the writer writes on the corrupted prompt of the pair
  zero            nothing
  mean            what it writes on average over pairs and positions
  mean-position   the same at each position
  optimal         a constant for each writer, learned (Li and Janson 2024,
                  arXiv 2409.09951) so that the next token's distribution stays
                  as close to the clean run's as it can while random halves of
                  the writers are held at theirs

Means and constants are of the clean prompts of the pairs that are given, so
that `pairs.swapped()` gives those of the corrupted ones. The paper learns the
constants of one component or one circuit at a time; here one set serves every
circuit. All kinds but the first are the same for every pair, `[1, 1|P, W, d]`.

Shapes: B pairs of a batch, P positions, W writers, d width.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

KINDS = ("resample", "zero", "mean", "mean-position", "optimal")
_RATE = 0.03  # Of Adam, in standard deviations of what a writer writes.
_STEPS = 100


def stand_ins(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  kind: str,
  *,
  size: int | None = None,
  steps: int = _STEPS,
  seed: int = 0,
) -> jax.Array | None:
  """What is the same for every pair: `[1, 1|P, W, d]`; None for resampling.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: whose clean prompts means and constants are learned from.
    kind: how what is cut is replaced, one of `KINDS`.
    size: pairs of a batch; `runs.batch_size` by default.
    steps: batches of pairs that "optimal" learns from.
    seed: of what is held while it learns.

  Raises:
    ValueError: another kind.
  """
  if kind not in KINDS:
    raise ValueError(f"Unknown ablation {kind!r}; known are {list(KINDS)}.")
  if kind == "resample":
    return None
  if kind == "zero":
    return jnp.zeros((1, 1, len(net.writers), net.config.width))
  size = runs.batch_size(pairs) if size is None else size
  model = sites.Model(net)
  total: Any = None
  for batch in runs.batches(pairs, size):
    new = _sums(model, params, batch)
    total = new if total is None else jax.tree.map(jnp.add, total, new)
  sums, squares, counts = total
  if kind == "mean-position":
    found = sums / jnp.maximum(counts, 1)[:, None, None]
    return found[None]
  mean = sums.sum(0) / counts.sum()
  if kind == "mean":
    return mean[None, None]
  spread = jnp.sqrt(
    jnp.maximum(squares.sum(0) / counts.sum() - jnp.square(mean), 0)
  )
  return _learned(model, params, pairs, mean, spread, size, steps, seed)


def of_batch(
  net: sites.Network, params: Any, batch: runs.Batch, fixed: jax.Array | None
) -> jax.Array:
  """The `ref` of a batch: `fixed`, or what the corrupted run writes if None."""
  if fixed is not None:
    chex.assert_rank(fixed, 4)
    return fixed
  return runs.written(net, params, batch, corrupted=True)


def held(
  net: sites.Network, where: base.Array, values: base.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Writers held at values: `Edits.replace`, which cuts all their edges.

  Args:
    net: a network with edges.
    where: bool `[B|1, W]`, True for writers that are held.
    values: float `[B|1, P|1, W, d]`, what they write instead.
  """
  where, values = jnp.asarray(where), jnp.asarray(values)
  chex.assert_shape(where, (None, len(net.writers)))
  chex.assert_shape(values, (None, None, len(net.writers), None))
  found, begin = {}, 0
  for site, one in by_site(net).items():
    part = slice(begin, begin + one)
    begin += one
    mask, value = where[:, None, part, None], values[:, :, part]
    if not holds_heads(site):
      mask, value = mask[:, :, 0], value[:, :, 0]
    found[site] = mask, value
  return found


def by_site(net: sites.Network) -> dict[str, int]:
  """Each writer site to the number of writers that it holds, in order."""
  heads = net.config.num_heads
  return {site: heads if holds_heads(site) else 1 for site in net.writer_sites}


def holds_heads(site: str) -> bool:
  """Whether a writer site holds what all heads of a layer write."""
  return ".attn.heads" in site


@functools.partial(jax.jit, static_argnames="model")
def _sums(model, params, batch):
  """Sums over pairs of what is written and its square, and their number."""
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  inside = batch.inside.astype(jnp.result_type(float))
  z = runs.written(model.net, params, batch)
  add = lambda x: jnp.einsum("bp,bpwd->pwd", inside, x, precision="highest")
  return add(z), add(jnp.square(z)), inside.sum(0)


def _learned(model, params, pairs, mean, spread, size, steps, seed):
  import optax

  adam = optax.adam(_RATE)
  shift = jnp.zeros_like(mean)
  state, key = adam.init(shift), jax.random.key(seed)
  batches = list(runs.batches(pairs, size))
  for step in range(steps):
    key, own = jax.random.split(key)
    batch = batches[step % len(batches)]
    slope = _slope(model, params, batch, shift, mean, spread, own)
    updates, state = adam.update(slope, state)
    shift = optax.apply_updates(shift, updates)
  found = mean + spread * shift
  if not np.isfinite(np.asarray(found)).all():
    raise ValueError("The learned constants hold NaN: the model's logits do.")
  return found[None, None]


@functools.partial(jax.jit, static_argnames="model")
def _slope(model, params, batch, shift, mean, spread, key):
  """By `shift` `[W, d]`, of the mean divergence from the clean run."""
  net = model.net
  where = jax.random.bernoulli(key, 0.5, (len(batch.last), len(net.writers)))
  clean = runs.logits(net, params, batch)

  def loss(shift):
    values = (mean + spread * shift)[None, None]
    edits = sites.Edits(replace=held(net, where, values))
    each = runs.measured(net, params, metrics.kl, batch, clean, edits)
    real = batch.real.astype(each.dtype)
    return -(each * real).sum() / real.sum()

  return jax.grad(loss)(shift)
