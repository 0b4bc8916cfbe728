"""Scores of tokens for the steps of a response, by every method.

A method takes a `games.Game`, what is attributed at some steps, and gives the
scores of its tokens for all steps at once, `[S, T]`:

  saliency              L2 norm of the gradient by the token's embedding
  input_x_gradient      L2 norm of embedding times gradient
  integrated_gradients  L2 norm of embedding less baseline's times the mean
                        gradient on the line between, 50 Gauss-Legendre nodes;
                        the baseline is the unknown token everywhere
                        (Sundararajan et al., arXiv:1703.01365, equation 1)
  attention             mean over heads and blocks of what the predicting
                        position pays; of an encoder's tokens in the decoder's
                        cross-attention
  occlusion             |f - f with the token's embedding the unknown one's|
  lime                  LIME's linear model of that (Ribeiro et al.,
                        arXiv:1602.04938), by `api.explain`
  sequential_integrated_gradients
                        integrated gradients of one token at a time, where the
                        others stay what they are (Enguehard,
                        arXiv:2305.15853)
  layer_integrated_gradients, layer_gradient_x_activation
                        the same of the game's `layer`, a site `[1, P, ...]`, in
                        the embeddings' place; its baseline is its activation
                        where all that is scored is unknown

Further ones are in `paths`, `zeroing` and `reagent`; `methods` has the table.
All but LIME are Inseq's to rounding, norms and not signed sums among it; with
LIME, Inseq puts the unknown token's number in the place of its embedding. The
forward runs once for all steps: the model is causal, so a step's score of what
stands behind it is 0.

Shapes: S steps, T tokens that are scored, P positions, d width, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import api
from spex_jax.context import games, stepping

NODES = 50


def saliency(game: games.Game) -> np.ndarray:
  """The gradient's L2 norm: `[S, T]`."""
  return _by_slopes(game, times=False)


def input_x_gradient(game: games.Game) -> np.ndarray:
  """The L2 norm of embedding times gradient: `[S, T]`."""
  return _by_slopes(game, times=True)


def integrated_gradients(game: games.Game) -> np.ndarray:
  """The L2 norm of integrated gradients: `[S, T]`."""
  return _by_path(game, game.sites_of())


def layer_integrated_gradients(game: games.Game) -> np.ndarray:
  """The same of `game.layer`: `[S, T]`."""
  return _by_path(game, game.sites_of(game.layer))


def layer_gradient_x_activation(game: games.Game) -> np.ndarray:
  """The L2 norm of a layer's activation times its gradient: `[S, T]`."""
  found = _slopes(*games.arguments(game, game.sites_of(game.layer)), times=True)
  return games.scores(game, found)


def sequential_integrated_gradients(game: games.Game) -> np.ndarray:
  """Integrated gradients, token by token: `[S, T]`."""
  found = _sequential(
    *games.arguments(game, game.sites_of()), game.blank(), *_gauss(),
    {name: np.arange(a, b) for name, a, b in _merged(game)},
  )  # fmt: skip
  return games.scores(game, found)


def attention(game: games.Game) -> np.ndarray:
  """The mean attention of heads and blocks: `[S, T]`."""
  held, params, inputs, places, _ = games.arguments(game)
  return games.scores(game, _attention(held, params, inputs, places))


def occlusion(game: games.Game) -> np.ndarray:
  """How far f moves when a token becomes the unknown one: `[S, T]`."""
  run = games.masked(game)
  kept = ~np.eye(game.num_tokens + 1, game.num_tokens, k=-1, dtype=bool)
  values = run(kept)
  return games.checked(game, np.abs(values[0] - values[1:]).T)


def lime(game: games.Game) -> np.ndarray:
  """The slopes of LIME's linear model: `[S, T]`, signed.

  Raises:
    ValueError: a game without a key, as masks are drawn.
  """
  if game.key is None:
    raise ValueError("LIME draws masks; give a key.")
  # No fewer than what a linear model of so many tokens needs.
  budget = max(game.budget, 2 * game.num_tokens + 2)
  found = api.explain(
    games.masked(game), budget=budget, method="lime", key=game.key
  )
  return firsts(found, game.num_steps)


def firsts(found: Any, num_steps: int) -> np.ndarray:
  """Every token's Banzhaf value in an explanation: float64 `[S, T]`."""
  n = found.fourier.n
  single = found.fourier.num_targets is None
  scores = np.zeros((num_steps, n))
  for step in range(num_steps):
    values = found.interactions("BV", target=None if single else step)
    if len(values.values):  # None of a function that its mean explains.
      scores[step, values.players[:, 0]] = values.values
  return scores


