"""Information-flow routes: what share of a reader's input each writer gives.

How near a writer's vector z lies to what is read, x, is
`max(|x|_1 - |x - z|_1, 0)`, and an edge's score its share of the sum over the
writers before the reader, on average over the positions of the clean prompt
(Ferrando and Voita 2024, arXiv 2403.00824). No metric and no other run are
asked; a share is not signed. All rows that read at one point score alike.

Shapes: B pairs, P positions, W writers, W' before a reader, d width.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import runs
from spex_jax.models import sites


@functools.partial(jax.jit, static_argnames=("model", "graph"))
def program(
  model: sites.Model, graph: graph_lib.Graph, params: Any, batch: runs.Batch
) -> jax.Array:
  """Scores of edges: `[B, E]`; shares, those of a row sum to 1."""
  net = model.net
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  points = [_point(reader.name) for reader in graph.readers]
  out = net.apply(
    params,
    input_ids=jnp.asarray(batch.clean),
    capture=(*net.writer_sites, *dict.fromkeys(points)),
  ).activations
  each = [out[site] for site in net.writer_sites]
  # One writer after the other: `[W, B, P, d]`.
  z = jnp.concatenate(
    [jnp.moveaxis(x, 2, 0) if x.ndim == 4 else x[None] for x in each]
  )
  inside = batch.inside.astype(z.dtype)
  weight = inside / jnp.maximum(inside.sum(1, keepdims=True), 1)
  found: dict[str, jax.Array] = {}
  shares: dict[tuple[str, int], jax.Array] = {}
  for reader, point in zip(graph.readers, points):
    key = point, reader.before
    if key not in shares:
      shares[key] = _shares(out[point], z[: reader.before], weight)
    found[reader.name] = jnp.repeat(shares[key][:, None], reader.rows, axis=1)
  return graph.join(found)


def _point(reader) -> str:
  """The site that holds what all rows of a reader read."""
  block = reader.rsplit(".attn.", 1)[0]
  return reader if block == reader else f"{block}.resid_pre"


def _shares(x, z, weight):
  """`[B, P, d]`, `[W', B, P, d]` and `[B, P]` to `[B, W']`."""
  chex.assert_rank([x, z, weight], [3, 4, 2])
  near = lambda one: jnp.abs(x).sum(-1) - jnp.abs(x - one).sum(-1)
  close = jnp.maximum(jax.lax.map(near, z), 0)
  total = close.sum(0, keepdims=True)
  share = close / jnp.where(total > 0, total, jnp.ones_like(total))
  return jnp.einsum("wbp,bp->bw", share, weight)
