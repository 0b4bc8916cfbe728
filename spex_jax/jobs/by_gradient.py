"""`spex explain` by gradients, for subjects whose model has one.

Values of players come from `ablate.gradients`; what masks cost are the
held-out ones, on which the additive answer is judged as any other is.
"""

import time
from typing import Any

from spex_jax import base
from spex_jax.ablate import gradients
from spex_jax.api import METHODS, Explanation, assess
from spex_jax.jobs import subjects
from spex_jax.portfolio import additive
from spex_jax.portfolio import budget as budget_lib
from spex_jax.report.tables import count

# What gives a subject a gradient.
_REMEDIES = {
  "image": ": an absent part must not depend on the others, as "
  "--config.baseline=blur does not",
  "lm": ": absent tokens must keep their places; give --config.absent=mask "
  "--config.token=TOKEN",
  "sentiment": ": absent tokens must keep their places; give "
  "--config.absent=mask",
  "table": ": scikit-learn's models have none; give --config.model.kind=mlp",
}
_INCOMPLETE = 0.05  # Share of f(all) - f(none) above which a gap is told of.


def game(subject: subjects.Subject, config: subjects.Ask) -> base.Game:
  """What a subject offers to methods by gradients.

  Raises:
    ValueError: nothing; the message names the methods that work.
  """
  if subject.game is None:
    raise ValueError(
      f"method={config.method!r} needs a model that JAX can differentiate; "
      f"subject {config.subject!r} as configured has none"
      f"{_REMEDIES.get(config.subject, '')}. Or choose from "
      f"{', '.join(METHODS)}."
    )
  return subject.game


def explain(
  subject: subjects.Subject,
  value_fn: base.ValueFn,
  config: subjects.Ask,
  **common: Any,
) -> Explanation:
  """One value for each player of a subject, judged on held-out masks.

  Args:
    subject: what is asked about, with a `game` to differentiate.
    value_fn: bool masks `[B, n]` to values: its evaluator, perhaps watched.
    config: `method` is one of `gradients.METHODS`.
    **common: further arguments of `assess`.

  Raises:
    ValueError: a subject without a gradient.
  """
  model, method = game(subject, config), config.method
  begin = time.perf_counter()
  more = {}
  if method == "integrated_gradients":
    more = {"steps": config.gradient_steps}
  found = gradients.BY_NAME[method](model, **more)
  seconds = time.perf_counter() - begin
  if found.values.ndim != 1:
    raise ValueError("A subject has one target; its gradients have several.")
  # Gradient x input is the line at the full mask, as occlusion is: what is
  # kept there is right. The other is complete, up to its gap.
  offset = found.kept - found.values.sum()
  if method == "integrated_gradients":
    offset = found.absent
  explanation = assess(
    value_fn,
    additive.function(offset, found.values),
    num_masks=budget_lib.num_held_out(config.budget, model.n),
    method=method,
    notes=[_note(method, model, found, seconds, subject.units)],
    **common,
  )
  spent = explanation.seconds
  spent["decoding"] += seconds
  spent["total"] += seconds
  return explanation


def _note(method, model, found, seconds, units):
  """What was computed, from where, and how complete it is."""
  name = method.replace("_", " ").capitalize()
  change = found.kept - found.absent
  line = "at the input, absent players"
  if method == "integrated_gradients":
    line = "on the line from absent players,"
  text = (
    f"{name}: {count(found.num_gradients, 'gradient')} {line} "
    f"{model.absent} ({seconds:.2f} s with compilation); values sum to "
    f"{found.values.sum():.4g} {units}, f(all) - f(none) is {change:.4g} "
    f"(gap {found.gap:.2g})."
  )
  incomplete = abs(found.gap) > _INCOMPLETE * abs(change)
  if method == "integrated_gradients" and incomplete:
    text += " The gap is large: raise --config.gradient_steps."
  return text
