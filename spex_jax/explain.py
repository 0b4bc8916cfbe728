"""From a value function to its interactions: the table of contents.

  explain(value_fn, n, budget=..., key=...) -> Explanation
  decode(masks_or_plan, values)             -> Explanation

`explain` asks, in this order: held-out masks first, then what the method
needs. Every mask is asked once, and the budget counts them all; a few are
asked twice, aside, to see whether the answers repeat.

  exact   all 2^n masks, whenever they fit in the budget
  spex    the masks of a query plan, decoded by `fourier.spex`
  lasso   uniform masks, sparse regression on orders 1 and 2
  auto    a plan's masks and uniform ones; SPEX and the lasso both decode
          them, and the one that predicts further uniform masks better speaks

Shapes: n players, B masks, T targets, K sets, D the largest order.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import exact, sparse, spex
from spex_jax.indices import interactions as interactions_lib
from spex_jax.indices import table
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import packing, request, sampling
from spex_jax.proxies import budget as budget_lib
from spex_jax.proxies import select

METHODS = ("auto", "spex", "lasso", "exact")

_MOST_EXACT = 24  # Players; 2^24 values and coefficients fit in memory.
_PROBES = 2  # The full and the empty mask, asked if f seems constant.


@dataclasses.dataclass(frozen=True)
class Explanation:
  """A sparse function that stands for f, and how far to trust it.

  Attributes:
    fourier: the expansion; a leading T for T targets.
    faithfulness: R^2 on masks that no decoder saw (`[T]` for T targets); on
      all masks where all were asked; None where no mask was left to test on.
    noise_floor: standard deviation of one value between repeats of the same
      mask (`[T]`), in the units of f; 0 for a function, None if never seen
      twice.
    num_evaluations: distinct masks that the answer cost, held-out included.
    num_repeats: masks asked again, besides, to test determinism.
    held_out: masks behind `faithfulness`.
    method: the decoder that spoke.
    notes: what was decided on the way, and why.
    seconds: "evaluating", "decoding" and "total".
    names: of the players, or None.
    units: of f, or None.
  """

  fourier: sparse.SparseFourier
  faithfulness: Any
  noise_floor: Any
  num_evaluations: int
  num_repeats: int
  held_out: int
  method: str
  notes: tuple[str, ...] = ()
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  names: tuple[str, ...] | None = None
  units: str | None = None

  def interactions(
    self,
    index: str = "FBII",
    order: int | None = 2,
    names: Sequence[str] | None = None,
    *,
    target: int | None = None,
  ) -> interactions_lib.Interactions:
    """The expansion as an index that people quote; see `indices.table`.

    Args:
      index: its name.
      order: the largest set; None for no limit.
      names: of the players; those of the explanation if None.
      target: which of T targets; needed if there are several.

    Raises:
      ValueError: an unknown index or order, or T targets and none chosen.
    """
    fourier = self.fourier
    if fourier.num_targets is not None:
      if target is None:
        raise ValueError(
          f"There are {fourier.num_targets} targets; choose one by target=t."
        )
      num_targets = fourier.num_targets
      if not 0 <= request.whole("target", target, 0) < num_targets:
        raise ValueError(
          f"target must lie in 0..{num_targets - 1}; got {target}."
        )
      fourier = fourier.target(target)
    elif target is not None:
      raise ValueError("There is a single target; leave target=None.")
    return table.interactions(
      fourier, index, order, names=names or self.names, units=self.units
    )

  def __str__(self) -> str:
    units = f" {self.units}" if self.units else ""
    size = np.asarray(self.fourier.count).tolist()
    lines = [
      f"{self.method}: {size} sets of {self.fourier.n} players from "
      f"{self.num_evaluations} masks",
      "faithfulness (R^2): "
      + ("not measured" if self.faithfulness is None else "")
      + _text(self.faithfulness)
      + (f" on {self.held_out} held-out masks" if self.held_out else ""),
    ]
    if self.noise_floor is not None:
      lines.append(f"noise floor: {_text(self.noise_floor)}{units}")
    return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

  def save(self, path: str | os.PathLike) -> None:
    """Writes everything as JSON with a checksum, whole or not at all.

    Raises:
      OSError: no room or no permission.
    """
    functions = _targets(self.fourier)
    body = {
      "n": self.fourier.n,
      "single": self.fourier.num_targets is None,
      "targets": [[[list(s), c] for s, c in f.terms()] for f in functions],
    }
    for field in dataclasses.fields(self):
      if field.name != "fourier":
        value = getattr(self, field.name)
        body[field.name] = value.tolist() if hasattr(value, "tolist") else value
    base.write_json(path, body)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Explanation":
    """Reads what `save` wrote.

    Raises:
      ValueError: not such a file, or a damaged one.
    """
    body = base.read_json(path)
    try:
      n, single = body.pop("n"), body.pop("single")
      functions = [
        sparse.SparseFourier.from_terms(n, t) for t in body.pop("targets")
      ]
      for name in ("faithfulness", "noise_floor"):
        if isinstance(body[name], list):
          body[name] = np.asarray(body[name])
      for name in ("notes", "names"):
        body[name] = None if body[name] is None else tuple(body[name])
      fourier = (
        functions[0] if single else sparse.SparseFourier.stack(functions)
      )
      return cls(fourier=fourier, **body)
    except (KeyError, TypeError, IndexError) as error:
      raise ValueError(f"{path} is no saved explanation: {error}.") from error


def explain(
  value_fn: base.ValueFn,
  n: int,
  *,
  key: base.Key,
  budget: int = 2000,
  method: str = "auto",
  max_order: int | None = None,
  strict: bool = False,
  batch_size: int | None = None,
  names: Sequence[str] | None = None,
  units: str | None = None,
  progress: ask_lib.Progress | None = None,
) -> Explanation:
  """Finds which sets of players matter together to a value function.

  Args:
    value_fn: bool `[B, n]` to `[B]` or `[B, T]`: a host callable on NumPy
      arrays, an evaluator of `ablate`, or a jitted function (its last batch
      is padded, so that it compiles once). NaN and infinity are errors, as
      one of them would enter every coefficient of a transform and dropping
      it would break a plan; give such masks a value of your own choice.
    n: number of players; 0 is answered with the one value there is.
    key: consumed.
    budget: most distinct masks to ask for. max(64, 10 %) of them, but at
      most a third, are held out.
    method: one of `METHODS`. Where all 2^n masks fit in the budget they are
      asked, whatever the method.
    max_order: largest sets to look for; None for the method's own (5 for
      SPEX, which can do 8, and 2 for the lasso, which cannot do more).
    strict: a value function that does not repeat its values is an error,
      rather than a noise floor.
    batch_size: masks in one call; None for 256 if jitted, else 1,024.
    names: n names of players, for printing.
    units: the units of the values, for printing.
    progress: called with the distinct masks asked so far, and the budget.

  Raises:
    ValueError: a budget that cannot carry the method (the message says what
      would), `max_order` outside 1..n, an unknown method, or values that are
      not finite, of the wrong shape, or (strict) not repeated.
    TypeError: values that are not real numbers, or an argument of another
      kind; the message names it. What `value_fn` raises comes through as is.
  """
  start = time.perf_counter()
  request.choice("method", method, METHODS)
  n = request.whole("n", n, 0)
  budget = request.whole("budget", budget, 1)
  max_order = request.order(max_order, n)
  names = request.player_names(names, n)
  key = request.typed_key(key)
  ask = ask_lib.Asker(
    value_fn, n, budget, batch_size=batch_size, progress=progress
  )
  test = score = None
  if n <= _MOST_EXACT and 1 << n <= budget:
    masks = sampling.enumerate_masks(n)
    values = ask(masks)
    ask.repeat(masks, values, strict=strict)
    answer, score = _exact(values, max_order)
  elif method == "exact":
    raise ValueError(
      f"exact asks all 2**{n} masks of up to {_MOST_EXACT} players; the "
      f"budget is {budget}. Use method='auto'."
    )
  elif budget < budget_lib.LEAST and method != "spex":
    raise ValueError(
      f"A budget of {budget} is too small for n={n}: need at least "
      f"{min(budget_lib.LEAST, 1 << n)} masks."
    )
  else:
    answer, test = _ask_and_decode(ask, key, method, max_order, strict)
  total = time.perf_counter() - start
  return Explanation(
    fourier=_joined(answer.functions, ask.single),
    faithfulness=_score(answer, test, score, ask.single),
    noise_floor=_unwrap(ask.noise, ask.single),
    num_evaluations=ask.asked,
    num_repeats=ask.num_repeats,
    held_out=0 if test is None else len(test.masks),
    method=answer.method,
    notes=tuple(answer.notes + [ask.note] * bool(ask.note)),
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
  names: Sequence[str] | None = None,
  units: str | None = None,
) -> Explanation:
  """The same from samples that you already have. Deterministic.

  Equal masks are merged by their mean; what they disagree by is the noise
  floor. Without `held_out`, samples at masks are split to have some, and the
  answer is not fitted again to those, so that its score stays honest. A plan
  needs all its values, so there faithfulness is None.

  Args:
    masks_or_plan: bool `[B, n]`, or a plan of `fourier.spex.make_plan`.
    values: `[B]` or `[B, T]`; a plan's in the plan's order.
    method: one of `METHODS`; "spex" needs a plan, "exact" all 2^n masks.
    max_order: largest sets of the lasso; None for 2.
    strict: equal masks with different values are an error.
    held_out: masks and values to test the answer on, and for nothing else.
      Those that are among the samples are left out.
    names: and `units`, as for `explain`.
    units: of the values.

  Raises:
    ValueError: "spex" without a plan, too few masks, or values as above.
    TypeError: values that are not real numbers.
  """
  start = time.perf_counter()
  request.choice("method", method, METHODS)
  plan = None
  if isinstance(masks_or_plan, spex.QueryPlan):
    plan = masks_or_plan
    num_masks, n = plan.num_masks, plan.n
    # A plan may be too large to be held: SPEX reads it by range.
    hashes = packing.hash_streamed(plan.packed, num_masks, n)
  else:
    masks = base.check_masks(masks_or_plan)
    num_masks, n = masks.shape
    hashes = packing.hash_masks(masks, bits=128)
  if num_masks == 0:
    raise ValueError("Need at least one mask to decode; got none.")
  max_order = request.order(max_order, n)
  names = request.player_names(names, n)
  if plan is None and method == "spex":
    raise ValueError(
      "method='spex' needs the QueryPlan that the masks came from: "
      "decode(plan, values). For masks of any other kind: method='lasso'."
    )
  values = base.check_values(values, num_masks)
  single = values.ndim == 1
  values = values.reshape(num_masks, -1)
  distinct = packing.distinct_hashes(hashes)
  num_distinct = len(distinct.first)
  values, noise, notes = select.merge(distinct, values, strict=strict)
  test = score = None
  if held_out is not None:
    test = select.unseen(held_out, n, values.shape[1], hashes)
  num_evaluations = num_distinct + (0 if test is None else len(test.masks))
  if num_distinct == 1 << n and method != "spex":
    rows = _held_masks(masks_or_plan)[distinct.first]
    order = np.argsort(rows @ (1 << np.arange(n)))
    answer, score = _exact(values[order], max_order)
    test = None
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
    samples = select.Samples(rows, values)
    if test is None and num_distinct >= budget_lib.LEAST:
      num_test = budget_lib.num_held_out(num_distinct, n)
      samples, test = select.split(samples, num_test)
    answer = select.by_lasso(samples, max_order)
  return Explanation(
    fourier=_joined(answer.functions, single),
    faithfulness=_score(answer, test, score, single),
    noise_floor=_unwrap(noise, single),
    num_evaluations=num_evaluations,
    num_repeats=num_masks - num_distinct,
    held_out=0 if test is None else len(test.masks),
    method=answer.method,
    notes=tuple(notes + answer.notes),
    seconds=_seconds(0.0, time.perf_counter() - start),
    names=names,
    units=units,
  )


def _held_masks(given):
  return base.check_masks(
    given.masks() if isinstance(given, spex.QueryPlan) else given
  )


def _ask_and_decode(ask, key, method, max_order, strict):
  """Chooses masks, asks them and decodes: `(answer, held-out samples)`."""
  n, budget = ask.n, ask.budget
  plan_key, mask_key = jax.random.split(key)
  num_held = budget_lib.num_held_out(budget, n)
  num_judges = max(32, budget // 50) if method == "auto" else 0
  plan, notes = None, []
  if method == "spex":
    plan, num_held = budget_lib.insisted_plan(plan_key, n, budget, max_order)
  elif method == "auto":
    room = budget - num_held - num_judges
    plan = budget_lib.largest_plan(plan_key, n, room, max_order)
    if plan is None:
      notes.append("No SPEX plan fits in the budget: uniform masks, lasso.")
    elif (max_order or 0) > plan.code.t:
      notes.append(
        f"SPEX looked for sets of up to {plan.code.t}, not "
        f"max_order={max_order}: what `auto` can do with this budget."
      )
  if num_held < max(budget_lib.LEAST_HELD_OUT, -(-budget // 10)):
    notes.append(f"Only {num_held} masks are held out, of {budget}.")
  num_uniform = budget - num_held
  exclude = np.stack([np.ones(n, bool), np.zeros(n, bool)])
  first = inverse = np.zeros(0, np.int64)
  waiting = 0  # Held-out masks that make room for the probes if need be.
  if plan is not None:
    hashes = packing.hash_streamed(plan.packed, plan.num_masks, n)
    first, inverse = packing.distinct_hashes(hashes)
    num_uniform -= len(first)
    if plan.num_masks * n <= select.MASK_BYTES:
      exclude = np.concatenate([exclude, plan.masks()])
    elif method == "auto":  # And the lasso could not hold its samples.
      method = "spex"
      notes.append("The plan is too large for a lasso to be tried beside it.")
    waiting = 0 if num_uniform >= _PROBES else _PROBES
    if method == "spex":
      if num_uniform > 0:
        notes.append(f"{num_uniform} masks of the budget fit no larger plan.")
      num_uniform = 0
  # So few masks may be left that the full and the empty one are needed too.
  lent = max(0, num_held + num_uniform - budget_lib.num_left(n, exclude))
  uniform = sampling.distinct(
    mask_key, num_held + num_uniform - lent, n, exclude=exclude
  )
  later = uniform[num_held - waiting : num_held]
  early = uniform[: num_held - waiting]
  test, rest = select.Samples(early, ask(early)), uniform[num_held:]
  ask.repeat(*test, strict=strict)
  if ask_lib.is_constant(test.values):
    probes = ask(exclude[:_PROBES])
    if ask_lib.is_constant(np.concatenate([test.values, probes])):
      return _constant(n, test.values, notes, ask.asked), test
    rest, later = rest[: len(rest) - _PROBES + lent], later[:0]
    notes.append(
      "f has one value on all held-out masks and another on the full or the "
      "empty one: too rare a change for random masks to test."
    )
  test = test.join(select.Samples(later, ask(later)))
  if plan is None:
    answer = select.by_lasso(select.Samples(rest, ask(rest)), max_order)
  else:
    values = _ask_plan(ask, plan, first)[inverse]
    if method == "spex":
      answer = select.by_spex(plan, values)
    else:
      extra = select.Samples(rest, ask(rest))
      answer = select.compare(plan, values, extra, num_judges, max_order)
  return answer._replace(notes=notes + answer.notes), test


def _ask_plan(ask, plan, first):
  """Values `[U, T]` of the plan's distinct masks, made by ranges."""
  size = max(1, (1 << 25) // ask.n)
  parts = []
  for start in range(0, plan.num_masks, size):
    stop = min(start + size, plan.num_masks)
    rows = first[(first >= start) & (first < stop)] - start
    if len(rows):
      parts.append(ask(plan.masks(start, stop)[rows]))
  return np.concatenate(parts)


def _exact(values, max_order):
  expansions = [exact.expand(column, max_order) for column in values.T]
  functions, scores = zip(*expansions)
  note = f"All {len(values)} masks were asked; faithfulness is on all of them."
  return select.Answer(list(functions), "exact", [note]), np.asarray(scores)


def _constant(n, values, notes, asked):
  note = (
    f"f is constant: {asked} masks, the full and the empty one among them, "
    "have one value, to 12 digits; no others were asked."
  )
  # The middle of the range: a mean of equal numbers may round away.
  means = (values.max(axis=0) / 2 + values.min(axis=0) / 2).tolist()
  functions = [sparse.SparseFourier.from_terms(n, [((), v)]) for v in means]
  return select.Answer(functions, "constant", [*notes, note])


def _score(answer, test, score, single):
  if test is not None:
    score = select.r2(test, answer.functions)
  return _unwrap(score, single)


def _unwrap(per_target, single):
  if per_target is None or not single:
    return per_target
  return float(per_target[0])


def _joined(functions, single):
  return functions[0] if single else sparse.SparseFourier.stack(functions)


def _targets(fourier):
  if fourier.num_targets is None:
    return [fourier]
  return [fourier.target(t) for t in range(fourier.num_targets)]


def _seconds(asking, total):
  return {"evaluating": asking, "decoding": total - asking, "total": total}


def _text(value):
  if value is None:
    return ""
  return ", ".join(f"{v:.4g}" for v in np.atleast_1d(value))
