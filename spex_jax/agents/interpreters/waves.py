"""Sinusoids, tanh, bells, roots, logarithms and quotients.

Each takes points and gives what fits all of them, or None. Numbers that a
function is not linear in come from a grid with the linear ones solved for
(variable projection), and are then refined.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.agents.interpreters import halves
from spex_jax.agents.interpreters.halves import Ask, Found, number, numbers

# What has no values below 0 is a line in.
ABOVE_ZERO = {"root": np.sqrt, "logarithm": np.log}
_EXACT = 1e-6


def refined(
  model: Callable[..., np.ndarray],
  start: np.ndarray,
  x: np.ndarray,
  y: np.ndarray,
) -> tuple[np.ndarray, float]:
  """Parameters by least squares from a start, and the residual's deviation."""
  from scipy import optimize  # Slow to import.

  found = optimize.least_squares(
    lambda own: model(x, *own) - y, start, method="lm", xtol=1e-15,
    ftol=1e-15, gtol=1e-15, max_nfev=400,
  )  # fmt: skip
  return found.x, float(np.sqrt(np.mean(found.fun**2)))


def is_exact(deviation: float, y: np.ndarray) -> bool:
  """Whether a residual is rounding's alone."""
  return deviation <= _EXACT * float(np.sqrt(np.mean(y**2))) + 1e-12


def wave_start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Offset, sine, cosine and frequency: the best of a fine grid."""
  frequencies = np.arange(0.1, 10.6, 1 / 1024)
  centred = y - y.mean()
  turns = 2 * np.pi * np.multiply.outer(frequencies, x)
  sines, cosines = np.sin(turns), np.cos(turns)
  a, b = sines @ centred, cosines @ centred
  ss, cc = (sines**2).sum(1), (cosines**2).sum(1)
  sc = (sines * cosines).sum(1)
  power = (a * a * cc - 2 * a * b * sc + b * b * ss) / (ss * cc - sc**2)
  best = int(power.argmax())
  basis = np.stack([np.ones_like(x), sines[best], cosines[best]], axis=1)
  coefs = np.linalg.lstsq(basis, y, rcond=None)[0]
  return np.array([*coefs, frequencies[best]])


def wave_model(x: np.ndarray, offset: float, a: float, b: float, f: float):
  """Values of a sinusoid."""
  return offset + a * np.sin(2 * np.pi * f * x) + b * np.cos(2 * np.pi * f * x)


def sinusoid_found(own: np.ndarray) -> Found:
  """As an answer."""
  offset, a, b, f = own
  offset = 0.0 if abs(offset) < 1e-9 else offset
  body = (
    f"  turn = 2 * np.pi * {number(f)} * x\n  return {number(offset)} + "
    f"{number(a)} * np.sin(turn) + {number(b)} * np.cos(turn)"
  )
  wave = {"wave": [float(a), float(b)], "period": float(1 / f)}
  return Found("sinusoid", wave, body)


def sinusoid(x: np.ndarray, y: np.ndarray) -> Found | None:
  """A sinusoid of a period from .1 to 10."""
  own, deviation = refined(wave_model, wave_start(x, y), x, y)
  return sinusoid_found(own) if is_exact(deviation, y) else None


def tanh_start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Offset, amplitude, width and shift: the best of a grid."""
  best, found = np.inf, np.zeros(4)
  for width in np.geomspace(0.08, 8, 24):
    for shift in np.linspace(-7, 7, 57):
      basis = np.stack([np.ones_like(x), np.tanh((x - shift) / width)], axis=1)
      gram = basis.T @ basis
      if abs(np.linalg.det(gram)) < 1e-9:
        continue
      coefs = np.linalg.solve(gram, basis.T @ y)
      error = float(((basis @ coefs - y) ** 2).sum())
      if error < best:
        best, found = error, np.array([*coefs, width, shift])
  return found


def tanh_model(x: np.ndarray, offset: float, a: float, w: float, s: float):
  """Values of a tanh."""
  with np.errstate(all="ignore"):
    return offset + a * np.tanh((x - s) / w)


def tanh_found(own: np.ndarray) -> Found:
  """As an answer."""
  offset, a, w, s = own
  offset = 0.0 if abs(offset) < 1e-9 else offset
  sign = np.sign(w) or 1.0
  a, w = a * sign, w * sign
  body = (
    f"  return {number(offset)} + {number(a)} * "
    f"np.tanh((x - {number(s)}) / {number(w)})"
  )
  own_ = {"amplitude": float(a), "width": float(w), "shift": float(s)}
  return Found("tanh", own_, body)


