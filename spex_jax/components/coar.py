"""COAR: outputs as sums of what each kept component adds.

Component attribution by regression (Shah, Ilyas, Madry 2024, arXiv 2404.11534,
section 3): components are kept independently with probability p, and for each
example its output is regressed on the mask, `f(m) = b + sum_{i kept} w_i`. Here
by exact normal equations (`fourier.normal`), for all examples at once, from
masks and values, from a stream of them that is never held, or from an
evaluator with a budget.

A score is in the units of the output: f with the component less f without, on
average over ablations of the others. The authors' code standardises masks and
publishes scores per standard deviation of a mask's bit; these are theirs over
sqrt(p (1 - p)). Correlations are the same.

Deviations: theirs is stochastic descent without a penalty; ours is exact, and a
ridge penalty is chosen for each example by held-out masks, none among the
choices.

Shapes: n components, B masks, T targets (examples).
"""

from collections.abc import Iterable, Iterator

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import normal
from spex_jax.indices import attribution
from spex_jax.masks import sampling

# As in `influence.datamodels`: 1/B |y - b - M w|^2 + penalty / 4 |w|^2.
_PENALTIES = (*(10.0**k for k in range(2, -5, -1)), 0.0)
_NAMED = 5  # Components that a note names.


def fit(
  masks: base.Masks,
  values: base.Values,
  *,
  penalty: float | None = None,
) -> attribution.Attribution:
  """Scores from masks and values that you have.

  Args:
    masks: bool `[B, n]`, drawn in any order that says nothing of them.
    values: `[B]` or `[B, T]`.
    penalty: the penalty of all targets, 0 for least squares; None chooses for
      each target, of 1e-4 to 100 and 0 where that has a single answer, by every
      fifth mask (at most 4,096 of them), then fits all.

  Returns:
    Scores; with standard errors from least squares. Notes say which components
    never vary (score 0), and whether ridge had to do.

  Raises:
    ValueError: fewer than 5 masks, a negative penalty, penalty 0 where least
      squares has no single answer, values or shapes that `attribution.samples`
      refuses (NaN and infinity among them).
    TypeError: values that are not real numbers.
  """
  return stream([(masks, values)], penalty=penalty)


def stream(
  batches: Iterable[tuple[base.Masks, base.Values]],
  *,
  penalty: float | None = None,
  tile: int | None = None,
) -> attribution.Attribution:
  """Scores from batches of masks and values, read once and not kept.

  Args:
    batches: pairs as for `fit`, of one n and T.
    penalty: the penalty of all targets, as for `fit`.
    tile: side of the Gram matrix's tiles on JAX's default device, say 8,192;
      None for the host, in 16 n^2 bytes. See `fourier.tiles` for its memory:
      n = 100,000 fits on one device of 80 GB.

  Raises:
    ValueError: as `fit`; with tiles, also a penalty too small for float32.
    TypeError: as `fit`.
  """
  if penalty is not None and not 0 <= penalty < np.inf:
    raise ValueError(f"penalty must be finite and at least 0; got {penalty}.")
  # Sums of the rows to fit; every fifth row apart, to choose penalties by.
  sums, held, num_masks = None, _Held(), 0
  for masks, values in batches:
    masks, y = _checked(masks, values)
    if sums is None:
      sums = normal.Normal(masks.shape[1], y.shape[1], tile=tile)
    before, num_masks = num_masks, num_masks + len(masks)
    if penalty is not None:
      sums.add(masks, y)
      continue
    apart = held.take(masks, y, before)
    if not apart.all():
      sums.add(masks[~apart], y[~apart])
  if sums is None or num_masks < normal.EVERY:
    raise ValueError(
      f"Component attribution needs at least {normal.EVERY} masks; got "
      f"{num_masks}."
    )
  # A penalty for each target, and a fit for each penalty in use.
  why, chosen = "given", np.zeros(sums.num_targets, int)
  grid = np.array(_PENALTIES if penalty is None else [penalty])
  if penalty is None:
    masks, y = held.rows()
    chosen, _ = normal.choose(sums, (masks, y), grid / 4, sums.varies)
    sums.add(masks, y)
    why = f"chosen on {len(masks)} masks"
  used, varies = grid[chosen], sums.varies
  try:
    weights = sums.solve_each(grid / 4, chosen, varies)
  except ValueError:
    what = f"penalty={used.min():.3g} is too small for a factor in float32"
    if not used.min():
      what = "penalty=0 asks for least squares, which has no single answer"
    raise ValueError(
      f"{what} here: {num_masks} masks, {sums.n} components. Give a larger "
      "one; penalty=None chooses ridge."
    ) from None
  # What is to be said of them.
  notes = _idle(varies, sums)
  unknowns = int(varies.sum()) + 1
  if num_masks < unknowns:
    notes.append(
      f"ridge, because {num_masks} masks are fewer than {sums.n} components "
      "and a constant need: least squares has no single answer; the penalty "
      f"is {why}"
    )
  levels = ", ".join(f"{one:.3g}" for one in np.unique(used))
  notes.append(f"{num_masks} masks; penalties {levels}")
  std = None if used.any() else sums.errors(weights, varies)
  return attribution.Attribution(
    weights.T,
    sums.intercept(weights),
    "COAR",
    None if std is None else std.T,
    tuple(notes),
  )


