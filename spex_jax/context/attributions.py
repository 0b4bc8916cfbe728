"""Scores of tokens for the steps of a response, by every method.

A method takes a `Game`, what is attributed at some steps, and gives the scores
of its tokens for all steps at once, `[S, T]`:

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

All but the last two are Inseq's to rounding, norms and not signed sums among
it. The forward runs once for all steps: the model is causal, so a step's score
of what stands behind it is 0.

Shapes: S steps, T tokens that are scored, P positions, d width, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import api, base
from spex_jax.ablate import absent, evaluate, features
from spex_jax.ablate import text as text_lib
from spex_jax.context import stepping
from spex_jax.models import sites, tokens

# Logits `[S, V]` of the run, and what the target needs, to values `[S]`.
Target: TypeAlias = Callable[[jax.Array, Any], jax.Array]
Place: TypeAlias = tuple[str, int, int]  # An input's name and a span of it.
NODES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
  """What is attributed: steps of one run, and the tokens that get scores.

  Attributes:
    net: causal, or an encoder-decoder.
    params: of the network.
    inputs: of one row, `[1, P]`.
    places: int `[S]`, the positions that predict the steps.
    target: traceable; of their logits and `shared`. A static function, so that
      it is compiled once: nothing is closed over.
    shared: what the target needs, arrays with a leading S.
    spans: the tokens that are scored, in order.
    unknown: the id that stands for an occluded token.
    key: consumed by methods that draw.
    budget: masks that a method may ask for, where it draws them.
  """

  net: sites.Network
  params: Any
  inputs: Mapping[str, np.ndarray]
  places: np.ndarray
  target: Target
  shared: Any
  spans: tuple[Place, ...]
  unknown: int = 0
  key: base.Key | None = None
  budget: int = 1000

  @property
  def num_steps(self) -> int:
    return len(self.places)

  @property
  def num_tokens(self) -> int:
    return sum(end - start for _, start, end in self.spans)


def saliency(game: Game) -> np.ndarray:
  """The gradient's L2 norm: `[S, T]`."""
  return _by_slopes(game, times=False)


def input_x_gradient(game: Game) -> np.ndarray:
  """The L2 norm of embedding times gradient: `[S, T]`."""
  return _by_slopes(game, times=True)


def integrated_gradients(game: Game) -> np.ndarray:
  """The L2 norm of integrated gradients: `[S, T]`."""
  nodes, weights = np.polynomial.legendre.leggauss(NODES)
  found = _integrated(
    *_arguments(game), game.unknown, (nodes + 1) / 2, weights / 2
  )
  return _scores(game, found)


def attention(game: Game) -> np.ndarray:
  """The mean attention of heads and blocks: `[S, T]`."""
  found = _attention(*_arguments(game)[:4])
  return _scores(game, found)


def occlusion(game: Game) -> np.ndarray:
  """How far f moves when a token becomes the unknown one: `[S, T]`."""
  run = masked(game)
  kept = ~np.eye(game.num_tokens + 1, game.num_tokens, k=-1, dtype=bool)
  values = run(kept)
  return np.abs(values[0] - values[1:]).T


def lime(game: Game) -> np.ndarray:
  """The slopes of LIME's linear model: `[S, T]`, signed."""
  if game.key is None:
    raise ValueError("LIME draws masks; give a key.")
  # No fewer than what a linear model of so many tokens needs.
  budget = max(game.budget, 2 * game.num_tokens + 2)
  found = api.explain(masked(game), budget=budget, method="lime", key=game.key)
  return firsts(found, game.num_steps)


def firsts(found: Any, num_steps: int) -> np.ndarray:
  """Every token's Banzhaf value in an explanation: float64 `[S, T]`."""
  n = found.fourier.n
  single = found.fourier.num_targets is None
  scores = np.zeros((num_steps, n))
  for step in range(num_steps):
    values = found.interactions("BV", target=None if single else step)
    scores[step, values.players[:, 0]] = values.values
  return scores


METHODS: Mapping[str, Callable[[Game], np.ndarray]] = {
  "saliency": saliency,
  "input_x_gradient": input_x_gradient,
  "integrated_gradients": integrated_gradients,
  "attention": attention,
  "occlusion": occlusion,
  "lime": lime,
}


