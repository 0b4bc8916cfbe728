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
  sequential_integrated_gradients
                        integrated gradients of one token at a time, where the
                        others stay what they are (Enguehard,
                        arXiv:2305.15853)
  layer_integrated_gradients, layer_gradient_x_activation
                        the same of `Game.layer`, a site `[1, P, ...]`, in the
                        embeddings' place; its baseline is its activation where
                        all that is scored is unknown

Further ones are in `paths`, `zeroing` and `reagent`; `methods` has the table.
All but LIME are Inseq's to rounding, norms and not signed sums among it; with
LIME, Inseq puts the unknown token's number in the place of its embedding. The
forward runs once for all steps: the model is causal, so a step's score of what
stands behind it is 0.

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
    kept: ids that nothing stands for, such as the end token: they are never
      occluded, and integrate to 0.
    layer: the site that layer methods attribute; None for the embeddings.
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
  kept: tuple[int, ...] = ()
  layer: str | None = None
  key: base.Key | None = None
  budget: int = 1000

  @property
  def num_steps(self) -> int:
    return len(self.places)

  @property
  def num_tokens(self) -> int:
    return sum(end - start for _, start, end in self.spans)

  @property
  def sides(self) -> tuple[str, ...]:
    """The inputs that have a scored token."""
    return tuple(dict.fromkeys(name for name, _, _ in self.spans))

  @property
  def stays(self) -> np.ndarray:
    """Scored tokens that nothing stands for: bool `[T]`."""
    ids = [np.asarray(self.inputs[name])[0, a:b] for name, a, b in self.spans]
    return np.isin(np.concatenate(ids), self.kept)

  def sites_of(self, layer: str | None = None) -> dict[str, str]:
    """Inputs that are attributed to the sites that stand for them.

    Raises:
      ValueError: a layer that this network does not have, or one of an input
        that has no scored token.
    """
    if layer is None:
      found = stepping.input_sites(self.net)
      return {name: found[name] for name in self.sides}
    if layer not in self.net.sites:
      raise ValueError(
        f"layer={layer!r} is no site of this network; of its blocks are "
        f"{', '.join(x for x in self.net.sites if '.0.' in x)}."
      )
    side = "input_ids"
    if layer.startswith("decoder."):
      side = "decoder_input_ids"
    if side not in self.sides:
      raise ValueError(
        f"layer={layer!r} has the positions of {side}, of which no token is "
        "scored. Score the prefix, or choose a layer of the encoder."
      )
    return {side: layer}

  def blank(self) -> dict[str, Any]:
    """The inputs with everything that is scored unknown, but what is kept."""
    found = dict(self.inputs)
    for name in self.sides:
      ids = np.asarray(found[name])
      found[name] = np.where(np.isin(ids, self.kept), ids, self.unknown)
    return found


def saliency(game: Game) -> np.ndarray:
  """The gradient's L2 norm: `[S, T]`."""
  return _by_slopes(game, times=False)


def input_x_gradient(game: Game) -> np.ndarray:
  """The L2 norm of embedding times gradient: `[S, T]`."""
  return _by_slopes(game, times=True)


def integrated_gradients(game: Game) -> np.ndarray:
  """The L2 norm of integrated gradients: `[S, T]`."""
  return _by_path(game, game.sites_of())


def layer_integrated_gradients(game: Game) -> np.ndarray:
  """The same of `game.layer`: `[S, T]`."""
  return _by_path(game, game.sites_of(game.layer))


def layer_gradient_x_activation(game: Game) -> np.ndarray:
  """The L2 norm of a layer's activation times its gradient: `[S, T]`."""
  found = _slopes(*arguments(game, game.sites_of(game.layer)), times=True)
  return scores(game, found)


def sequential_integrated_gradients(game: Game) -> np.ndarray:
  """Integrated gradients, token by token: `[S, T]`."""
  found = _sequential(
    *arguments(game, game.sites_of()), game.blank(), *_gauss(),
    {name: np.arange(a, b) for name, a, b in _merged(game)},
  )  # fmt: skip
  return scores(game, found)


