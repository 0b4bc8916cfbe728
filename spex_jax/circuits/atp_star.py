"""AtP*: attribution patching without its two false negatives.

Kramár et al. 2024 (arXiv 2403.00745), at the clean run:

- The QK fix. What an edge does by way of a query or a key is the change of the
  attention pattern, computed, times the gradient by the pattern: a saturated
  softmax hides it from a gradient by the query. One product of queries and keys
  for each writer and block, and no further forward.
- GradDrop. Effects of opposite sign on two ways through the network cancel. So
  gradients are taken L times, each without what passes through one layer, and
  absolute values are averaged over the gradients that leave what is scored
  alive: L - 1 within a block; L for the embedding and edges into the output.
  The layer of a network that has no other is not dropped.

The paper's estimates have no sign. Here they have that of the sum over layers.

Shapes: B pairs, P positions, L layers, H heads, K key-value heads, E edges.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import ablations, metrics, paths, runs, taps
from spex_jax.models import sites


@functools.partial(jax.jit, static_argnames=("model", "level", "metric"))
def program(
  model: sites.Model,
  level: taps.Level,
  metric: metrics.Metric,
  params: Any,
  batch: runs.Batch,
  fixed: jax.Array | None,
) -> jax.Array:
  """Scores of a batch: `[B, size]`.

  Args:
    model: the network, hashable; static under jit.
    level: edges, or nodes or neurons, which have no queries to fix.
    metric: one example's logits to a number, see `metrics`.
    params: the parameters of the network.
    batch: B pairs of prompts, in a fixed shape.
    fixed: `[1, 1|P, W, d]`, what cut edges carry; None to resample it.
  """
  net = model.net
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  num = net.config.num_blocks
  added = paths.sums(net)
  patterns = [f"blocks.{i}.attn.pattern" for i in range(num)]
  enters = [f"blocks.{i}.resid_pre" for i in range(num)]
  # What is held where gradients are dropped: the clean run's parts.
  out = net.apply(
    params,
    capture=(*(site for pair in added for site in pair), *patterns, *enters),
    **runs.inputs(batch),
  )
  clean, clean_logits = out.activations, out.logits[:, 0]
  ref = ablations.of_batch(net, params, batch, fixed)
  z = runs.written(net, params, batch)
  change = level.change(net, params, batch, ref - z, fixed)
  zeros = level.zeros(batch, clean_logits.dtype)
  flat = {site: jnp.zeros_like(clean[site]) for site in patterns}

  def without(dropped):
    """Gradients by scores and patterns, none through one layer."""
    replace = {
      site: (jnp.full((1,) * clean[site].ndim, dropped == i), clean[site])
      for i, pair in enumerate(added)
      for site in pair
    }

    def total(share, moved):
      add = level.add(net, share, change) | moved
      edits = sites.Edits(replace=replace, add=add)
      return runs.measured(
        net, params, metric, batch, clean_logits, edits
      ).sum()

    return jax.grad(total, (0, 1))(zeros, flat)

  # One layer's own gradients are dropped at a time.
  drops = np.arange(num) if num > 1 else np.array([-1])
  share, slope = jax.lax.map(without, jnp.asarray(drops))
  # By queries and keys: how the pattern changes, computed, times its slope.
  if level.name == "edge":
    for i, site in enumerate(patterns):
      moved = functools.partial(
        _pattern, net, params, batch, i, clean[enters[i]]
      )
      for kind in "qk":
        reader = f"blocks.{i}.attn.{kind}_in"
        rows, before = net.readers[reader]

        def effect(one, reader=reader, rows=rows, moved=moved, site=site):
          found = moved(reader, rows, one) - clean[site]
          by_head = jnp.einsum(
            "lbhps,bhps->lbh", slope[site], found, precision="highest"
          )
          return by_head.reshape(*by_head.shape[:2], rows, -1).sum(-1)

        each = jax.lax.map(effect, jnp.moveaxis(change[:, :before], 1, 0))
        share[reader] = jnp.moveaxis(each, 0, -1)
  each = jax.vmap(level.join)(share)
  own = np.array([f"blocks.{i}." for i in drops])[:, None, None]
  gone = np.char.startswith(_places(net, level)[None, None], own)
  # What an MLP writes is taken behind where its layer is dropped.
  each = jnp.where(gone, 0, each)
  size = jnp.abs(each).sum(0) / (~gone).sum(0)
  return jnp.sign(each.sum(0)) * size


def _places(net, level) -> np.ndarray:
  """Of what is scored where it stands: a reader, a writer or a site."""
  graph = level.graph
  if level.name == "node":
    return np.array(net.writers)
  if level.name == "neuron":
    return np.repeat(graph.neuron_sites, graph.neurons)
  return np.array([reader.name for reader in graph.readers])[graph.reader]


def _pattern(net, params, batch, block, x, reader, rows, change):
  """A block's pattern where all rows of a reader read a change `[B, P, d]`.

  No row of queries or keys has a part in another's pattern, but for those that
  share a key.
  """
  chex.assert_equal_shape([x, change])
  add = jnp.broadcast_to(
    change[:, :, None], (*change.shape[:2], rows, change.shape[-1])
  )
  edits = sites.Edits(add={reader: add})
  site = f"blocks.{block}.attn.pattern"
  out = net.resume(
    params, block, x, edits, capture=(site,), **runs.inputs(batch)
  )
  return out.activations[site]
