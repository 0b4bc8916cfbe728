"""Numeric functions: the paper's mixture, its corruption and its noise.

Of 1,000: 850 simple and 150 of two parts; 483 as they are, 191 with an interval
of N(mean f, .1), 176 with noise, 150 small networks trained on one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax.agents.find import families, functions

RANGE = 128.0
GRID = np.arange(-128, 128) + 0.5  # Where the paper scores.
ABOUT = {
  "inputs": f"numbers from -{RANGE:g} to {RANGE:g}",
  "outputs": "numbers; NaN where it has none",
  "notes": "It may be noisy, and odd in one interval.",
}
_VARIANTS = {"clean": 483, "corrupted": 191, "noised": 176, "network": 150}
_SIDES = {"inside": 89, "larger": 52, "smaller": 50}
_NOISES = {"uniform": 73, "normal": 58, "poisson": 45}
_FAR = 1000.0  # Beyond the range.
_EPOCHS = 2_000  # The paper's 10,000 fit no better by eye, at five times that.


def make(seed: int, index: int) -> functions.Function:
  """The function of a number."""
  name = f"numeric-{index:05d}"
  rng = functions.rng(seed, name)
  spec = _spec(rng)
  variant = _drawn(rng, _VARIANTS)
  truth: dict[str, Any] = dict(spec, variant=variant)
  key = f"{seed} {name}"
  if variant == "corrupted":
    truth["corruption"] = _interval(rng, spec)
  elif variant == "noised":
    truth["noise"] = _drawn(rng, _NOISES)
  elif variant == "network":
    spec = _network(rng, spec)
    truth = dict(spec, variant=variant, of=truth)
  corruption = truth.get("corruption")
  truth["code"] = families.code(spec, corruption)
  mean = functions.MEANS.get(truth.get("noise", ""), 0.0)
  if mean:
    truth["code"] += f" + {mean!r}"

  def clean(xs: Any) -> np.ndarray:
    return families.evaluate(spec, np.asarray(xs, float)) + mean

  def values(given: Any) -> np.ndarray:
    xs = _checked(given)
    ys = families.evaluate(spec, xs)
    if variant == "noised":
      ys = ys + functions.noise(truth["noise"], key, xs)
    if corruption:
      odd = (corruption["low"] < xs) & (xs < corruption["high"])
      drawn = corruption["mean"] + 0.1 * functions.noise("normal", key, xs)
      ys = np.where(odd, drawn, ys)
    return ys

  about = ABOUT | {"category": "numeric", "is_network": variant == "network"}
  return functions.Function(name, "numeric", about, truth, values, clean)


def _checked(xs: Any) -> np.ndarray:
  found = np.asarray(xs, float)
  if found.ndim != 1 or not np.all(np.abs(found) <= RANGE):
    raise ValueError(f"Inputs are a list of numbers within ±{RANGE:g}.")
  return found


def _drawn(rng: np.random.Generator, counts: Mapping[str, int]) -> str:
  shares = np.array([*counts.values()], float)
  return str(rng.choice([*counts], p=shares / shares.sum()))


def _spec(rng: np.random.Generator) -> dict[str, Any]:
  if rng.random() < 0.85:
    counts = {name: own.count for name, own in families.FAMILIES.items()}
    return families.draw(rng, _drawn(rng, counts))
  op = _drawn(rng, {"product": 78, "sum": 72})
  parts = [families.draw(rng, str(rng.choice(families.PARTS))) for _ in "ab"]
  return {"op": op, "parts": parts}


def _interval(rng: np.random.Generator, spec: Mapping) -> dict[str, Any]:
  """Where it is odd, and the mean there: of f over the grid."""
  side, at = _drawn(rng, _SIDES), round(float(rng.uniform(-100, 100)), 1)
  values = families.evaluate(spec, GRID)
  finite = values[np.isfinite(values)]
  length = round(float(rng.uniform(5, 25)), 1)
  low = -_FAR if side == "smaller" else at
  high = {"inside": at + length, "larger": _FAR, "smaller": at}[side]
  return {
    "side": side, "low": low, "high": high, "mean": float(finite.mean())
  }  # fmt: skip


def _network(rng: np.random.Generator, spec: Mapping) -> dict[str, Any]:
  """A network 1-64-1 with ReLU, trained by Adam on a function.

  On its values at the grid, in units of their deviation, clipped at 5: poles
  would be all that it learns.
  """
  ys = families.evaluate(spec, GRID)
  keep = np.isfinite(ys)
  x, y = GRID[keep] / 32, ys[keep]
  mean, size = float(np.median(y)), float(y.std()) or 1.0
  y = np.clip((y - mean) / size, -5, 5)
  own = [rng.normal(size=64), rng.uniform(-4, 4, 64), rng.normal(size=64) / 8]
  first = [np.zeros(64) for _ in own]
  second = [np.zeros(64) for _ in own]
  for count in range(1, _EPOCHS + 1):
    weights, biases, out = own
    before = np.multiply.outer(x, weights) + biases
    hidden = np.maximum(before, 0)
    error = 2 * (hidden @ out - y) / len(x)
    back = np.multiply.outer(error, out) * (before > 0)
    slopes = [x @ back, back.sum(0), hidden.T @ error]
    for i, slope in enumerate(slopes):
      first[i] = 0.9 * first[i] + 0.1 * slope
      second[i] = 0.999 * second[i] + 0.001 * slope**2
      pace = 0.01 / (1 - 0.9**count)
      scale = np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8
      own[i] = own[i] - pace * first[i] / scale
  weights, biases, out = own
  parameters = {
    "weights": (weights / 32).tolist(), "biases": biases.tolist(),
    "out": (out * size).tolist(), "offset": mean,
  }  # fmt: skip
  return {"family": "network", "parameters": parameters}
