"""What every judging run checks of itself: both ends of a curve."""

import dataclasses

import numpy as np

VANISHING = 1e-4  # Of a difference of two metrics, in their size.


@dataclasses.dataclass(frozen=True)
class Identities:
  """How far the checks of a run are off, in units of the metric.

  Attributes:
    full: the largest difference, over pairs, between the circuit of all edges
      and the unedited clean run.
    empty: the same between the circuit of none and what it should do.
    ablation: what that is; "neurons" where these are what is resampled.
  """

  full: float
  empty: float
  ablation: str

  def lines(self) -> tuple[str, ...]:
    other = {"resample": "the corrupted run", "neurons": "MLPs cut"}.get(
      self.ablation, "one without edges to the output"
    )
    return (
      f"identities: all edges = the clean run to {self.full:.1e}, "
      f"none = {other} to {self.empty:.1e}",
    )


def check(
  found: Identities, full: np.ndarray, empty: np.ndarray, tolerance: float
) -> None:
  """Fails where an identity is off by more than a share of the effect.

  Args:
    found: the differences between what is and what should be.
    full: `[N]`, the metric of the whole model.
    empty: `[N]`, of the empty circuit.
    tolerance: of the mean absolute difference between these.

  Raises:
    RuntimeError: naming the differences, and what is allowed.
  """
  effect = np.abs(full - empty).mean()
  allowed = tolerance * effect
  # Where there is no effect, `faithfulness` says that.
  told = effect > VANISHING * max(np.abs(full).mean(), np.abs(empty).mean())
  if told and not max(found.full, found.empty) <= allowed:
    raise RuntimeError(
      f"{found.lines()[0]}; {allowed:.1e} are allowed (tolerance {tolerance} "
      f"of {effect:.3g}). Compute in float32 or wider (--config.dtype of a "
      "command), or raise `tolerance` (--config.tolerance)."
    )
