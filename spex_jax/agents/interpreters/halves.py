"""Functions that are polynomial on both sides of 0, and what those are made of.

Lines, polynomials, steps, rectifiers and their sums and products are such.
Coefficients stand with the highest power first.

Cost: a few small least squares. A fit counts where every residual is below
1e-7 of the value.
"""

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.agents.find import naming

MOST = 10  # A product of two polynomials of degree 5.
STEPS = {"ceiling": np.ceil, "floor": np.floor}
_EXACT = 1e-7
_CANCELS = 1e-12
_SCALE = 128.0
Ask = Callable[[np.ndarray], np.ndarray]
Sides = tuple[np.ndarray, np.ndarray]  # Polynomials below 0 and above.


@dataclasses.dataclass(frozen=True)
class Found:
  """A function that fits.

  Attributes:
    family: its name, as `naming.canonical` has it.
    parameters: likewise; None where it has no name for them.
    body: the lines of `f(x)`.
  """

  family: str
  parameters: dict[str, Any] | None
  body: str


def number(value: float) -> str:
  """As code has it."""
  return f"{float(value):.12g}"


def numbers(values: Any) -> str:
  """A list, likewise."""
  return "[" + ", ".join(map(number, values)) + "]"


def polynomial(
  x: np.ndarray, y: np.ndarray, most: int = MOST
) -> np.ndarray | None:
  """The polynomial of the lowest degree through all points, or None."""
  if not len(x):
    return None
  # Small values count as much as large ones: they tell the low powers.
  weights = 1 / (np.abs(y) + 1e-3)
  count = len(np.unique(np.round(x, 6)))  # Some are all but one.
  for degree in range(most + 1):
    if count < degree + 3:
      break
    basis = np.vander(x / _SCALE, degree + 1)
    rows = basis * weights[:, None]
    size = np.linalg.norm(rows, axis=0)
    if not size.all():
      continue
    coefs = np.zeros(degree + 1)
    for _ in range(3):  # Refined: rows differ by many orders of magnitude.
      rest = (y - basis @ coefs) * weights
      coefs += np.linalg.lstsq(rows / size, rest, rcond=1e-15)[0] / size
    if _fits(basis, coefs, y):
      coefs = coefs / _SCALE ** np.arange(degree, -1, -1)
      return _rounded(x, y, coefs)
  return None


def _fits(basis: np.ndarray, coefs: np.ndarray, y: np.ndarray) -> bool:
  # Terms that cancel leave their rounding; more would let anything fit.
  terms = np.abs(basis * coefs).sum(axis=1)
  allowed = _EXACT * (np.abs(y) + 1e-3) + _CANCELS * terms
  return bool((np.abs(basis @ coefs - y) <= allowed).all())


def _rounded(x: np.ndarray, y: np.ndarray, coefs: np.ndarray) -> np.ndarray:
  """With as few decimals as fit."""
  basis = np.vander(x, len(coefs))
  for decimals in range(1, 7):
    found = np.round(coefs, decimals)
    if found[0] and _fits(basis, found, y):
      return found + 0.0
  return coefs


def sides(x: np.ndarray, y: np.ndarray) -> Sides | None:
  """The polynomials on both sides of 0; one and the same where it fits all."""
  if (whole := polynomial(x, y)) is not None:
    return whole, whole
  left, right = (polynomial(x[s], y[s]) for s in (x < 0, x > 0))
  return None if left is None or right is None else (left, right)


def values(own: Sides, x: np.ndarray) -> np.ndarray:
  """What they are at x."""
  return np.where(x > 0, np.polyval(own[1], x), np.polyval(own[0], x))


def two_sided(left: np.ndarray, right: np.ndarray) -> Found:
  """A polynomial below 0 and another above, as an answer."""
  if left is right:
    return Found(
      *naming.smooth(left), f"  return np.polyval({numbers(left)}, x)"
    )
  body = (
    f"  return np.polyval({numbers(right)}, x) if x > 0 else "
    f"np.polyval({numbers(left)}, x)"
  )
  return Found(*naming.broken(left, right), body)


def joined(found: Found, sign: str, steps: str) -> Found:
  """With a ceiling or a floor: of `STEPS`."""
  is_zero = found.family == "constant" and not (found.parameters or {})["value"]
  family = naming.named(found.family, sign, steps)
  body = (
    f"  def own(x):\n{textwrap.indent(found.body, '  ')}\n"
    f"  return own(x) {sign} np.{STEPS[steps].__name__}(x)"
  )
  return Found(steps if is_zero and sign == "+" else family, None, body)
