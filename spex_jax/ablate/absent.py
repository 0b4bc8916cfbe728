"""What an absent player of a text becomes: the inputs of a masked model.

Four ways, each a traceable function of one mask, of static shapes:

  mask      its tokens become the mask token, or any other
  one       all its tokens together become one such token
  hide      its tokens keep their places, and attention does not see them
  remove    its tokens are gone: the kept ones move to the front and are
            numbered anew, and what is left at the end is padding

The last of these is what running the kept tokens alone would give. It need not
be what a user gets who deletes the words and tokenizes again: `retokenizes`
says where. What stands between two players goes with the one behind it
(`text`): so lines are joined by their breaks again. Space with a line break in
it that a player has goes, too, where nothing that can be seen is left before
it, for it would stand between nothing; a mere space stays with its word, and a
player that is nothing but space stays.

A hidden or removed token need not cost anything: rows may be as short as what
is kept, at a few lengths that are fixed before the run (`lengths`). What is
kept then stands at the front of the row, under "hide" with the positions that
it has in the text (`position_ids`).

Shapes: n players, P tokens, B masks, L places of a row.
"""

import dataclasses
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import shapes
from spex_jax.ablate import text as text_lib
from spex_jax.models import sites, tokens

WAYS = ("mask", "one", "hide", "remove")
# So many masks pay for the compilation of more than one program, of so many
# lengths: on two cores, see `kept` in `experiments/bench_evaluate.py`.
_WORTH = 2048
_LENGTHS = 5


@dataclasses.dataclass(frozen=True)
class Inputs:
  """How a network sees the text of a prompt under a mask; `inputs` makes it.

  Called with a bool mask `[n]`, traceable, it gives `input_ids` and
  `attention_mask`, int32 `[1, P]`.

  Attributes:
    prompt: the tokens of the text, and the player of each.
    way: what an absent player becomes, one of `WAYS`.
    padding: the id that fills what is left at the end.
    token: what absent tokens become (ways "mask" and "one").
    lengths: the lengths of the rows, ascending, the last one P.
  """

  prompt: text_lib.Prompt
  way: str
  padding: int
  token: int | None
  lengths: tuple[int, ...]

  def __call__(self, mask: base.Array) -> dict[str, jax.Array]:
    return self.at(self.prompt.num_tokens)(mask)

  def at(self, length: int) -> Callable[[base.Array], dict[str, jax.Array]]:
    """The same in rows of `length`, for masks that need no more.

    What is hidden is left out of rows shorter than P, which then have
    `position_ids`.
    """
    ids = self.prompt.encoding.ids
    hides = self.way == "hide"

    def see(mask):
      kept = self.prompt.players.kept(mask)
      chex.assert_shape(kept, ids.shape)
      shown = jnp.asarray(ids)
      if self.token is not None:
        shown = jnp.where(kept, shown, self.token)
      if not self._moves(length):
        seen = (kept if hides else jnp.ones_like(kept)).astype(ids.dtype)
        return {"input_ids": shown[None], "attention_mask": seen[None]}
      places = self.places(mask, length)
      fill = lambda start, values: (
        jnp.full(length, start, ids.dtype).at[places].set(values, mode="drop")
      )
      given = {
        "input_ids": fill(self.padding, shown),
        "attention_mask": fill(0, 1),
      }
      if hides:
        given["position_ids"] = fill(0, jnp.arange(len(ids), dtype=ids.dtype))
      return {name: row[None] for name, row in given.items()}

    return see

  def places(self, mask: base.Array, length: int | None = None) -> jax.Array:
    """Where each token of the text stands in the row: int32 `[P]`, traceable.

    `length` (P by default) where it stands nowhere; a stand-in for a player
    stands for its first token. The tokens of player i stand at
    `places[owner == i]`.
    """
    size = self.prompt.num_tokens
    length = size if length is None else length
    stay = self._stay(mask)
    moves = self._moves(length)
    place = jnp.cumsum(stay) - 1 if moves else jnp.arange(size)
    return jnp.where(stay, place, length).astype(jnp.int32)

  def owners(self, mask: base.Array, length: int | None = None) -> jax.Array:
    """Whose token stands at each place of the row: int32 `[L]`.

    n for nobody's and for padding. Traceable; for sums over players of what is
    read, captured or differentiated along the row.
    """
    length = self.prompt.num_tokens if length is None else length
    owner = self.prompt.players.owner
    nobody = jnp.full(length, self.prompt.n, owner.dtype)
    return nobody.at[self.places(mask, length)].set(owner, mode="drop")

  def need(self, masks: np.ndarray) -> np.ndarray:
    """How long a row each of bool `[B, n]` needs, at most: int `[B]`."""
    kept, gone, always = _needs(self.prompt, self.way)
    return always + masks @ kept + ~masks @ gone

  def fit(self, net: sites.Network) -> tuple[int, ...]:
    """The lengths at which a network gives the values that it gives at P.

    All of them where what is absent is not hidden. Hidden tokens can be left
    out where the network takes `position_ids`, no sliding window is shorter
    than the text (windows count places of the row), and nobody owns the first
    token, which encoders read; a causal model does not.
    """
    if self.way != "hide" or len(self.lengths) == 1:
      return self.lengths
    size, owner = self.prompt.num_tokens, self.prompt.players.owner
    windows = getattr(net.config, "windows", ())
    fits = (
      "position_ids" in net.optional
      and all(window is None or window >= size for window in windows)
      and ("logits_to_keep" in net.optional or owner[0] == self.prompt.n)
    )
    return self.lengths if fits else (size,)

  def _moves(self, length):
    """Whether tokens leave their places in rows of a length."""
    still = self.way == "hide" and length == self.prompt.num_tokens
    return not (still or self.way == "mask")

  def _stay(self, mask):
    """Which tokens, or stand-ins, stand in the row: bool `[P]`."""
    owner, n = self.prompt.players.owner, self.prompt.n
    stay = self.prompt.players.kept(mask)
    if self.way == "mask":
      return jnp.ones_like(stay)
    if self.way == "one":
      _, firsts = np.unique(owner[owner < n], return_index=True)
      first = np.zeros(len(owner), bool)
      first[np.flatnonzero(owner < n)[firsts]] = True
      return stay | first
    return _left(self.prompt, mask) if self.way == "remove" else stay


