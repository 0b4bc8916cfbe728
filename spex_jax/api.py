"""From a value function to its interactions: the table of contents.

  explain(value_fn, n, budget=..., key=...) -> Explanation
  decode(masks_or_plan, values)             -> Explanation
  assess(value_fn, fourier, key=...)        -> Explanation

`explain` asks, in this order: held-out masks first, then what the method
needs. Every mask is asked once, and the budget counts them all; a few are
asked twice, aside, to see whether the answers repeat.

  exact   all 2^n masks, whenever they fit in the budget
  spex    the masks of a query plan, decoded by `fourier.spex`
  lasso, gram, gaussian, proxyspex
          uniform masks; regression on orders 1 and 2, a scan of all sets of up
          to 4, and of one order more where these ask for it, a Gaussian
          process, boosted trees
  auto    uniform masks, and the best of those four or a weighted mean of them;
          where they fail, SPEX's plan within the same budget, too
  occlusion, lime, kernelshap
          one value for each player and no sets, to compare with: what others
          compute, on masks of their own

With `index="SV"` (or "BV") `auto` draws masks for that index, in pairs: better
values of players, with standard errors, and no sets.

`assess` judges an expansion that came from elsewhere, such as from gradients.

Shapes: n players, B masks, T targets, K sets, D the largest order.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.ablate import cache as cache_lib
from spex_jax.explanation import Explanation
from spex_jax.fourier import exact, sparse, spex
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import packing, request, sampling
from spex_jax.portfolio import additive, aimed, policy, select, staged, trust
from spex_jax.portfolio import samples as samples_lib
from spex_jax.proxies import lime
from spex_jax.report import progress as progress_lib

DECODERS = ("auto", "spex", *select.PROXIES, "exact")
METHODS = (*DECODERS, *additive.METHODS)

_MOST_EXACT = 24  # Players; 2^24 values and coefficients fit in memory.


def explain(
  value_fn: base.ValueFn,
  n: int | None = None,
  *,
  key: base.Key,
  budget: int = 2000,
  method: str = "auto",
  max_order: int | None = None,
  strict: bool = False,
  batch_size: int | None = None,
  names: Sequence[Any] | None = None,
  units: str | None = None,
  progress: ask_lib.Progress | bool | None = None,
  target_faithfulness: float | None = None,
  index: str | None = None,
  kernel_width: float = lime.WIDTH,
  cache: str | os.PathLike | None = None,
) -> Explanation:
  """Finds which sets of players matter together to a value function.

  Args:
    value_fn: bool `[B, n]` to `[B]` or `[B, T]`: a host callable on NumPy
      arrays, an evaluator of `ablate`, or a jitted function (its last batch
      is padded, so that it compiles once). T targets share their masks, and
      are fitted one after the other. NaN and infinity are errors: one would
      enter every coefficient, and dropping it break a plan.
    n: number of players; 0 is answered with the one value there is. None
      for that of an evaluator of `ablate`.
    key: consumed.
    budget: most distinct masks to ask for. max(64, 10 %) of them, but at
      most a third, are held out.
    method: one of `METHODS`. Where all 2^n masks fit in the budget, each of
      `DECODERS` is "exact".
    max_order: largest sets to look for; None for the method's own (5 for
      SPEX, which can do 8; up to 5 for the Gram scan and 2 for the lasso, which
      cannot do more; the trees' depth; no limit for a Gaussian process). The
      methods with one value for each player have no use for it.
    strict: a value function that does not repeat its values is an error,
      rather than a noise floor.
    batch_size: masks in one call. None for 256 if jitted; a host function gets
      one mask at first, then as many as take about a second, at most 1,024.
    names: n names of players, for printing: a list, an array, a pandas Index,
      a range; kept as text. None for those that the evaluator has.
    units: the units of the values, for printing.
    progress: called with the distinct masks asked so far, and the budget.
      True shows a bar, or lines, with rate and time left on stderr.
    target_faithfulness: stop asking once the held-out masks (max(64, 10 %) of
      the budget, asked first) are predicted with this R^2, tried at an
      eighth, a quarter, half and all of the budget; a note tells whether it
      was reached. None asks for the whole budget. Not for "spex", whose plan
      has one size, nor for methods with one value for each player; "exact"
      meets any.
    index: "SV" or "BV": method="auto" draws masks for Shapley or Banzhaf
      values alone (`portfolio.aimed`), 2 n + 2 of them or more, none held out,
      and answers with them and standard errors. None looks for sets, of which
      any index may be read afterwards.
    kernel_width: the kernel width of LIME, in cosine distance from the full
      mask.
    cache: path of a file that keeps the values of every batch and answers for
      them when the same function is explained again, whatever stopped it. A
      few kept masks are asked again first, aside from the budget.

  Example:
    >>> import jax, spex_jax as spex
    >>> def f(masks):
    ...   return 2.0 * masks[:, 0] - 3.0 * (masks[:, 1] & masks[:, 2])
    >>> found = spex.explain(f, 4, budget=16, key=jax.random.key(0))
    >>> print(found.method, found.faithfulness, found.num_evaluations)
    exact 1.0 16
    >>> print(found.interactions("FBII", order=2))
    FBII up to order 2: 2 sets of 4 players, baseline +0
               -3  {1, 2}
               +2  {0}

  Raises:
    ValueError: a budget that cannot carry the method, or whose masks fit into
      no memory (the message says what would), `max_order` outside 1..n, an
      unknown method, values that are not finite, of the wrong shape, or
      (strict) not repeated, or a `cache` of another function or number of
      players.
    TypeError: values that are not real numbers, or an argument of another
      kind; the message names it. What `value_fn` raises comes through as is.
  """
  start = time.perf_counter()
  request.choice("method", method, METHODS)
  n = getattr(value_fn, "n", None) if n is None else n
  n = request.whole("n", n, 0)
  names = getattr(value_fn, "names", None) if names is None else names
  budget = request.whole("budget", budget, 1)
  packing.check_fits(min(budget, 1 << min(n, 62)), n, f"budget={budget:,}")
  max_order = request.order(max_order, n)
  names = base.check_names(names, n)
  key = request.typed_key(key)
  goal = request.goal(target_faithfulness)
  if goal is not None and method in ("spex", *additive.METHODS):
    who = "SPEX asks for a plan" if method == "spex" else f"{method} has masks"
    raise ValueError(
      f"{who} of one size; use target_faithfulness with method='auto'."
    )
  index = aimed.checked(index, method, goal, max_order)
  kernel_width = request.positive("kernel_width", kernel_width)
  with contextlib.ExitStack() as stack:
    watch = kept = None
    if progress is True:
      total = min(budget, 1 << n)
      monitor = stack.enter_context(progress_lib.evaluations(total))
      watch, progress = monitor.watch, monitor.progress
    if cache is not None:
      kept = stack.enter_context(cache_lib.opened(cache, value_fn, n))
    ask = ask_lib.Asker(
      value_fn,
      n,
      budget,
      batch_size=batch_size,
      progress=progress or None,
      kept=kept,
      watch=watch,
    )
    answer, test, score = _asked(
      ask,
      key,
      method,
      max_order=max_order,
      strict=strict,
      goal=goal,
      index=index,
      kernel_width=kernel_width,
    )
    ends = ask.ends()
  judged = trust.judge(answer, None, test)
  total = time.perf_counter() - start
  return Explanation(
    fourier=_joined(answer.functions, ask.single),
    noise_floor=_unwrap(ask.noise, ask.single),
    num_evaluations=ask.asked,
    num_repeats=ask.num_repeats,
    method=answer.method,
    **_trust(answer, judged, score, ask.single),
    ends=_ends(ends, ask.single),
    notes=_notes([*answer.notes, ask.note], answer, names),
    seconds=_seconds(ask.seconds, total),
    names=names,
    units=units,
  )


def decode(
  masks_or_plan: base.Masks | spex.QueryPlan,
  values: base.Values,
  *,
  method: str = "auto",
  max_order: int | None = None,
  strict: bool = False,
  held_out: tuple[base.Masks, base.Values] | None = None,
  names: Sequence[Any] | None = None,
  units: str | None = None,
) -> Explanation:
  """The same from samples that you already have. Deterministic.

  Equal masks are merged by their mean; what they disagree by is the noise
  floor, by which masks asked more often weigh more (not of a plan, nor among
  `held_out`). The answer is fitted to all samples; without `held_out` its
  faithfulness is cross-validated, but of a plan, which needs all values, None.

  Args:
    masks_or_plan: bool `[B, n]`, or a plan of `fourier.spex.make_plan`.
    values: `[B]` or `[B, T]`; a plan's in the plan's order.
    method: one of `DECODERS`; "spex" needs a plan, "exact" all 2^n masks.
    max_order: largest sets, as for `explain`.
    strict: equal masks with different values are an error.
    held_out: masks and values to test the answer on, and for nothing else.
      Those that are among the samples are left out.
    names: n names of players, as for `explain`.
    units: the units of the values.

  Example:
    >>> import spex_jax as spex
    >>> from spex_jax.masks import sampling
    >>> masks = sampling.enumerate_masks(3)
    >>> found = spex.decode(masks, 1.0 * (masks[:, 0] | masks[:, 2]))
    >>> print(found.interactions("SV"))  # Either is enough: they share.
    SV up to order 1: 2 sets of 3 players, baseline +0
             +0.5  {0}
             +0.5  {2}

  Raises:
    ValueError: "spex" without a plan, too few masks, or values as above.
    TypeError: values that are not real numbers.
  """
  start = time.perf_counter()
  request.choice("method", method, DECODERS)
  plan = None
  if isinstance(masks_or_plan, spex.QueryPlan):
    plan = masks_or_plan
    num_masks, n = plan.num_masks, plan.n
    # A plan may be too large to be held: SPEX reads it by range.
    hashes = packing.hash_streamed(plan.packed, num_masks, n)
  else:
    masks = base.check_masks(masks_or_plan)
    num_masks, n = masks.shape
    hashes = packing.hash_masks(masks)
  if num_masks == 0:
    raise ValueError("Need at least one mask to decode; got none.")
  max_order = request.order(max_order, n)
  names = base.check_names(names, n)
  if plan is None and method == "spex":
    raise ValueError(
      "method='spex' needs the QueryPlan that the masks came from: "
      "decode(plan, values). For masks of any other kind: method='auto'."
    )
  values = base.check_values(values, num_masks)
  single = values.ndim == 1
  values = values.reshape(num_masks, -1)
  distinct = packing.distinct_hashes(hashes)
  num_distinct = len(distinct.first)
  values, noise, notes, std = samples_lib.merge(distinct, values, strict=strict)
  test = score = samples = None
  whole = num_distinct == 1 << n and method != "spex"
  if held_out is not None and not whole:  # All masks leave none to test on.
    test, more = samples_lib.unseen(held_out, n, values.shape[1], hashes)
    notes += more
  num_evaluations = num_distinct + (0 if test is None else len(test.masks))
  if whole:
    rows = _held_masks(masks_or_plan)[distinct.first]
    order = np.argsort(rows @ (1 << np.arange(n)))
    answer, score = _exact(values[order], max_order)
  elif method == "exact":
    raise ValueError(
      f"exact needs the values of all 2**{n} masks; got {num_distinct}."
    )
  elif plan is not None and method == "spex":
    answer = select.by_spex(plan, values[distinct.inverse])
    if max_order not in (None, plan.code.t):
      notes.append(f"The plan sets the largest sets, {plan.code.t}.")
  elif plan is not None and method == "auto":
    answer = select.by_plan(plan, values[distinct.inverse], max_order)
  else:
    rows = _held_masks(masks_or_plan)[distinct.first]
    samples = samples_lib.Samples(rows, values)
    answer = select.by_proxies(samples, method, max_order, std)
  judged = trust.judge(answer, samples, test, least=2)
  return Explanation(
    fourier=_joined(answer.functions, single),
    noise_floor=_unwrap(noise, single),
    num_evaluations=num_evaluations,
    num_repeats=num_masks - num_distinct,
    **_trust(answer, judged, score, single),
    ends=_ends(_held_ends(hashes, n, values[distinct.inverse]), single),
    method=answer.method,
    notes=_notes([*notes, *answer.notes], answer, names),
    seconds=_seconds(0.0, time.perf_counter() - start),
    names=names,
    units=units,
  )


def assess(
  value_fn: base.ValueFn,
  fourier: sparse.SparseFourier,
  *,
  key: base.Key,
  num_masks: int = 64,
  method: str = "given",
  strict: bool = False,
  batch_size: int | None = None,
  names: Sequence[Any] | None = None,
  units: str | None = None,
  notes: Sequence[str] = (),
  progress: ask_lib.Progress | None = None,
) -> Explanation:
  """How faithful an expansion from elsewhere is: an answer like any other.

  Args:
    value_fn: as for `explain`.
    fourier: of n players, 1 or more; with a leading T where `value_fn` has T
      targets. `portfolio.additive.function` makes one of a value per player.
    key: consumed.
    num_masks: uniform masks to judge it on, at most all 2^n; f(none) and
      f(all) are asked besides, for `ends`.
    method: what made it, for the report.
    strict: as for `explain`.
    batch_size: masks in one call, as for `explain`.
    names: the names of the players.
    units: the units of the values.
    notes: of what made it.
    progress: called with the masks asked so far, and `num_masks`.

  Raises:
    ValueError: no player or no mask, another number of targets, or values as
      for `explain`.
    TypeError: as for `explain`.
  """
  start = time.perf_counter()
  n = request.whole("The number of players", fourier.n, 1)
  num_masks = request.whole("num_masks", num_masks, 1)
  names = base.check_names(names, n)
  key = request.typed_key(key)
  if n <= _MOST_EXACT:
    num_masks = min(num_masks, 1 << n)
  ask = ask_lib.Asker(
    value_fn, n, num_masks + 2, batch_size=batch_size, progress=progress
  )
  masks = sampling.distinct(key, num_masks, n)
  values = ask(masks)
  ask.repeat(masks, values, strict=strict)
  single = fourier.num_targets is None
  count = fourier.num_targets or 0
  functions = [fourier] if single else [fourier.target(t) for t in range(count)]
  if (single, len(functions)) != (ask.single, values.shape[1]):
    raise ValueError(
      f"The expansion has {'no' if single else len(functions)} targets; the "
      f"value function has {'none' if ask.single else values.shape[1]}."
    )
  answer = select.Answer(functions, method, list(notes))
  ends = ask.ends()
  test = samples_lib.Samples(masks, values)
  judged = trust.judge(answer, None, test, least=2)
  return Explanation(
    fourier=fourier,
    noise_floor=_unwrap(ask.noise, single),
    num_evaluations=ask.asked,
    num_repeats=ask.num_repeats,
    method=method,
    **_trust(answer, judged, None, single),
    ends=_ends(ends, single),
    notes=_notes([*answer.notes, ask.note], answer, names),
    seconds=_seconds(ask.seconds, time.perf_counter() - start),
    names=names,
    units=units,
  )


def _asked(ask, key, method, *, max_order, strict, goal, index, kernel_width):
  """Asks what the method needs: the answer, samples to test it, R^2 or None."""
  test = score = None
  n, budget = ask.n, ask.budget
  if n and method in additive.METHODS:
    answer, test, score = additive.ask_and_fit(
      ask, key, method, kernel_width=kernel_width, strict=strict
    )
    if max_order is not None and max_order > 1:
      answer.notes.append(f"{method} has no sets, as of max_order={max_order}.")
  elif n <= _MOST_EXACT and 1 << n <= budget:
    masks = sampling.enumerate_masks(n)
    values = ask(masks)
    ask.repeat(masks, values, strict=strict)
    answer, score = _exact(values, max_order)
  elif index is not None:
    answer = aimed.ask_and_fit(ask, key, index, strict=strict)
  elif method == "exact":
    raise ValueError(
      f"exact asks all 2**{n} masks of up to {_MOST_EXACT} players; the "
      f"budget is {budget}. Use method='auto'."
    )
  elif budget < policy.POLICY.least_budget and method != "spex":
    raise ValueError(
      f"A budget of {budget} is too small for n={n}: need at least "
      f"{min(policy.POLICY.least_budget, 1 << n)} masks."
    )
  else:
    answer, test = staged.ask_and_decode(
      ask, key, method, max_order=max_order, strict=strict, goal=goal
    )
  return answer, test, score


def _held_masks(given):
  return base.check_masks(
    given.masks() if isinstance(given, spex.QueryPlan) else given
  )


def _exact(values, max_order):
  expansions = [exact.expand(column, max_order) for column in values.T]
  functions, scores = zip(*expansions)
  note = f"All {len(values)} masks were asked; faithfulness is on all of them."
  return select.Answer(list(functions), "exact", [note]), np.asarray(scores)


def _trust(answer, judged, score, single):
  """The fields of `Explanation` that say how far to trust it."""
  std = answer.std
  if std is not None:
    width = max(map(len, std))
    padded = [np.pad(s, (0, width - len(s))) for s in std]
    std = padded[0] if single else np.stack(padded)
  if judged is None:
    return {
      "faithfulness": _unwrap(score, single),
      # All masks were asked, or none was left to test on.
      "faithfulness_std": None if score is None else _unwrap(0 * score, single),
      "held_out": 0,
      "coef_std": std,
    }
  by_terms, by_terms_std = (
    {k: _unwrap(v, single) for k, v in found.items()}
    for found in (judged.by_terms, judged.by_terms_std)
  )
  return {
    "faithfulness": by_terms["all"],
    "faithfulness_std": by_terms_std["all"],
    "held_out": judged.num_masks,
    "by_terms": by_terms,
    "by_terms_std": by_terms_std,
    "errors": judged.errors[0] if single else judged.errors,
    "coef_std": std,
  }


def _notes(notes, answer, names):
  alike = "" if answer.confounded is None else answer.confounded.note(names)
  return tuple(note for note in (*notes, alike) if note)


def _ends(ends, single):
  """(f(none), f(all)) as they are kept, or None where they were not asked."""
  if ends is None:
    return None
  none, everyone = ends
  return _unwrap(none, single), _unwrap(everyone, single)


def _held_ends(hashes, n, values):
  """`[T]` values of the empty and the full mask, if both are among samples."""
  found = []
  for mask in packing.hash_masks(staged.corners(n)[::-1]):
    rows = np.flatnonzero((hashes == mask).all(axis=1))
    if not len(rows):
      return None
    found.append(values[rows[0]])
  return found


def _unwrap(per_target, single):
  if per_target is None or not single:
    return per_target
  return float(per_target[0])


def _joined(functions, single):
  return functions[0] if single else sparse.SparseFourier.stack(functions)


def _seconds(asking, total):
  return {"evaluating": asking, "decoding": total - asking, "total": total}
