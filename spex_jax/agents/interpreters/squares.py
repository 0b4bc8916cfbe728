"""Square waves, alone and with what is polynomial on both sides of 0.

The period comes from a grid, then from edges ever farther away, each bisected
where the last ones say that it is. A sum is taken apart by guessing signs and
fitting what they leave, in turns; a product by the root of its square.
"""

import numpy as np

from spex_jax.agents.interpreters import halves
from spex_jax.agents.interpreters.halves import Ask, Found, number, numbers

_MOST = 5  # The degree of what it is added to or multiplied with.


def square(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A square wave of ±1: a grid, and edges ever farther away, bisected."""
  if not np.isin(y, (-1.0, 1.0)).all():
    return None
  near = np.abs(x) < 8.5
  at, high = x[near], y[near] > 0
  if len(at) < 20 or high.all() or not high.any():
    return None
  periods = np.arange(0.95, 10.06, 0.01)
  parts = np.linspace(0, 1, 101)[:-1]
  phase = np.divide.outer(at, periods).T[:, None, :] - parts[None, :, None]
  hits = ((phase % 1 < 0.5) == high).sum(axis=-1)
  best = np.argwhere(hits == hits.max())
  # The longest period of those that fit: others are its fractions.
  period, part = (float(v) for v in np.median(
    np.stack([periods[best[:, 0]], parts[best[:, 1]]], axis=1)[
      np.abs(periods[best[:, 0]] - periods[best[-1, 0]]) < 0.2
    ], axis=0))  # fmt: skip
  start = part * period
  known: list[tuple[int, float]] = []
  for count in (0, 1, 2, 4, 8, 16, 32, 64, 120):
    for sign in (1, -1):
      number_of = sign * count
      edge = start + number_of * period
      if abs(edge) > 127 or (count == 0 and sign < 0):
        continue
      reach = min(period / 4.2, 128 - abs(edge))
      low, top = edge - reach, edge + reach
      ends = ask(np.array([low, top]))
      if not (ends[0] < 0 < ends[1]):
        continue
      for _ in range(7 if known else 10):
        middle = (low + top) / 2
        value = ask(np.array([middle]))[0]
        low, top = (low, middle) if value > 0 else (middle, top)
      known.append((number_of, (low + top) / 2))
      if len(known) > 1:
        counts, edges = np.array(known).T
        period, start = (float(c) for c in np.polyfit(counts, edges, 1))
  if not known:
    return None
  period = _decimal(period, known)
  shift = float((start + period / 2) % period - period / 2)
  guess = np.where((x - shift) / period % 1 < 0.5, 1.0, -1.0)
  if (guess == y).mean() < 0.93:
    return None
  body = f"  return {_call(period, shift)}"
  return Found("square", {"period": period, "shift": shift}, body)


def _decimal(period: float, known: list[tuple[int, float]]) -> float:
  """With one decimal, where the farthest edge allows it."""
  reach = max(abs(count) for count, _ in known) or 1
  short = round(period, 1)
  return short if abs(short - period) * reach < 0.05 * period else period


def _call(period: float, shift: float) -> str:
  return (
    f"(1.0 if (x - {number(shift)}) / {number(period)} % 1 < 0.5 else -1.0)"
  )


Sides = tuple[np.ndarray, np.ndarray]


def composed(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A square wave plus, or times, what is polynomial on both sides of 0.

  Args:
    x: numbers asked, ascending.
    y: their values.
    ask: for more.
  """
  for sign, take in (("*", _factor), ("+", _summand)):
    sides = []
    for side in (x < 0, x > 0):
      own = take(x[side], y[side]) if side.sum() > 12 else None
      if own is None:
        break
      sides.append(own)
    if len(sides) < 2:
      continue
    left, right = sides
    # A root says nothing of its sign, on either side.
    for turned in (right, -right) if sign == "*" else (right,):
      found = _with(x, y, ask, left, turned, sign)
      if found is not None:
        return found
  return None


def _with(
  x: np.ndarray, y: np.ndarray, ask: Ask,
  left: np.ndarray, right: np.ndarray, sign: str,
) -> Found | None:  # fmt: skip
  """The square wave that is left beside two known polynomials."""

  def rest(at, values):
    own = _values(at, left, right)
    with np.errstate(all="ignore"):
      found = values / own if sign == "*" else values - own
    return np.where(np.abs(np.abs(found) - 1) < 1e-3, np.round(found), np.nan)

  waves = rest(x, y)
  keep = np.isfinite(waves)
  if keep.mean() < 0.9:
    return None
  found = square(x[keep], waves[keep], lambda at: rest(at, ask(at)))
  if found is None or found.parameters is None:
    return None
  return _named(left, right, sign, found.parameters)


def stepped(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A square wave plus, or times, a ceiling or a floor; as `composed`."""
  for name, steps in (("ceiling", np.ceil), ("floor", np.floor)):
    for sign in "+*":

      def rest(at, values, steps=steps, sign=sign):
        with np.errstate(all="ignore"):
          found = values - steps(at) if sign == "+" else values / steps(at)
        return np.where(np.abs(np.abs(found) - 1) < 1e-6, found, np.nan)

      waves = rest(x, y)
      keep = np.isfinite(waves)
      if keep.mean() < 0.9:
        continue
      found = square(x[keep], waves[keep], lambda at: rest(at, ask(at)))
      if found is not None and found.parameters is not None:
        own = _call(found.parameters["period"], found.parameters["shift"])
        body = f"  return np.{steps.__name__}(x) {sign} {own}"
        return Found(f"{name}{sign}square", None, body)
  return None


def _values(x: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
  return np.where(x > 0, np.polyval(right, x), np.polyval(left, x))


def _named(
  left: np.ndarray, right: np.ndarray, sign: str, own: dict[str, float]
) -> Found:
  same = len(left) == len(right) and np.allclose(left, right, rtol=1e-4)
  if sign == "*" and len(left) == len(right) and np.allclose(left, -right):
    right, same = -right, True  # The other sign is the wave's.
  family = (halves.smooth(left) if same else halves.broken(left, right))[0]
  body = (
    f"  own = np.polyval({numbers(right)} if x > 0 else {numbers(left)}, x)\n"
    f"  return own {sign} {_call(own['period'], own['shift'])}"
  )
  return Found(halves.named(family, sign, "square"), None, body)


def _factor(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
  """The polynomial whose square is the square of the values, but for a sign."""
  whole = halves.polynomial(x, y * y, 2 * _MOST)
  if whole is None or len(whole) % 2 == 0 or whole[0] <= 0:
    return None
  degree = len(whole) // 2
  root = np.zeros(degree + 1)
  root[0] = np.sqrt(whole[0])
  for i in range(1, degree + 1):
    known = root[1:i] @ root[1:i][::-1] if i > 1 else 0.0
    root[i] = (whole[i] - known) / (2 * root[0])
  gap = np.abs(np.abs(np.polyval(root, x)) - np.abs(y))
  return root if (gap <= 1e-4 * (1 + np.abs(y))).all() else None


def _summand(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
  """The polynomial that all values are 1 above or below."""
  for degree in range(_MOST + 1):
    basis = np.vander(x / 128, degree + 1)
    signs = np.zeros(len(y))
    for _ in range(8):
      coefs = np.linalg.lstsq(basis, y - signs, rcond=None)[0]
      before, signs = signs, np.sign(y - basis @ coefs)
      if (before == signs).all():
        break
    found = halves.polynomial(x, y - signs, degree)
    if found is not None:
      return found
  return None
