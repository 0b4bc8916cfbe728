"""Functions that are polynomial on both sides of 0, and what those are made of.

Lines, polynomials, steps, rectifiers and their sums and products are such; so
is what is left when a ceiling or a floor is taken off, and a rectangle is a
piece of its own. Coefficients stand with the highest power first.

Cost: a few small least squares. A fit counts where every residual is below
1e-7 of the value.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

MOST = 10  # A product of two polynomials of degree 5.
_EXACT = 1e-7
_CANCELS = 1e-12
_SCALE = 128.0


@dataclasses.dataclass(frozen=True)
class Found:
  """A function that fits.

  Attributes:
    family: as `naming.canonical` has it.
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


def fit(x: np.ndarray, y: np.ndarray) -> Found | None:
  """What is polynomial on both sides of 0, a ceiling or a floor taken off."""
  if (found := _halves(x, y)) is not None:
    return found
  for name, steps in (("ceiling", np.ceil), ("floor", np.floor)):
    call = "np.ceil(x)" if name == "ceiling" else "np.floor(x)"
    found = _halves(x, y - steps(x))
    if found is not None:
      return _joined(found, "+", name, call)
    keep = steps(x) != 0
    if keep.any() and not y[~keep].any():
      found = _halves(x[keep], y[keep] / steps(x[keep]))
      if found is not None:
        return _joined(found, "*", name, call)
  for sign, join in (("+", np.add), ("*", np.multiply)):
    for one, other in (
      ("ceil", "ceil"), ("ceil", "floor"), ("floor", "floor")
    ):  # fmt: skip
      guess = join(getattr(np, one)(x), getattr(np, other)(x))
      if np.allclose(guess, y):
        full = {"ceil": "ceiling", "floor": "floor"}
        return Found(
          f"{full[one]}{sign}{full[other]}", None,
          f"  return np.{one}(x) {sign} np.{other}(x)",
        )  # fmt: skip
  return None


def named(family: str, sign: str, other: str) -> str:
  """The name of a family with another, which is no polynomial."""
  rough = family in ("step", "relu", "absolute")
  return sign.join(sorted([family, other]) if rough else [family, other])


def _joined(found: Found, sign: str, name: str, call: str) -> Found:
  is_zero = found.family == "constant" and not (found.parameters or {})["value"]
  family = name if is_zero and sign == "+" else named(found.family, sign, name)
  *lines, last = found.body.splitlines()
  value = last.partition("return ")[2]
  body = "\n".join([*lines, f"  return ({value}) {sign} {call}"])
  return Found(family, None, body)


def _halves(x: np.ndarray, y: np.ndarray) -> Found | None:
  if (whole := polynomial(x, y)) is not None:
    family, own = smooth(whole)
    return Found(family, own, f"  return np.polyval({numbers(whole)}, x)")
  sides = [polynomial(x[s], y[s]) for s in (x < 0, x > 0)]
  left, right = sides
  return None if left is None or right is None else two_sided(left, right)


def two_sided(left: np.ndarray, right: np.ndarray) -> Found:
  """A polynomial below 0 and another above, as an answer."""
  family, own = broken(left, right)
  body = (
    f"  return np.polyval({numbers(right)}, x) if x > 0 else "
    f"np.polyval({numbers(left)}, x)"
  )
  return Found(family, own, body)


def smooth(coefs: np.ndarray) -> tuple[str, dict[str, Any]]:
  """Family and parameters of one polynomial."""
  values = [float(c) for c in coefs]
  if len(values) == 1:
    return "constant", {"value": values[0]}
  if len(values) == 2:
    return "linear", {"slope": values[0], "offset": values[1]}
  return "polynomial", {"coefficients": values}


def broken(
  left: np.ndarray, right: np.ndarray
) -> tuple[str, dict[str, Any] | None]:
  """Family and parameters of two that differ, by algebra."""
  degree = max(len(left), len(right)) - 1
  left = np.pad(left, (degree + 1 - len(left), 0))
  right = np.pad(right, (degree + 1 - len(right), 0))
  close = lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-6)
  if degree == 0:
    return "step", {"low": float(left[0]), "high": float(right[0])}
  name = "linear" if degree == 1 else "polynomial"
  gap = right - left
  # A step times another: one side is a multiple of the other. Lines through 0
  # are continuous there, and rectifiers.
  size = np.linalg.norm(left) * np.linalg.norm(right)
  multiple = size == 0 or np.isclose(abs(left @ right), size, rtol=1e-7)
  if multiple and not (degree == 1 and close(left[-1], right[-1])):
    return f"{name}*step", None
  if degree == 1 and close(gap[-1], 0):
    if close(left[0], -right[0]):
      return "absolute", {"scale": float(right[0]), "bias": float(right[1])}
    return "relu", {
      "right": float(right[0]), "left": float(left[0]),
      "bias": float(right[1]),
    }  # fmt: skip
  if close(gap[:-1], 0):
    return f"{name}+step", None
  if degree == 1:
    return "relu+step", None
  if close(gap[-1], 0):
    return (f"{name}+relu" if close(gap[:-2], 0) else f"{name}*relu"), None
  return "polynomial on both sides of 0", None


Ask = Callable[[np.ndarray], np.ndarray]


def rectangle(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A rectangle around 0, with or times what `fit` finds beside it.

  Args:
    x: numbers asked.
    y: their values.
    ask: for more: the edge is bisected, and the inside asked.
  """
  beside = np.abs(x) > 5.01
  outer = _halves(x[beside], y[beside])
  if outer is None or not (np.abs(x) < 0.5).any():
    return None
  left, right = (
    polynomial(x[s & beside], y[s & beside]) for s in (x < 0, x > 0)
  )
  if left is None or right is None:
    return None
  return _around(x, y, ask, outer, (left, right))


def _around(
  x: np.ndarray,
  y: np.ndarray,
  ask: Ask,
  outer: Found,
  sides: tuple[np.ndarray, np.ndarray],
) -> Found | None:
  """The rectangle, given what is beside it."""
  left, right = sides
  own = lambda at: np.where(at > 0, np.polyval(right, at), np.polyval(left, at))
  is_in = lambda at, value: np.abs(value - own(at)) > 1e-7 * (1 + np.abs(value))
  inside = is_in(x, y) & (x != 0)
  if not inside.any():
    return None
  low = np.abs(x[inside]).max()
  high = np.abs(x[~inside & (x != 0) & (np.abs(x) > low)]).min(initial=5.1)
  for _ in range(12):
    middle = np.array([(low + high) / 2])
    if is_in(middle, ask(middle))[0]:
      low = middle[0]
    else:
      high = middle[0]
  width = round(float(low + high), 2)
  more = np.linspace(-1, 1, 26)[1:-1] * low
  at = np.concatenate([x[inside], more])
  values = np.concatenate([y[inside], ask(more)])
  keep = np.isfinite(values)
  inner = _halves(at[keep], values[keep])
  gap = _halves(at[keep], values[keep] - own(at[keep]))
  if inner is None or gap is None:
    return None
  unit = gap.family == "constant" and np.isclose(
    (gap.parameters or {}).get("value", 0), 1, atol=1e-6
  )
  nothing = not left.any() and not right.any()
  parameters = None
  if unit and nothing:
    family, parameters = "rectangle", {"width": width}
  elif unit:
    family = named(outer.family, "+", "rectangle")
  elif nothing:
    family = named(inner.family, "*", "rectangle")
  else:
    return None
  body = f"  if abs(x) < {width / 2!r}:\n  {inner.body}\n{outer.body}"
  return Found(family, parameters, body)
