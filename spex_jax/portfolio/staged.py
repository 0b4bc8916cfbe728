"""Which masks to ask for, in which order, and when to stop.

Held-out masks come first. Then uniform ones, for the proxies; where nothing
quick explains half of the first of them, a SPEX plan within the same budget,
as sets of high order may be hiding. With a goal, uniform masks come in stages,
and no more are asked once the held-out masks are predicted as well as that.

Shapes: n players, B masks, T targets.
"""

import itertools

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import sparse
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import sampling
from spex_jax.portfolio import budget as budget_lib
from spex_jax.portfolio import members, policy, select
from spex_jax.portfolio import samples as samples_lib

_PROBES = 2  # The full and the empty mask.


def ask_and_decode(
  ask: ask_lib.Asker,
  key: base.Key,
  method: str,
  *,
  max_order: int | None = None,
  strict: bool = False,
  goal: float | None = None,
) -> tuple[select.Answer, samples_lib.Samples]:
  """Chooses masks, asks for them and decodes.

  Args:
    ask: the function and its budget, `least_budget` or more but for "spex".
    key: consumed.
    method: "auto", "spex", or one of `select.PROXIES`.
    max_order: the largest sets, as for `explain`.
    strict: whether values that do not repeat are an error.
    goal: held-out R^2 (mean of targets) at which to stop; not for "spex".

  Returns:
    The answer, and the held-out samples, which nothing was fitted to; those
    that stopped the asking are not among them.
  """
  if method == "spex":
    return _by_plan(ask, key, max_order, strict)
  return _by_proxies(ask, key, method, max_order, strict, goal)


def _by_plan(ask, key, max_order, strict):
  """SPEX: held-out masks, then the largest plan in the rest of the budget.

  What the plan leaves of it goes to uniform masks, for the coefficients alone,
  unless the plan's own masks are explained to the last digits.
  """
  n, budget = ask.n, ask.budget
  plan_key, mask_key, more_key = jax.random.split(key, 3)
  plan, num_held = budget_lib.insisted_plan(plan_key, n, budget, max_order)
  distinct = plan.distinct()
  left = budget - num_held - len(distinct.first)
  notes = few_held(num_held, budget)
  exclude = corners(n)
  small = plan.num_masks * n <= policy.POLICY.unpacked_bytes
  if small:
    exclude = np.concatenate([exclude, plan.masks()])
  masks = draw(mask_key, num_held, n, exclude)
  # The last ones make room for the probes, if these are asked.
  waiting = 0 if left >= _PROBES else _PROBES
  early = masks[: len(masks) - waiting]
  test, state, probes = _test(ask, early, strict, probed=left >= _PROBES)
  if state == "constant":
    return constant(n, test.values, notes, ask.asked), test
  if state == "probed":
    notes.append(_RARE)
  if probes is None or not waiting:
    later = masks[len(early) :]
    test = test.join(samples_lib.Samples(later, ask(later)))
  values = _ask_plan(ask, plan, distinct, probes)
  answer = select.by_spex(plan, values)
  spare = budget - ask.asked
  if spare and small:
    samples = select.planned(plan, values)
    if not select.is_explained(samples, answer):
      more = draw(more_key, spare, n, np.concatenate([exclude, masks]))
      samples = samples.join(samples_lib.Samples(more, ask(more)))
      answer = select.refitted(answer, samples)
      notes.append(
        f"{len(more)} masks, which fit no larger plan, were asked for the "
        "coefficients."
      )
  return answer._replace(notes=notes + answer.notes), test


