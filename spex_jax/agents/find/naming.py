"""Which functions are the same by another name, and how far two are apart.

A cosine is a shifted sine and a first root is a line: no query tells them
apart, so that a family is right if it names the same set of functions.

  constant, linear, polynomial   by their degree
  sinusoid                       sine, cosine
  X+step, X*step, ...            a composition, its parts in order
  polynomial*relu                whatever is polynomial on both sides of 0 and
                                 continuous there, and no simpler
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_SMOOTH = ("constant", "linear", "polynomial")
_TOLERANCE = 0.05


def canonical(
  spec: Mapping[str, Any], mean: float = 0.0
) -> tuple[str, dict[str, Any] | None]:
  """Name and parameters; those of a composition are not named.

  Args:
    spec: a family with its parameters, as `families.evaluate` takes it.
    mean: of its noise, which nothing tells from an offset of its own.
  """
  if (sides := _sides(spec)) is not None:
    left, right = (
      np.trim_zeros(np.round(np.polyadd(side, mean), 9), "f") for side in sides
    )
    left, right = (x if len(x) else np.zeros(1) for x in (left, right))
    same = np.array_equal(left, right)
    name, parameters = smooth(left) if same else broken(left, right)
    return name, None if "op" in spec else parameters
  if "op" in spec:
    one, other = (canonical(part)[0] for part in spec["parts"])
    if other in _SMOOTH:
      one, other = other, one
    return named(one, "+" if spec["op"] == "sum" else "*", other), None
  name, own = spec["family"], dict(spec["parameters"])
  if "bias" in own:
    own["bias"] += mean
  if name in ("sine", "cosine"):
    turn = 2 * np.pi * own["shift"] / own["period"]
    pair = np.array([np.cos(turn), -np.sin(turn)])
    pair = pair if name == "sine" else np.array([-pair[1], pair[0]])
    return "sinusoid", {
      "wave": (own["amplitude"] * pair).tolist(),
      "period": own["period"],
    }
  if name == "logarithm":
    slope = own["scale"] / np.log(own["base"])
    return name, {"slope": float(slope), "bias": own["bias"]}
  if name == "tanh":
    sign = np.sign(own["width"]) or 1.0
    return name, {
      "amplitude": own["amplitude"] * sign,
      "width": own["width"] * sign,
      "shift": own["shift"],
    }
  if name == "rational":
    first = own["below"][0]
    return name, {k: (np.array(v) / first).tolist() for k, v in own.items()}
  return name, own


def _sides(spec: Mapping[str, Any]) -> tuple[Any, Any] | None:
  """The polynomials that a function is below 0 and above; None if it is none.

  Coefficients stand with the highest power first.
  """
  if "op" in spec:
    one, other = map(_sides, spec["parts"])
    if one is None or other is None:
      return None
    join = np.polyadd if spec["op"] == "sum" else np.polymul
    return join(one[0], other[0]), join(one[1], other[1])
  name, own = spec["family"], spec["parameters"]
  if name in _SMOOTH:
    flat = np.hstack([*own.values()])
    return flat, flat
  if name == "root" and own["degree"] == 1:
    return (line := [own["scale"], own["bias"]]), line
  if name == "step":
    return [own["bias"]], [own["bias"] + own["scale"]]
  if name in ("relu", "absolute"):
    left = own["scale"] * own.get("leak", -1.0)
    return [left, own["bias"]], [own["scale"], own["bias"]]
  return None


def named(family: str, sign: str, other: str) -> str:
  """The name of a family with another, which is no polynomial."""
  pair = [family, other]
  return sign.join(pair if family in _SMOOTH else sorted(pair))


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


def agree(truth: Any, found: Any) -> bool:
  """Whether all parameters are within 5 %, or .01 where they are small.

  Lists must be as long; `wave` is a vector, whose distance counts.
  """
  if truth is None or found is None or truth.keys() != found.keys():
    return False
  for name, value in truth.items():
    one, other = np.atleast_1d(value), np.atleast_1d(found[name])
    if one.shape != other.shape:
      return False
    one, other = one.astype(float), other.astype(float)
    gap, size = np.abs(one - other), np.abs(one)
    if name == "wave":
      gap, size = np.linalg.norm(gap), np.linalg.norm(size)
    elif name == "shift" and "period" in truth:
      period = truth["period"]
      gap = np.abs((gap + period / 2) % period - period / 2)
      size = np.asarray(period)
    if not np.all(gap <= _TOLERANCE * size + 0.01):
      return False
  return True


def overlap(one: Mapping | None, other: Mapping | None) -> float:
  """Intersection over union of two intervals within ±128; 1 if both lack."""
  if not one or not other:
    return float(not one and not other)
  ends = [
    np.clip([float(given["low"]), float(given["high"])], -128, 128)
    for given in (one, other)
  ]
  inner = min(e[1] for e in ends) - max(e[0] for e in ends)
  outer = max(e[1] for e in ends) - min(e[0] for e in ends)
  return float(max(inner, 0) / outer) if outer > 0 else 0.0
