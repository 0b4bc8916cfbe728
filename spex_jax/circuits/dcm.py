"""DCM: which heads carry a variable, by masks that are learned.

Of a desideratum (`desiderata`; Davies et al. 2023, arXiv 2307.03637) a member
of gate g gives g x + (1 - g) y, x in the run on the base and y in that on the
source; gates are learned so that the target comes out and few are patched,

  loss = mean of -metric + penalty * patched.

`patched` is the sum of 1 - g, with g kept in [0, 1] ("l1", Prakash et al. 2024,
arXiv 2402.14811), or the expected number of gates that are not 1, these being
hard concrete ("l0", Louizos et al. 2018, arXiv 1712.01312). Rounded, a member
is kept or patched; of all penalties, seeds and epochs the mask with the best
accuracy on the validation triples is chosen, and among equals the one that
patches fewest (the authors' code keeps the earlier one).

All penalties, seeds and desiderata are learned under one `vmap`; they share the
order of triples, and what no gate changes is computed once: the source's
members, and the base's keys and values before the first place, behind which
alone tokens are run again. It is kept for all triples. Seed 0 begins with all
gates at 1, as the authors do, others at random in [0, 1].

Shapes: T triples, B of a batch, P positions, M members, D desiderata, L
penalties, S seeds, R = L S runs of each, C masks, K places.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import api, base
from spex_jax.circuits import desiderata as desiderata_lib
from spex_jax.circuits import metrics, runs, swaps, trained
from spex_jax.indices import optimum
from spex_jax.models import sites

PENALTIES = ("l1", "l0")
ENUMERABLE = 16  # Members of which all masks are evaluated.
_OPEN = 3.0  # The log odds that a gate begins with, at most.


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
  """Masks that were learned for one desideratum.

  Attributes:
    desideratum: the name of the desideratum.
    members: the names of the M members.
    penalties: float `[L]`, the weights of the penalty that were tried.
    masks: bool `[L, S, M]`, of every run the best of its epochs; True for kept.
    accuracy: float64 `[L, S]`, of these on the validation triples.
    metric: float64 `[L, S]`, likewise.
    mask: bool `[M]`, the chosen one.
    chosen: its place in `[L, S]`.
    none: the accuracy with nothing patched, in [0, 1].
    every: the accuracy with all members patched, in [0, 1].
    left_out: triples whose target both runs give anyway.
    loss: float64 `[L, S, E]`, the mean over every epoch.
  """

  desideratum: str
  members: tuple[str, ...]
  penalties: np.ndarray
  masks: np.ndarray
  accuracy: np.ndarray
  metric: np.ndarray
  mask: np.ndarray
  chosen: tuple[int, int]
  none: float
  every: float
  left_out: int
  loss: np.ndarray

  @property
  def patched(self) -> tuple[str, ...]:
    """The members that carry the variable: those that the mask patches."""
    return tuple(n for n, kept in zip(self.members, self.mask) if not kept)

  def fewest(self, share: float = 0.9) -> "Learned":
    """With the mask that patches fewest of those nearly as good as the best.

    Args:
      share: of the best accuracy, what such a mask has at least.
    """
    patched = (~self.masks).sum(axis=-1)
    good = self.accuracy >= share * self.accuracy.max()
    order = np.where(good, patched - self.accuracy / 2, np.inf)
    at = np.unravel_index(order.argmin(), order.shape)
    best = int(at[0]), int(at[1])
    return dataclasses.replace(self, mask=self.masks[best], chosen=best)

  def __str__(self) -> str:
    lines = [
      f"{self.desideratum}: accuracy {self.accuracy[self.chosen]:.3f} with "
      f"{len(self.patched)} of {len(self.members)} patched (none "
      f"{self.none:.3f}, all {self.every:.3f})"
      + f"; {self.left_out} triples left out, whose target both runs give"
      * bool(self.left_out),
      f"  {', '.join(self.patched) or 'nothing'}",
      "  penalty  patched  accuracy  (means over seeds)",
    ]
    for i, penalty in enumerate(self.penalties):
      count = (~self.masks[i]).sum(axis=-1).mean()
      lines.append(
        f"  {penalty:7.3g} {count:8.1f} {self.accuracy[i].mean():9.3f}"
      )
    return "\n".join(lines)


def learn(
  net: sites.Network,
  params: Any,
  desiderata: Sequence[desiderata_lib.Desideratum],
  members: Sequence[swaps.Member],
  *,
  key: base.Key,
  validation: Sequence[desiderata_lib.Desideratum] | None = None,
  metric: metrics.Metric = metrics.logit_difference,
  penalties: Sequence[float] = (0.01,),
  seeds: int = 1,
  penalty: str = "l1",
  epochs: int = 4,
  size: int = 32,
  rate: float = 0.1,
) -> tuple[Learned, ...]:
  """Masks of all desiderata, by Adam.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    desiderata: D, each learned alone; `desiderata.joint` makes one of several.
    members: M, heads or MLPs at places that all triples have.
    key: a random key, consumed; of the order of triples, beginnings, gates.
    validation: triples of the same names; the last fifth by default.
    metric: one example's logits to a number: what is to rise.
    penalties: L weights of the penalty, each of which is tried.
    seeds: S, how many beginnings each penalty has.
    penalty: how patched members are counted, one of `PENALTIES`.
    epochs: how many times training passes over the triples.
    size: how many triples a step has.
    rate: the step size of Adam.

  Returns:
    Of every desideratum what was learned.

  Raises:
    ValueError: two of one name or none, another penalty, a number below 1, too
      few triples, or no valid example; as `swaps.Layout`; a loss of NaN.
  """
  if penalty not in PENALTIES:
    raise ValueError(f"penalty={penalty!r}: choose from {PENALTIES}.")
  if min(seeds, epochs, size, len(penalties)) < 1:
    raise ValueError("Need a seed, an epoch, a triple and a penalty at least.")
  if not desiderata or len({x.name for x in desiderata}) < len(desiderata):
    raise ValueError("Need desiderata of different names.")
  metrics.check(metric, net.config.vocab_size)
  layout = swaps.Layout.of(net, members)
  for one in desiderata:
    layout.where(one.triples)  # Refuses what they lack, before any run.
  valid = [desiderata_lib.telling(net, params, one) for one in desiderata]
  left_out = [len(a) - len(b) for a, b in zip(desiderata, valid)]
  # What training needs of all triples: batches, shared runs, gates.
  train, check = _split(net, params, valid, validation)
  batches, where = _stacked(layout, train, size)
  few = max(layout.rest(one.triples) for one in train)
  model = sites.Model(net)
  shared = _shared(model, layout, few, params, batches, where)
  run = jax.random.fold_in(key, 0)
  gates, state = _begin(
    len(train), len(penalties), seeds, len(layout), penalty,
    jax.random.fold_in(key, 1), rate,
  )  # fmt: skip
  strengths = jnp.asarray(np.repeat(penalties, seeds), jnp.float32)
  # Training; after each epoch the mask that the gates stand for.
  count, history, found = where.shape[1], [], []
  for epoch in range(epochs):
    order = jax.random.permutation(jax.random.fold_in(run, epoch), count)
    gates, state, loss = _epoch(
      model, metric, layout, penalty, rate, params, batches, shared, order,
      gates, state, strengths, jax.random.fold_in(run, epochs + epoch),
    )  # fmt: skip
    history.append(np.asarray(loss, np.float64))
    plain = gates if penalty == "l1" else trained.gate(gates, 0.5)
    found.append(np.asarray(plain) > 0.5)
  loss = np.stack(history, axis=-1)  # [D, R, E]
  if not np.isfinite(loss).all():
    raise ValueError("The loss is NaN or infinite: take a smaller rate.")
  each = np.stack(found, axis=2)  # [D, R, E, M]
  shape = (len(penalties), seeds)
  # The best epoch of every run, judged on the validation triples.
  judges = [
    swaps.Judge(net, params, one.triples, members, metric) for one in check
  ]
  return tuple(
    _chosen(
      judges[d], valid[d].name, layout,
      np.asarray(penalties, np.float64), each[d].reshape(*shape, epochs, -1),
      left_out[d], loss[d].reshape(*shape, epochs),
    )
    for d in range(len(valid))
  )  # fmt: skip


def _split(net, params, valid, validation):
  """Triples to learn from, and to choose by."""
  if validation is None:
    if short := [x.name for x in valid if len(x) < 2]:
      raise ValueError(f"Desideratum {short[0]!r} needs 2 valid triples.")
    ends = [max(1, len(x) * 4 // 5) for x in valid]
    return (
      [x[:end] for x, end in zip(valid, ends)],
      [x[end:] for x, end in zip(valid, ends)],
    )
  named = {x.name: x for x in validation}
  if missing := [x.name for x in valid if x.name not in named]:
    raise ValueError(f"There is no validation of {missing[0]!r}.")
  return valid, [
    desiderata_lib.telling(net, params, named[x.name]) for x in valid
  ]


def _stacked(layout, train, size):
  """Batches `[D, N, B, ...]` of all desiderata, and places `[D, N, K, B, P]`.

  The shorter ones begin anew.
  """
  length = max(x.triples.clean.shape[1] for x in train)
  longest = max(len(x) for x in train)
  size = min(size, longest)
  steps = math.ceil(longest / size)
  wide = [
    max(getattr(x.triples, part).shape[1] for x in train)
    for part in ("right", "wrong")
  ]
  every, where = [], []
  for one in train:
    rows = np.resize(np.arange(len(one)), steps * size)
    triples = one.triples[rows].padded(length)
    right, wrong = (
      np.pad(x, ((0, 0), (0, n - x.shape[1])), constant_values=-1)
      for x, n in zip((triples.right, triples.wrong), wide)
    )
    fold = lambda x: np.asarray(x).reshape(steps, size, *x.shape[1:])
    every.append(
      runs.Batch(
        fold(triples.clean), fold(triples.corrupted), fold(triples.lengths - 1),
        fold(right), fold(wrong), np.ones((steps, size), bool),
      )
    )  # fmt: skip
    at = layout.where(triples)
    at = at.reshape(len(at), steps, size, length)
    where.append(np.moveaxis(at, 0, 1))
  return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *every), np.stack(
    where
  )


def _begin(num, penalties, seeds, members, penalty, key, rate):
  """Gates `[D, R, M]`, and the states of Adam."""
  import optax

  chex.assert_scalar_positive(members)
  start = jax.random.uniform(key, (num, penalties, seeds, members))
  start = start.at[:, :, 0].set(1.0)
  if penalty == "l0":  # Log odds.
    start = _OPEN * (2 * start - 1)
  gates = start.reshape(num, penalties * seeds, members)
  init = jax.vmap(jax.vmap(optax.adam(rate).init))
  return gates, init(gates)


def _drawn(penalty, gates, key):
  """Gates as a step has them, and how many members are patched."""
  chex.assert_rank(gates, 1)
  if penalty == "l1":
    return gates, (1 - gates).sum()
  noise = jax.random.uniform(key, gates.shape, gates.dtype, 1e-6, 1 - 1e-6)
  # 1 - gate is hard concrete, too, of the opposite log odds.
  return trained.gate(gates, noise), trained.chance(-gates).sum()


@functools.partial(jax.jit, static_argnames=("model", "layout", "few"))
def _shared(model, layout, few, params, batches, where):
  """What no gate changes, of all batches `[D, N, ...]`.

  That is where places are, what members are in the source, and of the base its
  logits and what its last `few` tokens need, which alone run under gates.
  """
  net, names = model.net, layout.touched(model.net)
  chex.assert_rank(where, 5)

  def one(given):
    batch, at = given
    values = swaps.captured(net, params, names, batch.corrupted)
    clean, rest = runs.begun(net, params, batch, few)
    if rest is not None:
      at = rest.of(at, axis=2)
      values = {name: rest.of(x) for name, x in values.items()}
    return at, values, clean, rest

  given = batches, jnp.asarray(where)
  num, steps = where.shape[:2]
  fold = lambda x: x.reshape(num * steps, *x.shape[2:])  # Perhaps of size 0.
  unfold = lambda x: x.reshape(num, steps, *x.shape[1:])
  return jax.tree.map(unfold, jax.lax.map(one, jax.tree.map(fold, given)))


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "layout", "penalty", "rate")
)
def _epoch(
  model, metric, layout, penalty, rate, params, batches, shared, order, gates,
  state, strengths, key,
):  # fmt: skip
  """One pass: gates and states of all runs, and their mean losses `[D, R]`."""
  import optax

  net, adam = model.net, optax.adam(rate)
  chex.assert_rank([order, gates, strengths], [1, 3, 1])

  def loss(one, strength, key, batch, at, values, clean, rest):
    gate, patched = _drawn(penalty, one, key)
    layers = layout.gates(net.config.num_blocks, gate, at)
    edits = layout.edits(layers, values)
    each = runs.measured(net, params, metric, batch, clean, edits, rest)
    return strength.astype(each.dtype) * patched - each.mean()

  def update(one, state, strength, key, *given):
    value, slope = jax.value_and_grad(loss)(one, strength, key, *given)
    change, state = adam.update(slope, state)
    after: Any = optax.apply_updates(one, change)
    return (jnp.clip(after, 0, 1) if penalty == "l1" else after), state, value

  def of_one(gates, state, key, *given):
    """All runs of a desideratum."""
    keys = jax.random.split(key, len(strengths))
    one = lambda *own: update(*own, *given)
    return jax.vmap(one)(gates, state, strengths, keys)

  def step(carry, given):
    number, key = given
    take = lambda x: x[:, number]
    keys = jax.random.split(key, len(carry[0]))
    gates, state, value = jax.vmap(of_one)(
      *carry, keys, *jax.tree.map(take, (batches, *shared))
    )
    return (gates, state), value

  keys = jax.random.split(key, len(order))
  (gates, state), values = jax.lax.scan(step, (gates, state), (order, keys))
  return gates, state, values.mean(axis=0)


def _chosen(judge, name, layout, penalties, each, left_out, loss) -> Learned:
  """The best masks of `[L, S, E, M]`, on the triples of a judge."""
  flat = each.reshape(-1, each.shape[-1])
  ends = np.array([[True], [False]]).repeat(flat.shape[1], axis=1)
  masks, back = np.unique(
    np.concatenate([ends, flat]), axis=0, return_inverse=True
  )
  values, right = (x.mean(axis=1)[back.ravel()] for x in judge(masks))
  none, every = right[:2]
  shape = each.shape[:3]
  values, right = values[2:].reshape(shape), right[2:].reshape(shape)
  # Accuracy first, then few that are patched.
  order = right + each.mean(axis=-1) / (2 * len(judge.right))
  epoch = order.argmax(axis=-1)
  take = lambda x: np.take_along_axis(x, epoch[..., None], axis=2)[:, :, 0]
  kept = np.take_along_axis(each, epoch[..., None, None], axis=2)[:, :, 0]
  best = np.unravel_index(take(order).argmax(), shape[:2])
  best = int(best[0]), int(best[1])
  return Learned(
    name, layout.names, penalties, kept, take(right), take(values), kept[best],
    best, float(none), float(every), left_out, loss,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
  """Another mask of the same members, beside the one that was learned.

  The objective is that of `learn` on the given triples, higher for better: the
  mean metric less penalty times patched members.

  Attributes:
    method: "enumerated", or of `api.explain`.
    mask: bool `[M]`, True for kept; the best that was found.
    objective: the objective of this mask.
    accuracy: the accuracy of this mask.
    learned: the objective of the mask that was learned.
    learned_accuracy: the accuracy of the mask that was learned.
    rank: how many masks are better than the learned one; None where not all
      were evaluated.
    explanation: of the metric as members are kept; None where enumerated.
  """

  method: str
  mask: np.ndarray
  objective: float
  accuracy: float
  learned: float
  learned_accuracy: float
  rank: int | None
  explanation: api.Explanation | None

  @property
  def distance(self) -> float:
    """How far the learned mask is from this one, in units of the metric."""
    return self.objective - self.learned

  def __str__(self) -> str:
    better = "" if self.rank is None else f"; {self.rank} masks are better"
    return (
      f"{self.method}: objective {self.objective:.4g} (accuracy "
      f"{self.accuracy:.3f}, {int((~self.mask).sum())} patched), learned "
      f"{self.learned:.4g} (accuracy {self.learned_accuracy:.3f}), distance "
      f"{self.distance:.3g}{better}"
    )


def beside(
  judge: swaps.Judge,
  learned: Learned,
  *,
  penalty: float | None = None,
  method: str = "auto",
  budget: int = 500,
  key: base.Key | None = None,
) -> Beside:
  """The best mask there is, or the best that an expansion finds.

  Up to `ENUMERABLE` members all masks are evaluated. Beyond, the mean metric is
  expanded over them from random masks, the penalty is added, and the best mask
  of the expansion is measured: sets that work only together are terms of it.

  Args:
    judge: of the triples that are asked about.
    learned: masks that were learned on the same members.
    penalty: of a patched member; that of the chosen mask by default.
    method: how the metric is expanded, one of `api.METHODS`.
    budget: how many masks the expansion asks.
    key: a random key, consumed; of the expansion.

  Raises:
    ValueError: too many members for all masks, and no key.
  """
  count = len(learned.members)
  weight = float(learned.penalties[learned.chosen[0]])
  weight = weight if penalty is None else penalty
  own = learned.mask[None]

  def objective(masks):
    values, right = judge(masks)
    patched = (~np.asarray(masks, bool)).sum(axis=1)
    return values.mean(axis=1) - weight * patched, right.mean(axis=1)

  if count <= ENUMERABLE:
    masks = (np.arange(1 << count)[:, None] >> np.arange(count)) % 2 == 1
    values, right = objective(masks)
    place = int(np.flatnonzero((masks == own).all(axis=1))[0])
    best = int(values.argmax())
    return Beside(
      "enumerated", masks[best], float(values[best]), float(right[best]),
      float(values[place]), float(right[place]),
      int((values > values[place]).sum()), None,
    )  # fmt: skip
  if key is None:
    raise ValueError(
      f"{count} members have too many masks: give a key, and SPEX or its like "
      "stands beside."
    )
  explanation = api.explain(
    lambda masks: objective(masks)[0], count, key=key, budget=budget,
    method=method, names=learned.members, batch_size=64,
  )  # fmt: skip
  mask = optimum.best_mask(explanation.fourier).mask
  (value, mine), (accuracy, my_accuracy) = objective(np.stack([mask, own[0]]))
  return Beside(
    method, mask, float(value), float(accuracy), float(mine),
    float(my_accuracy), None, explanation,
  )  # fmt: skip