def _by_proxies(ask, key, method, max_order, strict, goal):
  """Uniform masks; for `auto` a plan too, where they are not explained."""
  n, budget = ask.n, ask.budget
  plan_key, mask_key, more_key = jax.random.split(key, 3)
  num_held = budget_lib.num_held_out(budget, n)
  if method == "gram":
    _check_scan(n, budget, max_order)
  notes = few_held(num_held, budget)
  ends, num_scouts, plan = corners(n), 0, None
  if method == "auto":
    num_scouts = budget_lib.num_scouts(budget - num_held)
    room = budget - num_held - num_scouts
    plan = budget_lib.largest_plan(plan_key, n, room, max_order)
  most = policy.POLICY.unpacked_bytes
  if plan is not None and plan.num_masks * n > most:
    plan = None
    notes.append(
      "A SPEX plan of this budget is too large to be tried beside the "
      "proxies: use method='spex'."
    )
  exclude = ends
  if plan is not None:
    exclude = np.concatenate([ends, plan.masks()])
  else:
    num_scouts = budget - num_held
  masks = draw(mask_key, num_held + num_scouts, n, exclude)
  test, state, probes = _test(
    ask, masks[:num_held], strict, probed=budget >= policy.POLICY.least_probed
  )
  if state == "constant":
    return constant(n, test.values, notes, ask.asked), test
  if state == "probed":
    notes.append(_RARE)
  if plan is None:
    rest = masks[num_held : num_held + budget - ask.asked]
    answer, test = _in_stages(ask, method, None, rest, test, max_order, goal)
    return answer._replace(notes=notes + answer.notes), test
  distinct = plan.distinct()
  num_scouts = min(num_scouts, budget - ask.asked - len(distinct.first))
  masks = masks[: num_held + num_scouts]  # The probes may take two of them.
  scouts = samples_lib.Samples(masks[num_held:], ask(masks[num_held:]))
  suspect = select.suspects_planted(scouts, max_order)
  # What the plan, if it is asked, leaves of the budget.
  left = budget - ask.asked - (len(distinct.first) if suspect else 0)
  known = np.concatenate([exclude if suspect else ends, masks])
  rest = draw(more_key, left, n, known)
  if not suspect:
    answer, test = _in_stages(ask, method, scouts, rest, test, max_order, goal)
    return answer._replace(notes=notes + answer.notes), test
  notes.append(
    "Quick proxies explain under half of the values, so SPEX's plan was asked "
    "for as well."
  )
  uniform = scouts.join(samples_lib.Samples(rest, ask(rest)))
  values = _ask_plan(ask, plan, distinct, probes)
  answer = select.compare(plan, values, uniform, max_order)
  if goal is not None:
    notes.append(_goal_note(goal, answer, test, ask))
  return answer._replace(notes=notes + answer.notes), test


def _check_scan(n, budget, max_order):
  """Refuses a budget that leaves a Gram scan too few masks, before it asks."""
  rest = lambda b: b - budget_lib.num_held_out(b, n) - _PROBES
  least = policy.POLICY.least_scanned
  needs = next(b for b in itertools.count() if rest(b) >= least)
  if budget < needs:
    raise ValueError(
      f"A Gram scan needs a budget of at least {needs} masks, held-out ones "
      f"among them; the budget is {budget}. Raise it, or use method='lasso'."
    )
  if members.scanned_order(n, rest(budget), max_order) < 1:
    raise ValueError(
      f"A Gram scan of {n} players with {budget} masks costs too much: use "
      "method='lasso'."
    )


_RARE = (
  "f has one value on all held-out masks and another on the full or the empty "
  "one: too rare a change for random masks to test."
)


def corners(n: int) -> np.ndarray:
  """The full and the empty mask, bool `[2, n]`."""
  return np.stack([np.ones(n, bool), np.zeros(n, bool)])


def few_held(num_held: int, budget: int) -> list[str]:
  """What to tell where fewer masks are held out than usual."""
  if num_held >= budget_lib.usually_held_out(budget):
    return []
  told = f"Only {num_held} masks are held out, of {budget}"
  if num_held < policy.POLICY.least_judging:
    told += ": too few to tell R^2 by"
  return [f"{told}."]


def draw(key: base.Key, count: int, n: int, exclude: np.ndarray) -> np.ndarray:
  """As many distinct uniform masks as there are, at most `count`."""
  count = int(max(0, min(count, budget_lib.num_left(n, exclude))))
  return sampling.distinct(key, count, n, exclude=exclude)


def _test(ask, masks, strict, *, probed):
  """Asks held-out masks: the samples, what they look like, and the probes.

  "constant": the full and the empty mask have the same value, too; "probed":
  they do not; "": they vary, and the probes were asked only if `probed`.
  """
  test = samples_lib.Samples(masks, ask(masks))
  ask.repeat(*test, strict=strict)
  varies = not base.is_constant(test.values).all()
  if varies and not probed:
    return test, "", None
  probes = ask(corners(ask.n))
  if varies:
    return test, "", probes
  both = np.concatenate([test.values, probes])
  state = "constant" if base.is_constant(both).all() else "probed"
  return test, state, probes


