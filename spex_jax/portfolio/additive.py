"""What users compare with: one value for each player, and no interactions.

  occlusion    f(all) less f(all but one): n + 1 masks
  lime         a regression around the full mask, see `lime`
  kernelshap   Shapley values by weighted least squares, see `kernel_shap`

An answer is a function of order 1, f(m) = b + sum of v_i over kept players, so
that all indices of order 1 are the method's values v. What b is: f(all) less
all values for occlusion, the intercept for LIME, f(none) for KernelSHAP.
Masks are held out first, as many as for other decoders where the budget allows
it; they judge the additive function, which was not fitted to them.

Shapes: n players, B masks, T targets.
"""

from typing import NamedTuple

import jax
import numpy as np

from spex_jax import base
from spex_jax.fourier import lasso, score, sparse
from spex_jax.masks import ask as ask_lib
from spex_jax.masks import sampling
from spex_jax.portfolio import budget as budget_lib
from spex_jax.portfolio import policy, select, staged
from spex_jax.portfolio import samples as samples_lib
from spex_jax.proxies import kernel_shap, lime

METHODS = ("occlusion", "lime", "kernelshap")


class Fitted(NamedTuple):
  """An answer and what may judge it.

  Attributes:
    answer: an expansion of order 1.
    test: held-out samples, or None where the budget left none.
    score: `[T]` R^2 on all masks, where all were asked and fitted; or None.
  """

  answer: select.Answer
  test: samples_lib.Samples | None
  score: np.ndarray | None = None


def function(baseline: float, values: base.Array) -> sparse.SparseFourier:
  """f(m) = baseline + sum of `values` `[n]` over kept players.

  Raises:
    ValueError: values that are not `[n]` or not finite.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1:
    raise ValueError(f"Need one value per player, [n]; got {values.shape}.")
  n = len(values)
  # A kept player is (1 - chi) / 2.
  coefs = np.concatenate([[baseline + values.sum() / 2], -values / 2])
  players = np.concatenate([[n], np.arange(n)])[:, None]
  return sparse.SparseFourier.from_players(n, players, coefs)


def least_budget(method: str, n: int) -> int:
  """The fewest masks that a method can do with, none of them held out."""
  if method == "occlusion":
    return n + 1
  return (lime if method == "lime" else kernel_shap).least_budget(n)


def ask_and_fit(
  ask: ask_lib.Asker,
  key: base.Key,
  method: str,
  *,
  kernel_width: float = lime.WIDTH,
  strict: bool = False,
) -> Fitted:
  """Asks for a method's masks, within the budget, and computes its values.

  Args:
    ask: the function, with its budget and at least 1 player.
    key: consumed.
    method: one of `METHODS`.
    kernel_width: the width of LIME's kernel, in cosine distance.
    strict: whether values that do not repeat are an error.

  Raises:
    ValueError: a budget below `least_budget`.
  """
  n, budget = ask.n, ask.budget
  least = least_budget(method, n)
  if budget < least:
    raise ValueError(
      f"{method} needs a budget of at least {least} masks for {n} players; "
      f"the budget is {budget}."
    )
  # All masks, where the budget has room for them.
  everything = n <= policy.POLICY.most_listed and 1 << n <= budget
  if everything and method != "occlusion":
    return _on_all(ask, method, kernel_width, strict)
  # Held-out masks first, then those that every fit needs.
  held_key, design_key = jax.random.split(key)
  num_held = min(budget_lib.num_held_out(budget, n), budget - least)
  fixed = staged.corners(n)
  if method == "occlusion":
    fixed = ~np.eye(n + 1, n, k=-1, dtype=bool)
  held = staged.draw(held_key, num_held, n, fixed)
  values = ask(held) if len(held) else None
  notes = staged.few_held(len(held), budget)
  ends = ask(fixed)
  if values is None:
    ask.repeat(fixed, ends, strict=strict)
    test, seen = None, ends
  else:
    ask.repeat(held, values, strict=strict)
    test = samples_lib.Samples(held, values)
    seen = np.concatenate([values, ends])
  if method == "occlusion" and (both := ask.ends()) is not None:
    seen = np.concatenate([seen, np.stack(both)])
  if len(held) >= policy.POLICY.least_budget and base.is_constant(seen).all():
    among = "the full and the empty one"
    if method == "occlusion":
      among = "the full one and all that lack one player"
    return Fitted(staged.constant(n, seen, notes, ask.asked, among), test)
  # The method's own masks, and its values from them.
  confounded = None
  if method == "occlusion":
    full = ends[0]
    found = full - ends[1:]
    offset = full - found.sum(axis=0)
    notes.append(
      f"Occlusion: f(all) less f without a player, from {n + 1} masks."
    )
  elif method == "lime":
    known = np.concatenate([fixed, held])
    more = lime.design(design_key, budget - ask.asked, n, known)
    masks = np.concatenate([fixed, more])
    weights = lime.weigh(masks, kernel_width)
    values = np.concatenate([ends, ask(more)])
    offset, found = lime.solve(masks, weights, values)
    notes.append(_lime_note(len(masks), kernel_width))
    confounded = samples_lib.confounded(masks)
  else:
    masks, weights = kernel_shap.design(
      design_key, budget - ask.asked, n, np.concatenate([fixed, held])
    )
    full, offset = ends
    found, determined = kernel_shap.solve(
      masks, weights, ask(masks), full, offset
    )
    notes.append(
      f"Shapley values by KernelSHAP, from {len(masks) + 2} masks in pairs."
    )
    if not determined:
      notes.append("These do not determine all values: raise the budget.")
  answer = _answer(method, offset, found, notes)
  return Fitted(answer._replace(confounded=confounded), test)


def _on_all(ask, method, kernel_width, strict):
  """LIME or KernelSHAP where all masks fit in the budget."""
  masks = sampling.enumerate_masks(ask.n)
  values = ask(masks)
  ask.repeat(masks, values, strict=strict)
  note = f"All {len(masks)} masks were asked; R^2 is on all of them. "
  if base.is_constant(values).all():
    answer = staged.constant(ask.n, values, [], ask.asked, "all 2**n")
    return Fitted(answer, None, np.ones(values.shape[1]))
  if method == "lime":
    weights = lime.weigh(masks, kernel_width)
    offset, found = lime.solve(masks, weights, values)
    note += _lime_note(len(masks), kernel_width)
  else:
    offset = values[0]
    weights = kernel_shap.every_mask_weights(masks)
    found, _ = kernel_shap.solve(masks, weights, values, values[-1], offset)
    note += "Exact Shapley values."
  answer = _answer(method, offset, found, [note])
  guess = [lasso.evaluate(masks, one) for one in answer.functions]
  scores = np.atleast_1d(score.r2(values, np.stack(guess, axis=1)))
  return Fitted(answer, None, scores)


def _lime_note(num_masks, width):
  return (
    f"LIME: ridge regression on {num_masks} masks around the full one, kernel "
    f"width {width:g} in cosine distance."
  )


def _answer(method, offset, found, notes):
  functions = [function(b, v) for b, v in zip(offset, found.T)]
  return select.Answer(functions, method, notes)
