"""A function to interpret, and the query through which alone it is seen.

  functions = find.generate(seed, "numeric", 50)
  query = Query(functions[0], budget=500)
  ys = query([0.5, 1.5])

A query is deterministic: what it answers depends on the function and the input.
"""

import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_NORMAL = statistics.NormalDist()
_POISSON = np.cumsum([np.exp(-1) / np.prod(np.arange(1, k + 1.0))
                      for k in range(18)])  # fmt: skip
NOISES: dict[str, Callable[[float], float]] = {
  "uniform": lambda u: 2 * u - 1,
  "normal": _NORMAL.inv_cdf,
  "poisson": lambda u: float(np.searchsorted(_POISSON, u)),
}
MEANS = {"uniform": 0.0, "normal": 0.0, "poisson": 1.0}


class Overspent(RuntimeError):
  """An interpreter asked for more than its budget."""


class Failed(RuntimeError):
  """The function itself failed on an input."""


@dataclasses.dataclass(frozen=True)
class Function:
  """One function.

  Attributes:
    name: "CATEGORY-NUMBER", unique within a seed.
    category: which kind it is, a name of `generating.CATEGORIES`.
    about: what an interpreter is told, JSON.
    truth: JSON; no interpreter sees it. `code` is a program `f(x)`.
    values: inputs to what is served, deterministic.
    clean: inputs to values without noise and corruption.
    tests: what referees ask, JSON; likewise hidden.
  """

  name: str
  category: str
  about: Mapping[str, Any]
  truth: Mapping[str, Any]
  values: Callable[[Any], Any] = dataclasses.field(repr=False)
  clean: Callable[[Any], Any] = dataclasses.field(repr=False)
  tests: Sequence[Any] = dataclasses.field(default=(), repr=False)


class Query:
  """What an interpreter gets: inputs to outputs, within a budget."""

  def __init__(self, function: Function, budget: int):
    """Nothing is asked yet.

    Args:
      function: the function that is asked; its truth stays hidden.
      budget: inputs at most; each counts whenever it is asked.
    """
    values, spent = function.values, 0

    def ask(xs: Any) -> Any:
      nonlocal spent
      if len(xs) > budget - spent:
        raise Overspent(
          f"{len(xs)} inputs, and {budget - spent} of {budget} are left."
        )
      spent += len(xs)
      try:
        ys = values(xs)
      except Exception as error:
        raise Failed(
          f"The function failed: {type(error).__name__}: {error}"
        ) from error
      if len(ys) != len(xs):
        raise Failed(f"The function gave {len(ys)} outputs for {len(xs)}.")
      return ys

    # Counted where no interpreter sets it back.
    self._ask, self._spent, self._budget = ask, lambda: spent, budget
    self.about = function.about

  @property
  def spent(self) -> int:
    """Inputs that were asked."""
    return self._spent()

  @property
  def left(self) -> int:
    """Inputs that may still be asked."""
    return self._budget - self.spent

  def __call__(self, xs: Any) -> Any:
    """The outputs; an array of numbers where the function has such.

    Raises:
      Overspent: more inputs than are left; nothing is asked.
      Failed: what the function raised.
    """
    return self._ask(xs)


def rng(seed: int, *names: Any) -> np.random.Generator:
  """A generator of a seed and named causes."""
  return np.random.default_rng([seed, *np.frombuffer(_digest(*names), "<u4")])


def _digest(*names: Any) -> bytes:
  text = "\0".join(map(str, names)).encode()
  return hashlib.blake2b(text, digest_size=16).digest()


def noise(kind: str, name: str, xs: np.ndarray) -> np.ndarray:
  """Noise keyed by (function, x): the same whenever x is asked.

  Args:
    kind: the distribution, a name of `NOISES`; the deviates are not scaled.
    name: of the function and the seed.
    xs: `[B]`, or `[B, n]` with one key a row.

  Returns:
    float64 `[B]`, one deviate for each x.
  """
  key = _digest(name)
  draw = NOISES[kind]
  rows = np.ascontiguousarray(xs + 0.0 if xs.dtype.kind == "f" else xs)
  out = np.empty(len(rows))
  for i, row in enumerate(rows):
    digest = hashlib.blake2b(row.tobytes(), key=key, digest_size=8).digest()
    out[i] = draw((int.from_bytes(digest, "little") + 0.5) * 2.0**-64)
  return out
