"""Functions of one number: families, each fitted, and the one that fits.

Without noise a family fits exactly or not at all, and the first that does, in
order of how much it can do, is the answer. With noise the least of BIC is: what
a family is linear in is solved for, the rest found on a grid and refined.
Whatever nothing fits is interpolated with all queries that are left.
"""

import numpy as np

from spex_jax.agents.find import functions, interpretations
from spex_jax.agents.interpreters import (
  halves,
  naive,
  probing,
  squares,
  waves,
)
from spex_jax.agents.interpreters.halves import Found, numbers

# Times the noise's variance that a residual may have; 53 bends tell it to a
# deviation of a fifth.
_ADEQUATE = 2.0
_LARGEST = 1e100  # Squares of more would be infinite.


def run(query: functions.Query, budget: int) -> interpretations.Answer:
  """Interprets a function of one number.

  Args:
    query: a function of the category "numeric".
    budget: of the query; asked for in parts.
  """
  if query.about.get("is_network"):
    return naive.interpolation(query, budget, family="network")
  samples = probing.Samples(query)
  _, y = samples.points
  if len(y) < 8 or np.abs(y).max() > _LARGEST:
    found = None
  elif samples.sigma:
    found = _noisy(samples)
  else:
    found = _clean(samples)
  if found is None:
    found = _interpolated(samples)
  return _answer(found, samples)


def _clean(samples: probing.Samples) -> Found | None:
  x, y = samples.points
  if samples.undefined_below_zero:
    x, y = x[x > 0], y[x > 0]
    fits = [waves.above_zero(name, x, y) for name in waves.ABOVE_ZERO]
    return next((own for own, at in fits if waves.is_exact(at, y)), None)
  found = (
    _simple(x, y, samples.ask)
    or _stepped(x, y, samples.ask)
    or squares.composed(x, y, samples.ask)
    or waves.bell(x, y)
  )
  if found is not None:
    return found
  for below in range(1, 6):
    for above in range(below):
      if len(x) < above + below + 6:
        break
      found, values = waves.quotient(x, y, above, below)
      # Some are next to a pole.
      if (np.abs(values - y) <= 1e-6 * np.abs(y)).mean() > 0.97:
        return found
  found, values = waves.fitted(waves.SINUSOID, x, y)
  if waves.is_exact(values, y):
    return found
  if np.ptp(y) == 0 or np.abs(y).max() > 100:
    return None
  for _ in range(10):  # Where a tanh turns is bisected.
    x, y = samples.points
    at = int(np.abs(np.diff(y)).argmax())
    samples.ask(x[at : at + 2].mean(keepdims=True))
  x, y = samples.points
  found, values = waves.fitted(waves.TANH, x, y)
  return found if waves.is_exact(values, y) else None


def _simple(x: np.ndarray, y: np.ndarray, ask: halves.Ask) -> Found | None:
  """What is polynomial on both sides of 0, a rectangle, or a square wave."""
  if (own := halves.sides(x, y)) is not None:
    return halves.two_sided(*own)
  return squares.rectangle(x, y, ask) or squares.square(x, y, ask)


def _stepped(x: np.ndarray, y: np.ndarray, ask: halves.Ask) -> Found | None:
  """A ceiling or a floor, with or times another or what `_simple` finds."""
  nothing = np.zeros(1)
  for name, steps in halves.STEPS.items():
    for sign, off in (("+", np.subtract), ("*", np.divide)):

      def rest(at, values, off=off, steps=steps):
        with np.errstate(all="ignore"):
          return off(values, steps(at))

      left = rest(x, y)
      keep = np.isfinite(left)
      # A product is 0 wherever a factor is.
      if not keep.any() or y[~keep].any():
        continue
      at, left = x[keep], left[keep]
      found = _simple(at, left, lambda at, rest=rest: rest(at, ask(at)))
      for other, more in halves.STEPS.items() if found is None else ():
        if np.allclose(left, more(at)):
          found = halves.joined(halves.two_sided(nothing, nothing), "+", other)
      if found is not None:
        return halves.joined(found, sign, name)
  return None


