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

_POLYNOMIAL = ("constant", "linear", "polynomial")
_TOLERANCE = 0.05


def canonical(
  spec: Mapping[str, Any], mean: float = 0.0
) -> tuple[str, dict[str, Any] | None]:
  """Name and parameters; those of a composition are not named.

  Args:
    spec: of `families.evaluate`.
    mean: of its noise, which nothing tells from an offset of its own.
  """
  name, own = _canonical(spec)
  if not own or not mean:
    return name, own
  for each in ("bias", "offset", "low", "high", "value"):
    if each in own:
      own[each] += mean
  if "coefficients" in own:
    *rest, last = own["coefficients"]
    own["coefficients"] = [*rest, last + mean]
  return name, own


def _canonical(
  spec: Mapping[str, Any],
) -> tuple[str, dict[str, Any] | None]:
  if "op" in spec:
    return _composed(spec)
  name, own = spec["family"], dict(spec["parameters"])
  if name in ("sine", "cosine"):
    turn = 2 * np.pi * own["shift"] / own["period"]
    pair = np.array([np.cos(turn), -np.sin(turn)])
    pair = pair if name == "sine" else np.array([-pair[1], pair[0]])
    return "sinusoid", {
      "wave": (own["amplitude"] * pair).tolist(),
      "period": own["period"],
    }
  if name == "root" and own["degree"] == 1:
    return "linear", {"slope": own["scale"], "offset": own["bias"]}
  if name == "logarithm":
    slope = own["scale"] / np.log(own["base"])
    return name, {"slope": float(slope), "bias": own["bias"]}
  if name == "step":
    return name, {"low": own["bias"], "high": own["bias"] + own["scale"]}
  if name == "relu":
    left = own["scale"] * own["leak"]
    return name, {"right": own["scale"], "left": left, "bias": own["bias"]}
  if name == "tanh":
    sign = np.sign(own["width"]) or 1.0
    return name, {
      "amplitude": own["amplitude"] * sign,
      "width": own["width"] * sign,
      "shift": own["shift"],
    }
  if name == "rational":
    size = np.array([own["above"][0], own["below"][0]])
    return name, {
      "above": (np.array(own["above"]) / size[1]).tolist(),
      "below": (np.array(own["below"]) / size[1]).tolist(),
    }
  if name == "polynomial" and len(own["coefficients"]) <= 2:
    *slope, offset = own["coefficients"]
    if slope:
      return "linear", {"slope": slope[0], "offset": offset}
    return "constant", {"value": offset}
  if name == "linear" and own["slope"] == 0:
    return "constant", {"value": own["offset"]}
  return name, own


def _composed(spec: Mapping[str, Any]) -> tuple[str, None]:
  names = [canonical(part)[0] for part in spec["parts"]]
  sign = "+" if spec["op"] == "sum" else "*"
  smooth = [name for name in names if name in _POLYNOMIAL]
  rough = sorted(name for name in names if name not in _POLYNOMIAL)
  if len(smooth) == 2:
    # Coefficients are not zero, but sums of lines may cancel; seldom.
    if "polynomial" in smooth or (sign == "*" and "constant" not in smooth):
      return "polynomial", None
    return ("linear" if "linear" in smooth else "constant"), None
  if len(rough) == 1:
    (own,), (other,) = rough, smooth
    if own in ("step", "relu") and other == "constant":
      return own, None
    if own == "relu" and other == "linear" and sign == "+":
      return own, None
    if own == "relu" and sign == "*":
      return "polynomial*relu", None
    return f"{other}{sign}{own}", None
  if rough == ["relu", "relu"]:
    return ("relu" if sign == "+" else "polynomial*relu"), None
  if rough == ["step", "step"]:
    return "step", None
  if rough == ["relu", "step"]:
    return "relu+step", None
  if rough in (["ceiling"] * 2, ["floor"] * 2) and sign == "+":
    return f"constant*{rough[0]}", None
  return sign.join(rough), None


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
