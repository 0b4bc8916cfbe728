"""The numeric families of FIND: what they compute, and how they are drawn.

Ranges are the paper's; each drawn number has one decimal. Deliberate
deviations: what would turn a family into another (a zero scale or leading
coefficient, a leak or a base of 1) is drawn again; `absolute` keeps its bias; a
sinusoid's second number is its period, as in the paper's code; a square wave is
.02 to the right, or rounding would decide at half numbers, where it is scored.

Every function is plain text too (`source`): truths and answers are such code.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Rng = np.random.Generator


def constant(x, value):
  """The same everywhere."""
  return value + 0 * x


def linear(x, slope, offset):
  """A line."""
  return slope * x + offset


def polynomial(x, coefficients):
  """Coefficients, the highest power first."""
  return np.polyval(coefficients, x)


def rational(x, above, below):
  """A polynomial over another."""
  return np.polyval(above, x) / np.polyval(below, x)


def reciprocal(x, slope):
  """One over a multiple."""
  return 1 / (slope * x)


def absolute(x, scale, bias):
  """Two lines that mirror each other."""
  return scale * np.abs(x) + bias


def relu(x, scale, bias, leak):
  """A rectifier that leaks."""
  return scale * np.where(x > 0, x, leak * x) + bias


def step(x, scale, bias, middle):
  """A step at 0."""
  return scale * np.heaviside(x, middle) + bias


def root(x, scale, bias, degree):
  """A root of a degree."""
  return scale * np.power(x, 1 / degree) + bias


def logarithm(x, scale, bias, base):
  """A logarithm to a base."""
  return scale * np.log(np.where(x > 0, x, np.nan)) / np.log(base) + bias


def sine(x, amplitude, period, shift):
  """A sine."""
  return amplitude * np.sin(2 * np.pi * (x - shift) / period)


def cosine(x, amplitude, period, shift):
  """A cosine."""
  return amplitude * np.cos(2 * np.pi * (x - shift) / period)


def tanh(x, amplitude, width, shift):
  """A hyperbolic tangent."""
  return amplitude * np.tanh((x - shift) / width)


def gaussian(x, mean, deviation):
  """A normal density."""
  z = (x - mean) / deviation
  return np.exp(-z * z / 2) / (deviation * np.sqrt(2 * np.pi))


def rectangle(x, width):
  """1 around 0, else 0."""
  return 1.0 * (np.abs(x) < width / 2)


def square(x, period, shift):
  """A square wave of 1 and -1."""
  return np.where((x - shift) / period % 1 < 0.5, 1.0, -1.0)


def ceiling(x):
  """The next integer."""
  return np.ceil(x)


def floor(x):
  """The integer before."""
  return np.floor(x)


def network(x, weights, biases, out, offset):
  """One hidden layer of rectifiers."""
  hidden = np.maximum(np.multiply.outer(x, weights) + biases, 0)
  # Row by row alike, whatever the number of rows: a matmul is not.
  return (hidden * np.asarray(out)).sum(axis=-1) + offset


def _one(rng: Rng, low: float, high: float, *but: float) -> float:
  """A number of one decimal, none of `but`."""
  while (found := round(float(rng.uniform(low, high)), 1)) in but:
    pass
  return found + 0.0  # No -0.0.


def _many(rng: Rng, order: int, most: float) -> list[float]:
  """Coefficients, the highest power first."""
  leading = _one(rng, -most, most, 0.0)
  return [leading, *(_one(rng, -most, most) for _ in range(order))]


def _scaled(rng: Rng) -> dict[str, float]:
  return {"scale": _one(rng, -30, 30, 0.0), "bias": _one(rng, -30, 30)}


def _rational(rng: Rng) -> dict[str, Any]:
  order = int(rng.integers(0, 5))
  below = int(rng.integers(order + 1, 6))
  return {"above": _many(rng, order, 10), "below": _many(rng, below, 10)}


def _wave(rng: Rng, width: str = "period") -> dict[str, float]:
  amplitude = round(float(rng.choice(np.linspace(-10, 10, 40))), 1)
  period = _one(rng, 0.1, 2 * np.pi, 0.0)
  return {
    "amplitude": amplitude, width: period, "shift": _one(rng, 0.1, 2 * np.pi)
  }  # fmt: skip


class Family(NamedTuple):
  """One family.

  Attributes:
    function: `f(x, **parameters)`, numbers `[B]` to values `[B]`.
    draw: a random generator to parameters, a name to each.
    count: of the paper's 850 simple functions.
  """

  function: Callable[..., Any]
  draw: Callable[[Rng], dict[str, Any]]
  count: int


FAMILIES = {
  "constant": Family(constant, lambda r: {"value": _one(r, -30, 30, 0.0)}, 66),
  "cosine": Family(cosine, _wave, 65),
  "sine": Family(sine, _wave, 61),
  "rectangle": Family(rectangle, lambda r: {"width": _one(r, 1, 10)}, 59),
  "absolute": Family(absolute, _scaled, 56),
  "polynomial": Family(polynomial, lambda r: {
    "coefficients": _many(r, int(r.integers(2, 6)), 5)}, 56),
  "gaussian": Family(gaussian, lambda r: {
    "mean": _one(r, -50, 50), "deviation": _one(r, 1, 10)}, 54),
  "reciprocal": Family(reciprocal, lambda r: {
    "slope": _one(r, -10, 10, 0.0)}, 53),
  "root": Family(root, lambda r: _scaled(r) | {
    "degree": int(r.integers(1, 3))}, 52),
  "tanh": Family(tanh, lambda r: _wave(r, "width"), 52),
  "rational": Family(rational, _rational, 52),
  "step": Family(step, lambda r: _scaled(r) | {
    "middle": _one(r, -100, 100)}, 48),
  "square": Family(square, lambda r: {
    "period": _one(r, 1, 10), "shift": _one(r, -5, 5) + 0.02}, 48),
  "logarithm": Family(logarithm, lambda r: _scaled(r) | {
    "base": _one(r, 1, 10, 1.0)}, 47),
  "linear": Family(linear, lambda r: {
    "slope": _one(r, -10, 10, 0.0), "offset": _one(r, -10, 10)}, 44),
  "relu": Family(relu, lambda r: _scaled(r) | {"leak": _one(r, 0, 1, 1.0)}, 37),
}  # fmt: skip
_MORE = {f.__name__: f for f in (ceiling, floor, network)}
# What the two parts of a composition are drawn from.
PARTS = ("linear", "polynomial", "step", "relu", "constant", "ceiling",
         "floor", "rectangle", "square")  # fmt: skip


def function_of(name: str) -> Callable[..., Any]:
  """What a family computes."""
  return _MORE[name] if name in _MORE else FAMILIES[name].function


def draw(rng: Rng, name: str) -> dict[str, Any]:
  """A simple function: `{"family", "parameters"}`."""
  own = {} if name in _MORE else FAMILIES[name].draw(rng)
  return {"family": name, "parameters": own}


def evaluate(spec: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
  """Values of a simple or a composed function, float64, as `x`.

  NaN and infinities where it has none.
  """
  with np.errstate(all="ignore"):
    if "op" in spec:
      one, other = (evaluate(part, x) for part in spec["parts"])
      return one + other if spec["op"] == "sum" else one * other
    found = function_of(spec["family"])(x, **spec["parameters"])
    return np.asarray(found, float) + 0 * np.asarray(x)


def code(spec: Mapping[str, Any], corruption: Mapping | None = None) -> str:
  """A program of its own, `f(x)` of one number.

  Args:
    spec: a family and its parameters, as for `evaluate`.
    corruption: `low`, `high` and the `mean` between them, if any.
  """
  parts = spec["parts"] if "op" in spec else [spec]
  names = dict.fromkeys(part["family"] for part in parts)
  sources = [
    textwrap.dedent(inspect.getsource(function_of(name))) for name in names
  ]
  sign = " + " if spec.get("op") == "sum" else " * "
  terms = [
    f"{part['family']}(x"
    + "".join(f", {name}={v!r}" for name, v in part["parameters"].items())
    + ")"
    for part in parts
  ]
  lines = ["def f(x):"]
  if corruption:
    low, high, mean = (float(corruption[n]) for n in ("low", "high", "mean"))
    lines += [f"  if {low!r} < x < {high!r}:", f"    return {mean!r}"]
  lines.append(f"  return {sign.join(terms)}")
  return "\n\n".join(["import numpy as np", *sources, "\n".join(lines)])