def attribute(
  value_fn: base.ValueFn,
  n: int,
  *,
  key: base.Key,
  budget: int,
  keep: float = 0.95,
  batch_size: int = 4096,
  **settings,
) -> attribution.Attribution:
  """Scores from an evaluator, asked for `budget` random ablations.

  Args:
    value_fn: bool masks `[b, n]` to values `[b]` or `[b, T]`.
    n: the number of components.
    key: a random key, consumed by the draw of masks.
    budget: the number of masks asked, at least 1.
    keep: probability of each component to be kept. COAR's is .9 to .975: so
      little is dropped that the network still works.
    batch_size: masks of one request; values of all are never held.
    **settings: the settings of `stream`.

  Raises:
    ValueError: `keep` not between 0 and 1, or as `stream`.
  """
  batches = ablations(
    value_fn, n, key=key, budget=budget, keep=keep, batch_size=batch_size
  )
  return stream(batches, **settings)


def ablations(
  value_fn: base.ValueFn,
  n: int,
  *,
  key: base.Key,
  budget: int,
  keep: float,
  batch_size: int = 4096,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Random masks and their values, a batch at a time.

  Args and errors: as for `attribute`.
  """
  if not 0 < keep < 1:
    raise ValueError(
      f"keep={keep}: the share of components kept must lie between 0 and 1, or "
      "nothing varies."
    )
  if budget < 1 or batch_size < 1:
    raise ValueError(
      f"budget and batch_size must be at least 1; got {budget}, {batch_size}."
    )
  # A whole batch is drawn each time, so that a budget is a part of a larger.

  for number, start in enumerate(range(0, budget, batch_size)):
    drawn = sampling.biased(
      jax.random.fold_in(key, number), batch_size, n, keep
    )
    masks = drawn[: budget - start]
    values = base.ask(value_fn, masks)
    base.check_unmasked(values, "Values")
    yield masks, np.asarray(values)


class _Held:
  """Every fifth row, as bits."""

  def __init__(self):
    self._masks: list[np.ndarray] = []
    self._values: list[np.ndarray] = []
    self._count = self._n = 0

  def take(
    self, masks: np.ndarray, values: np.ndarray, before: int
  ) -> np.ndarray:
    """Takes its share; returns which rows those are, bool `[b]`."""
    apart = normal.held_out(len(masks), before, self._count)
    self._n = masks.shape[1]
    self._masks.append(np.packbits(masks[apart], axis=1))
    self._values.append(values[apart])
    self._count += int(apart.sum())
    return apart

  def rows(self) -> tuple[np.ndarray, np.ndarray]:
    bits = np.concatenate(self._masks)
    masks = np.unpackbits(bits, axis=1, count=self._n).view(np.bool_)
    return masks, np.concatenate(self._values)


def _checked(masks, values) -> tuple[np.ndarray, np.ndarray]:
  """Masks and values `[B, T]`, in float32 where that holds the same numbers.

  Half the work, and float32 values are not copied.
  """
  base.check_unmasked(values, "Values")
  array = np.asarray(values)
  if array.dtype == np.float32 and array.ndim == 2 and np.isfinite(array).all():
    masks, _ = attribution.samples(masks, array[:, :1])
    return masks, array
  masks, wide = attribution.samples(masks, array)
  with np.errstate(over="ignore"):
    narrow = wide.astype(np.float32)
  return masks, narrow if (narrow == wide).all() else wide


def _idle(varies, sums) -> list[str]:
  idle = np.flatnonzero(~varies)
  if not len(idle):
    return []
  named = ", ".join(map(str, idle[:_NAMED])) + ", ..." * (len(idle) > _NAMED)
  kept = int((sums.columns[idle] > 0).sum())
  return [
    f"{len(idle)} of {sums.n} components never vary in these masks ({kept} "
    f"always kept, {len(idle) - kept} always dropped), so nothing is known of "
    f"them; score 0: {named}"
  ]
