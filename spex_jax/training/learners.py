"""What can be retrained: a way to learn from weighted examples, and to answer.

A `Learner` is pure: weights of examples and two keys to a state, and a state
to one number per test point. It is unbatched; `influence.examples` maps it over
thousands of subsets. `gradient` makes one of any network or functions, by
`loop.train`; `linear` holds those that are solved outright.

Built-in learners take `{"x": [N, ...], "y": [N]}`, for test points as well.

Shapes: N examples, T test points, C classes, M slots of a subset.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.training import loop

Output = Literal["margin", "log_odds", "logit", "loss"]
State = Any


@dataclasses.dataclass(frozen=True)
class Learner:
  """A way to learn.

  Attributes:
    fit: init key, order key, what `prepare` made, and weights float `[N]` to
      a state and whether training stayed finite, bool `[]`. An example of
      weight 0 must not change the state.
    read: state and test points to outputs `[T]`.
    settings: as JSON, what both depend on besides data and keys.
    prepare: data to what all trainings share, computed once.
    classes: data to int `[N]`, each example's class; None without classes.
      Refuses labels out of range.
    capacity: the most examples that a subset may hold; None for any number.
  """

  fit: Callable[[base.Key, base.Key, Any, jax.Array], tuple[State, jax.Array]]
  read: Callable[[State, Any], jax.Array]
  settings: Mapping[str, Any]
  prepare: Callable[[Any], Any] = lambda data: jax.tree.map(jnp.asarray, data)
  classes: Callable[[Any], np.ndarray] | None = None
  capacity: int | None = None


def gradient(
  name: str,
  init: Callable[[base.Key], loop.Params],
  losses: Callable[..., jax.Array],
  read: Callable[[State, Any], jax.Array],
  recipe: loop.Recipe,
  *,
  capacity: int | None = None,
  augment: Callable[[base.Key, Any], Any] | None = None,
  finish: Callable[[loop.Params, Any, jax.Array], State] | None = None,
  classes: Callable[[Any], np.ndarray] | None = None,
  settings: Mapping[str, Any] | None = None,
) -> Learner:
  """Trains by `loop.train`: your own pure functions.

  Args:
    name: says which functions these are; part of the configuration, by which
      a bank tells its own values from others.
    init: key to parameters.
    losses: parameters and a batch (and `weights`) to losses `[b]`.
    read: parameters, or what `finish` made of them, and test points to `[T]`.
    recipe: how to train.
    capacity: None trains with weight masks: every batch as it would be with
      all examples, dropped ones at weight 0; any mask can be asked. A number M
      trains on index subsets: the examples that are kept fill M slots, the
      rest of which have weight 0, and an epoch is M // b steps. Steps cost the
      same, and are fewer; masks may keep M examples at most.
    augment: how an example is varied, as in `loop.train`.
    finish: parameters, data and weights to a state, after training: say,
      statistics of normalisation.
    classes: see `Learner`.
    settings: more that the functions depend on.
  """
  if capacity is not None and capacity < recipe.batch_size:
    raise ValueError(
      f"capacity={capacity} is below batch_size={recipe.batch_size}."
    )

  def fit(init_key, order_key, data, weights):
    rows, slots = None, weights
    if capacity is not None:
      rows, slots = fill_slots(weights, capacity)
    trained = loop.train(
      init_key,
      order_key,
      data,
      slots,
      init=init,
      losses=losses,
      recipe=recipe,
      augment=augment,
      rows=rows,
    )
    state = trained.params
    if finish is not None:
      state = finish(state, data, weights)
    return state, jnp.isfinite(trained.losses).all()

  return Learner(
    fit,
    read,
    {
      "learner": "gradient",
      "name": name,
      "capacity": capacity,
      "augmented": augment is not None,
      **dataclasses.asdict(recipe),
      **(settings or {}),
    },
    classes=classes,
    capacity=capacity,
  )


def classifier(
  name: str,
  init: Callable[[base.Key], loop.Params],
  logits: Callable[..., jax.Array],
  num_classes: int,
  recipe: loop.Recipe,
  *,
  output: Output = "margin",
  label_smoothing: float = 0.0,
  **more: Any,
) -> Learner:
  """`gradient` of a classifier by cross-entropy.

  Args:
    name: says which network it is, sizes included.
    init: key to parameters.
    logits: parameters (or what `finish` made of them) and `[B, ...]` inputs to
      `[B, C]`; given a third parameter named `weights`, it gets those of the
      batch in training, for statistics of normalisation.
    num_classes: C.
    recipe: how to train.
    output: see `outputs`.
    label_smoothing: share of the target spread over all classes.
    **more: `capacity`, `augment`, `finish`, `settings` of `gradient`.
  """
  import optax  # Slow to import.

  whole = loop.weighted(logits)

  def losses(params, batch, weights):
    targets = jax.nn.one_hot(batch["y"], num_classes)
    return optax.softmax_cross_entropy(
      whole(params, batch["x"], weights),
      optax.smooth_labels(targets, label_smoothing),
    )

  more["settings"] = {
    "num_classes": num_classes,
    "output": output,
    "label_smoothing": label_smoothing,
    **(more.get("settings") or {}),
  }
  return gradient(
    name,
    init,
    losses,
    lambda params, test: outputs(logits(params, test["x"]), test["y"], output),
    recipe,
    classes=lambda data: labels(data["y"], num_classes),
    **more,
  )


def outputs(
  logits: jax.Array, targets: base.Array, output: str = "margin"
) -> jax.Array:
  """One number per test point: `[T, C]` logits and int `[T]` labels to `[T]`.

  Args:
    logits: `[T, C]`, one for each class.
    targets: int `[T]`, the right classes.
    output: `margin`, the right logit less the largest of the others
      (datamodels, Ilyas et al. 2022); `log_odds`, less their log-sum-exp
      (TRAK, Park et al. 2023); `logit`; or `loss`, the cross-entropy.
  """
  chex.assert_rank(logits, 2)
  chex.assert_shape(targets, logits.shape[:1])
  chex.assert_type([logits, targets], [float, int])
  right = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
  chosen = jnp.where(right, logits, 0).sum(axis=-1)
  others = jnp.where(right, -jnp.inf, logits)
  if output == "margin":
    return chosen - others.max(axis=-1)
  if output == "log_odds":
    return chosen - jax.nn.logsumexp(others, axis=-1)
  if output == "logit":
    return chosen
  if output == "loss":
    return jax.nn.logsumexp(logits, axis=-1) - chosen
  raise ValueError(
    f"output={output!r}: choose from margin, log_odds, logit, loss."
  )


def labels(values: base.Array, num_classes: int) -> np.ndarray:
  """Checked labels, int64 `[N]`.

  Raises:
    TypeError: no integers.
    ValueError: another rank, or labels outside 0..C-1 (naming the first).
  """
  array = np.asarray(values)
  if array.dtype.kind not in "iu":
    raise TypeError(f"Labels must be integers; got {array.dtype}.")
  if array.ndim != 1:
    raise ValueError(f"Labels must be [N]; got shape {array.shape}.")
  outside = (array < 0) | (array >= num_classes)
  if outside.any():
    row = int(np.flatnonzero(outside)[0])
    raise ValueError(
      f"Labels must lie in 0..{num_classes - 1}; {outside.sum()} do not "
      f"(first: {array[row]} at example {row})."
    )
  return array.astype(np.int64)


def fill_slots(
  weights: jax.Array, capacity: int
) -> tuple[jax.Array, jax.Array]:
  """Examples of positive weight in M slots: rows int32 `[M]`, weights `[M]`.

  In the order of the examples; slots left over have weight 0. What exceeds M
  is cut off, for the caller to refuse.
  """
  chex.assert_rank(weights, 1)
  kept = weights > 0
  place = jnp.where(kept, jnp.cumsum(kept) - 1, capacity)
  rows = jnp.zeros(capacity, jnp.int32)
  numbers = jnp.arange(len(weights), dtype=jnp.int32)
  rows = rows.at[place].set(numbers, mode="drop")
  filled = jnp.arange(capacity) < kept.sum()
  return rows, jnp.where(filled, weights[rows], 0)
