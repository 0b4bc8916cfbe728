"""How good citations are, by what the model really does and by known support.

On fresh masks, none of which an answer was fitted to:

  r2          of the expansion's predictions (ours and Shapley; None of others)
  lds         Spearman's correlation of predicted and actual values; the sum
              of the kept sources' values predicts where nothing else does
  drops       v(all) - v(all but the k strongest), ContextCite's measure
  removal     v as sources go, the strongest first: low is good
  insertion   v as they come, the strongest first: high is good

Where the support is known, average precision of the values, and precision and
recall of the sets. All methods are to be compared at equal forwards.

Shapes: n sources, B masks.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from spex_jax import base, shown
from spex_jax.context import citing
from spex_jax.context import sets as sets_lib
from spex_jax.fourier import score
from spex_jax.masks import sampling

_TOPS = (1, 3, 5)  # Sources whose loss is named.


@dataclasses.dataclass(frozen=True)
class Judged(shown.Shown):
  """Measures of one answer; see the module.

  Attributes:
    r2: on fresh masks, or None.
    lds: in [-1, 1], likewise.
    drops: k to the drop, in units of the value.
    removal: `[n + 1]`, from all sources to none.
    insertion: `[n + 1]`, from none to all.
    forwards: distinct masks that judging asked, beside the run's.
  """

  r2: float | None
  lds: float | None
  drops: dict[int, float]
  removal: np.ndarray
  insertion: np.ndarray
  forwards: int

  def sheet(self) -> shown.Sheet:
    """A row of every number of sources along both curves.

    Columns: `sources`, the value without the strongest so many (`removed`), and
    with them alone (`kept`).
    """
    asked = f"on masks of {self.forwards:,} forwards"
    drops = [f"{drop:.4g} without {k}" for k, drop in self.drops.items()]
    fits = [
      (name, f"{value:.3f} {asked}", not value >= 0.5)
      for name, value in (("R²", self.r2), ("LDS", self.lds))
      if value is not None
    ]
    return shown.Sheet(
      f"What citations of {len(self.removal) - 1} sources are worth",
      {
        "sources": np.arange(len(self.removal)),
        "removed": self.removal,
        "kept": self.insertion,
      },
      fits or [("R²", "not measured: too few masks were left", True)],
      {"drops": ", ".join(drops)} if drops else {},
    )


def judge(
  found: citing.Citations,
  scorer: Any,
  *,
  key: base.Key,
  value: str = "log_probability",
  num_masks: int = 64,
) -> Judged:
  """Asks the model on fresh masks, and along both curves.

  Args:
    found: citations of the whole response.
    scorer: the one that they came from, or its equal.
    key: a random key, consumed by the draw of fresh masks.
    value: what is compared, of `scoring.VALUES`, the same for every method.
    num_masks: fresh uniform masks; as many as there are where fewer. Where
      the run left fewer than two there is neither `r2` nor `lds`.
  """
  n = found.sources.n
  left = (1 << n) - found.forwards if n < 60 else num_masks
  num_masks = min(num_masks, left)
  fresh = np.zeros((0, n), bool)
  if num_masks > 1:
    fresh = sampling.distinct(key, num_masks, n, exclude=found.masks)
  order = sets_lib.ranked(found.strengths)
  rank = np.empty(n, int)
  rank[order] = np.arange(n)
  # Row k keeps the k strongest, or all but them.
  insertion = rank[None] < np.arange(n + 1)[:, None]
  asked = np.concatenate([fresh, insertion, ~insertion])
  values = scorer(asked).of(value)
  actual = values[: len(fresh)]
  coming, going = values[len(fresh) :].reshape(2, n + 1)
  fit = found.whole.fit
  predicted = fresh @ found.values if fit is None else fit(fresh)
  r2 = lds = None
  if len(fresh):
    lds = float(score.spearman(predicted, actual, constant=0.0))
  if (
    len(fresh)
    and fit is not None
    and found.value == value
    and np.ptp(actual) > 0
  ):
    r2 = float(score.r2(actual, predicted))
  return Judged(
    r2,
    lds,
    {k: float(going[0] - going[k]) for k in _TOPS if k <= n},
    going,
    coming,
    len(np.unique(asked, axis=0)),
  )


def average_precision(values: base.Array, support: Collection[int]) -> float:
  """The area under precision and recall of the sources that support.

  Mean over the supporting sources of the precision at their rank; those of
  equal value have the last rank among them, so that no order is a gift.

  Args:
    values: `[n]`, larger for what supports more.
    support: numbers of the sources that do, at least one.

  Raises:
    ValueError: no support, or a number outside the sources.
  """
  values = np.asarray(values, float)
  truth = np.zeros(len(values), bool)
  if not support or not set(support) <= set(range(len(values))):
    raise ValueError(
      f"The support must be some of 0..{len(values) - 1}; got {support}."
    )
  truth[list(support)] = True
  above = values[None] >= values[truth][:, None]
  return float(((above & truth).sum(axis=1) / above.sum(axis=1)).mean())


def set_scores(
  found: Sequence[Sequence[sets_lib.CueSet]],
  truth: Sequence[Collection[tuple[str, tuple[int, ...]]]],
) -> tuple[float | None, float | None]:
  """Precision and recall of sets and their kinds, over several prompts.

  Args:
    found: for each prompt the sets that were found.
    truth: of each prompt the true sets, ("either" or "both", sources).

  Returns:
    Precision, None where nothing was found, and recall, None where there is
    nothing to find.
  """
  hits = sum(
    (each.kind, each.sources) in set(true)
    for some, true in zip(found, truth, strict=True)
    for each in some
  )
  said, there = sum(map(len, found)), sum(map(len, truth))
  return (hits / said if said else None), (hits / there if there else None)
