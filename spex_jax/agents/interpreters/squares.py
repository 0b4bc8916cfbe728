"""Rectangles and square waves, and what is polynomial on both sides of 0 there.

A rectangle's edge is bisected. A wave's period comes from a grid, then from
edges ever farther away, each bisected where the last ones say that it is. A sum
is taken apart by guessing signs and fitting what they leave, in turns; a
product by the root of its square.
"""

import textwrap

import numpy as np

from spex_jax.agents.find import naming
from spex_jax.agents.interpreters import halves
from spex_jax.agents.interpreters.halves import Ask, Found, number

_MOST = 5  # The degree of what a wave is added to or multiplied with.


def rectangle(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A rectangle around 0, with or times what is polynomial, or times a wave.

  Args:
    x: float `[B]`, the numbers that were asked.
    y: float `[B]`, the values there.
    ask: for more: the edge is bisected, and the inside asked.
  """
  beside = np.abs(x) > 5.01
  outer = halves.sides(x[beside], y[beside])
  if outer is None or not (np.abs(x) < 0.5).any():
    return None
  own = lambda at: halves.values(outer, at)
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
  found = np.concatenate([y[inside], ask(more)])
  keep = np.isfinite(found)
  at, found = at[keep], found[keep]
  nothing = not any(side.any() for side in outer)
  gap = halves.polynomial(at, found - own(at), 0)
  beside_it = halves.two_sided(*outer)
  parameters = None
  if gap is not None and np.isclose(gap[0], 1, atol=1e-6):
    inner = halves.two_sided(*(np.polyadd(side, gap) for side in outer))
    family = naming.named(beside_it.family, "+", "rectangle")
    if nothing:
      family, parameters = "rectangle", {"width": width}
  elif not nothing:
    return None
  elif (pair := halves.sides(at, found)) is not None:
    inner = halves.two_sided(*pair)
    family = naming.named(inner.family, "*", "rectangle")
  elif (wave := square(at, found, ask)) is not None:
    inner, family = wave, "rectangle*square"
  else:
    return None
  body = (
    f"  if abs(x) < {width / 2!r}:\n{textwrap.indent(inner.body, '  ')}\n"
    f"{beside_it.body}"
  )
  return Found(family, parameters, body)


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
  wave = f"(x - {number(shift)}) / {number(period)} % 1 < 0.5"
  body = f"  return 1.0 if {wave} else -1.0"
  return Found("square", {"period": period, "shift": shift}, body)


def _decimal(period: float, known: list[tuple[int, float]]) -> float:
  """With one decimal, where the farthest edge allows it."""
  reach = max(abs(count) for count, _ in known) or 1
  short = round(period, 1)
  return short if abs(short - period) * reach < 0.05 * period else period


def composed(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A square wave plus, or times, what is polynomial on both sides of 0.

  Args:
    x: float `[B]`, the numbers that were asked, ascending.
    y: float `[B]`, the values there.
    ask: numbers to values, where more are needed.
  """
  for sign, take in (("*", _factor), ("+", _summand)):
    left, right = (
      take(x[side], y[side]) if side.sum() > 12 else None
      for side in (x < 0, x > 0)
    )
    if left is None or right is None:
      continue
    # A root says nothing of its sign, on either side.
    for turned in (right, -right) if sign == "*" else (right,):
      found = _with(x, y, ask, (left, turned), sign)
      if found is not None:
        return found
  return None


def _with(
  x: np.ndarray, y: np.ndarray, ask: Ask, own: halves.Sides, sign: str
) -> Found | None:
  """The square wave that is left beside two known polynomials, and those."""

  def rest(at, values):
    beside = halves.values(own, at)
    with np.errstate(all="ignore"):
      found = values / beside if sign == "*" else values - beside
    return np.where(np.abs(np.abs(found) - 1) < 1e-3, np.round(found), np.nan)

  waves = rest(x, y)
  keep = np.isfinite(waves)
  if keep.mean() < 0.9:
    return None
  wave = square(x[keep], waves[keep], lambda at: rest(at, ask(at)))
  if wave is None:
    return None
  left, right = own
  if len(left) == len(right) and np.allclose(left, right, rtol=1e-4):
    left = right
  beside = halves.two_sided(left, right)
  lines = [
    f"  def {name}(x):\n{textwrap.indent(found.body, '  ')}"
    for name, found in (("wave", wave), ("own", beside))
  ]
  body = "\n".join([*lines, f"  return own(x) {sign} wave(x)"])
  return Found(naming.named(beside.family, sign, "square"), None, body)


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
