"""Circuits that are trained: gates of edges by gradients of what circuits do.

  learned  every edge has a gate that is open or shut by chance (Louizos et al.
           2018, arXiv 1712.01312; Cao et al. 2021, arXiv 2104.03514); few shall
           be open, and the circuit stay close to the model
  refine   a circuit of a given size, such as one by scores, exchanges edges: in
           every step the n edges of the largest logits are kept, whole, and the
           logits of all follow the gradient there, as if keeping were linear
           in them (straight through the top n; Ramanujan et al. 2020, arXiv
           1911.13299)

Both minimise how far the metric of the circuit is from the model's,

  mean (m(circuit) - m(clean))^2 / mean (m(clean) - m(corrupted))^2.

The square is ours: methods that maximise the metric learn to beat the model.
Scores by gradients (`scores`) are taken at the whole model, or on a path of
inputs to it; these at the circuit itself.

Shapes: E edges, N pairs, B of a batch, S steps.
"""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, runs, search
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

# Of the hard concrete distribution, as Louizos et al. have it.
_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1
# Of Adam over few steps, all of them of the same pairs.
_MOMENTS = {"b1": 0.8, "b2": 0.95}
_MARGIN = (
  1e-3  # Between the logits of edges that are kept at first, and others.
)
_LEARNED_RATE = 0.1
# Of `refine`; set on antonym pairs of a 30-layer model.
STEPS, RATE = 20, 0.05


def learned(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  *,
  key: base.Key,
  edges: int | None = None,
  pool: graph_lib.Circuit | None = None,
  start: base.Array | None = None,
  penalty: float = 1.0,
  steps: int = 200,
  **settings: Any,
) -> search.Found:
  """Trains a gate for every edge, by gradients through noisy gates.

  A gate is hard concrete: a stretched and clipped sigmoid of its logit and
  noise, so that it is exactly 0 or 1 most of the time. To the loss is added
  `penalty` times the expected share of open gates in the pool, by a weight that
  grows from 0 to 1 over the first half of the steps. By Adam.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N; batches of them take turns.
    metric: one example's logits to a number, differentiable.
    key: a random key, consumed; of the noise.
    edges: how many to keep, those of the largest logits; by default those
      whose gate is more than half open without noise.
    pool: edges that have gates; all by default. The others are cut.
    start: float `[E]`, of which the order is that of the first logits, such as
      the size of scores; by default all gates begin equally open.
    penalty: the weight of open gates in the loss, 0 or more.
    steps: S, how many steps of Adam.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: settings out of range; gates that are NaN; as
      `judges.faithfulness`.
  """
  import optax  # Slow to import.

  if steps < 1 or penalty < 0:
    raise ValueError(
      f"Need steps >= 1 and penalty >= 0; got {steps}, {penalty}."
    )
  judge, graph, inside = search.begun(
    net, params, pairs, metric, pool, settings
  )
  count = int(inside.sum())
  if edges is not None and not 1 <= edges <= count:
    raise ValueError(f"Of {count} gates 1 to {count} can stay; got {edges}.")
  effect = _effect(judge)
  kind = jnp.result_type(float)
  gates: Any = jnp.where(inside, 2.0 + _ranked(start, inside), 0)
  adam = optax.adam(_LEARNED_RATE)
  state = adam.init(gates)
  for step in range(steps):
    own = jax.random.fold_in(key, step)
    noise = jax.random.uniform(own, (len(inside),), kind, 1e-6, 1 - 1e-6)
    opened = lambda gates, noise=noise: jnp.where(inside, gate(gates, noise), 0)
    kept, back = jax.vjp(opened, gates)
    slope = _slope(judge, kept, [step % len(judge.batches)])[2]
    (slope,) = back(jnp.asarray(slope / effect, kept.dtype))
    weight = penalty * min(1.0, 2 * (step + 1) / steps) / count
    odds = jax.tree.map(chance, gates)
    slope += weight * jnp.where(inside, odds * (1 - odds), 0)
    updates, state = adam.update(slope, state)
    gates = optax.apply_updates(gates, updates)
  found = np.where(inside, np.asarray(gates, np.float64), -np.inf)
  if np.isnan(found).any():
    raise ValueError("Gates became NaN: the metric's gradient is, somewhere.")
  if edges is None:
    kept = np.asarray(gate(jnp.asarray(found), 0.5)) > 0.5
  else:
    kept = _largest(found, edges)
  value = float(judge(kept[None]).mean())
  circuit = graph_lib.Circuit(graph, kept)
  history = (("learned", int(kept.sum()), value),)
  return search.Found(circuit, value, judge.runs, history, found)


