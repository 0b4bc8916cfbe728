"""Second-order scores: how gradients change on the way, and what that flags.

In the strengths c of all cuts, 0 whole and 1 cut, the metric near the clean run
is m(0) + g c + c H c / 2. First-order scores are g. A product H v, the
derivative of all of them along v, costs about two gradients; the correction of
an edge is half of its entry, in one of three directions:

  path     v = 1: towards the corrupted run, all edges at once, where g moves as
           it does under EAP-IG; one product
  own      the diagonal of H, each edge's own curvature, from random signs v as
           the mean of v (H v) (Hutchinson): unbiased, noisy; one product a draw
  writer   the curvature by everything that an edge's writer writes, so that
           the scores of its edges sum to its own second-order effect
           (arXiv 2606.09899, divided among edges); W products

Where the correction is not small against the gradient, the estimate is not to
be relied upon: `Curved.ratio` flags it.

Shapes: B pairs, P positions, E edges, W writers, D directions, d width.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from spex_jax.circuits import ablations, metrics, runs, taps
from spex_jax.models import sites

DIRECTIONS = ("path", "own", "writer")


class Curved(NamedTuple):
  """First-order scores of pairs and their corrections: `[B, E]` each."""

  slope: Any
  half: Any

  @property
  def ratio(self) -> Any:
    """The size of the correction against the whole: 0 sure, 1 unsure."""
    first, second = abs(self.slope).mean(0), abs(self.half).mean(0)
    total = first + second
    return second / (total + (total == 0))


@functools.partial(
  jax.jit, static_argnames=("model", "level", "metric", "direction", "draws")
)
def program(
  model: runs.Model,
  level: taps.Level,
  metric: metrics.Metric,
  direction: str,
  draws: int,
  params: Any,
  batch: runs.Batch,
  fixed: jax.Array | None,
  key: jax.Array,
) -> Curved:
  """First and second order of edges of a batch, `[B, E]` each.

  Args:
    model: static.
    level: of edges.
    metric: of one example.
    direction: one of `DIRECTIONS`.
    draws: of random signs, for "own".
    params: the network's.
    batch: B pairs.
    fixed: as for `ablations.of_batch`.
    key: of the signs; consumed.
  """
  net, graph = model.net, level.graph
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  clean_logits = runs.logits(net, params, batch)
  ref = ablations.of_batch(net, params, batch, fixed)
  change = level.change(net, params, batch, fixed)

  def along(v):
    """H v of every pair `[B, E]`, for `v` `[E]`."""
    way = {
      name: jnp.einsum(
        "rw,bwpd->bprd", part, change[:, : part.shape[1]], precision="highest"
      )
      for name, part in graph.split(v).items()
    }

    def slope(step):
      add = {
        name: step * (x if name.endswith("_in") and ".attn." in name else x[:, :, 0])
        for name, x in way.items()
      }
      edits = sites.Edits(add=add)
      # What writers write moves, too, and with it what a further cut would do.
      z = net.contributions(
        params, edits, input_ids=jnp.asarray(batch.clean)
      )
      now = jnp.moveaxis(ref - z, 2, 1)
      return taps.slopes(
        net, level, metric, params, batch, clean_logits, now, edits
      )

    zero = jnp.zeros((), clean_logits.dtype)
    return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))

  if direction == "path":
    slope, second = along(jnp.ones(len(graph), clean_logits.dtype))
  elif direction == "own":
    shape = (draws, len(graph))
    signs = jax.random.rademacher(key, shape, clean_logits.dtype)
    slopes, each = jax.lax.map(along, signs)
    slope, second = slopes[0], (signs[:, None] * each).mean(0)
  else:
    num = len(graph.writers)

    def of_writer(writer):
      own = (jnp.asarray(graph.writer) == writer).astype(clean_logits.dtype)
      slope, each = along(own)
      return slope, own[None] * each

    slopes, each = jax.lax.map(of_writer, jnp.arange(num))
    slope, second = slopes[0], each.sum(0)
  return Curved(slope, second / 2)
