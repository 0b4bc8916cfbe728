"""What an absent player of a text becomes: the inputs of a masked model.

Four ways, each a traceable function of one mask, of static shapes:

  mask      its tokens become the mask token, or any other
  one       all its tokens together become one such token
  hide      its tokens keep their places, and attention does not see them
  remove    its tokens are gone: the kept ones move to the front and are
            numbered anew, and what is left at the end is padding

The last of these is what running the kept tokens alone would give, in one
shape for every mask. It need not be what a user gets who deletes the words and
tokenizes again: `retokenizes` says where.

Shapes: n players, P tokens, B masks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import text as text_lib
from spex_jax.models import tokens

WAYS = ("mask", "one", "hide", "remove")

# A mask `[n]` to the inputs of a network, one row: each `[1, P]`.
Inputs = Callable[[base.Array], dict[str, jax.Array]]


def inputs(
  prompt: text_lib.Prompt,
  tokenizer: tokens.Tokenizer,
  way: str = "mask",
  *,
  token: int | str | None = None,
) -> Inputs:
  """How a network sees the text of a prompt under a mask.

  Args:
    prompt: tokens and players.
    tokenizer: of the model; it knows the mask and the padding.
    way: one of `WAYS`.
    token: what absent tokens become (ways "mask" and "one"), an id or a text
      that is one token; the mask token by default.

  Returns:
    A function of a bool mask `[n]`, traceable, that gives `input_ids` and
    `attention_mask`, int32 `[1, P]`.

  Raises:
    ValueError: an unknown way, no mask token and none given, a token beside a
      way that has no use for it, a token outside the vocabulary, or nothing
      left once every player is gone.
  """
  if way not in WAYS:
    raise ValueError(f"way={way!r}: choose from {', '.join(WAYS)}.")
  if way in ("hide", "remove"):
    if token is not None:
      raise ValueError(f"way={way!r} puts no token in the place of another.")
    if (prompt.players.owner < prompt.n).all():
      raise ValueError(
        f"way={way!r} would leave nothing once every player is absent. Keep a "
        "token that nobody owns: prompt(..., add_bos=True), or players for "
        "part of the text."
      )
  # What fills the end is never seen; models without padding take any token.
  padding = tokenizer.special.get("pad", tokenizer.special.get("eos", 0))
  if way == "hide":
    see = lambda mask: hidden(prompt, mask)
  elif way == "remove":
    see = lambda mask: repacked(prompt, mask, padding)
  else:
    stand_in = _stand_in(tokenizer, token)
    if way == "mask":
      see = lambda mask: replaced(prompt, mask, stand_in)
    else:
      see = lambda mask: repacked(prompt, mask, padding, stand_in)
  return lambda mask: dict(zip(("input_ids", "attention_mask"), see(mask)))


def _stand_in(tokenizer: tokens.Tokenizer, token: int | str | None) -> int:
  if token is None:
    return tokenizer.id_of("mask")
  if isinstance(token, str):
    return tokenizer.find(token)
  return tokenizer.check(token)


def replaced(
  prompt: text_lib.Prompt, mask: base.Array, token: int
) -> tuple[jax.Array, jax.Array]:
  """Ids with `token` for absent ones, and an attention mask of ones."""
  ids = jnp.where(prompt.players.kept(mask), prompt.encoding.ids, token)
  return ids[None], jnp.ones_like(ids)[None]


def hidden(
  prompt: text_lib.Prompt, mask: base.Array
) -> tuple[jax.Array, jax.Array]:
  """The ids as they are, and an attention mask without the absent ones."""
  ids = jnp.asarray(prompt.encoding.ids)
  return ids[None], prompt.players.kept(mask).astype(ids.dtype)[None]


def repacked(
  prompt: text_lib.Prompt,
  mask: base.Array,
  padding: int,
  token: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The kept ids at the front, then padding that attention does not see.

  Args:
    prompt: tokens and players.
    mask: bool `[n]`.
    padding: the id that fills the end.
    token: stands once for each absent player, where its first token was; None
      for nothing.

  Returns:
    Ids and attention mask, `[1, P]`.
  """
  owner, ids = prompt.players.owner, jnp.asarray(prompt.encoding.ids)
  stay = prompt.players.kept(mask)
  if token is not None:
    _, firsts = np.unique(owner[owner < prompt.n], return_index=True)
    first = np.zeros(len(owner), bool)
    first[np.flatnonzero(owner < prompt.n)[firsts]] = True
    ids = jnp.where(stay, ids, token)
    stay = stay | first
  count = len(owner)
  # Those that go are written beyond the end, that is, nowhere.
  place = jnp.where(stay, jnp.cumsum(stay) - 1, count)
  packed = jnp.full(count, padding, ids.dtype).at[place].set(ids, mode="drop")
  seen = jnp.arange(count) < stay.sum()
  return packed[None], seen.astype(ids.dtype)[None]


def kept_text(prompt: text_lib.Prompt, mask: base.Array) -> str:
  """The text without the characters of absent tokens.

  A space that no token has goes with the token behind it.
  """
  stay = np.append(np.asarray(mask, bool), True)[prompt.players.owner]
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
    prompt: tokens and players.
    tokenizer: the one that made the prompt.
    masks: `[B, n]`.

  Returns:
    bool `[B]`, True where the kept tokens are not what the kept text becomes,
    with or without the space that it now begins with.
  """
  masks = base.check_masks(masks, prompt.n)
  plain = ~prompt.encoding.special
  owner = prompt.players.owner
  differs = np.zeros(len(masks), bool)
  for row, mask in enumerate(masks):
    stay = np.append(mask, True)[owner] & plain
    expected = prompt.encoding.ids[stay].tolist()
    text = kept_text(prompt, mask)
    again = (
      tokenizer.encode(piece, add_special=False).ids.tolist()
      for piece in (text, text.lstrip())
      if piece.strip()
    )
    differs[row] = bool(expected) and expected not in again
  return differs
