"""What is asked of a model's next token: metrics, one example at a time.

A metric is a function `(logits, clean_logits, right, wrong) -> scalar`, pure
and traceable; higher is better. A user's own is one like it. Batches are
`vmap`s of it, so that no example's value depends on the others.

Answers are sets: `right` and `wrong` hold ids, padded with -1.

Shapes: V tokens, A right and C wrong answers.
"""

import types
from collections.abc import Callable, Mapping
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

from spex_jax import base

# Of logits float `[V]`, those of the clean run `[V]`, and ids int32 `[A]` and
# `[C]`: a scalar in the dtype of the logits.
Metric: TypeAlias = Callable[
  [jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
]


def logit_difference(
  logits: base.Array,
  clean_logits: base.Array,
  right: base.Array,
  wrong: base.Array,
) -> jax.Array:
  """The mean logit of the right answers above that of the wrong ones.

  Without wrong answers, above the mean of all tokens.

  Args:
    logits: float `[V]`, behind the last token of the prompt.
    clean_logits: not used; the run that is compared with needs none.
    right: int `[A]`, ids of right answers, padded with -1.
    wrong: int `[C]`, ids of wrong answers, padded with -1.
  """
  del clean_logits
  logits = _checked(logits, right, wrong)
  of_wrong = _mean(logits, wrong)
  none = (jnp.asarray(wrong) < 0).all()
  return _mean(logits, right) - jnp.where(none, logits.mean(), of_wrong)


def probability_difference(
  logits: base.Array,
  clean_logits: base.Array,
  right: base.Array,
  wrong: base.Array,
) -> jax.Array:
  """The probability of a right answer minus that of a wrong one.

  Args:
    logits: float `[V]`, behind the last token of the prompt.
    clean_logits: not used.
    right: int `[A]`, ids of right answers, padded with -1.
    wrong: int `[C]`, ids of wrong answers, padded with -1.
  """
  del clean_logits
  shares = jax.nn.softmax(_checked(logits, right, wrong))
  return _sum(shares, right) - _sum(shares, wrong)


def kl(
  logits: base.Array,
  clean_logits: base.Array,
  right: base.Array,
  wrong: base.Array,
) -> jax.Array:
  """Minus the divergence KL(clean || this) in nat: 0 on the clean run.

  Its gradient is zero there, so that scores at the clean run alone are too.

  Args:
    logits: float `[V]`, behind the last token of the prompt.
    clean_logits: float `[V]`, those of the unedited clean run.
    right: not used.
    wrong: not used.
  """
  logits = _checked(logits, right, wrong)
  chex.assert_equal_shape([logits, clean_logits])
  want = jax.nn.log_softmax(jnp.asarray(clean_logits))
  got = jax.nn.log_softmax(logits)
  return -(jnp.exp(want) * (want - got)).sum()


METRICS: Mapping[str, Metric] = types.MappingProxyType(
  {
    "logit_difference": logit_difference,
    "probability_difference": probability_difference,
    "kl": kl,
  }
)
UNITS: Mapping[str, str] = types.MappingProxyType(
  {
    "logit_difference": "logit",
    "probability_difference": "probability",
    "kl": "nat",
  }
)


def check(metric: Metric, vocab_size: int) -> None:
  """Refuses a metric that does not give one number for one example.

  Args:
    metric: one of `METRICS`, or a user's own.
    vocab_size: V, how many logits the metric is given.

  Raises:
    TypeError: no function.
    ValueError: it gives another shape, as one does that takes batches, or
      what has no derivative.
  """
  if not callable(metric):
    raise TypeError(
      f"A metric must be a function; got {type(metric).__name__}. Those with "
      f"names are {', '.join(METRICS)}."
    )
  name = getattr(metric, "__name__", "metric")
  logits = jax.ShapeDtypeStruct((vocab_size,), jnp.result_type(float))
  ids = jax.ShapeDtypeStruct((2,), jnp.int32)
  try:
    found = jax.eval_shape(metric, logits, logits, ids, ids)
  except Exception as error:  # Whatever a user's function does.
    raise ValueError(
      f"{name} does not take one example: logits [V], clean logits [V], ids of "
      f"right and of wrong answers. {type(error).__name__}: "
      f"{str(error).splitlines()[0] if str(error) else ''}"
    ) from error
  shape = getattr(found, "shape", None)
  dtype = getattr(found, "dtype", jnp.int32)
  if shape != () or not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"{name} must return one floating number for one example; it returns "
      f"{dtype} {shape}. It is called for every example by itself: leave out "
      "means over a batch."
    )


def _checked(logits, right, wrong) -> jax.Array:
  logits = jnp.asarray(logits)
  chex.assert_rank([logits, right, wrong], 1)
  chex.assert_type(logits, jnp.floating)
  chex.assert_type([right, wrong], jnp.integer)
  return logits


def _sum(values, ids) -> jax.Array:
  """The sum of `values` at those of `ids` that are not -1."""
  chex.assert_rank([values, ids], 1)
  ids = jnp.asarray(ids)
  at = values.at[jnp.maximum(ids, 0)].get(mode="fill", fill_value=jnp.nan)
  return jnp.where(ids >= 0, at, 0).sum()


def _mean(values, ids) -> jax.Array:
  """The mean of `values` at those of `ids` that are not -1; 0 of none."""
  chex.assert_rank([values, ids], 1)
  count = (jnp.asarray(ids) >= 0).sum()
  return _sum(values, ids) / jnp.maximum(count, 1).astype(values.dtype)
