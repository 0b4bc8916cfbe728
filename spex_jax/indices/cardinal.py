"""Banzhaf, Shapley, Shapley-Taylor, k-SII, Moebius and Fourier weights.

An index is named here by its weight `w(s, t, order)`: how much of a Fourier
coefficient of size s goes to each subset of size t,

  I(T) = sum_{S superset of T, |T| <= order} w(|S|, |T|, order) F(S).

The derivative of f by T at m is `(-2)^|T| sum_S F(S) chi_{S - T}(m)`. An index
that averages derivatives over a law of m thus has the weight
`(-2)^t E[chi of s - t players]`, and no Moebius coefficient is needed on the
way. (The papers state the indices by derivatives or Moebius coefficients;
going by Fourier ones gives equal values, without cancellation in between.)

t = 0 states what the index gives to the empty set, its *baseline*.
Weights are exact fractions.
"""

import functools
import math
from fractions import Fraction


def fourier(s: int, t: int, order: int) -> int:
  """Fourier coefficients as they are; those above `order` are left out."""
  del order
  return int(s == t)


def mobius(s: int, t: int, order: int) -> int:
  """Moebius coefficients: derivatives at the empty mask (Harsanyi 1963).

  Those above `order` are left out, not projected (as in `shapiq`).
  """
  del s, order
  return (-2) ** t


def bii(s: int, t: int, order: int) -> int:
  """Banzhaf interaction index: derivatives averaged over all masks.

  Grabisch and Roubens 1999, definition 2; Grabisch et al. 2000. The empty
  set gets the mean of f.
  """
  del order
  return (-2) ** t if s == t else 0


def sii(s: int, t: int, order: int) -> Fraction:
  """Shapley interaction index.

  Grabisch and Roubens 1999, definition 1: sizes are uniform, then masks of a
  size. That is p uniform on [0, 1] and players kept with probability p, so
  `E chi = integral of (1 - 2p)^(s - t)`. The empty set gets the average of f
  under that law, as in `shapiq.ExactComputer`.
  """
  del order
  rest = s - t
  return Fraction((-2) ** t, rest + 1) if rest % 2 == 0 else Fraction(0)


def sv(s: int, t: int, order: int) -> Fraction:
  """Shapley value (Shapley 1953): SII of single players, baseline f(none)."""
  return sii(s, t, order) if t else Fraction(1)


def bv(s: int, t: int, order: int) -> int:
  """Banzhaf value: BII of single players, baseline f(none).

  `shapiq.ExactComputer` states that baseline too, but lists the mean for the
  empty set; its `MoebiusConverter` gives the intercept of the best linear fit,
  which is FBII of order 1 here.
  """
  return bii(s, t, order) if t else 1


def k_sii(s: int, t: int, order: int) -> Fraction:
  """k-Shapley values: SII gathered into an efficient index.

  Bordt and von Luxburg 2023, theorem on the n-Shapley values in closed form:
  `sum_{R superset of T, |R| <= order} B_{|R| - |T|} SII(R)` with Bernoulli
  numbers, B_1 = -1/2. The empty set gets f(none).
  """
  if not t:
    return Fraction(1)
  return sum(
    (
      math.comb(s - t, r - t) * bernoulli(r - t) * sii(s, r, order)
      for r in range(t, min(s, order) + 1)
    ),
    Fraction(0),
  )


def stii(s: int, t: int, order: int) -> Fraction:
  """Shapley-Taylor interaction index.

  Sundararajan et al. 2020, definition 1: below `order` derivatives at the
  empty mask; at `order`, which collects the remainder, averaged with weight
  `order / (n C(n - 1, |m|))`, that is p with density `k (1 - p)^(k - 1)`.
  The empty set gets f(none).
  """
  if t < order:
    return Fraction((-2) ** t)
  rest = s - t
  # (1 - 2p)^rest = (2 (1 - p) - 1)^rest; E (1 - p)^j = order / (order + j).
  mean = sum(
    math.comb(rest, j) * 2**j * (-1) ** (rest - j) * Fraction(order, order + j)
    for j in range(rest + 1)
  )
  return (-2) ** t * Fraction(mean)


@functools.cache
def bernoulli(m: int) -> Fraction:
  """The Bernoulli number B_m, with B_1 = -1/2, exactly."""
  if m == 0:
    return Fraction(1)
  total = sum(
    (math.comb(m + 1, j) * bernoulli(j) for j in range(m)), Fraction(0)
  )
  return -total / (m + 1)
