"""How well component models predict outputs under fresh ablations.

COAR's measure (Shah et al. 2024, section 4): for every example Pearson's
correlation, over random masks, of predicted and true outputs, then its mean
over examples; at the share of components that was dropped to fit, and around
it.

Shapes: n components, B masks, T targets (examples).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from spex_jax import base, shown
from spex_jax.fourier import score
from spex_jax.indices import judging
from spex_jax.masks import sampling


@dataclasses.dataclass(frozen=True)
class Report(shown.Shown):
  """Several methods on the same fresh ablations.

  Attributes:
    found: share kept to method to its `indices.judging.Correlation`.
    fitted: the share kept of the masks that methods were fitted to, or None.
  """

  found: Mapping[float, Mapping[str, judging.Correlation]]
  fitted: float | None = None

  def gap(
    self, method: str, over: str, keep: float
  ) -> tuple[float, float | None]:
    """How much better a method correlates than another, pair by pair.

    Returns:
      The mean over targets of the difference, and its standard error.
    """
    pair = self.found[keep][method], self.found[keep][over]
    each = pair[0].per_target - pair[1].per_target
    each = each[np.isfinite(each)]
    return float(each.mean()), score.standard_error(each)

  def left(self, method: str, over: str, keep: float) -> float:
    """1 - correlation of a method, as a share of another's."""
    row = self.found[keep]
    return (1 - row[method].mean) / (1 - row[over].mean)

  def sheet(self) -> shown.Sheet:
    """A row of every share and method; the error is NaN of one target."""
    rows = [
      (
        method, keep, keep == self.fitted, found.mean,
        np.nan if found.error is None else found.error,
        len(found.per_target), found.num_masks,
      )
      for keep, row in self.found.items()
      for method, found in row.items()
    ]  # fmt: skip
    names = (
      "method", "kept", "fitted", "correlation", "error", "targets", "masks",
    )  # fmt: skip
    return shown.Sheet(
      "How well component models predict fresh ablations",
      {name: [row[i] for row in rows] for i, name in enumerate(names)},
    )

  def __str__(self) -> str:
    shares = list(self.found)
    names = list(dict.fromkeys(m for row in self.found.values() for m in row))
    star = lambda keep: "*" * (keep == self.fitted)
    head = ["method", *(f"{keep:.3g} kept{star(keep)}" for keep in shares)]
    lines = [
      [name, *(str(self.found[keep].get(name, "")) for keep in shares)]
      for name in names
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    text = [
      "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
      for line in (head, *lines)
    ]
    one = next(iter(next(iter(self.found.values())).values()))
    text.append(
      f"mean correlation ± its standard error over {len(one.per_target)} "
      f"targets, {one.num_masks} fresh masks each"
      + ("; * the share that was fitted" if self.fitted in shares else "")
    )
    return "\n".join(text)


def compare(
  methods: Mapping[str, base.ValueFn],
  value_fn: base.ValueFn,
  n: int,
  *,
  key: base.Key,
  keep: Sequence[float],
  num_masks: int = 200,
  fitted: float | None = None,
) -> Report:
  """Judges methods on fresh ablations, the same for all of them.

  Args:
    methods: the name of each method to its predictions.
    value_fn: the evaluator; asked once for each share.
    n: the number of components, players of every mask.
    key: a random key, consumed by the draw of fresh masks.
    keep: shares of components kept, each between 0 and 1.
    num_masks: B, the number of fresh masks of each share.
    fitted: the share that methods were fitted at, for the report.

  Raises:
    ValueError: no method, or as `indices.judging.correlation`.
  """
  if not methods or not keep:
    raise ValueError("Give at least one method, and one share to keep.")
  found = {}
  for number, share in enumerate(keep):
    fresh = jax.random.fold_in(key, number)
    masks = sampling.biased(fresh, num_masks, n, share)
    values = base.ask(value_fn, masks)
    found[share] = {
      name: judging.correlation(predict, masks, values)
      for name, predict in methods.items()
    }
  return Report(found, fitted)
