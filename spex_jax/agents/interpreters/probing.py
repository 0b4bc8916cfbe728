"""Samples of a function of one number: its noise, and where it is odd.

Noise is keyed by the number, so that three numbers a billionth apart have
values on a line where there is none, and far from one where there is; that test
of three queries finds an interval of noise, and bisects its ends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.agents.find import functions

_APART = 1e-9
# An odd interval is 5 wide at least.
# No number of few decimals is hit, where a function may jump.
_GRID = np.append(-127.3137 + 4.9 * np.arange(52), 127.4137)
_NEAR = np.array([0, 0.03, 0.1, 0.3, 1])
_ODD = 0.3  # Noise that is weaker is of an odd interval: N(mean, .1) there.
_FAR = 1000.0


class Samples:
  """Numbers asked and their values, the finite ones outside of `odd`.

  Attributes:
    sigma: deviation of the noise everywhere; 0 for none.
    odd: `low`, `high` and `mean` of the odd interval, or None.
  """

  def __init__(self, query: functions.Query):
    """Probes: up to about 340 queries, fewer where fewer are left."""
    self._query = query
    self._x: list[float] = []
    self._y: list[float] = []
    self.sigma = 0.0
    self.odd: dict[str, Any] | None = None
    self._edge = 0.0
    self._probe()
    rng = np.random.default_rng(0)
    self._ask_sound(np.concatenate([_NEAR, -_NEAR[1:]]))
    self._ask_sound(rng.uniform(-8, 8, 48))
    self._ask_sound(rng.uniform(-128, 128, 2000), 80)

  def _ask_sound(self, xs: np.ndarray, most: int | None = None) -> None:
    """Asks those outside of the odd interval, at most so many."""
    self.ask(xs[self._is_sound(xs)][:most])

  def ask(self, xs: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values, kept, of as many as are left; NaN for the others."""
    xs = np.asarray(xs, float)
    out = np.full(len(xs), np.nan)
    count = min(len(xs), self._query.left)
    if count:
      out[:count] = self._query(xs[:count])
    self._x += xs[:count].tolist()
    self._y += out[:count].tolist()
    return out

  @property
  def left(self) -> int:
    """Queries that are left."""
    return self._query.left

  @property
  def points(self) -> tuple[np.ndarray, np.ndarray]:
    """All of them, in order."""
    x, y = np.array(self._x), np.array(self._y)
    keep = np.isfinite(y) & self._is_sound(x)
    order = np.argsort(x[keep], kind="stable")
    return x[keep][order], y[keep][order]

  @property
  def undefined_below_zero(self) -> bool:
    """Whether it has no values below 0, and has some above."""
    x, y = np.array(self._x), np.array(self._y)
    x, y = x[self._is_sound(x)], y[self._is_sound(x)]
    return bool(np.isnan(y[x < 0]).all() and np.isfinite(y[x > 0]).any()
                and (x < 0).any())  # fmt: skip

  def _is_sound(self, x: np.ndarray) -> np.ndarray:
    """Which numbers are surely outside of the odd interval."""
    if not self.odd:
      return np.ones(len(x), bool)
    low, high = self.odd["low"] - self._edge, self.odd["high"] + self._edge
    return (x < low) | (x > high)

  def _bends(self, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Second differences, and whether they are noise's."""
    asked = self.ask((xs[:, None] + _APART * np.arange(3)).ravel())
    y = asked.reshape(-1, 3)
    with np.errstate(invalid="ignore"):
      bend = y[:, 0] - 2 * y[:, 1] + y[:, 2]
      return bend, np.abs(bend) > 3e-3 + 3e-14 * np.abs(y).max(axis=1)

  def _probe(self) -> None:
    bend, noisy = self._bends(_GRID)
    if not noisy.any():
      return
    deviation = float(np.sqrt(np.mean(bend[noisy] ** 2) / 6))
    if deviation > _ODD:
      self.sigma = deviation
      return
    which = np.flatnonzero(noisy)
    ends: dict[str, Any] = {}
    gaps = []
    for name, at, beyond in (
      ("low", which[0], which[0] - 1), ("high", which[-1], which[-1] + 1)
    ):  # fmt: skip
      if not 0 <= beyond < len(_GRID):
        ends[name] = -_FAR if name == "low" else _FAR
        continue
      inside, outside = float(_GRID[at]), float(_GRID[beyond])
      for _ in range(8):
        middle = (inside + outside) / 2
        if self._bends(np.array([middle]))[1][0]:
          inside = middle
        else:
          outside = middle
      ends[name] = (inside + outside) / 2
      gaps.append(abs(inside - outside))
    x, y = np.array(self._x), np.array(self._y)
    within = (x > ends["low"]) & (x < ends["high"]) & np.isfinite(y)
    self.odd = ends | {"mean": float(y[within].mean())}
    self._edge = max(gaps, default=0.0)
