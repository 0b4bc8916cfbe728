"""Discretized integrated gradients: a path through other tokens' embeddings.

From each token's embedding to the baseline's leads a path of `POINTS` points:
every next one is a neighbour of the last token in the table (of the nearest
`NEIGHBOURS`, the one that is changed least by what follows), and where it is
not between the last point and the baseline, dimension by dimension, it takes a
step of 1 / POINTS of the way instead. The score is the L2 norm of the sum of
gradient times step. Source: Sanyal and Ren, arXiv:2108.13654, "greedy"; Inseq
0.7.1, special tokens that stay where they are up to the last step among it.

Shapes: K points, P positions, S steps, V tokens of the vocabulary, d width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.context import games, stepping

POINTS = 50
NEIGHBOURS = 50


def discretized_integrated_gradients(
  game: games.Game, neighbours: int = NEIGHBOURS
) -> np.ndarray:
  """The L2 norm of gradients along the path: `[S, T]`.

  Args:
    game: the steps, what is attributed, and its tokens.
    neighbours: that a path may go on to.

  Raises:
    ValueError: a network whose table of embeddings is not `tokens.table`, or
      as `games.scores`.
  """
  sites_of = game.sites_of()
  params: Any = game.params
  if "table" not in params.get("tokens", {}):
    raise ValueError(
      "method='discretized_integrated_gradients' needs the table of the "
      "tokens' embeddings, which this architecture keeps elsewhere; choose "
      "integrated_gradients."
    )
  table = np.asarray(params["tokens"]["table"], np.float32)
  table = table * np.float32(getattr(game.net.config, "embed_scale", 1.0))
  paths = Paths(table, neighbours, (*_special(game), *game.kept))
  blank = game.blank()
  points = {}
  for name, site in sites_of.items():
    pairs = zip(np.asarray(game.inputs[name])[0], blank[name][0])
    made = [paths(int(token), int(base)) for token, base in pairs]
    points[site] = np.stack(made, axis=1)[:, None]
  found = _along(*games.arguments(game, sites_of), points)
  return games.scores(game, found)


class Paths:
  """Paths from tokens to others, each found once.

  Args:
    table: float32 `[V, d]`, the embedding of each token.
    neighbours: that a path may go on to; at most V - 1 are there.
    special: ids that stay where they are up to the last step.
  """

  def __init__(
    self, table: np.ndarray, neighbours: int, special: tuple[int, ...] = ()
  ):
    self._table = table
    self._neighbours = min(neighbours, len(table) - 1)
    self._special = frozenset(special)
    self._near: dict[int, np.ndarray] = {}

  def __call__(self, token: int, base: int) -> np.ndarray:
    """The points from the baseline `base` to a token: float32 `[K, d]`."""
    end = self._table[base]
    points = [self._table[token]]
    for other in self._tokens(token, base)[1:]:
      points.append(_between(self._table[other], end, points[-1]))
    return np.stack([*points, end])[::-1]

  def _tokens(self, token, base):
    path = [token]
    if token in self._special:
      return path * (POINTS - 1)
    for _ in range(POINTS - 2):
      path.append(self._next(path, base))
    return path

  def _next(self, path, base):
    last = path[-1]
    if last == base:
      return base
    near = self._nearest(last)
    near = near[~np.isin(near, [*path, base])]
    if not len(near):
      return base
    moved = _between(self._table[near], self._table[base], self._table[last])
    return int(near[((self._table[near] - moved) ** 2).sum(axis=-1).argmin()])

  def _nearest(self, token):
    if token not in self._near:
      away = ((self._table - self._table[token]) ** 2).sum(axis=-1)
      away[token] = np.inf
      first = np.argpartition(away, self._neighbours - 1)[: self._neighbours]
      self._near[token] = first[np.argsort(away[first], kind="stable")]
    return self._near[token]


def _between(anchor, end, start):
  """`anchor` where it is between, else a step from `start`: `[..., d]`."""
  inside = ((end > start) & (end >= anchor) & (anchor >= start)) | (
    (end < start) & (end <= anchor) & (anchor <= start)
  )
  inside |= (end == start) & (end == anchor)
  return np.where(inside, anchor, start - (start - end) / np.float32(POINTS))


def _special(game):
  tokenizer = game.net.tokenizer
  return () if tokenizer is None else tuple(tokenizer.special.values())


@functools.partial(jax.jit, static_argnums=0)
def _along(held, params, inputs, places, shared, points):
  """Input to norms `[S, P]` of gradient times step, along `[K, 1, P, d]`."""
  at = held.activations(params, inputs)
  value = functools.partial(held.value, params, inputs, places, shared)
  eye = jnp.eye(len(places), dtype=jnp.float32)

  def one(total, pair):
    here, ahead = pair
    added = jax.tree.map(jnp.subtract, here, at)
    found = jax.lax.map(stepping.slopes(value, added), eye)
    return jax.tree.map(
      lambda t, g, a, b: t + g * (b - a)[None], total, found, here, ahead
    ), None

  zeros = jax.tree.map(lambda x: jnp.zeros((len(places), *x.shape)), at)
  here = jax.tree.map(lambda x: x[:-1], points)
  ahead = jax.tree.map(lambda x: x[1:], points)
  total, _ = jax.lax.scan(one, zeros, (here, ahead))
  return {
    name: jnp.linalg.norm(total[site][:, 0], axis=-1)
    for name, site in held.sites.items()
  }