def _gauss():
  nodes, weights = np.polynomial.legendre.leggauss(NODES)
  return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def _by_slopes(game, times):
  return games.scores(
    game, _slopes(*games.arguments(game, game.sites_of()), times=times)
  )


def _by_path(game, sites_of):
  return games.scores(
    game, _integrated(*games.arguments(game, sites_of), game.blank(), *_gauss())
  )


def _norm(x: jax.Array) -> jax.Array:
  """Of `[..., 1, P, ...]` by position, with leading S: `[S, P]`."""
  return jnp.linalg.norm(x.reshape(len(x), x.shape[2], -1), axis=-1)


@functools.partial(jax.jit, static_argnums=0, static_argnames="times")
def _slopes(held, params, inputs, places, shared, times):
  """Input to norms `[S, P]`."""
  value = functools.partial(held.value, params, inputs, places, shared)
  at = held.activations(params, inputs)
  slope = stepping.slopes(value, jax.tree.map(jnp.zeros_like, at))
  scale = getattr(held.net.config, "embed_scale", 1.0)
  factor = at if times else dict.fromkeys(at, scale)

  def sizes(weights):
    found = slope(weights)
    # The table's rows are what a factor behind them scales.
    return {
      name: _norm((found[site] * factor[site])[None])[0]
      for name, site in held.sites.items()
    }

  return jax.lax.map(sizes, jnp.eye(len(places), dtype=jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _integrated(held, params, inputs, places, shared, blank, nodes, weights):
  at = held.activations(params, inputs)
  step = jax.tree.map(jnp.subtract, at, held.activations(params, blank))
  value = functools.partial(held.value, params, inputs, places, shared)
  eye = jnp.eye(len(places), dtype=jnp.float32)

  def one(total, node):
    strength, weight = node
    added = jax.tree.map(lambda x: (strength - 1) * x, step)
    found = jax.lax.map(stepping.slopes(value, added), eye)
    return jax.tree.map(lambda t, g: t + weight * g, total, found), None

  zeros = jax.tree.map(lambda x: jnp.zeros((len(places), *x.shape)), step)
  mean, _ = jax.lax.scan(one, zeros, (nodes, weights))
  return {
    name: _norm(mean[site] * step[site][None])
    for name, site in held.sites.items()
  }


@functools.partial(jax.jit, static_argnums=0)
def _sequential(
  held, params, inputs, places, shared, blank, nodes, weights, wanted
):
  """Input to norms `[S, P]`, 0 where no position is `wanted`."""
  at = held.activations(params, inputs)
  step = jax.tree.map(jnp.subtract, at, held.activations(params, blank))
  value = functools.partial(held.value, params, inputs, places, shared)
  eye = jnp.eye(len(places), dtype=jnp.float32)
  zeros = jax.tree.map(jnp.zeros_like, at)

  def of(site, place):
    here = (jnp.arange(at[site].shape[1]) == place)[None, :, None]

    def one(total, node):
      strength, weight = node
      added = {**zeros, site: jnp.where(here, (strength - 1) * step[site], 0)}
      found = jax.lax.map(stepping.slopes(value, added), eye)[site]
      return total + weight * found[:, 0, place], None

    start = jnp.zeros((len(places), at[site].shape[-1]))
    mean, _ = jax.lax.scan(one, start, (nodes, weights))
    return jnp.linalg.norm(mean * step[site][:, place], axis=-1)

  found = {}
  for name, site in held.sites.items():
    by_token = jax.lax.map(functools.partial(of, site), wanted[name])
    found[name] = (
      jnp.zeros((len(places), at[site].shape[1]))
      .at[:, wanted[name]]
      .set(by_token.T)
    )
  return found


def _merged(game):
  """One stretch for each input, around all its spans."""
  for side in game.sides:
    ends = [(a, b) for name, a, b in game.spans if name == side]
    yield side, min(a for a, _ in ends), max(b for _, b in ends)


@functools.partial(jax.jit, static_argnums=0)
def _attention(held, params, inputs, places):
  """Input to mean attention `[S, P]`."""
  net = held.net
  if len(stepping.input_sites(net)) == 1:
    wanted = {"input_ids": "blocks.*.attn.pattern"}
  else:
    wanted = {
      "input_ids": "decoder.blocks.*.cross.pattern",
      "decoder_input_ids": "decoder.blocks.*.attn.pattern",
    }
  found = net.apply(params, None, tuple(wanted.values()), **inputs).activations

  def mean(part):
    kept = [x for site, x in found.items() if part in f".{site}"]
    return sum(x[0].mean(axis=0)[places] for x in kept) / len(kept)

  part = lambda pattern: "." + pattern.split("*.")[1]
  return {name: mean(part(pattern)) for name, pattern in wanted.items()}
