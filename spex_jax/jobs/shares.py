"""How many parts of a network a mask keeps, so that its value is still alive.

Half of a large network leaves nothing of what it says: all masks are alike, and
there is nothing to explain. A pilot of a few masks at several shares finds the
least share at which the value is still some way from that of no part at all.

Shapes: n players, B masks.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.ablate import cache as cache_lib
from spex_jax.api import Explanation, decode
from spex_jax.fourier import sparse
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import packing, sampling
from spex_jax.portfolio import budget as budget_lib

HALF = 0.5
SHARES = (HALF, 0.7, 0.85, 0.95)
_EACH = 8  # Masks of the pilot at each share.
_LEAST = 200  # Masks of a budget that a pilot is paid of.
# Of the way from no part to all of them, where a value is alive.
_ALIVE = 0.75


class Pilot(NamedTuple):
  """What a pilot found.

  Attributes:
    share: the probability of each player to be kept that was chosen.
    note: what was chosen and why, in words.
    asked: how many masks it took.
  """

  share: float
  note: str
  asked: int


def worth(n: int, budget: int) -> bool:
  """Whether a pilot is: not where all masks, or very few, are asked."""
  return budget >= _LEAST and (n > 60 or 1 << n > budget)


def pilot(value_fn: base.ValueFn, n: int, key: base.Key) -> Pilot:
  """Chooses a share by a few masks at each of `SHARES`.

  Args:
    value_fn: bool masks `[B, n]` to the values of one target.
    n: number of players.
    key: a random key, consumed by the draw of masks.
  """
  masks = [np.zeros((1, n), bool), np.ones((1, n), bool)]
  for share, one in zip(SHARES, jax.random.split(key, len(SHARES))):
    masks.append(sampling.biased(one, _EACH, n, share))
  together = np.concatenate(masks)
  values = base.check_values(value_fn(together), len(together))
  values = values.reshape(len(together))
  none, everyone = values[:2]
  means = values[2:].reshape(len(SHARES), _EACH).mean(axis=1)
  way = (means - none) / (everyone - none) if everyone != none else 0 * means
  alive = np.flatnonzero(way >= _ALIVE)
  share = SHARES[alive[0]] if len(alive) else SHARES[-1]
  told = ", ".join(f"{w:.0%} at {s:g}" for s, w in zip(SHARES, way))
  why = f"the least share with {_ALIVE:.0%} or more"
  if not len(alive):
    why = f"no share keeps {_ALIVE:.0%}, so the largest"
  return Pilot(
    share,
    f"Each part is kept with probability {share:g}, {why}: of the way from no "
    f"part ({none:.4g}) to all ({everyone:.4g}) the mean of {_EACH} masks goes "
    f"{told}. Faithfulness is on masks of that share.",
    len(together),
  )


def explain(
  value_fn: base.ValueFn,
  n: int,
  chosen: Pilot,
  *,
  key: base.Key,
  budget: int,
  method: str,
  batch_size: int | None = None,
  cache: str | os.PathLike | None = None,
  progress: Callable[[int, int], None] | None = None,
  **names: Any,
) -> Explanation:
  """`api.explain` on masks that keep another share of the players than half.

  Args:
    value_fn: bool masks `[B, n]` to the values of one target.
    n: number of players.
    chosen: the probability that each player is kept, and why.
    key: a random key, consumed by the draw of masks.
    budget: how many masks are asked, held-out ones included.
    method: one of `api.DECODERS` that takes any masks.
    batch_size: how many masks a call has, as for `api.explain`.
    cache: the path where values are kept, as for `api.explain`.
    progress: called with how many masks are done, of how many.
    **names: `names` and `units` of the players.
  """
  # Some come twice where players are few; so many are drawn, and cut.
  masks = sampling.biased(key, 2 * budget, n, chosen.share)
  masks = masks[np.sort(packing.distinct_masks(masks).first)[:budget]]
  store = None if not cache else cache_lib.opened(cache, value_fn, n)
  told, asked = None, chosen.asked
  if progress is not None:
    told = lambda done, total: progress(asked + done, asked + total)
  try:
    ask = ask_lib.Asker(
      value_fn, n, len(masks), batch_size=batch_size, progress=told, kept=store
    )
    values = ask(masks)
    ask.repeat(masks, values, strict=False)
  finally:
    if store is not None:
      store.close()
  held = budget_lib.num_held_out(len(masks), n)
  found = decode(
    masks[held:],
    values[held:, 0],
    method=method,
    held_out=(masks[:held], values[:held, 0]),
    **names,
  )
  assert isinstance(found.fourier, sparse.SparseFourier)
  spent = found.seconds
  return dataclasses.replace(
    found,
    num_evaluations=asked + ask.asked,
    num_repeats=ask.num_repeats,
    noise_floor=None if ask.noise is None else float(ask.noise[0]),
    notes=(chosen.note, *found.notes, *filter(None, [ask.note])),
    seconds={
      "evaluating": ask.seconds,
      "decoding": spent["decoding"],
      "total": ask.seconds + spent["total"],
    },
  )
