"""One score per player and target: what attribution methods answer.

Players are training examples or parts of a network. A score says how much the
output rises because the player is there: f(with) less f(without), in the units
of f, averaged as the method has it. Methods that speak of the loss turn its
sign accordingly. Scores that are sums are meant to be added:
`attribution(masks)` predicts outputs of fresh subsets.

Shapes: n players, T targets (test points, images, prompts), B masks.
"""

import dataclasses
from typing import Any

import numpy as np

from spex_jax import base, shown


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution(base.ByValue, shown.Shown):
  """Scores of n players for T targets; predicts by adding them.

  Attributes:
    scores: float64 `[T, n]`; read-only.
    baseline: float64 `[T]`, the prediction for the empty mask; 0 from methods
      that speak of differences only. Ranks of predictions do not depend on it.
    method: the name of the method.
    std: float64 `[T, n]` standard errors of the scores, or None.
    notes: sentences on what was decided on the way.

  Raises:
    ValueError: shapes that disagree, NaN or infinities.
  """

  scores: np.ndarray
  baseline: np.ndarray
  method: str
  std: np.ndarray | None = None
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    scores = np.array(self.scores, np.float64)
    baseline = np.array(self.baseline, np.float64)
    if scores.ndim != 2 or baseline.shape != scores.shape[:1]:
      raise ValueError(
        f"Need scores [T, n] and baseline [T]; got {scores.shape} and "
        f"{baseline.shape}."
      )
    checked = {"scores": scores, "baseline": baseline}
    if self.std is not None:
      checked["std"] = np.array(self.std, np.float64)
      if checked["std"].shape != scores.shape:
        raise ValueError(
          f"Need std of shape {scores.shape}; got {checked['std'].shape}."
        )
    for name, array in checked.items():
      if not np.isfinite(array).all():
        raise ValueError(f"{self.method}: {name} hold NaN or infinity.")
      array.flags.writeable = False
      object.__setattr__(self, name, array)

  @property
  def n(self) -> int:
    return self.scores.shape[1]

  @property
  def num_targets(self) -> int:
    return self.scores.shape[0]

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Predictions float64 `[B, T]` at `masks` bool `[B, n]`."""
    masks = base.check_masks(masks, self.n)
    return self.baseline + masks.astype(np.float64) @ self.scores.T

  def helpful(self, target: int, count: int) -> np.ndarray:
    """int `[count]`: the players of largest score, best first."""
    return self._ranked(target, -1, count)

  def harmful(self, target: int, count: int) -> np.ndarray:
    """int `[count]`: the players of lowest score, worst first."""
    return self._ranked(target, 1, count)

  def sheet(self) -> shown.Sheet:
    """All scores: `target`, `player`, `score`, and `std` where known."""
    targets, players = np.indices(self.scores.shape)
    columns: dict[str, Any] = {
      "target": targets.ravel(),
      "player": players.ravel(),
      "score": self.scores.ravel(),
    }
    if self.std is not None:
      columns["std"] = self.std.ravel()
    return shown.Sheet(
      f"{self.method}: scores of {self.n} players for {self.num_targets} "
      f"target{'s' * (self.num_targets > 1)}",
      columns,
      facts={f"note {i}": note for i, note in enumerate(self.notes, 1)},
    )

  def _ranked(self, target, sign, count):
    if not 0 <= target < self.num_targets:
      raise IndexError(f"No target {target}; there are {self.num_targets}.")
    if not 0 <= count <= self.n:
      raise ValueError(f"count must lie in 0..{self.n}; got {count}.")
    # Equal scores by number, so that the answer is the same everywhere.
    return np.argsort(sign * self.scores[target], kind="stable")[:count]


def samples(
  masks: base.Masks, values: base.Values
) -> tuple[np.ndarray, np.ndarray]:
  """Checked bool `[B, n]` and float64 `[B, T]`; `[B]` counts as one target.

  Raises:
    TypeError: values that are not real numbers.
    ValueError: shapes that disagree, no player, no mask, NaN or infinities.
  """
  masks = base.check_masks(masks)
  if not masks.shape[1]:
    raise ValueError("Masks have no players: nothing can be attributed.")
  values = base.check_values(values, len(masks))
  return masks, values.reshape(len(masks), -1)
