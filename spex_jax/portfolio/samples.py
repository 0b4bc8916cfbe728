"""Masks with their values: each mask once, and none of the test among them.

Shapes: n players, B masks, T targets, U distinct masks.
"""

from typing import NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import packing
from spex_jax.portfolio import policy


class Samples(NamedTuple):
  """Distinct masks bool `[B, n]` with their values float64 `[B, T]`."""

  masks: np.ndarray
  values: np.ndarray

  def at(self, rows) -> "Samples":
    """The samples of some rows."""
    return Samples(self.masks[rows], self.values[rows])

  def join(self, other: "Samples") -> "Samples":
    """These and the others, in this order."""
    return Samples(*(np.concatenate(pair) for pair in zip(self, other)))


class Merged(NamedTuple):
  """Values of equal masks, joined by their mean.

  Attributes:
    values: float64 `[U, T]`, one row for each distinct mask.
    noise: `[T]` standard deviation among equal masks; None if all differ.
    notes: sentences on repeats, for the user.
    std: `[U, T]` standard errors of the values by that noise, 0 where it is
      rounding; None where it is for all targets, or where all masks were asked
      equally often.
  """

  values: np.ndarray
  noise: np.ndarray | None
  notes: list[str]
  std: np.ndarray | None = None


def merge(
  distinct: packing.Distinct, values: np.ndarray, *, strict: bool
) -> Merged:
  """Joins the values `[B, T]` of equal masks.

  Raises:
    ValueError: equal masks of different values, if `strict`.
  """
  first, inverse = distinct
  num_repeats = len(values) - len(first)
  if not num_repeats:
    return Merged(values, None, [])
  origin = base.origin(values)
  size = np.abs(values - origin).max(axis=0)
  size = np.where(size > 0, size, 1.0)
  unit = (values - origin) / size
  counts = np.bincount(inverse)[:, None]
  means = np.zeros((len(first), values.shape[1]))
  np.add.at(means, inverse, unit)
  means /= counts
  left = unit - means[inverse]
  noise = np.sqrt((left**2).sum(axis=0) / num_repeats) * size
  notes = [f"{num_repeats} repeated masks were merged by their mean."]
  noisy = np.abs(left).max(axis=0) * size > ask_lib.repeatable(values)
  std = None
  if noisy.any():
    text = f"{num_repeats} repeats of equal masks have other values"
    if strict:
      raise ValueError(f"{text}; mend the samples, or use strict=False.")
    notes.append(f"{text}; see the noise floor.")
    if counts.min() < counts.max():
      std = noise * noisy / np.sqrt(counts)
  return Merged(means * size + origin, noise, notes, std)


def unseen(
  held_out: tuple[base.Masks, base.Values],
  n: int,
  num_targets: int,
  hashes: np.ndarray,
) -> tuple[Samples, list[str]]:
  """The held-out masks that are not among the samples, each once, and notes.

  Values of equal masks are merged by their mean.

  Args:
    held_out: masks and values.
    n: number of players of the samples.
    num_targets: T of the samples.
    hashes: uint64 `[B, 2]`, the hashes of the samples' masks (`masks.packing`).

  Raises:
    ValueError: none is left, or other players or targets.
  """
  masks = base.check_masks(held_out[0], n)
  none = "Every held-out mask is among the samples, or none came."
  if not len(masks):
    raise ValueError(none)
  values = base.check_values(held_out[1], len(masks)).reshape(len(masks), -1)
  if values.shape[1] != num_targets:
    raise ValueError(
      f"Held-out values have {values.shape[1]} targets; the samples have "
      f"{num_targets}."
    )
  both = np.concatenate([hashes, packing.hash_masks(masks)])
  first = packing.distinct_hashes(both).first
  new = np.flatnonzero(first >= len(hashes))
  if not len(new):
    raise ValueError(none)
  own = packing.distinct_hashes(both[len(hashes) :])
  merged = merge(own, values, strict=False)
  place = own.inverse[first[new] - len(hashes)]
  notes = [f"Held out: {note}" for note in merged.notes]
  if len(new) < policy.POLICY.least_judging:
    notes.append(f"{len(new)} held-out masks are too few to trust R^2 by.")
  return Samples(masks[own.first[place]], merged.values[place]), notes


def uneven(masks: base.Masks) -> str:
  """A sentence on masks `[B, n]` that are not drawn uniformly, or "".

  They are not where a player that some keep and some do not is kept far more
  often, or less, than one time in two: by more than chance, and by more than
  hardly matters.
  """
  masks = base.check_masks(masks)
  kept = masks.mean(axis=0, dtype=np.float64)
  off = np.abs(kept - 0.5) * (kept > 0) * (kept < 1)
  chance = policy.POLICY.uneven_sure / (2 * np.sqrt(len(masks)))
  if not (off > max(chance, policy.POLICY.uneven_least)).any():
    return ""
  low, high = kept.min(), kept.max()
  span = f"{low:.2g}" if high - low < 0.005 else f"{low:.2g} to {high:.2g}"
  return (
    f"Each player is kept in a share of {span} of these masks, where uniform "
    "ones keep it in .5: R^2 is on masks like these, sets that they seldom "
    "tell apart are told by convention, and so are indices, which sum over all "
    "masks; standard errors are not known."
  )


class Confounded(NamedTuple):
  """Players that no mask tells apart.

  Attributes:
    kept: players that every mask keeps.
    dropped: players that no mask keeps.
    tied: groups of players of which each mask keeps all or none, or always one
      of two halves: a decoder shares their effects among them as it likes.
  """

  kept: list[int]
  dropped: list[int]
  tied: list[list[int]]

  def note(self, names: tuple[str, ...] | None) -> str:
    """A sentence that names them, or ""."""
    most = policy.POLICY.most_named

    def listed(players):
      shown = [str(i) if names is None else names[i] for i in players[:most]]
      more = len(players) - len(shown)
      return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    said = []
    if self.kept:
      said.append(f"every mask keeps {listed(self.kept)}")
    if self.dropped:
      said.append(f"no mask keeps {listed(self.dropped)}")
    if self.tied:
      groups = "; ".join("{" + listed(g) + "}" for g in self.tied[:most])
      more = len(self.tied) - most
      groups += f" and {more} more groups" if more > 0 else ""
      said.append(f"no mask tells apart {groups}")
    if not said:
      return ""
    return (
      f"These masks cannot say what some players do: {', '.join(said)}. Their "
      "values are a convention; ask masks in which they differ."
    )


def confounded(masks: base.Masks) -> Confounded:
  """Which players of masks `[B, n]`, B at least 1, cannot be told apart."""
  masks = base.check_masks(masks)
  # Players that are always opposite are as alike as those always equal.
  columns = np.packbits((masks ^ masks[:1]).T, axis=1)
  groups: dict[bytes, list[int]] = {}
  for player, column in enumerate(columns):
    groups.setdefault(column.tobytes(), []).append(player)
  fixed = groups.pop(bytes(columns.shape[1]), [])
  return Confounded(
    kept=[i for i in fixed if masks[0, i]],
    dropped=[i for i in fixed if not masks[0, i]],
    tied=[group for group in groups.values() if len(group) > 1],
  )