def refine(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  circuit: graph_lib.Circuit,
  values: base.Array,
  *,
  steps: int = STEPS,
  rate: float = RATE,
  progress: search.Told | None = None,
  **settings: Any,
) -> search.Found:
  """Exchanges edges of a circuit: it comes nearer to what the model does.

  Logits begin as log |values|, those of the circuit's own edges lifted above
  all others; each step is Adam's, by the gradient of the root of the loss at
  the circuit of that step, over all pairs. The circuit of the least loss among
  the S + 1 that were run is returned, which is the given one where no step was
  better. Few pairs are fitted easily: judge on others. A circuit without a path
  to the output has no gradient, and stays.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, all of which are in every step.
    metric: one example's logits to a number, differentiable.
    circuit: the circuit to begin with, of edges; its size stays.
    values: float `[E]`, such as mean scores: which edges are near to being
      exchanged.
    steps: S, how many steps of Adam.
    rate: the step size of Adam, in logits, above 0.
    progress: called with the steps that are done, and S.
    **settings: further arguments of `judges.Judge`.

  Returns:
    `history` has the mean metric of every step's circuit.

  Raises:
    ValueError: settings out of range; a circuit that is empty, or of nodes;
      values of another shape, or NaN; a gradient that is NaN; as
      `judges.faithfulness`.
  """
  import optax  # Slow to import.

  if steps < 1 or not rate > 0:
    raise ValueError(f"Need steps >= 1 and rate > 0; got {steps}, {rate}.")
  circuit.check(circuit.graph, ("edge",))
  if not circuit:
    raise ValueError("An empty circuit has no edges to exchange.")
  # Every step runs the circuit of the largest logits, and moves these.
  judge, graph, kept = search.begun(
    net, params, pairs, metric, circuit, settings
  )
  effect, size = _effect(judge), len(circuit)
  kind = jnp.result_type(float)
  logits = _logits(values, kept)
  least, history, best = np.inf, [], logits
  adam: Any = None
  state: Any = None
  for step in range(steps + 1):
    kept = _largest(logits, size)
    loss, value, slope = _slope(
      judge, kept.astype(kind), range(len(judge.batches))
    )
    if not np.isfinite(loss) or np.isnan(slope).any():
      raise ValueError(
        f"The metric of step {step} or its gradient is not finite."
      )
    history.append((f"step {step}", size, value))
    if loss < least:
      least, best = loss, logits
    if progress is not None:
      progress(step, steps)
    if not loss > 0:
      break
    slope = slope / np.sqrt(effect * loss)
    if adam is None:
      # Edges that hardly matter move less: those of the circuit set the scale.
      floor = float(np.median(np.abs(slope[kept])))
      tiny = float(np.finfo(np.float32).tiny)
      adam = optax.adam(rate, eps=max(floor, tiny), **_MOMENTS)
      state = adam.init(logits)
    updates, state = adam.update(slope, state, logits)
    logits = np.asarray(optax.apply_updates(logits, updates), np.float64)
  found = graph_lib.Circuit(graph, _largest(best, size))
  value = float(judge(found.kept[None]).mean())
  return search.Found(found, value, judge.runs, tuple(history), best)


def gate(logit: base.Array, noise: base.Array | float) -> jax.Array:
  """The hard concrete gate of a logit and noise in (0, 1); .5 is none."""
  logit = jnp.asarray(logit)
  noise = jnp.asarray(noise, logit.dtype)
  noise = jnp.broadcast_to(noise, logit.shape)
  chex.assert_equal_shape([logit, noise])
  drawn = (jnp.log(noise) - jnp.log1p(-noise) + logit) / _BETA
  stretched = jax.nn.sigmoid(drawn) * (_HIGH - _LOW) + _LOW
  return jnp.clip(stretched, 0, 1)