def attention(game: Game) -> np.ndarray:
  """The mean attention of heads and blocks: `[S, T]`."""
  held, params, inputs, places, _ = arguments(game)
  return scores(game, _attention(held, params, inputs, places))


def occlusion(game: Game) -> np.ndarray:
  """How far f moves when a token becomes the unknown one: `[S, T]`."""
  run = masked(game)
  kept = ~np.eye(game.num_tokens + 1, game.num_tokens, k=-1, dtype=bool)
  values = run(kept)
  return checked(game, np.abs(values[0] - values[1:]).T)


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
  stays = game.stays if way == "mask" else np.zeros(n, bool)
  moves = way != "mask" and len(stepping.input_sites(game.net)) == 1
  rest = {k: v for k, v in game.inputs.items() if k.startswith("decoder_")}

  def value(mask, given):
    params, shared, places, fixed, stays = given
    mask = mask | stays
    if moves:
      places = see.places(mask)[places]
    logits = stepping.predictions(
      game.net, params, {**fixed, **see(mask)}, places[None]
    )
    return game.target(logits[0], shared)

  given = (game.params, game.shared, jnp.asarray(game.places), rest, stays)
  rows = min(16, n + 1)
  return evaluate.compiled(value, n, shared=given, batch_size=rows)


class Held(stepping.Held):
  """A network with what else is static of a game: target, and sites."""

  def __init__(self, net, target, sites_of):
    super().__init__(net)
    self.target = target
    self.sites = dict(sites_of)
    own = tuple(self.sites.items())
    self._key = (type(net.module), net.config, target, own)

  def value(self, params, inputs, places, shared, added):
    logits = stepping.predictions(self.net, params, inputs, places[None], added)
    found = self.target(logits[0], shared)
    chex.assert_shape(found, (len(places),))
    return found

  def activations(self, params, inputs):
    """Site to its activation, `[1, P, ...]`."""
    wanted = tuple(self.sites.values())
    found = self.net.apply(params, None, wanted, **inputs).activations
    for site in wanted:
      if found[site].ndim < 3 or site.endswith((".scores", ".pattern")):
        raise ValueError(
          f"layer={site!r} has no axis of positions alone; choose one of the "
          "stream, of a MLP, or of queries, keys and values."
        )
    return {site: found[site] for site in wanted}


def arguments(game: Game, sites_of: Mapping[str, str] | None = None) -> tuple:
  """What a jitted kernel takes: a `Held`, and arrays.

  Args:
    game: what is attributed.
    sites_of: input to the site that is differentiated.
  """
  held = Held(game.net, game.target, sites_of or {})
  return held, game.params, dict(game.inputs), game.places, game.shared


def _gauss():
  nodes, weights = np.polynomial.legendre.leggauss(NODES)
  return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def _by_slopes(game, times):
  return scores(game, _slopes(*arguments(game, game.sites_of()), times=times))


def _by_path(game, sites_of):
  return scores(
    game, _integrated(*arguments(game, sites_of), game.blank(), *_gauss())
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
    name: _norm(mean[site] * step[site]) for name, site in held.sites.items()
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
    return jnp.linalg.norm(mean * step[site][0, place], axis=-1)

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


def scores(game: Game, by_input: Mapping[str, jax.Array]) -> np.ndarray:
  """The scored tokens' of what each position has, `[S, P]`: float64 `[S, T]`.

  Raises:
    ValueError: as `checked`.
  """
  return checked(
    game,
    np.concatenate(
      [np.asarray(by_input[name])[:, a:b] for name, a, b in game.spans], axis=1
    ),
  )


def checked(game: Game, found: base.Array) -> np.ndarray:
  """Scores as float64 `[S, T]`.

  Raises:
    ValueError: NaN or infinity among them.
  """
  found = np.asarray(found, np.float64)
  chex.assert_shape(found, (game.num_steps, game.num_tokens))
  if not np.isfinite(found).all():
    raise ValueError("Scores are not finite: the network's values are not.")
  return found