def _in_stages(ask, method, scouts, rest, test, max_order, goal):
  """Proxies on uniform masks, all of them or until the goal is reached.

  Masks that chose when to stop flatter: fresh ones then judge the answer.
  """
  known = 0 if scouts is None else len(scouts.masks)
  total = known + len(rest)
  sizes = [total]
  if goal is not None:
    least = max(policy.POLICY.least_stage, known)
    tried = {max(least, total // k) for k in policy.POLICY.stages}
    most = total - len(test.masks)  # The rest judge an answer that stops here.
    sizes = sorted({size for size in tried if size <= most} | {total})
  samples = scouts
  while True:
    size = sizes.pop(0)
    new = rest[: size - (0 if samples is None else len(samples.masks))]
    rest = rest[len(new) :]
    if len(new) or samples is None:
      asked = samples_lib.Samples(new, ask(new))
      samples = asked if samples is None else samples.join(asked)
    answer = select.by_proxies(samples, method, max_order)
    if goal is None:
      return answer, test
    if not sizes:
      note = _goal_note(goal, answer, test, ask)
      return answer._replace(notes=[note, *answer.notes]), test
    if select.mean_score(test, answer).value >= goal:
      masks = rest[: len(test.masks)]
      fresh = samples_lib.Samples(masks, ask(masks))
      note = _goal_note(goal, answer, test, ask, fresh)
      return answer._replace(notes=[note, *answer.notes]), fresh


def _goal_note(goal, answer, test, ask, fresh=None):
  found = again = select.mean_score(test, answer)
  where = f"R^2 {found} on {len(test.masks)} held-out masks"
  if fresh is not None:
    again = select.mean_score(fresh, answer)
    where += f", {again} on {len(fresh.masks)} that did not choose to stop"
  if again.value < goal <= found.value:
    return (
      f"The target faithfulness {goal} was reached by the masks that chose to "
      f"stop alone ({where}), with {ask.asked} of {ask.budget} masks: ask for "
      "a little more than is needed."
    )
  if found.value >= goal:
    return (
      f"The target faithfulness {goal} was reached ({where}) with "
      f"{ask.asked} of {ask.budget} masks."
    )
  return (
    f"The target faithfulness {goal} was NOT reached: {where}, after "
    f"{ask.asked} masks. Raise the budget, or lower the target."
  )


def _ask_plan(ask, plan, distinct, probes):
  """Values `[N, T]` of a plan, whose distinct masks are made by ranges."""
  first, inverse = distinct
  size = max(1, (1 << 25) // ask.n)
  parts = []
  for start in range(0, plan.num_masks, size):
    stop = min(start + size, plan.num_masks)
    rows = first[(first >= start) & (first < stop)] - start
    if len(rows):
      parts.append(_ask_new(ask, plan.masks(start, stop)[rows], probes))
  return np.concatenate(parts)[inverse]


def _ask_new(ask, masks, probes):
  """Values of masks, but of the full and the empty one if they are known."""
  if probes is None:
    return ask(masks)
  full, empty = masks.all(axis=1), ~masks.any(axis=1)
  values = np.empty((len(masks), probes.shape[1]))
  values[full], values[empty] = probes
  new = ~(full | empty)
  values[new] = ask(masks[new])
  return values


def constant(
  n: int,
  values: np.ndarray,
  notes: list[str],
  asked: int,
  among: str = "the full and the empty one",
) -> select.Answer:
  """The answer where all values `[B, T]` are the same; `among` the masks."""
  note = (
    f"f is constant: {asked} masks, {among} among them, have one value, to "
    "rounding; no others were asked."
  )
  # The middle of the range: a mean of equal numbers may round away.
  means = (values.max(axis=0) / 2 + values.min(axis=0) / 2).tolist()
  functions = [sparse.SparseFourier.from_terms(n, [((), v)]) for v in means]
  return select.Answer(functions, "constant", [*notes, note])