def chance(logit: base.Array) -> jax.Array:
  """That a hard concrete gate is not 0, by its logit: `[...]`."""
  logit = jnp.asarray(logit)
  chex.assert_type(logit, float)
  return jax.nn.sigmoid(logit - _BETA * np.log(-_LOW / _HIGH))


def _slope(
  judge: judges.Judge, kept: base.Array, some: Sequence[int]
) -> tuple[float, float, np.ndarray]:
  """How far a circuit is from the model, and where to by every edge.

  Args:
    judge: of the pairs.
    kept: float `[E]`, 1 for a whole edge.
    some: numbers of batches.

  Returns:
    the mean of (m(circuit) - m(clean))^2 over their pairs, the mean metric, and
    the gradient of the first by `kept`, float64 `[E]`.
  """
  off = value = pairs = 0.0
  slope = np.zeros(judge.graph.num_edges)
  for number in some:
    batch = judge.batches[number]
    ends, ref = judge.ends(number)
    sums, part = _of_batch(
      judge.model, judge.metric, judge.params, batch, ends, ref, kept
    )
    off, value = off + float(sums[0]), value + float(sums[1])
    slope += np.asarray(part, np.float64)
    pairs += float(np.asarray(batch.real).sum())
  judge.runs += 3 * int(pairs)  # Forward and backward.
  return off / pairs, value / pairs, slope / pairs


@functools.partial(jax.jit, static_argnames=("model", "metric"))
def _of_batch(model, metric, params, batch, ends, ref, kept):
  """Sums over a batch: squares of what is off and metrics; their gradient."""
  net, graph = model.net, graph_lib.Graph.of(model.net)
  kept = jnp.asarray(kept)
  chex.assert_shape(kept, (graph.num_edges,))
  chex.assert_type(kept, float)

  def off(kept):
    edits = sites.Edits(cut=graph.cut(kept), ref=ref)
    each = runs.measured(net, params, metric, batch, ends.logits, edits)
    real = batch.real.astype(each.dtype)
    squares = (jnp.square(each - ends.clean) * real).sum()
    return squares, (each * real).sum()

  (squares, total), slope = jax.value_and_grad(off, has_aux=True)(kept)
  return (squares, total), slope


def _effect(judge: judges.Judge) -> float:
  effect = float(np.square(judge.clean - judge.corrupted).mean())
  if not effect > 0:
    raise ValueError("Clean and corrupted metric are equal: nothing to keep.")
  return effect


def _largest(logits: np.ndarray, size: int) -> np.ndarray:
  """Which are the largest: bool; of equal ones the first."""
  kept = np.zeros(len(logits), bool)
  kept[np.argsort(-logits, kind="stable")[:size]] = True
  return kept


def _logits(values: base.Array, kept: np.ndarray) -> np.ndarray:
  """Log sizes of scores, 0 between edges that are kept and others."""
  size = np.abs(_checked(values, kept))
  if not np.isfinite(size).all():
    raise ValueError("values are to be finite.")
  least = size[size > 0].min(initial=np.inf)
  if not np.isfinite(least):
    return np.where(kept, _MARGIN, -_MARGIN)
  logits = np.log(np.maximum(size, least))
  logits -= np.sort(logits)[-int(kept.sum())]
  return np.where(
    kept, np.maximum(logits, _MARGIN), np.minimum(logits, -_MARGIN)
  )


def _ranked(start, inside) -> np.ndarray:
  """The first logits by rank, from -1 to 1; 0 without a start."""
  if start is None:
    return np.zeros(len(inside))
  values = _checked(start, inside)
  rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
  return 2 * rank / max(1, len(rank) - 1) - 1


def _checked(values: base.Array, inside: np.ndarray) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.shape != inside.shape or np.isnan(values).any():
    raise ValueError(
      f"Values of edges must be {len(inside)} numbers, none of them NaN."
    )
  return values
