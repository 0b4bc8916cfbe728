"""Name to index: the one list that the CLI, the README and the tests read."""

import difflib
import functools
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.indices import cardinal, faithful, mobius
from spex_jax.indices import interactions as interactions_lib


class Index(NamedTuple):
  """One index.

  Attributes:
    title: the name of the index in words.
    weight: `(s, t, order) -> w`, see `cardinal`.
    baseline: what the empty set gets, in words.
    fixed_order: the only order it has, or None.
    efficient: whether its values sum to f(all) - f(none).
  """

  title: str
  weight: Callable[[int, int, int], Fraction | int]
  baseline: str
  fixed_order: int | None = None
  efficient: bool = False


INDICES: dict[str, Index] = {
  "Fourier": Index("Fourier coefficients", cardinal.fourier, "mean of f"),
  "Moebius": Index("Moebius coefficients", cardinal.mobius, "f(none)"),
  "BII": Index("Banzhaf interaction index", cardinal.bii, "mean of f"),
  "BV": Index("Banzhaf value", cardinal.bv, "f(none)", 1),
  "SII": Index(
    "Shapley interaction index", cardinal.sii, "mean of f over sizes"
  ),
  "SV": Index("Shapley value", cardinal.sv, "f(none)", 1, True),
  "k-SII": Index(
    "k-Shapley interaction index", cardinal.k_sii, "f(none)", None, True
  ),
  "STII": Index(
    "Shapley-Taylor interaction index", cardinal.stii, "f(none)", None, True
  ),
  "FSII": Index(
    "faithful Shapley interaction index",
    faithful.fsii,
    "f(none)",
    None,
    True,
  ),
  "FBII": Index(
    "faithful Banzhaf interaction index",
    faithful.fbii,
    "the fit at the empty mask",
  ),
}
ALIASES: dict[str, str] = {"Möbius": "Moebius", "Mobius": "Moebius"}


def find(name: str) -> str:
  """Returns the name under which `INDICES` has an index.

  Raises:
    ValueError: an unknown name; the message lists those that come close.
  """
  known = {key.casefold(): key for key in INDICES}
  known |= {alias.casefold(): key for alias, key in ALIASES.items()}
  if not isinstance(name, str):
    raise TypeError(f"An index is named by a string; got {name!r}.")
  key = name.casefold()
  if key not in known:
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    guess = " or ".join(dict.fromkeys(known[match] for match in close))
    raise ValueError(
      f"Unknown index {name!r}."
      + (f" Did you mean {guess}?" if guess else "")
      + f" Known: {', '.join(INDICES)}."
    )
  return known[key]


def own_order(name: str) -> int:
  """An index's only order, or 2: what people look at first.

  Raises:
    ValueError: an unknown name.
  """
  return INDICES[find(name)].fixed_order or 2


def interactions(
  fourier: sparse.SparseFourier,
  index: str = "FBII",
  order: int | None = None,
  *,
  names: Sequence[Any] | None = None,
  units: str | None = None,
  coef_std: base.Array | None = None,
) -> interactions_lib.Interactions:
  """Returns an index of an expansion, by name, computed in float64 on the host.

  Args:
    fourier: an expansion of one target on n players.
    index: a name of `INDICES`; case does not matter.
    order: the largest set of the result. None stands for the largest set of
      the expansion (nothing is cut or projected). Above n it is n: no set is
      larger, and every index of order n is final. SV and BV have order 1.
    names: n names of players, for printing; kept as text.
    units: the units of f, for printing.
    coef_std: float `[K]` standard errors of `fourier.coefs`, row by row, in the
      units of f; None if they are not known. An index is linear in the
      coefficients, so those of the result are
      `std(T)^2 = sum_{S superset of T} w(|S|, |T|)^2 coef_std(S)^2`,
      the errors of different coefficients taken as independent. That is nearly
      so for masks drawn uniformly, under which characters are orthogonal; it
      is not for other designs, nor does it see sets that `fourier` left out.

  Raises:
    ValueError: unknown index, an order below 1 or other than an index's only
      one, several targets, too many subsets (see `mobius.superset_sums`),
      names that are not n, or a `coef_std` of another shape than the
      coefficients, negative or not finite.
  """
  name = find(index)
  entry = INDICES[name]
  players, coefs = mobius.terms_of(fourier)
  n = fourier.n
  limit = _resolve(name, order, n, players.shape[1])
  if coef_std is not None:
    coef_std = interactions_lib.check_std(
      coef_std, len(fourier.coefs), "coef_std", "fourier.coefs"
    )[: len(coefs)]
  weight = functools.cache(lambda s, t: entry.weight(s, t, limit))
  result = mobius.superset_sums(n, players, coefs, weight, limit)
  baseline, sets, values = result.split_empty()
  return interactions_lib.Interactions(
    n=n,
    players=sets,
    values=values,
    index=name,
    order=limit,
    baseline=baseline,
    names=base.check_names(names, n),
    units=units,
    std=None
    if coef_std is None
    else _std_of(sets, n, players, coef_std, weight, limit),
  )


def _std_of(
  sets: np.ndarray,
  n: int,
  players: np.ndarray,
  coef_std: np.ndarray,
  weight: mobius.Weight,
  limit: int,
) -> np.ndarray:
  """float64 `[K']` standard errors of the index at `sets` `[K', D']`.

  Squares are taken free of units, a power of two, and of the largest weight of
  each `|T|`: neither overflows where the values do not.
  """
  sizes = np.unique((players < n).sum(axis=1)).tolist()
  unit = int(np.frexp(coef_std.max(initial=0.0))[1])

  @functools.cache
  def heaviest(t: int) -> Fraction:
    return max(abs(Fraction(weight(s, t))) for s in sizes if s >= t)

  def squared(s: int, t: int) -> Fraction | int:
    return (weight(s, t) / heaviest(t)) ** 2 if weight(s, t) else 0

  found = mobius.superset_sums(
    n, players, np.ldexp(coef_std, -unit) ** 2, squared, limit
  )
  # A value may cancel where its variance cannot, and a variance may be 0 where
  # the value is not: match set by set.
  width = max(sets.shape[1], found.players.shape[1])
  rows = [
    np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=n)
    for p in (found.players, sets)
  ]
  keys = mobius.rank_rows(np.concatenate(rows), n + 1)
  known, asked = np.split(keys, [len(found.players)])
  _, at, to = np.intersect1d(
    known, asked, assume_unique=True, return_indices=True
  )
  std = np.zeros(len(sets))
  std[to] = np.ldexp(np.sqrt(found.values[at]), unit)
  order = (sets < n).sum(axis=1)
  for t in np.unique(order).tolist():
    std[order == t] *= float(heaviest(t))
  return std


def _resolve(name: str, order: int | None, n: int, largest: int) -> int:
  fixed = INDICES[name].fixed_order
  if order is None:
    return fixed or max(largest, 1)
  try:
    if isinstance(order, bool):
      raise TypeError("no number")
    order = operator.index(order)
  except TypeError as error:
    raise TypeError(f"order must be an integer; got {order!r}.") from error
  if order < 1:
    raise ValueError(f"order must be at least 1; got {order}.")
  if fixed is not None and order != fixed:
    instead = "BII or FBII" if name == "BV" else "SII, k-SII, STII or FSII"
    raise ValueError(
      f"{name} has order {fixed} only; got order={order}. For larger sets "
      f"use {instead}."
    )
  return min(order, max(n, 1))
