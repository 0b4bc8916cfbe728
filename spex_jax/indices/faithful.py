"""Faithful Banzhaf and Shapley interactions: the best fit of limited order.

Both are the Moebius coefficients of the expansion of order at most k that is
nearest to f in weighted least squares (Tsai, Yeh and Ravikumar, "Faith-Shap",
JMLR 24(94), 2023, equation for E_F(v, l)); what f has above order k is
projected. Stated as weights `w(s, t, order)` on Fourier coefficients; see
`cardinal`.
"""

import math
from fractions import Fraction


def fbii(s: int, t: int, order: int) -> int:
  """Faithful Banzhaf interaction index: all masks weigh the same.

  Characters are orthogonal under that weight, so the nearest expansion of
  order k is the Fourier expansion cut at order k, and FBII is its Moebius
  transform. (Tsai et al. sum Moebius coefficients of f over supersets; the
  values are equal and this needs no set above order k.) The empty set gets
  the fit at the empty mask, which is not f(none) when something was cut.
  """
  return (-2) ** t if s <= order else 0


def fsii(s: int, t: int, order: int) -> Fraction:
  """Faithful Shapley interaction index: the Shapley kernel as weight.

  Masks weigh as `1 / (C(n, |m|) |m| (n - |m|))`, and the fit is exact at the
  empty and the full mask (Tsai et al., the theorem that gives FSII by Moebius
  coefficients). Their Moebius weights are carried over to Fourier
  coefficients: `sum_u C(s - t, u - t) (-2)^u w(u, t)`, in exact fractions,
  since the sum cancels. The empty set gets f(none).
  """
  if not t:
    return Fraction(1)
  if s <= order:
    return Fraction((-2) ** t)  # Nothing is projected.
  return sum(
    (
      math.comb(s - t, u - t) * (-2) ** u * _fsii_of_mobius(u, t, order)
      for u in range(t, s + 1)
    ),
    Fraction(0),
  )


def _fsii_of_mobius(u: int, t: int, order: int) -> Fraction:
  """Share of a Moebius coefficient of size u that each t-subset receives."""
  if u <= order:
    return Fraction(int(u == t))
  return (
    (-1) ** (order - t)
    * Fraction(t, order + t)
    * Fraction(
      math.comb(order, t) * math.comb(u - 1, order),
      math.comb(u + order - 1, order + t),
    )
  )
