"""Sinusoids, tanh, bells, roots, logarithms and quotients.

Each takes points and gives what is closest to them, and its values there.
Numbers that a function is not linear in come from a grid with the linear ones
solved for (variable projection), and are then refined.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spex_jax.agents.interpreters import halves
from spex_jax.agents.interpreters.halves import Found, number, numbers

# What has no values below 0 is a line in.
ABOVE_ZERO = {"root": np.sqrt, "logarithm": np.log}
_FREQUENCIES = np.arange(0.1, 10.6, 1 / 1024)
_TURNS = np.array([*itertools.product(  # Widths and shifts of a tanh.
  np.geomspace(0.08, 8, 24), np.linspace(-7, 7, 57))])  # fmt: skip
Fit = tuple[Found, np.ndarray]


def is_exact(values: np.ndarray, y: np.ndarray) -> bool:
  """Whether what is left is rounding's alone."""
  rest = np.sqrt(np.mean((values - y) ** 2))
  return bool(rest <= 1e-6 * np.sqrt(np.mean(y**2)) + 1e-12)


class Shape(NamedTuple):
  """A family that least squares refine.

  Attributes:
    start: parameters, the best of a grid.
    model: numbers and parameters to values.
    found: parameters to a `Found`, as an answer has them.
    tried: how many of the grid there are.
  """

  start: Callable[[np.ndarray, np.ndarray], np.ndarray]
  model: Callable[..., np.ndarray]
  found: Callable[..., Found]
  tried: int


def fitted(shape: Shape, x: np.ndarray, y: np.ndarray) -> Fit:
  """The closest one of a shape."""
  from scipy import optimize  # Slow to import.

  own = optimize.least_squares(
    lambda own: shape.model(x, *own) - y, shape.start(x, y), method="lm",
    xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400,
  ).x  # fmt: skip
  return shape.found(*map(float, own)), shape.model(x, *own)


def _wave_start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  centred = y - y.mean()
  turns = 2 * np.pi * np.multiply.outer(_FREQUENCIES, x)
  sines, cosines = np.sin(turns), np.cos(turns)
  a, b = sines @ centred, cosines @ centred
  ss, cc = (sines**2).sum(1), (cosines**2).sum(1)
  sc = (sines * cosines).sum(1)
  power = (a * a * cc - 2 * a * b * sc + b * b * ss) / (ss * cc - sc**2)
  best = int(power.argmax())
  basis = np.stack([np.ones_like(x), sines[best], cosines[best]], axis=1)
  coefs = np.linalg.lstsq(basis, y, rcond=None)[0]
  return np.array([*coefs, _FREQUENCIES[best]])


def _wave(x: np.ndarray, offset: float, a: float, b: float, f: float):
  return offset + a * np.sin(2 * np.pi * f * x) + b * np.cos(2 * np.pi * f * x)


def _wave_found(offset: float, a: float, b: float, f: float) -> Found:
  offset = 0.0 if abs(offset) < 1e-9 else offset
  body = (
    f"  turn = 2 * np.pi * {number(f)} * x\n  return {number(offset)} + "
    f"{number(a)} * np.sin(turn) + {number(b)} * np.cos(turn)"
  )
  return Found("sinusoid", {"wave": [a, b], "period": 1 / f}, body)


def _tanh_start(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  turns = np.tanh((x - _TURNS[:, 1:]) / _TURNS[:, :1])
  centred = turns - turns.mean(axis=1, keepdims=True)
  size = np.maximum((centred**2).sum(axis=1), 1e-9)
  slopes = centred @ y / size
  best = int((slopes**2 * size).argmax())
  offset = (y - slopes[best] * turns[best]).mean()
  return np.array([offset, slopes[best], *_TURNS[best]])


def _tanh(x: np.ndarray, offset: float, a: float, w: float, s: float):
  with np.errstate(all="ignore"):
    return offset + a * np.tanh((x - s) / w)


def _tanh_found(offset: float, a: float, w: float, s: float) -> Found:
  offset = 0.0 if abs(offset) < 1e-9 else offset
  sign = np.sign(w) or 1.0
  a, w = float(a * sign), float(w * sign)
  body = (
    f"  return {number(offset)} + {number(a)} * "
    f"np.tanh((x - {number(s)}) / {number(w)})"
  )
  return Found("tanh", {"amplitude": a, "width": w, "shift": s}, body)


SINUSOID = Shape(_wave_start, _wave, _wave_found, len(_FREQUENCIES))
TANH = Shape(_tanh_start, _tanh, _tanh_found, len(_TURNS))


def bell(x: np.ndarray, y: np.ndarray) -> Found | None:
  """A normal density through all points: its logarithm is a parabola."""
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


def quotient(
  x: np.ndarray, y: np.ndarray, above: int, below: int, rounds: int = 0
) -> Fit:
  """A polynomial over another: a least `|P - y Q|`, by a null vector.

  Args:
    x: float `[B]`, the numbers that were asked.
    y: float `[B]`, the values there.
    above: the degree of the numerator P.
    below: the degree of the denominator Q.
    rounds: each weighted by the last Q (Sanathanan and Koerner, 1963), where
      there is noise; 0 for rows of length 1.
  """
  far = np.abs(x) > 1e-3
  bottom = np.vander(x[far], below + 1)
  rows = np.concatenate(
    [np.vander(x[far], above + 1), -y[far, None] * bottom], axis=1
  )
  weights = np.ones(len(rows)) if rounds else 1 / np.linalg.norm(rows, axis=1)
  own = np.zeros(0)
  for _ in range(max(rounds, 1)):
    scaled = rows * weights[:, None]
    size = np.maximum(np.linalg.norm(scaled, axis=0), 1e-300)
    own = np.linalg.svd(scaled / size, full_matrices=False)[2][-1] / size
    own /= own[above + 1] or 1.0
    weights = 1 / (np.abs(bottom @ own[above + 1 :]) + 1e-9)
  p, q = own[: above + 1], own[above + 1 :]
  with np.errstate(all="ignore"):
    values = np.polyval(p, x) / np.polyval(q, x)
  body = f"  return np.polyval({numbers(p)}, x) / np.polyval({numbers(q)}, x)"
  if above == 0 and below == 1 and abs(q[1]) < 1e-6:
    return Found("reciprocal", {"slope": float(1 / p[0])}, body), values
  parts: dict[str, Any] = {"above": p.tolist(), "below": q.tolist()}
  return Found("rational", parts, body), values


def above_zero(name: str, x: np.ndarray, y: np.ndarray) -> Fit:
  """A square root or a logarithm, of `ABOVE_ZERO`; x above 0."""
  inner = ABOVE_ZERO[name]
  basis = np.stack([inner(x), np.ones_like(x)], axis=1)
  coefs = np.linalg.lstsq(basis, y, rcond=None)[0]
  slope, bias = map(float, coefs)
  own: dict[str, float] = {"slope": slope, "bias": bias}
  if name == "root":
    own = {"scale": slope, "bias": bias, "degree": 2}
  body = (
    "  if x <= 0:\n    return float('nan')\n  return "
    f"{number(slope)} * np.{inner.__name__}(x) + {number(bias)}"
  )
  return Found(name, own, body), basis @ coefs
