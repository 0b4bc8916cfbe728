"""ReAGent: replace tokens, watch p(y), until the best alone predict y again.

Each probe starts from random logits of importance. In a round a share `RATIO`
of the tokens is replaced; with d = p(y) less p(y) behind that, replaced ones
gain logit((d + 1) / 2) and the others lose it. A probe ends where y is among
the `TOP` predictions with all but the `KEPT` most important tokens replaced. A
score is the softmax of importance over what a step sees, in the mean of the
probes that ended (of all, where none did in `MOST` rounds: Inseq divides 0 by
0 there). Source: Zhao and Shan, arXiv:2402.00794; Inseq 0.7.1.

Replacements are uniform over the vocabulary but its special tokens; Inseq's
have the part of speech of what they replace, by nltk, and the paper's are
RoBERTa's. Steps share their probes' replacements, so that one forward gives
every step's p(y). The target is always p(y), as in Inseq.

Shapes: S steps, T tokens that are scored, N probes, K rounds.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.context import games, stepping

PROBES, RATIO, KEPT, TOP, MOST = 16, 0.3, 5, 3, 3000
_ROUNDS = 25  # Of one call.


class Draws(NamedTuple):
  """What chance decides in K rounds.

  Attributes:
    replaced: bool `[K, N, T]`.
    tokens: int `[K, N, T]`, what replaces them.
    others: int `[K, N, T]`, what replaces all but the best.
  """

  replaced: base.Array
  tokens: base.Array
  others: base.Array


def reagent(game: games.Game) -> np.ndarray:
  """Shares of importance: float64 `[S, T]`; those of a step sum to 1.

  Raises:
    ValueError: no key, spans of the decoder's tokens, or as
      `games.checked`.
  """
  if game.key is None:
    raise ValueError("ReAGent draws tokens; give a key.")
  tokenizer = game.net.tokenizer
  special = () if tokenizer is None else tuple(tokenizer.special.values())
  whole = np.arange(game.net.config.vocab_size)
  known = np.setdiff1d(whole, (*special, *game.kept))
  key, own = jax.random.split(game.key)
  shape = (PROBES, game.num_tokens)
  state = start(game, jax.random.uniform(own, shape))

  def draw(key):
    keys = jax.random.split(key, 3)
    several = (_ROUNDS, *shape)
    pick = lambda k: jax.random.choice(k, jnp.asarray(known), several)
    replaced = jax.random.uniform(keys[0], several) < RATIO
    return Draws(replaced, pick(keys[1]), pick(keys[2]))

  for _ in range(-(-MOST // _ROUNDS)):
    key, own = jax.random.split(key)
    state = rounds(game, state, draw(own))
    if np.asarray(state[1]).all():
      break
  return mean(game, state)


def start(game: games.Game, drawn: base.Array) -> tuple:
  """The state before any round: importance `[S, N, T]`, ended `[S, N]`.

  Args:
    game: the steps, what is attributed, and its tokens.
    drawn: float `[N, T]`, in 0..1.
  """
  shape = (game.num_steps, *np.shape(drawn))
  return jnp.broadcast_to(drawn, shape), jnp.zeros(shape[:2], bool)


def rounds(game: games.Game, state: tuple, draws: Draws) -> tuple:
  """The state after K rounds more.

  Raises:
    ValueError: spans of the decoder's tokens.
  """
  at = _positions(game)
  held, params, inputs, places, shared = games.arguments(game)
  return _rounds(held, params, inputs, places, shared[0], at, state, draws)


def mean(game: games.Game, state: tuple) -> np.ndarray:
  """Scores `[S, T]` of a state: the mean of the probes that ended."""
  importance, ended = (np.asarray(x) for x in state)
  seen = _seen(game, _positions(game))
  logits = np.where(seen[:, None], importance, -np.inf)
  shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
  shares /= shares.sum(axis=-1, keepdims=True)
  ended = np.where(ended.any(axis=1, keepdims=True), ended, True)
  found = (shares * ended[..., None]).sum(axis=1) / ended.sum(axis=1)[:, None]
  return games.checked(game, found)


def _positions(game):
  """Positions of the scored tokens in `input_ids`, int `[T]`."""
  if game.sides != ("input_ids",):
    raise ValueError(
      "ReAGent replaces tokens of the prompt, or of what an encoder reads; "
      "leave out the decoder's own tokens."
    )
  return np.concatenate([np.arange(a, b) for _, a, b in game.spans])


def _seen(game, at):
  """Scored tokens that a step sees: bool `[S, T]`."""
  if len(stepping.input_sites(game.net)) == 2:
    return np.ones((game.num_steps, len(at)), bool)
  return at <= np.asarray(game.places)[:, None]


@functools.partial(jax.jit, static_argnums=0)
def _rounds(held, params, inputs, places, token, at, state, draws):
  ids = inputs["input_ids"]
  chex.assert_shape(ids, (1, None))
  pair = "decoder_input_ids" in inputs
  steps = jnp.arange(len(places))
  seen = (
    at[None] <= places[:, None]
    if not pair
    else jnp.ones((len(places), 1), bool)
  )

  def logits(rows, places):
    many = len(rows)
    repeated = {
      name: jnp.broadcast_to(x, (many, x.shape[1]))
      for name, x in inputs.items()
    } | {"input_ids": rows}
    where = jnp.broadcast_to(places, (many, len(places)))
    return stepping.predictions(held.net, params, repeated, where)

  share = lambda x: jnp.take_along_axis(
    jax.nn.softmax(x), token[None, :, None], axis=-1
  )[..., 0]
  plain = share(logits(ids, places))[0]  # [S]

  def one(state, draw):
    importance, ended = state
    replaced, tokens, others = draw
    rows = ids.repeat(len(replaced), axis=0)
    probed = rows.at[:, at].set(jnp.where(replaced, tokens, rows[:, at]))
    drop = plain[:, None] - share(logits(probed, places)).T  # [S, N]
    gain = jax.scipy.special.logit(
      jnp.where(replaced[None], drop[..., None], -drop[..., None]) * 0.5 + 0.5
    )
    importance = jnp.where(ended[..., None], importance, importance + gain)

    def stops(step):
      own = jnp.where(seen[step][None], importance[step], -jnp.inf)
      order = jnp.argsort(-own, axis=-1)
      best = jnp.argsort(order, axis=-1) < KEPT
      left = rows.at[:, at].set(jnp.where(best, rows[:, at], others))
      top = jax.lax.top_k(logits(left, places[step][None])[:, 0], TOP)[1]
      return (top == token[step]).any(axis=-1)

    return (importance, ended | jax.lax.map(stops, steps)), None

  return jax.lax.scan(one, state, draws)[0]