def inputs(
  prompt: text_lib.Prompt,
  tokenizer: tokens.Tokenizer,
  way: str = "mask",
  *,
  token: int | str | None = None,
  lengths: Sequence[int] = (),
) -> Inputs:
  """How a network sees the text of a prompt under a mask.

  Args:
    prompt: the tokens of the text, and the player of each.
    tokenizer: the tokenizer of the model; it knows the mask and the padding.
    way: what an absent player becomes, one of `WAYS`.
    token: what absent tokens become (ways "mask" and "one"), an id or a text
      that is one token; the mask token by default.
    lengths: the lengths of rows, beside P: a mask runs in the shortest that
      takes it, if the network and what is read of it allow that (`Inputs.fit`,
      `readouts.value`). `lengths` of this file chooses some; none by default.

  Raises:
    ValueError: an unknown way, no mask token and none given, a token beside a
      way that has no use for it, a token outside the vocabulary, nothing left
      once every player is gone, or a length outside 1..P.
  """
  if way not in WAYS:
    raise ValueError(f"way={way!r}: choose from {', '.join(WAYS)}.")
  if way in ("hide", "remove"):
    if token is not None:
      raise ValueError(f"way={way!r} puts no token in the place of another.")
    if (prompt.players.owner < prompt.n).all():
      raise ValueError(
        f"way={way!r} would leave nothing once every player is absent. Keep a "
        "token that nobody owns: prompt(..., bos='yes'), or players for part "
        "of the text."
      )
  size = prompt.num_tokens
  given = sorted({*lengths, size})
  if given[0] < 1 or given[-1] > size:
    raise ValueError(f"Lengths must lie in 1..{size}; got {list(lengths)}.")
  # What fills the end is never seen; models without padding take any token.
  padding = tokenizer.special.get("pad", tokenizer.special.get("eos", 0))
  stand_in = _stand_in(tokenizer, token) if way in ("mask", "one") else None
  return Inputs(prompt, way, padding, stand_in, tuple(given))