def tanh(x: np.ndarray, y: np.ndarray, ask: Ask) -> Found | None:
  """A tanh; where it turns is bisected."""
  if np.ptp(y) == 0 or np.abs(y).max() > 100:
    return None
  for _ in range(10):
    at = int(np.abs(np.diff(y)).argmax())
    middle = (x[at] + x[at + 1]) / 2
    value = ask(np.array([middle]))[0]
    if not np.isfinite(value):
      return None
    x, y = np.insert(x, at + 1, middle), np.insert(y, at + 1, value)
  own, deviation = refined(tanh_model, tanh_start(x, y), x, y)
  return tanh_found(own) if is_exact(deviation, y) else None


def bell(x: np.ndarray, y: np.ndarray) -> Found | None:
  """A normal density: its logarithm is a parabola."""
  keep = y > 1e-250
  if (y < 0).any() or keep.sum() < 6:
    return None
  coefs = halves.polynomial(x[keep], np.log(y[keep]), 2)
  if coefs is None or len(coefs) < 3 or coefs[0] >= 0:
    return None
  deviation = float(np.sqrt(-1 / (2 * coefs[0])))
  mean = float(-coefs[1] / (2 * coefs[0]))
  body = (
    f"  return np.exp(-((x - {number(mean)}) / {number(deviation)}) ** 2 / 2)"
    f" / ({number(deviation)} * np.sqrt(2 * np.pi))"
  )
  return Found("gaussian", {"mean": mean, "deviation": deviation}, body)


def quotient(x: np.ndarray, y: np.ndarray) -> Found | None:
  """A polynomial over another of a higher degree, at most 5: a null vector."""
  keep = (x != 0) & (y != 0)
  x, y = x[keep], y[keep]
  for below in range(1, 6):
    for above in range(below):
      if len(x) < above + below + 6:
        return None
      found = quotient_of(x, y, above, below)
      top, bottom = found[: above + 1], found[above + 1 :]
      with np.errstate(all="ignore"):
        guess = np.polyval(top, x) / np.polyval(bottom, x)
      if (np.abs(guess - y) <= 1e-6 * np.abs(y)).mean() > 0.97:
        return quotient_found(top, bottom)
  return None


def quotient_of(
  x: np.ndarray, y: np.ndarray, above: int, below: int,
  weights: np.ndarray | float = 1.0,
) -> np.ndarray:  # fmt: skip
  """Coefficients of both, of a least `|P - y Q|` with rows of length 1."""
  top = np.vander(x, above + 1)
  bottom = -y[:, None] * np.vander(x, below + 1)
  rows = np.concatenate([top, bottom], axis=1)
  if np.ndim(weights) == 0:
    weights = 1 / np.linalg.norm(rows, axis=1)
  rows = rows * np.asarray(weights)[:, None]
  size = np.linalg.norm(rows, axis=0)
  found = np.linalg.svd(rows / size, full_matrices=False)[2][-1] / size
  return found / (found[above + 1] or 1.0)


def quotient_found(top: np.ndarray, bottom: np.ndarray) -> Found:
  """As an answer; a reciprocal where it is one."""
  body = (
    f"  return np.polyval({numbers(top)}, x) / np.polyval({numbers(bottom)}, x)"
  )
  if len(top) == 1 and len(bottom) == 2 and abs(bottom[1]) < 1e-6:
    return Found("reciprocal", {"slope": float(1 / top[0])}, body)
  own: dict[str, Any] = {"above": top.tolist(), "below": bottom.tolist()}
  return Found("rational", own, body)


def above_zero(x: np.ndarray, y: np.ndarray) -> Found | None:
  """A square root or a logarithm, of what has no values below 0."""
  x, y = x[x > 0], y[x > 0]
  for name, inner in ABOVE_ZERO.items():
    coefs = halves.polynomial(inner(x), y, 1)
    if coefs is not None and len(coefs) == 2:
      return above_zero_found(name, *map(float, coefs))
  return None


def above_zero_found(name: str, slope: float, bias: float) -> Found:
  """As an answer; a name of `ABOVE_ZERO`."""
  own: dict[str, float] = {"slope": slope, "bias": bias}
  if name == "root":
    own = {"scale": slope, "bias": bias, "degree": 2}
  return Found(
    name, own,
    "  if x <= 0:\n    return float('nan')\n  return "
    f"{number(slope)} * np.{ABOVE_ZERO[name].__name__}(x) + {number(bias)}",
  )  # fmt: skip
