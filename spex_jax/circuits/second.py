"""Second-order scores: how gradients change on the way, and what that flags.

In the strengths c of all cuts, 0 whole and 1 cut, the metric near the clean run
is m(0) + g c + c H c / 2. First-order scores are g. A product H v, the
derivative of all of them along v, costs about four gradients; the correction of
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
import numpy as np

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


def scores(
  model: sites.Model,
  level: taps.Level,
  metric: metrics.Metric,
  direction: str,
  draws: int,
  params: Any,
  batch: runs.Batch,
  fixed: jax.Array | None,
  seed: int = 0,
) -> Curved:
  """First and second order of edges of a batch, `[B, E]` each.

  Args:
    model: the network, hashable.
    level: what is scored, edges alone, see `taps.Level`.
    metric: one example's logits to a number, see `metrics`.
    direction: what change curvature is taken along, one of `DIRECTIONS`.
    draws: of random signs, for "own".
    params: the parameters of the network.
    batch: B pairs of prompts, in a fixed shape.
    fixed: `[1, 1|P, W, d]`, what cut edges carry; None to resample it.
    seed: an integer, the seed of the signs.
  """
  graph = level.graph
  if direction == "path":
    ways = [np.ones(len(graph))]
  elif direction == "own":
    rng = np.random.default_rng(seed)
    ways = [rng.choice([-1.0, 1.0], len(graph)) for _ in range(draws)]
  else:
    ways = [graph.writer == i for i in range(len(graph.writers))]
  slope: Any = None
  total: Any = 0.0
  for way in ways:
    v = np.asarray(way, np.float64)
    slope, product = _program(model, level, metric, params, batch, fixed, v)
    total = total + product
  num = len(ways) if direction == "own" else 1
  return Curved(slope, total / (2 * num))


@functools.partial(jax.jit, static_argnames=("model", "level", "metric"))
def _program(model, level, metric, params, batch, fixed, v):
  """Scores, and v (H v), of every pair `[B, E]`; `v` is `[E]`."""
  net, graph = model.net, level.graph
  chex.assert_shape(v, (len(graph),))
  z, clean_logits = runs.observed(net, params, batch)
  ref = ablations.of_batch(net, params, batch, fixed)
  change = level.change(net, params, batch, ref - z, fixed)
  v = v.astype(clean_logits.dtype)
  shares = graph.split(v)

  def carried(change):
    """What rows read more of where edges bring `v` of a change."""
    add = {}
    for name, part in shares.items():
      before = change[:, : part.shape[1]]
      one = jnp.einsum("rw,bwpd->bprd", part, before, precision="highest")
      add[name] = one if ".attn." in name else one[:, :, 0]
    return add

  way = carried(change)
  zeros = level.zeros(batch, clean_logits.dtype)

  def slope(step):
    """Scores, and the gradient by what `v` brings of writers, as `change`."""
    moved = {name: step * x for name, x in way.items()}
    # What writers write moves, too, and with it what a further cut would do.
    run = sites.Edits(add=moved)
    z = net.contributions(params, run, input_ids=jnp.asarray(batch.clean))
    now = level.change(net, params, batch, ref - z, fixed)

    def value(share, brought):
      more = carried(brought)
      add = {
        name: x + moved[name] + more[name]
        for name, x in level.add(net, share, now).items()
      }
      run = sites.Edits(add=add)
      return runs.measured(net, params, metric, batch, clean_logits, run).sum()

    share, weights = jax.grad(value, (0, 1))(zeros, jnp.zeros_like(change))
    return level.join(share), weights

  def passed(share):
    edits = sites.Edits(add=level.add(net, share, change))
    wrote = net.contributions(params, edits, input_ids=jnp.asarray(batch.clean))
    return (weights * jnp.moveaxis(wrote, 2, 1)).sum()

  zero = jnp.zeros((), clean_logits.dtype)
  (found, weights), (product, _) = jax.jvp(slope, (zero,), (zero + 1,))
  # A cut edge passes less of its writer on, and of what that writer reads.
  product = product - level.join(jax.grad(passed)(zeros))
  return found, v[None] * product