def lengths(prompt: text_lib.Prompt, way: str, budget: int) -> tuple[int, ...]:
  """A few lengths of rows for a run, the last one P.

  Those, at most five, whose mean over uniform masks is least
  (`shapes.choose`). They follow from the players, the way and the budget that
  is declared, never from the masks: values do not depend on what else is asked
  for. P alone where nothing is left out, or for fewer than 2,048 masks, which
  do not pay for the compilation of more than one program.

  Args:
    prompt: the tokens of the text, and the player of each.
    way: what an absent player becomes, one of `WAYS`.
    budget: how many masks the run will ask for; no more than all of them.
  """
  if way == "mask" or min(budget, 1 << min(prompt.n, 30)) < _WORTH:
    return (prompt.num_tokens,)
  kept, gone, always = _needs(prompt, way)
  chosen = shapes.choose(shapes.chances(kept, gone, always), _LENGTHS)
  # A continuation is read at the token before it.
  return tuple(sorted({max(length, always + 1) for length in chosen}))


def _needs(
  prompt: text_lib.Prompt, way: str
) -> tuple[np.ndarray, np.ndarray, int]:
  """Places that players take when kept and when gone, `[n]`, and the others."""
  *kept, always = np.bincount(prompt.players.owner, minlength=prompt.n + 1)
  kept = np.array(kept)
  gone = {"mask": kept, "one": np.ones_like(kept)}.get(way, 0 * kept)
  return kept, gone, int(always)


def _left(prompt: text_lib.Prompt, mask: base.Array) -> jax.Array:
  """The tokens that removal leaves: bool `[P]`; traceable."""
  stay = prompt.players.kept(mask)
  pieces = [prompt.text[a:b] for a, b in prompt.encoding.offsets]
  blank = np.array([piece.isspace() for piece in pieces])
  run = np.cumsum(~blank)  # Blank tokens in a row have one number.
  broken = blank & np.array(["\n" in piece for piece in pieces])
  breaks = blank & np.isin(run, run[broken])
  owner = prompt.players.owner
  # Not where a player is nothing else, as tokens may be.
  breaks &= np.isin(owner, owner[~blank & (owner < prompt.n)])
  if not breaks.any():
    return stay
  seen = ~blank & ~prompt.encoding.special
  return stay & (~breaks | (jnp.cumsum(stay & seen) > 0))


def _stand_in(tokenizer: tokens.Tokenizer, token: int | str | None) -> int:
  if token is None:
    return tokenizer.id_of("mask")
  if isinstance(token, str):
    return tokenizer.find(token)
  return tokenizer.check(token)


def kept_text(prompt: text_lib.Prompt, mask: base.Array) -> str:
  """The text without the characters of removed tokens.

  A space that no token has goes with the token behind it.
  """
  stay = np.asarray(_left(prompt, mask))
  keep = np.ones(len(prompt.text), bool)
  end_before = 0
  for (start, end), stays in zip(prompt.encoding.offsets, stay):
    if end > start:
      if not stays:
        keep[start:end] = False
        if prompt.text[end_before:start].isspace():
          keep[end_before:start] = False
      end_before = max(end_before, end)
  return "".join(c for c, stays in zip(prompt.text, keep) if stays)


def retokenizes(
  prompt: text_lib.Prompt, tokenizer: tokens.Tokenizer, masks: base.Masks
) -> np.ndarray:
  """Where tokenizing the kept text again would give other tokens.

  Runs on the host, once per mask: for a report on a sample of masks.

  Args:
    prompt: the tokens of the text, and the player of each.
    tokenizer: the one that made the prompt.
    masks: bool `[B, n]`, True for players that are kept.

  Returns:
    bool `[B]`, True where the kept tokens are not what the kept text becomes,
    with or without the space that it now begins with.
  """
  masks = base.check_masks(masks, prompt.n)
  plain = ~prompt.encoding.special
  differs = np.zeros(len(masks), bool)
  for row, mask in enumerate(masks):
    stay = np.asarray(_left(prompt, mask)) & plain
    expected = prompt.encoding.ids[stay].tolist()
    text = kept_text(prompt, mask)
    again = (
      tokenizer.encode(piece, add_special=False).ids.tolist()
      for piece in (text, text.lstrip())
      if piece.strip()
    )
    differs[row] = bool(expected) and expected not in again
  return differs
