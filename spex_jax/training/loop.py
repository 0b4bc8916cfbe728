"""Training as one pure scan over steps, weighted per example.

`train` is unbatched: `vmap` over `weights` (or keys) trains many networks at
once, `jit` at the caller. `stepwise` gives the same from one step at a time,
for a single network on a CPU. All randomness comes from two keys: the initial
parameters from one, order and augmentation from the other, so that a bank of
retrainings can share either (common random numbers) or neither.

Shapes: N examples, b examples a batch, S steps.
"""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

Params = Any
Data = Any  # A pytree of arrays with a leading axis of N (or b) examples.


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How to train; hashable, so it can be static under jit.

  Attributes:
    num_epochs: passes over the data, each in a fresh order. The last N mod b
      examples of an order sit that pass out.
    batch_size: b.
    learning_rate: the peak.
    optimizer: adam, adamw, or sgd (with momentum .9, Nesterov).
    schedule: constant, cosine (to 0), or triangle (up for a fifth of the
      steps, then down to 0).
    weight_decay: decoupled for adamw; added to the gradient for sgd; must be
      0 for adam.
    denominator: what divides a batch's sum of weighted losses: `batch`, its
      size b, so that a dropped example only takes its own gradient away; or
      `weight`, the batch's sum of weights (1 if that is 0), the mean over
      the examples that are there.
    eps_root: added inside the square root of adam and adamw, which has no
      derivative at 0: needed to differentiate through training, say 1e-12.
  """

  num_epochs: int
  batch_size: int
  learning_rate: float
  optimizer: Literal["adam", "adamw", "sgd"] = "adam"
  schedule: Literal["constant", "cosine", "triangle"] = "constant"
  weight_decay: float = 0.0
  denominator: Literal["batch", "weight"] = "batch"
  eps_root: float = 0.0

  def __post_init__(self):
    choices = {
      "optimizer": ("adam", "adamw", "sgd"),
      "schedule": ("constant", "cosine", "triangle"),
      "denominator": ("batch", "weight"),
    }
    for name, known in choices.items():
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name}={getattr(self, name)!r}: choose from {', '.join(known)}."
        )
    if self.num_epochs < 1 or self.batch_size < 1:
      raise ValueError("num_epochs and batch_size must be at least 1.")
    if not self.learning_rate > 0 or min(self.weight_decay, self.eps_root) < 0:
      raise ValueError(
        "Need learning_rate > 0, weight_decay >= 0 and eps_root >= 0."
      )
    if self.weight_decay and self.optimizer == "adam":
      raise ValueError("weight_decay needs optimizer='adamw' or 'sgd'.")

  def num_steps(self, num_examples: int) -> int:
    """S. Raises ValueError when a batch holds more than all examples."""
    if self.batch_size > num_examples:
      raise ValueError(
        f"batch_size={self.batch_size} exceeds the {num_examples} examples."
      )
    return self.num_epochs * (num_examples // self.batch_size)


@flax.struct.dataclass
class Trained:
  """How a training ended.

  Attributes:
    params: the trained parameters.
    losses: `[S]` the weighted loss of each step's batch, before the step. A
      training whose `losses` are not all finite has diverged; it is a value
      here, for the caller to count and leave out.
  """

  params: Params
  losses: jax.Array


def optimizer(recipe: Recipe, num_steps: int) -> Any:
  """The `optax.GradientTransformation` of a recipe, over `num_steps`."""
  import optax  # Slow to import.

  rate: Any = recipe.learning_rate
  if recipe.schedule == "cosine":
    rate = optax.cosine_decay_schedule(rate, num_steps)
  elif recipe.schedule == "triangle":
    peak = max(1, num_steps // 5)
    rate = optax.join_schedules(
      [
        optax.linear_schedule(0.0, rate, peak),
        optax.linear_schedule(rate, 0.0, max(1, num_steps - peak)),
      ],
      [peak],
    )
  if recipe.optimizer == "adam":
    return optax.adam(rate, eps_root=recipe.eps_root)
  if recipe.optimizer == "adamw":
    return optax.adamw(
      rate, eps_root=recipe.eps_root, weight_decay=recipe.weight_decay
    )
  return optax.chain(
    optax.add_decayed_weights(recipe.weight_decay),
    optax.sgd(rate, momentum=0.9, nesterov=True),
  )


def train(
  init_key: base.Key,
  order_key: base.Key,
  data: Data,
  weights: base.Array,
  *,
  init: Callable[[base.Key], Params],
  losses: Callable[[Params, Data], jax.Array],
  recipe: Recipe,
  augment: Callable[[base.Key, Data], Data] | None = None,
  rows: base.Array | None = None,
  segment: int | None = None,
) -> Trained:
  """Trains once. Pure; unbatched over trainings.

  An example of weight 0 cannot change the result, whatever its (finite)
  content; see `check`.

  With `rows`, orders are of M slots instead of the N examples, and a step
  touches b of the examples in these slots: a training on a subset costs what M
  examples cost, in a number of steps that does not depend on the subset. Slots
  of weight 0 fill it up.

  Args:
    init_key: consumed by `init`.
    order_key: consumed; the order of epoch e and the augmentation of example
      i at step s are folded in from (`order`, e) and (`augment`, s, i).
    data: pytree of arrays with a leading axis N.
    weights: float `[N]`, not negative; `[M]`, one per slot, with `rows`.
    init: key to parameters.
    losses: parameters and a batch to the loss of each example, `[b]`. Given a
      third parameter named `weights`, it gets the weights of the batch too,
      for statistics over those examples that are there.
    recipe: static.
    augment: key and one example to one example of the same shapes.
    rows: int `[M]`, the example in each slot; None for every example.
    segment: for a caller that differentiates through training: only the state
      before each segment of so many steps is held, and those of the steps of
      one segment at a time; sqrt(S) is best. The rest is computed again,
      forward twice more. None holds every step. Values are the same.

  Returns:
    Parameters after all steps, and the loss of every step.

  Raises:
    ValueError: a leading axis of `data` that is not that of `weights`, or a
      batch larger than the data (when traced, not at run time).
  """
  program = steps(
    order_key, data, weights,
    losses=losses, recipe=recipe, augment=augment, rows=rows,
  )  # fmt: skip
  state, epochs = program.start(init(init_key)), jnp.arange(recipe.num_epochs)
  if segment is None:
    (params, _), step_losses = jax.lax.scan(program.epoch, state, epochs)
  else:
    number = program.num_steps
    slots = jax.lax.map(program.ordered, epochs).reshape(number, -1)
    (params, _), step_losses = _in_segments(
      program.step, state, (jnp.arange(number), slots), segment
    )
  return Trained(params=params, losses=step_losses.reshape(-1))


class Steps(NamedTuple):
  """A training in parts; a state is the parameters and the optimiser's.

  Attributes:
    num_steps: S.
    start: parameters to the state before the first step.
    step: state, and the number of a step with its slots, to the next state and
      the loss before it.
    ordered: the number of an epoch to its slots, `[S / epochs, b]`.
    epoch: state and the number of an epoch to the next state and its losses.
  """

  num_steps: int
  start: Callable[[Params], Any]
  step: Callable[[Any, Any], tuple[Any, jax.Array]]
  ordered: Callable[[Any], jax.Array]
  epoch: Callable[[Any, Any], tuple[Any, jax.Array]]


def steps(
  order_key: base.Key,
  data: Data,
  weights: base.Array,
  *,
  losses: Callable[[Params, Data], jax.Array],
  recipe: Recipe,
  augment: Callable[[base.Key, Data], Data] | None = None,
  rows: base.Array | None = None,
) -> Steps:
  """What `train` does, in parts; its arguments, and its errors."""
  import optax  # Slow to import.

  weights = jnp.asarray(weights, jnp.float32)
  num_examples = _check_shapes(data, weights, rows)
  num_steps = recipe.num_steps(num_examples)
  per_epoch = num_steps // recipe.num_epochs
  rule = optimizer(recipe, num_steps)
  augment_key = jax.random.fold_in(order_key, _cause("augment"))
  order_key = jax.random.fold_in(order_key, _cause("order"))
  each = weighted(losses)
  data = jax.tree.map(jnp.asarray, data)

  def batch_loss(params, batch, batch_weights):
    total = (batch_weights * each(params, batch, batch_weights)).sum()
    if recipe.denominator == "batch":
      return total / recipe.batch_size
    kept = batch_weights.sum()
    return total / jnp.where(kept > 0, kept, 1.0)

  def step(state, inputs):
    params, rule_state = state
    number, slots = inputs
    examples = slots if rows is None else rows[slots]
    batch = jax.tree.map(lambda leaf: leaf[examples], data)
    if augment is not None:
      at_step = jax.random.fold_in(augment_key, number)
      keys = jax.vmap(lambda row: jax.random.fold_in(at_step, row))(examples)
      batch = jax.vmap(augment)(keys, batch)
    loss, grads = jax.value_and_grad(batch_loss)(params, batch, weights[slots])
    updates, rule_state = rule.update(grads, rule_state, params)
    return (optax.apply_updates(params, updates), rule_state), loss

  def ordered(number):
    key = jax.random.fold_in(order_key, number)
    order = jax.random.permutation(key, num_examples)
    return order[: per_epoch * recipe.batch_size].reshape(per_epoch, -1)

  def epoch(state, number):
    numbers = number * per_epoch + jnp.arange(per_epoch)
    return jax.lax.scan(step, state, (numbers, ordered(number)))

  start = lambda params: (params, rule.init(params))
  return Steps(num_steps, start, step, ordered, epoch)


def stepwise(
  init_key: base.Key,
  order_key: base.Key,
  data: Data,
  weights: base.Array,
  *,
  init: Callable[[base.Key], Params],
  losses: Callable[[Params, Data], jax.Array],
  recipe: Recipe,
  augment: Callable[[base.Key, Data], Data] | None = None,
) -> Trained:
  """What `train` gives, by a compiled step that the host calls S times.

  For one convolutional network on a CPU, where XLA convolves four to twelve
  times as slowly within a scan as outside of one. It compiles by itself: not to
  be jitted or mapped. The same functions are compiled once. Arguments, result
  and errors are those of `train`.
  """
  data = jax.tree.map(jnp.asarray, data)
  weights = jnp.asarray(weights, jnp.float32)
  given: dict[str, Any] = {
    "losses": losses, "recipe": recipe, "augment": augment,
  }  # fmt: skip
  program = steps(order_key, data, weights, **given)
  state, found = program.start(init(init_key)), []
  for epoch in range(recipe.num_epochs):
    for slots in program.ordered(epoch):
      inputs = (len(found), slots)
      state, loss = _step(state, inputs, order_key, data, weights, **given)
      found.append(loss)
  return Trained(params=state[0], losses=jnp.stack(found))


@functools.partial(jax.jit, static_argnames=("losses", "recipe", "augment"))
def _step(state, inputs, order_key, data, weights, **given):
  return steps(order_key, data, weights, **given).step(state, inputs)


def weighted(losses: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """`losses` as a function of parameters, a batch, and the batch's weights."""
  if "weights" in inspect.signature(losses).parameters:
    return losses
  return lambda params, batch, weights: losses(params, batch)