def masked(
  game: Game,
  way: str = "mask",
  owner: np.ndarray | None = None,
  names: tuple[str, ...] | None = None,
) -> evaluate.Evaluator:
  """Masks of the scored tokens to the values of all steps, `[B, S]`.

  One ablated forward a mask, shared by all steps.

  Args:
    game: what is attributed; its spans of the decoder cannot be masked.
    way: of `absent.WAYS`: "mask" puts the unknown token in an absent one's
      place, "remove" packs the rest again as if it had never been there.
    owner: int `[P]`, the player of each position of `input_ids`, n for
      nobody's; by default each scored token is one.
    names: of the n players, where there is an owner.

  Raises:
    ValueError: spans of the decoder's tokens.
  """
  if any(name != "input_ids" for name, _, _ in game.spans):
    raise ValueError(
      "The decoder's own tokens are attributed by gradients and attention; "
      "leave out the output context, or choose one of these methods."
    )
  ids = np.asarray(game.inputs["input_ids"])[0]
  size = len(ids)
  if owner is None or names is None:
    names = tuple(str(i) for i in range(game.num_tokens))
    owner = np.full(size, game.num_tokens, np.int32)
    at = np.concatenate([np.arange(a, b) for _, a, b in game.spans])
    owner[at] = np.arange(game.num_tokens)
  n = len(names)
  # Ids without a text: no token stands for characters, or for space alone.
  none = np.zeros((size, 2), np.int32), np.zeros(size, bool)
  prompt = text_lib.Prompt(
    "", tokens.Encoding(ids, *none), features.Players(names, owner), ((),) * n
  )
  filler = game.unknown if way in ("mask", "one") else None
  see = absent.Inputs(prompt, way, 0, filler, (size,))
  moves = way != "mask" and len(stepping.input_sites(game.net)) == 1
  rest = {k: v for k, v in game.inputs.items() if k.startswith("decoder_")}

  def value(mask, given):
    params, shared, places, fixed = given
    if moves:
      places = see.places(mask)[places]
    logits = stepping.predictions(
      game.net, params, {**fixed, **see(mask)}, places[None]
    )
    return game.target(logits[0], shared)

  given = (game.params, game.shared, jnp.asarray(game.places), rest)
  rows = min(16, n + 1)
  return evaluate.compiled(value, n, shared=given, batch_size=rows)


class _Held(stepping.Held):
  """A network with what else is static of a game: its target."""

  def __init__(self, net, target):
    super().__init__(net)
    self.target = target
    self._key = (type(net.module), net.config, target)

  def value(self, params, inputs, places, shared, added):
    logits = stepping.predictions(self.net, params, inputs, places[None], added)
    found = self.target(logits[0], shared)
    chex.assert_shape(found, (len(places),))
    return found


def _arguments(game):
  held = _Held(game.net, game.target)
  return held, game.params, dict(game.inputs), game.places, game.shared


def _by_slopes(game, times):
  return _scores(game, _slopes(*_arguments(game), times=times))


@functools.partial(jax.jit, static_argnums=0, static_argnames="times")
def _slopes(held, params, inputs, places, shared, times):
  """Input to norms `[S, P]`."""
  value = functools.partial(held.value, params, inputs, places, shared)
  slope = stepping.slopes(value, stepping.zeros(held.net, params, inputs))
  scale = getattr(held.net.config, "embed_scale", 1.0)
  factor = dict.fromkeys(stepping.input_sites(held.net).values(), scale)
  if times:
    factor = stepping.embeddings(held.net, params, inputs)

  def sizes(weights):
    found = slope(weights)
    # The table's rows are what a factor behind them scales.
    norm = lambda site: jnp.linalg.norm(found[site] * factor[site], axis=-1)[0]
    return {
      name: norm(site) for name, site in stepping.input_sites(held.net).items()
    }

  return jax.lax.map(sizes, jnp.eye(len(places), dtype=jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _integrated(held, params, inputs, places, shared, unknown, nodes, weights):
  net = held.net
  at = stepping.embeddings(net, params, inputs)
  names = stepping.input_sites(net)
  blank = {
    name: jnp.full_like(x, unknown) if name in names else x
    for name, x in inputs.items()
  }
  base_at = stepping.embeddings(net, params, blank)
  step = jax.tree.map(jnp.subtract, at, base_at)
  value = functools.partial(held.value, params, inputs, places, shared)
  eye = jnp.eye(len(places), dtype=jnp.float32)

  def one(total, node):
    strength, weight = node
    added = jax.tree.map(lambda x: (strength - 1) * x, step)
    found = jax.lax.map(stepping.slopes(value, added), eye)
    return jax.tree.map(lambda t, g: t + weight * g, total, found), None

  zeros = jax.tree.map(lambda x: jnp.zeros((len(places), *x.shape)), step)
  points = (nodes.astype(jnp.float32), weights.astype(jnp.float32))
  mean, _ = jax.lax.scan(one, zeros, points)
  return {
    name: jnp.linalg.norm(mean[site] * step[site][None], axis=-1)[:, 0]
    for name, site in names.items()
  }


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


def _scores(game: Game, by_input: Mapping[str, jax.Array]) -> np.ndarray:
  """The scored tokens' of what each position has, float64 `[S, T]`, checked."""
  found = np.concatenate(
    [np.asarray(by_input[name])[:, a:b] for name, a, b in game.spans], axis=1
  ).astype(np.float64)
  chex.assert_shape(found, (game.num_steps, game.num_tokens))
  if not np.isfinite(found).all():
    raise ValueError("Scores are not finite: the network's values are not.")
  return found
