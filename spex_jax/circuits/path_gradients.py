"""Scores by gradients on a path from the corrupted to the clean run.

  eap              the gradient at the clean run (Syed et al. 2023,
                   arXiv 2310.10348)
  clean-corrupted  the mean of those at both ends
  eap-ig           the mean along the line between the two token embeddings
                   (Hanna et al. 2024, arXiv 2403.17806): everything behind the
                   embeddings is computed
  ig-activations   the mean over lines along which one layer's heads, one MLP or
                   the embedding alone moves, each giving to all edges: the
                   published code's form
  ig-nodes         the same, each giving to the edges out of what moves: the
                   scores of such a group sum to what patching it does
  ig-edges         the mean along the line on which all edges are cut to one
                   degree: all scores sum to the whole effect

Rules of m steps are at (k + 1/2) / m ("midpoint", error O(1 / m^2)), k / m
("left", which holds the corrupted end, as the published code has it) and
(k + 1) / m ("right"), where 0 is corrupted and 1 is clean; k = 0..m-1.

Shapes: B pairs, P positions, K points, W writers, d width.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import ablations, metrics, runs, taps
from spex_jax.models import sites

RULES = ("midpoint", "left", "right")
METHODS = (
  "eap", "clean-corrupted", "eap-ig", "ig-activations", "ig-nodes", "ig-edges",
)  # fmt: skip
_KINDS = {
  "ig-activations": "groups", "ig-nodes": "groups", "ig-edges": "cut",
}  # fmt: skip
_ROOM = 32  # Points of a program, which takes any number of them up to that.


def points(method: str, steps: int, rule: str) -> np.ndarray:
  """Where gradients are taken: float `[K]`, 1 at the clean end.

  Raises:
    TypeError: steps that are no integer.
    ValueError: steps below 1, or another rule.
  """
  if method == "eap":
    return np.ones(1)
  if method == "clean-corrupted":
    return np.array([0.0, 1.0])
  if base.check_integer(steps, "steps") < 1:
    raise ValueError(f"steps must be at least 1; got {steps}.")
  if rule not in RULES:
    raise ValueError(f"Unknown rule {rule!r}; known are {list(RULES)}.")
  shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
  return (np.arange(steps) + shift) / steps


def passes(method: str, net: sites.Network, steps: int) -> int:
  """How many gradients of one pair a method takes."""
  if _KINDS.get(method) == "groups":
    return steps * len(net.writer_sites)
  return {"eap": 1, "clean-corrupted": 2}.get(method, steps)


def scores(
  model: sites.Model,
  level: taps.Level,
  metric: metrics.Metric,
  method: str,
  params: Any,
  batch: runs.Batch,
  fixed: jax.Array | None,
  at: np.ndarray,
) -> jax.Array:
  """Scores of a batch: `[B, size]`, or `[B, P, size]` by position.

  One program serves all methods that move the embedding, whatever the points.

  Args:
    model: the network, hashable.
    level: what is scored: edges (at positions), nodes, neurons; see
      `taps.Level`.
    metric: one example's logits to a number, see `metrics`.
    method: how gradients are taken, one of `METHODS`.
    params: the parameters of the network.
    batch: B pairs of prompts, in a fixed shape.
    fixed: `[1, 1|P, W, d]`, what cut edges carry; None to resample it.
    at: float `[K]`, the points on the path, from `points`.
  """
  room = -(-len(at) // _ROOM) * _ROOM
  where = np.zeros(room)
  where[: len(at)] = at
  return _program(
    model, level, metric, _KINDS.get(method, "line"),
    params, batch, fixed, where, len(at), method == "ig-nodes",
  )  # fmt: skip


@functools.partial(
  jax.jit, static_argnames=("model", "level", "metric", "kind")
)
def _program(
  model, level, metric, kind, params, batch, fixed, at, num, own_alone
):
  """`scores` of the first `num` of the points `at`."""
  chex.assert_rank([at, num], [1, 0])
  net = model.net
  z, clean_logits = runs.observed(net, params, batch)
  # Points and sums in float32 at least: narrow ones lose all after some terms.
  at = at.astype(jnp.promote_types(clean_logits.dtype, jnp.float32))
  ref = ablations.of_batch(net, params, batch, fixed)
  if kind == "cut":
    value = lambda cut: runs.measured(
      net, params, metric, batch, clean_logits, sites.Edits(cut=cut, ref=ref)
    ).sum()
    zeros = level.zeros(batch, clean_logits.dtype)
    return _mean(lambda i: level.join(_by_cut(value, zeros, at[i])), num)
  change = level.change(net, params, batch, ref - z, fixed)
  slopes = lambda edits: taps.slopes(
    net, level, metric, params, batch, clean_logits, change, edits
  )
  if kind == "line":
    first, last = z[:, :, 0], ref[:, :, 0]

    def along(i):
      moved = (first + (1 - at[i]) * (last - first)).astype(first.dtype)
      where = jnp.ones((1, 1, 1), bool)
      return slopes(sites.Edits(replace={"embed": (where, moved)}))

    return _mean(along, num)

  # Every group of writers at every point, one after the other.
  counts = list(ablations.by_site(net).values())
  group = np.repeat(np.arange(len(counts)), counts)

  def moved(i):
    where = jnp.asarray(group) == i // num
    line = (z + (1 - at[i % num]) * (ref - z)).astype(z.dtype)
    edits = sites.Edits(replace=ablations.held(net, where[None], line))
    found = slopes(edits)
    own = where if level.name == "node" else where[level.graph.writer]
    # A mean over all groups, of which one alone gives anything.
    share = jnp.where(own_alone, own * len(counts), 1).astype(found.dtype)
    return found * share.reshape(*(1,) * (found.ndim - 1), -1)

  return _mean(moved, num * len(counts))


def _mean(slope, num):
  """The mean of `slope` of 0..num-1, one after the other."""
  zero = jax.eval_shape(slope, jax.ShapeDtypeStruct((), jnp.int32))
  wide = jnp.promote_types(zero.dtype, jnp.float32)
  add = lambda i, total: total + slope(i).astype(wide)
  total = jax.lax.fori_loop(0, num, add, jnp.zeros(zero.shape, wide))
  return total / jnp.asarray(num, wide)


def _by_cut(value, zeros, share):
  """The gradient by every edge of every pair, where all are cut to a degree."""
  cut = {
    name: (1 - share).astype(x.dtype) + (x if x.ndim == 4 else x[:, None])
    for name, x in zeros.items()
  }
  slope = jax.grad(value)(cut)
  return {name: slope[name].reshape(x.shape) for name, x in zeros.items()}