def check(data: Data, weights: base.Array) -> None:
  """Refuses what `train` cannot refuse under jit; call it once, on the host.

  Raises:
    ValueError: NaN or infinity in the data (0 times NaN is NaN, so even a
      dropped example must be finite), or numbers whose square overflows
      (their losses would be infinite, and 0 times that is NaN, too), weights
      that are negative or not finite, or shapes that disagree.
  """
  _check_shapes(data, np.asarray(weights))
  for path, leaf in jax.tree_util.tree_leaves_with_path(data):
    array = np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16, too.
      finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
      if not finite.all():
        raise ValueError(
          f"Training data{jax.tree_util.keystr(path)}: {(~finite).sum()} "
          "examples hold NaN or infinity (first: "
          f"{np.flatnonzero(~finite)[0]}). Drop them from the arrays; a "
          "weight of 0 is not enough."
        )
      # bfloat16 has float32's range.
      widest = np.float64 if array.dtype == np.float64 else np.float32
      most = float(np.sqrt(np.finfo(widest).max))
      if (large := np.abs(array).max(initial=0)) > most:
        raise ValueError(
          f"Training data{jax.tree_util.keystr(path)} hold {large:.3g}, whose "
          "square overflows; standardise them, or drop such examples from the "
          "arrays."
        )
  array = np.asarray(weights, np.float64)
  if not (np.isfinite(array).all() and (array >= 0).all()):
    raise ValueError("Weights must be finite and not negative.")