def _noisy(samples: probing.Samples) -> Found | None:
  """The least of n log-likelihood and k log n, among what is adequate.

  What is the best of K that were tried pays 2 log K for it (extended BIC).
  """
  x, y = samples.points
  x, y = x[x != 0], y[x != 0]  # A step has a value of its own there.
  deviation = samples.sigma + 1e-13 * np.abs(y)
  best, chosen = np.inf, None
  for (found, values), count, tried in _candidates(samples, x, y, deviation):
    error = float((((y - values) / deviation) ** 2).sum())
    if error / max(len(x) - count, 1) > _ADEQUATE:
      continue
    score = error + count * np.log(len(x)) + 2 * np.log(tried)
    if score < best:
      best, chosen = score, found
  return chosen


def _candidates(samples, x, y, deviation):
  """Yields fits, how many numbers they have, and how many were tried."""

  def solved(basis):
    rows = basis / deviation[:, None]
    size = np.linalg.norm(rows, axis=0)
    size = np.where(size > 0, size, 1)
    found = np.linalg.lstsq(rows / size, y / deviation, rcond=None)[0] / size
    return found, basis @ found

  if samples.undefined_below_zero:
    for name in waves.ABOVE_ZERO:
      yield waves.above_zero(name, x, y), 2, 1
    return
  for degree in range(halves.MOST + 1):
    coefs, values = solved(np.vander(x, degree + 1))
    yield (halves.two_sided(coefs, coefs), values), degree + 1, 1
  positive = (x > 0)[:, None]
  for degree in range(7):
    basis = np.vander(x, degree + 1)
    kinked = np.concatenate([basis * ~positive, basis * positive], axis=1)
    coefs, values = solved(kinked)
    found = halves.two_sided(*np.split(coefs, 2))
    yield (found, values), 2 * degree + 2, 1
    if degree:  # Continuous at 0.
      both = np.delete(kinked, degree, axis=1)
      both[:, -1] = 1
      coefs, values = solved(both)
      left, right = np.split(coefs[:-1], 2)
      sides = [np.append(side, coefs[-1]) for side in (left, right)]
      yield (halves.two_sided(*sides), values), 2 * degree + 1, 1
  coefs, values = solved(np.stack([np.abs(x), np.ones_like(x)], axis=1))
  yield (halves.two_sided(coefs * [-1, 1], coefs), values), 2, 1
  for shape in (waves.SINUSOID, waves.TANH):
    yield waves.fitted(shape, x, y), 4, shape.tried
  for above, below in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)):
    yield waves.quotient(x, y, above, below, 8), above + below + 2, 1


def _interpolated(samples: probing.Samples) -> Found:
  """Lines between points, the means of those that are all but one."""
  samples.ask(np.linspace(-128, 128, max(samples.left, 1)))
  x, y = samples.points
  if not len(x):
    return Found("", None, "  return float('nan')")
  if samples.sigma:
    x, place = np.unique(np.round(x, 1), return_inverse=True)
    y = np.bincount(place, y) / np.bincount(place)
  body = f"  return np.interp(x, {numbers(x)}, {numbers(y)})"
  return Found("", None, body)


def _answer(found: Found, samples: probing.Samples) -> interpretations.Answer:
  said = found.family or "no family that is known"
  if found.parameters:
    said += f" with {found.parameters}"
  lines = ["import numpy as np", "", "def f(x):"]
  domain = None
  if samples.odd:
    low, high, mean = (samples.odd[n] for n in ("low", "high", "mean"))
    domain = {"low": float(low), "high": float(high)}
    said += f"; noise around {mean:.3g} between {low:.2f} and {high:.2f}"
    lines += [f"  if {low!r} < x < {high!r}:", f"    return {mean!r}"]
  if samples.sigma:
    said += f"; noise of deviation {samples.sigma:.2g}"
  code = "\n".join([*lines, found.body])
  return interpretations.Answer(
    said, code, domain, found.family, found.parameters
  )
