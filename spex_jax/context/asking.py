"""What a run of citations asks: masks of each method, and a record of them.

A record asks each mask once and keeps what came: the scores of every token, so
that any span is fitted later. `ask` spends the budget of a method; `fit_span`
and `find_sets` read the record, for a span each. An eighth of a budget of ours
that does not hold all masks is uniform masks that nothing is fitted to: they
say how good an expansion is, of any span. Where that is fewer than four (a
budget under 32), folds over the uniform masks do, without another forward.

Shapes: n sources, B masks asked, R tokens of the response.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from spex_jax import api, base
from spex_jax.context import fitting, scoring
from spex_jax.context import sets as sets_lib
from spex_jax.context import sources as sources_lib
from spex_jax.masks import sampling

OURS = ("auto", "exact", "spex", "proxyspex", "lasso", "gaussian", "gram")
METHODS = (*OURS, "contextcite", "leave_one_out", "jsd", "shapley")
_MOST_EXACT = 16  # Sources of which all masks may be asked.
_FEWEST = 8  # Masks that anything can be decoded from.
_TESTED = 8  # One in so many masks tests what the others are fitted to.
_FEWEST_TESTED = 4  # Fewer say nothing, and are fitted to instead: in folds.


class Record:
  """What was asked, each mask once, and the budget that is left."""

  def __init__(self, scorer: Any, budget: int):
    self.scorer, self.budget = scorer, budget
    self.sources: sources_lib.Sources = scorer.sources
    self.n = self.sources.n
    size = len(scorer.response)
    self.masks = np.zeros((0, self.n), bool)
    self.scores = scoring.Scores(np.zeros((0, size)), np.zeros((0, size)))
    self.divergences: np.ndarray | None = None
    self.fits: dict[tuple[int, int, str], fitting.Fit] = {}
    self.drawn: np.ndarray | None = None  # KernelSHAP's, as often as drawn.
    self.uniform = np.zeros(0, int)  # Rows of masks drawn uniformly.
    self.tested = np.zeros(0, int)  # Those of them that no fit sees.
    self._rows: dict[bytes, int] = {}
    _expect(scorer, min(budget, 1 << min(self.n, 62)))

  def new(self, masks: np.ndarray) -> np.ndarray:
    """Those that were not asked yet, each once."""
    seen: set[bytes] = set()
    rows = []
    for row, mask in enumerate(masks):
      name = mask.tobytes()
      if name not in self._rows and name not in seen:
        seen.add(name)
        rows.append(row)
    return masks[rows]

  def room(self, masks: np.ndarray) -> int:
    return len(self.new(masks))

  def ask(self, masks: np.ndarray, diverge: bool = False) -> np.ndarray:
    """The rows of masks, asked now where they were not: int `[B]`."""
    new = self.new(masks)
    if len(new):
      if diverge:
        found, self.divergences = self.scorer.diverged(new)
      else:
        found = self.scorer(new)
      for row, mask in enumerate(new, len(self.masks)):
        self._rows[mask.tobytes()] = row
      self.masks = np.concatenate([self.masks, new])
      self.scores = scoring.Scores(
        np.concatenate([self.scores.log_odds, found.log_odds]),
        np.concatenate([self.scores.margins, found.margins]),
      )
    return self.rows(masks)

  def draw(self, key: base.Key, masks: int, test: int = 0) -> None:
    """Asks uniform masks that were not asked yet; no fit sees the last ones."""
    rows = self.ask(sampling.distinct(key, masks, self.n, exclude=self.masks))
    self.uniform = np.concatenate([self.uniform, rows])
    self.tested = np.concatenate([self.tested, rows[len(rows) - test :]])

  @property
  def fitted(self) -> np.ndarray:
    """The rows that expansions are fitted to."""
    return np.setdiff1d(np.arange(len(self.masks)), self.tested)

  def rows(self, masks: np.ndarray) -> np.ndarray:
    return np.array([self._rows[mask.tobytes()] for mask in masks], int)

  def row(self, mask: np.ndarray) -> int | None:
    return self._rows.get(mask.tobytes())

  def ends(self) -> tuple[int | None, int | None]:
    """The rows of all sources and of none."""
    full = np.ones(self.n, bool)
    return self.row(full), self.row(~full)

  def some(self, rows: np.ndarray) -> scoring.Scores:
    return scoring.Scores(self.scores.log_odds[rows], self.scores.margins[rows])


def check(n: int, budget: int, method: str) -> None:
  """Raises where a budget cannot carry a method, before any forward.

  Of "leave_one_out" without coarser sources and without a proxy.

  Args:
    n: the number of sources.
    budget: how many forwards may be made.
    method: how sources are valued, one of `METHODS`.

  Raises:
    ValueError: the message says what would do.
  """
  if method in ("leave_one_out", "jsd"):
    if n + 1 > budget:
      _too_many(n, budget, n + 1, method)
    return
  few = (method == "exact" or budget < _FEWEST) and method != "contextcite"
  if few and not _holds_all(n, budget):
    raise ValueError(
      f"All 2**{n} masks do not fit in budget={budget}, and fewer than "
      f"{_FEWEST} say nothing: raise it, or use another method."
    )


def _holds_all(n, budget) -> bool:
  return n <= _MOST_EXACT and 1 << n <= budget


def ask(record, key, method, value, coarse, proxy, keep) -> list[str]:
  """Asks a method's masks; returns notes."""
  n, budget = record.n, record.budget
  if coarse is None and proxy is None:
    check(n, budget, method)
  if method in ("leave_one_out", "jsd"):
    return _leave_out(record, method, value, coarse, proxy, keep)
  if method == "contextcite":
    record.ask(fitting.context_cite_masks(budget, n))
    twice = budget - len(record.masks)
    return [f"{twice} masks came twice, asked once."] if twice else []
  if _holds_all(n, budget):
    record.ask(sampling.enumerate_masks(n))
    return ["All masks were asked."]
  ends = np.array([[True] * n, [False] * n])
  record.ask(ends)
  if method == "shapley":
    weights = sampling.shapley_weights(n)
    half = sampling.by_size(key, (budget - 2) // 2, n, weights)
    # Those drawn twice count twice: the fit reads them by rows.
    drawn = sampling.complementary(half)
    record.ask(drawn)
    record.drawn = drawn
    return []
  reserve = budget // 4
  test = budget // _TESTED if budget // _TESTED >= _FEWEST_TESTED else 0
  notes = []
  if not test:
    least = _TESTED * _FEWEST_TESTED
    notes.append(
      f"R2 is cross-validated: a budget under {least} sets no masks aside."
    )
  if method == "spex":

    def seen(masks):
      rows = record.ask(np.asarray(masks))
      return record.scores.of(value)[rows]

    found = api.explain(
      seen, n, key=key, budget=budget - reserve - test - 2, method="spex",
      batch_size=budget,
    )  # fmt: skip
    if test:
      record.draw(jax.random.fold_in(key, 1), test, test)
    span = (0, len(record.scorer.response), value)
    fit = fitting.of_explanation(
      found, record.masks[record.fitted],
      record.scores.of(value)[record.fitted], span_ends(record, *span),
    )  # fmt: skip
    record.fits[span] = _judged(record, fit, *span) if test else fit
    notes += found.notes
  else:
    left = sampling.leave_one_out(n)
    if n + 2 <= (budget - reserve) // 2:
      record.ask(left)
    record.draw(key, budget - reserve - len(record.masks), test)
  # Sets of the whole response are verified now; spans read what is known.
  whole = (0, len(record.scorer.response), value)
  first = fit_span(record, method, *whole, judge=False)
  spare = budget - len(record.masks)
  seen = find_sets(record, first, *whole, spare)[-1]
  if seen < min(n, sets_lib.CANDIDATES):
    # So many leave out each source, or half of the reserve does.
    enough = min(3 * (n + 2), 8 * sets_lib.CANDIDATES)
    notes.append(
      f"Sets were looked for among {seen} of {n} sources, the strongest; "
      f"budget={enough} looks at more."
      if seen > 1
      else f"Sets were not looked for: raise the budget to {enough}."
    )
  if method != "spex":
    # What is left of the reserve are masks like any other.
    rest = min(budget, (1 << min(n, 62)) - 1) - len(record.masks)
    if rest > 0:
      record.draw(jax.random.fold_in(key, 1), rest)
    record.fits.clear()  # They lack what was asked since.
  return notes


def _leave_out(record, method, value, coarse, proxy, keep) -> list[str]:
  n = record.n
  left = sampling.leave_one_out(n)
  if coarse is not None:
    parent = record.sources.within(coarse)
    masks = sampling.leave_one_out(coarse.n)[:, parent]
    if record.room(masks) > record.budget:
      _too_many(n, record.budget, record.room(masks), method)
    values = record.some(record.ask(masks)).of(value)
    inside = np.argsort(values[1:], kind="stable")[:keep]
    left = left[np.append(True, np.isin(parent, inside))]
  if proxy is not None:
    _expect(proxy, len(left))
    small = proxy(left).of(value)
    strongest = np.sort(np.argsort(small[1:], kind="stable")[:keep]) + 1
    left = left[np.append(0, strongest)]
  need = len(record.masks) + record.room(left)
  if need > record.budget:
    _too_many(n, record.budget, need, method)
  record.ask(left, method == "jsd")
  return []


def _expect(scorer, masks):
  """Says it before anything compiles: sizes of a small job are not measured."""
  expect = getattr(scorer, "expect", None)
  if expect is not None:
    expect(masks)


def _too_many(n, budget, need, method):
  rest = "."
  if method == "leave_one_out":
    rest = (
      ", or give coarse= or proxy= (--config.coarse or --config.proxy of `spex "
      "context cite`)."
    )
  raise ValueError(
    f"Leaving out one of {n} sources at a time takes {need} forwards; the "
    f"budget is {budget}. Raise it{rest}"
  )


def span_ends(record, start, stop, value) -> tuple[float, float]:
  """v(none) and v(all) of a span."""
  full, none = record.ends()
  values = record.scores.of(value, start, stop)
  return float(values[none]), float(values[full])


def fit_span(record, method, start, stop, value, judge=True) -> fitting.Fit:
  """The expansion of a span, from what was asked; kept, with its R^2."""
  span = (start, stop, value)
  if span not in record.fits:
    values = record.scores.of(value, start, stop)
    ends = span_ends(record, *span)
    if record.drawn is not None:
      rows = record.rows(record.drawn)
      fit = fitting.kernel_shap(record.drawn, values[rows], ends)
    else:
      # A span of SPEX's run has no plan of its own.
      name = "auto" if method in ("spex", "shapley") else method
      rows = record.fitted
      fit = fitting.decoded(record.masks[rows], values[rows], name, ends)
    record.fits[span] = fit
  fit = record.fits[span]
  if judge and fit.r2 is None:
    record.fits[span] = fit = _judged(record, fit, *span)
  return fit


def _judged(record, fit, start, stop, value) -> fitting.Fit:
  """The expansion, tested on masks that it, or that of a fold, has not seen."""
  values = record.scores.of(value, start, stop)
  uniform, at = record.uniform, record.tested
  if len(at):
    error = (fit(record.masks[at]) - values[at]) ** 2
    found = fitting.r2_of(error, values[uniform], np.searchsorted(uniform, at))
    how = f"{len(at)} masks set aside"
    return dataclasses.replace(
      fit, r2=found[0], r2_interval=found[1], r2_by=how
    )
  if not len(uniform):  # SPEX's, which draws by a plan alone.
    uniform = np.setdiff1d(record.fitted, record.ends())
  ends = span_ends(record, start, stop, value)
  again = lambda masks, some: fitting.redone(fit, masks, some, ends)
  r2, interval, how = fitting.cross_validated(
    record.masks, values, again, uniform
  )
  return dataclasses.replace(fit, r2=r2, r2_interval=interval, r2_by=how)


def find_sets(record, fit, start, stop, value, spare):
  """The sets of a span, with as many new masks as may be asked.

  Returns:
    Sets, needed sources to what their loss costs, the criterion, and among how
    many sources.
  """
  full, none = record.ends()
  how, rule = sets_lib.criterion(record.scores, start, stop, full, none)
  stands = lambda masks: rule(record.some(record.ask(masks)))
  of = lambda masks: record.some(record.ask(masks)).of(value, start, stop)
  sets, needed, seen = sets_lib.find(
    record.n, _order(fit), stands, of, record.room, spare
  )
  values = record.scores.of(value, start, stop)
  between = functools.partial(sets_lib.interval, record.masks, values)
  sets = tuple(
    dataclasses.replace(each, interval=between(each.sources)) for each in sets
  )
  stand = tuple(each for each in sets if not sets_lib.contradicted(each))
  without = [record.row(np.arange(record.n) != i) for i in needed]
  losses = dict(zip(needed, (values[full] - values[without]).tolist()))
  return stand, losses, how, seen


def _order(fit):
  """Sources by how much they or any of their sets move the value."""
  strength = np.zeros(len(fit.values))
  for each, value in zip(fit.sets, fit.moebius):
    strength[list(each)] += abs(value) / len(each)
  strength = np.maximum(strength * 0.1, np.abs(fit.values))
  return np.argsort(-strength, kind="stable").tolist()