def _check_shapes(
  data: Data, weights: base.Array, rows: base.Array | None = None
) -> int:
  if weights.ndim != 1:
    raise ValueError(f"Weights must be [N]; got shape {weights.shape}.")
  if rows is not None:
    if np.shape(rows) != weights.shape:
      raise ValueError(
        f"Need one weight per slot; got {weights.shape} for rows of shape "
        f"{np.shape(rows)}."
      )
    return len(weights)
  for path, leaf in jax.tree_util.tree_leaves_with_path(data):
    if np.shape(leaf)[:1] != weights.shape:
      raise ValueError(
        f"Training data{jax.tree_util.keystr(path)} has shape "
        f"{np.shape(leaf)}; its first axis must be the {len(weights)} "
        "weighted examples."
      )
  return len(weights)


def _in_segments(step: Any, state: Any, inputs: Any, segment: int) -> Any:
  """`lax.scan` whose reverse mode computes each segment again, as it comes."""
  if base.check_integer(segment, "segment") < 1:
    raise ValueError(f"segment must be at least 1; got {segment}.")
  num_steps = len(inputs[0])
  whole = num_steps // segment * segment
  head = jax.tree.map(
    lambda leaf: leaf[:whole].reshape(-1, segment, *leaf.shape[1:]), inputs
  )
  # Inside a scan nothing merges what is computed twice.
  again = jax.checkpoint(step, prevent_cse=False)
  walk = lambda state, inputs: jax.lax.scan(again, state, inputs)
  state, losses = jax.lax.scan(
    jax.checkpoint(walk, prevent_cse=False), state, head
  )
  losses = losses.reshape(-1)
  if whole < num_steps:
    tail = jax.tree.map(lambda leaf: leaf[whole:], inputs)
    state, rest = jax.checkpoint(walk)(state, tail)
    losses = jnp.concatenate([losses, rest])
  return state, losses


def _cause(name: str) -> int:
  return zlib.crc32(name.encode())
