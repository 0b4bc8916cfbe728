"""Functions of one number: families, each fitted, and the one that fits.

Without noise a family fits exactly or not at all, and the first that does, in
order of how much it can do, is the answer. With noise the least of BIC is: what
a family is linear in is solved for, the rest found on a grid and refined.
Whatever nothing fits is interpolated with all queries that are left.
"""

import numpy as np

from spex_jax.agents.find import answers, functions
from spex_jax.agents.interpreters import (
  baselines,
  halves,
  probing,
  squares,
  waves,
)
from spex_jax.agents.interpreters.halves import Found, numbers

_ADEQUATE = 1.5  # Times the noise's variance that a residual may have.


def run(query: functions.Query, budget: int) -> answers.Answer:
  """Interprets a function of one number.

  Args:
    query: of category "numeric".
    budget: of the query; asked for in parts.
  """
  if query.about.get("is_network"):
    return baselines.interpolation(query, budget, family="network")
  samples = probing.Samples(query)
  if len(samples.points[0]) < 8:
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
    return waves.above_zero(x, y)
  found = halves.fit(x, y) or halves.rectangle(x, y, samples.ask)
  if found is not None:
    return found
  for fit in (squares.square, squares.composed, squares.stepped):
    if (found := fit(x, y, samples.ask)) is not None:
      return found
  if (found := waves.bell(x, y)) is not None:
    return found
  return (
    waves.quotient(x, y)
    or waves.sinusoid(x, y)
    or waves.tanh(x, y, samples.ask)
  )


def _noisy(samples: probing.Samples) -> Found | None:
  """The least of n log-likelihood and k log n, among what is adequate."""
  x, y = samples.points
  x, y = x[x != 0], y[x != 0]  # A step has a value of its own there.
  deviation = samples.sigma + 1e-13 * np.abs(y)
  best, chosen = np.inf, None
  for found, values, count in _candidates(samples, x, y, deviation):
    error = float((((y - values) / deviation) ** 2).sum())
    if error / max(len(x) - count, 1) > _ADEQUATE:
      continue
    score = error + count * np.log(len(x))
    if score < best:
      best, chosen = score, found
  return chosen


def _candidates(samples, x, y, deviation):
  """Yields answers, their values at x, and how many numbers they have."""

  def solved(basis):
    rows = basis / deviation[:, None]
    size = np.linalg.norm(rows, axis=0)
    size = np.where(size > 0, size, 1)
    found = np.linalg.lstsq(rows / size, y / deviation, rcond=None)[0] / size
    return found, basis @ found

  if samples.undefined_below_zero:
    for name, inner in waves.ABOVE_ZERO.items():
      coefs, values = solved(np.stack([inner(x), np.ones_like(x)], axis=1))
      yield waves.above_zero_found(name, *map(float, coefs)), values, 2
    return
  for degree in range(halves.MOST + 1):
    coefs, values = solved(np.vander(x, degree + 1))
    family, own = halves.smooth(coefs)
    body = f"  return np.polyval({numbers(coefs)}, x)"
    yield Found(family, own, body), values, degree + 1
  positive = (x > 0)[:, None]
  for degree in range(7):
    basis = np.vander(x, degree + 1)
    kinked = np.concatenate([basis * ~positive, basis * positive], axis=1)
    coefs, values = solved(kinked)
    yield halves.two_sided(*np.split(coefs, 2)), values, 2 * degree + 2
    if degree:  # Continuous at 0.
      both = np.concatenate([kinked[:, :degree],
                             kinked[:, degree + 1 : 2 * degree + 1],
                             np.ones((len(x), 1))], axis=1)  # fmt: skip
      coefs, values = solved(both)
      left, right = coefs[:degree], coefs[degree : 2 * degree]
      sides = [np.append(side, coefs[-1]) for side in (left, right)]
      yield halves.two_sided(*sides), values, 2 * degree + 1
  coefs, values = solved(np.stack([np.abs(x), np.ones_like(x)], axis=1))
  yield (
    halves.two_sided(coefs * [-1, 1], coefs), values, 2
  )  # fmt: skip
  for start, model, found in (
    (waves.wave_start, waves.wave_model, waves.sinusoid_found),
    (waves.tanh_start, waves.tanh_model, waves.tanh_found),
  ):
    own, _ = waves.refined(model, start(x, y), x, y)
    yield found(own), model(x, *own), 4
  far = np.abs(x) > 1e-3
  for above, below in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)):
    weights = np.ones(int(far.sum()))
    for _ in range(8):  # Sanathanan and Koerner: weighted by the last Q.
      coefs = waves.quotient_of(x[far], y[far], above, below, weights)
      weights = 1 / (np.abs(np.polyval(coefs[above + 1 :], x[far])) + 1e-9)
    top, bottom = coefs[: above + 1], coefs[above + 1 :]
    with np.errstate(all="ignore"):
      values = np.polyval(top, x) / np.polyval(bottom, x)
    yield waves.quotient_found(top, bottom), values, above + below + 2


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


def _answer(found: Found, samples: probing.Samples) -> answers.Answer:
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
  return answers.Answer(said, code, domain, found.family, found.parameters)
