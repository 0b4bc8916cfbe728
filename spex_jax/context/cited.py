"""What one span of a response stands on, from what was asked.

Shapes: n sources.
"""

import dataclasses
from typing import Any

import numpy as np

from spex_jax.context import asking, fitting
from spex_jax.context import sets as sets_lib


@dataclasses.dataclass(frozen=True)
class Cited:
  """What one span of the response stands on.

  Attributes:
    start: the first token of the span, from 0.
    stop: the token behind the last one.
    value: what is shared out, of `scoring.VALUES`, or "jsd".
    values: float64 `[n]`, of each source, in its units.
    strengths: float64 `[n]`, likewise: what sources are ranked and cited by.
      Of ours a source's value, or the loss of what it is needed for where that
      is more (`sets.strengths`); of the others the values.
    sets: of two sources or more, the largest interaction first.
    needed: sources without any one of which the answer falls.
    r2: of what is reported, on masks that it was not fitted to: see
      `fitting.Fit`; of ContextCite, and where too few are asked (under 32) to
      set some aside, cross-validated. 1 where all are known; None of values
      that are measured, not fitted.
    total: v(all) - v(none) as the model gave them; None where not asked.
    fit: the expansion, of ours and Shapley; None of the others.
    method: the decoder that gave the values.
    criterion: what says that an answer stands, see `sets`; "" where not asked.
    none: v(none) as the model gave it; None where not asked.
    r2_interval: of `r2`, 95%, by the jackknife: `fitting.r2_of`; or None.
    r2_by: what tested it, in words; "" where nothing did.
  """

  start: int
  stop: int
  value: str
  values: np.ndarray
  strengths: np.ndarray
  sets: tuple[sets_lib.CueSet, ...] = ()
  needed: tuple[int, ...] = ()
  r2: float | None = None
  total: float | None = None
  fit: fitting.Fit | None = None
  method: str = ""
  criterion: str = ""
  none: float | None = None
  r2_interval: tuple[float, float] | None = None
  r2_by: str = ""

  def to_dict(self) -> dict[str, Any]:
    """As JSON takes it."""
    return {
      "span": [self.start, self.stop],
      "value": self.value,
      "values": self.values.tolist(),
      "strengths": self.strengths.tolist(),
      "sets": [
        {
          "sources": list(each.sources),
          "value": each.value,
          "kind": each.kind,
          "interval": None if each.interval is None else list(each.interval),
        }
        for each in self.sets
      ],
      "needed": list(self.needed),
      "r2": self.r2,
      "r2_interval": None
      if self.r2_interval is None
      else list(self.r2_interval),
      "r2_by": self.r2_by,
      "total": self.total,
      "none": self.none,
      "terms": None if self.fit is None else self.fit.terms(),
      "method": self.method,
      "criterion": self.criterion,
    }


def of_record(
  record: asking.Record, method: str, start: int, stop: int, value: str
) -> Cited:
  """The answer of a method for one span, from what was asked."""
  n, span = record.n, (start, stop, value)
  full, none = record.ends()
  known = full is not None and none is not None
  values = record.scores.of(value, start, stop)
  total = float(values[full] - values[none]) if known else None
  least = float(values[none]) if known else None
  if method in ("leave_one_out", "jsd"):
    rows = [record.row(mask) for mask in ~np.eye(n, dtype=bool)]
    of_rows = values[full] - values
    if method == "jsd":
      assert record.divergences is not None  # They were asked so.
      of_rows, value = record.divergences[:, start:stop].sum(axis=1), "jsd"
    each = [0.0 if row is None else of_rows[row] for row in rows]
    shown = np.array(each)
    return Cited(
      start, stop, value, shown, shown, total=total, method=method,
      none=None if method == "jsd" else least,
    )  # fmt: skip
  if method == "contextcite":
    drawn = record.rows(fitting.context_cite_masks(record.budget, n))
    masks, values = record.masks[drawn], values[drawn]

    def fit(masks, values):
      weights, bias = fitting.context_cite(masks, values, stop - start)
      return lambda some: some @ weights + bias

    weights, _ = fitting.context_cite(masks, values, stop - start)
    r2, interval, how = fitting.cross_validated(masks, values, fit)
    return Cited(
      start, stop, value, weights, weights, r2=r2, total=total, method=method,
      none=least, r2_interval=interval, r2_by=how,
    )  # fmt: skip
  fit = asking.fit_span(record, method, *span)
  sets, losses, how, _ = asking.find_sets(record, fit, *span, spare=0)
  strengths = fit.values
  if method in asking.OURS:
    strengths = sets_lib.strengths(fit.values, sets, losses)
  return Cited(
    start, stop, value, fit.values, strengths, sets, tuple(losses), fit.r2,
    fit.total, fit, fit.method, how, fit.none,
    fit.r2_interval, fit.r2_by,
  )  # fmt: skip
