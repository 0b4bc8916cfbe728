"""What is attributed at some steps of one run, and what methods need of it.

Shapes: S steps, T tokens that are scored, P positions, V vocabulary, B masks, n
players.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, evaluate, features
from spex_jax.ablate import text as text_lib
from spex_jax.context import stepping
from spex_jax.models import sites, tokens

# Logits `[S, V]` of the run, and what the target needs, to values `[S]`.
Target: TypeAlias = Callable[[jax.Array, Any], jax.Array]
Place: TypeAlias = tuple[str, int, int]  # An input's name and a span of it.


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
  """What is attributed: steps of one run, and the tokens that get scores.

  Attributes:
    net: a causal model, or an encoder-decoder.
    params: the parameters of the network.
    inputs: the inputs of one row, by name, such as `input_ids` `[1, P]`.
    places: int `[S]`, the positions that predict the steps.
    target: traceable; of their logits and `shared`. A static function, so that
      it is compiled once: nothing is closed over.
    shared: what the target needs, arrays with a leading S.
    spans: the tokens that are scored, in order.
    unknown: the id that stands for an occluded token.
    kept: ids that nothing stands for, such as the end token: they are never
      occluded, and integrate to 0.
    layer: the site that layer methods attribute; None for the embeddings.
    key: a random key, consumed by methods that draw; None for none.
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
    names: the names of the n players, where there is an owner.

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


@dataclasses.dataclass(frozen=True)
class Held:
  """What is static of a game: a network, a target, and input to site."""

  model: sites.Model
  target: Callable[..., jax.Array]
  pairs: tuple[tuple[str, str], ...]

  @property
  def net(self) -> sites.Network:
    """Without parameters."""
    return self.model.net

  @property
  def sites(self) -> dict[str, str]:
    """Input to the site that is differentiated."""
    return dict(self.pairs)

  def value(self, params, inputs, places, shared, added):
    logits = stepping.predictions(self.net, params, inputs, places[None], added)
    found = self.target(logits[0], shared)
    chex.assert_shape(found, (len(places),))
    return found

  def activations(self, params, inputs):
    """Site to its activation, `[1, P, ...]`.

    Raises:
      ValueError: a site without an axis of positions alone.
    """
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
    game: the steps, what is attributed, and its tokens.
    sites_of: input to the site that is differentiated.
  """
  own = tuple((sites_of or {}).items())
  held = Held(sites.Model(game.net), game.target, own)
  return held, game.params, dict(game.inputs), game.places, game.shared


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
