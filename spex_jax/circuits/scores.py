"""Scores of edges, nodes and neurons: what cutting them does, or would do.

  found = scores.score(net, params, pairs, metrics.logit_difference,
                       method="eap-ig")
  found.mean(), found.interval(), found.agreement

A score is the change of the metric when an edge is cut, or an estimate of it:
(corrupted less clean writer) times a gradient. Negative: cutting lowers the
metric. Scores are of every pair by itself; none depends on the batch that it
was computed in.

Estimates are compared with exact effects on a sample of edges, half of them
those of the largest scores, half drawn from the others: a rank agreement stands
beside every result.

Shapes: N pairs, P positions, E edges (or nodes, or neurons), K checked ones.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.circuits import (
  ablations,
  atp_star,
  exact_effects,
  metrics,
  path_gradients,
  routes,
  runs,
  scored,
  second,
  taps,
  ungrouped,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.fourier import score as score_lib
from spex_jax.models import backward as backward_lib
from spex_jax.models import sites

# Of a batch of second order, which holds what readers are brought of writers:
# 19 GB were seen at 252 tokens of SmolLM2-135M.
_CURVED_TOKENS = 64
METHODS = (*path_gradients.METHODS, "second-order", "routes", "exact")
BACKWARD = (*backward_lib.BY_NAME, "atp*")
_CHECKED_PAIRS = 8


def score(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  *,
  method: str = "eap-ig",
  backward: str = "gradient",
  level: str = "edge",
  steps: int = 5,
  rule: str = "midpoint",
  ablation: str = "resample",
  grouped: bool = True,
  direction: str = "path",
  draws: int = 8,
  exact_runs: int = 0,
  check: int = 32,
  size: int | None = None,
  seed: int = 0,
  keep: Callable[[int], exact_effects.Keep] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> scored.Scores:
  """Scores of everything at a level, for every pair.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    metric: one example's logits to a number, see `metrics`.
    method: one of `METHODS`; see `gradients`, `second`, `routes`, `exact`.
    backward: rules of the gradients, one of `BACKWARD`; see `models.backward`
      and `atp_star`.
    level: what is scored, one of `graph.LEVELS`.
    steps: how many gradients are taken on a path.
    rule: where on it; one of `path_gradients.RULES`.
    ablation: what cut edges carry; one of `ablations.KINDS`.
    grouped: False gives keys and values a row for every query head, where heads
      share them (`ungrouped.network`); the scores' graph is that one.
    direction: of second order; one of `second.DIRECTIONS`.
    draws: how many random signs second order draws.
    exact_runs: how many edges, those of the largest second-order corrections,
      get their exact effect instead: screen, flag, fix.
    check: edges (or nodes, or neurons) whose exact effects are compared, on the
      first 8 pairs; 0 for none.
    size: pairs of a batch; `runs.batch_size` by default, for second order a
      quarter of it.
    seed: an integer, the seed of all draws.
    keep: of method "exact": the number of a batch to what keeps its effects,
      so that a run that was killed goes on.
    progress: called with what is done, and all of it: batches of pairs; of
      method "exact" cuts of batches.

  Raises:
    ValueError: an unknown name, settings that do not go together, with the
      remedy, or scores that are NaN.
  """
  _check(method, backward, level, ablation, direction, exact_runs)
  if not grouped:
    params = ungrouped.params(net, params)
    net = ungrouped.network(net)
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size)
  if size is None:
    few = {"tokens": _CURVED_TOKENS} if method == "second-order" else {}
    size = runs.batch_size(pairs, **few)
  # What all batches share: stand-ins, the level, points on the path.
  batches = list(runs.batches(pairs, size))
  told = progress or (lambda done, of: None)
  fixed = ablations.stand_ins(
    net, params, pairs, ablation, size=size, seed=seed
  )
  kind = taps.Level.of(net, level)
  at = path_gradients.points(method, steps, rule)
  if (
    metric is metrics.kl
    and method in path_gradients.METHODS
    and (at == 1).all()
  ):
    raise ValueError(
      "The metric kl is flat at the clean run, where these settings take all "
      f"gradients (method={method!r}): their scores would be rounding alone. "
      "Take method='eap-ig'."
    )
  run = _run(
    net, params, metric, kind, fixed,
    method=method, backward=backward, direction=direction, draws=draws,
    at=at, seed=seed, keep=keep,
    told=lambda done, of: told(done, of * len(batches)),
  )  # fmt: skip
  # Scores of every pair; second order comes as a half to be added.
  slopes, halves = [], []
  for number, batch in enumerate(batches):
    slope, half = run(batch)
    if method != "exact":
      told(number + 1, len(batches))
    slopes.append(runs.real_rows(batch, slope).astype(np.float64))
    if half is not None:
      halves.append(runs.real_rows(batch, half).astype(np.float64))
  values, ratio, checked = np.concatenate(slopes), None, None
  if halves:
    half = np.concatenate(halves)
    ratio = second.Curved(values, half).ratio
    values = values + half
  _check_finite(values, kind)
  # Exact effects: in place of unsure scores, and to compare some with.
  effects = lambda some, which: exact_effects.of_pairs(
    net, params, metric, kind, some, fixed, which, min(size, len(some))
  )
  if exact_runs:
    unsure = np.abs(np.concatenate(halves)).mean(0)
    order = np.argsort(-unsure, kind="stable")[:exact_runs]
    values[:, order] = effects(pairs, order)
    checked = np.zeros(kind.size, bool)
    checked[order] = True
  agreement = None
  if check and method not in ("exact", "routes"):
    flat = values.reshape(len(values), -1)
    agreement = _agreement(flat, pairs, effects, check, seed)
  return scored.Scores(
    kind.graph,
    values,
    level,
    tuple(kind.names()),
    _words(method, backward, rule, steps, ablation, direction),
    "share" if method == "routes" else _units(metric),
    _cost(net, method, backward, steps, direction, draws, values[0].size),
    agreement,
    ratio,
    checked,
  )


def _run(
  net, params, metric, level, fixed, *, method, backward, direction, draws,
  at, seed, keep, told,
):  # fmt: skip
  """From a batch to scores of its pairs, and corrections of them or None."""
  if method == "exact":
    numbers, done = itertools.count(), 0

    def every(batch):
      shape = level.shape(batch.clean.shape[1])
      count, number = int(np.prod(shape)), next(numbers)
      kept = (lambda start, run: run()) if keep is None else keep(number)

      def counted(start, run):
        nonlocal done
        values = kept(start, run)
        done += len(values)
        told(done, count)
        return values

      found = exact_effects.effects(
        net, params, metric, level, batch, fixed, np.arange(count), counted
      )
      return found.reshape(-1, *shape), None

    return every
  if method == "routes":
    model = sites.Model(net)
    return lambda batch: (
      routes.program(model, level.graph, params, batch),
      None,
    )
  if method == "second-order":
    model = sites.Model(net)
    return lambda batch: second.scores(
      model, level, metric, direction, draws, params, batch, fixed, seed
    )
  if backward == "atp*":
    model = sites.Model(net)
    return lambda batch: (
      atp_star.program(model, level, metric, params, batch, fixed),
      None,
    )
  model = sites.Model(backward_lib.under(net, backward_lib.BY_NAME[backward]))
  return lambda batch: (
    path_gradients.scores(
      model, level, metric, method, params, batch, fixed, at
    ),
    None,
  )


def _agreement(values, pairs, effects, check, seed):
  """Of the largest scores and of some others, beside exact effects."""
  from scipy import stats

  # As long as all of them, for what is ablated by position.
  some = pairs[:_CHECKED_PAIRS].padded(pairs.clean.shape[1])
  num = min(check, values.shape[1])
  order = np.argsort(-np.abs(values).mean(0), kind="stable")
  top, rest = order[: num // 2], order[num // 2 :]
  rng = np.random.default_rng(seed)
  drawn = rng.choice(rest, num - len(top), replace=False)
  which = np.sort(np.concatenate([top, drawn]))
  found = effects(some, which).mean(0)
  estimate = values[: len(some), which].mean(0)
  pearson = float(score_lib.pearson(found, estimate, constant=np.nan))
  # NaN where either is constant, too.
  kendall = float(stats.kendalltau(found, estimate).statistic)
  return scored.Agreement(which, found, estimate, len(some), pearson, kendall)


def _check(method, backward, level, ablation, direction, exact_runs) -> None:
  """Refuses names that are not known, and what does not go together."""
  for what, name, known in (
    ("method", method, METHODS),
    ("backward", backward, BACKWARD),
    ("level", level, graph_lib.LEVELS),
    ("ablation", ablation, ablations.KINDS),
    ("direction", direction, second.DIRECTIONS),
  ):
    if name not in known:
      raise ValueError(f"Unknown {what} {name!r}; known are {list(known)}.")
  levels = {
    "routes": ("edge",),
    "second-order": ("edge",),
    "ig-edges": ("edge", "position"),
    "ig-nodes": ("edge", "position", "node"),
    "ig-activations": ("edge", "position", "node"),
  }.get(method, graph_lib.LEVELS)
  if level not in levels:
    raise ValueError(
      f"Method {method!r} scores levels {list(levels)}; got {level!r}."
    )
  if backward == "atp*" and (method != "eap" or level == "position"):
    raise ValueError(
      "backward='atp*' is of one gradient at the clean run: take method='eap' "
      f"and another level than 'position'; got {method!r}, {level!r}."
    )
  if backward != "gradient" and method in ("exact", "routes", "second-order"):
    raise ValueError(
      f"Method {method!r} has no gradient whose rules could be {backward!r}; "
      "take backward='gradient'."
    )
  if level == "neuron" and ablation not in ("resample", "zero"):
    raise ValueError(
      f"Neurons carry another run's values or zero; got ablation={ablation!r}."
    )
  if base.check_integer(exact_runs, "exact_runs") < 0 or (
    exact_runs and method != "second-order"
  ):
    raise ValueError(
      "exact_runs are for what second-order corrections flag: take "
      f"method='second-order'; got {exact_runs} with {method!r}."
    )


def _check_finite(values, level) -> None:
  bad = ~np.isfinite(values).all(axis=tuple(range(values.ndim - 1)))
  if bad.any():
    raise ValueError(
      f"{bad.sum()} scores are NaN or infinite, the first that of "
      f"{level.names()[int(bad.argmax())]}: the model's logits or the metric "
      "are not finite on these pairs."
    )


def _words(method, backward, rule, steps, ablation, direction) -> str:
  """A method in words: "eap-ig, 5 midpoint steps, gim, resample"."""
  words = [method]
  if method == "second-order":
    words.append(direction)
  elif method in path_gradients.METHODS[2:]:
    words.append(f"{steps} {rule} steps")
  if backward != "gradient":
    words.append(backward)
  return ", ".join([*words, *([] if method == "routes" else [ablation])])


def _units(metric) -> str:
  names = {one: name for name, one in metrics.METRICS.items()}
  return metrics.UNITS.get(names.get(metric, ""), "")


def _cost(net, method, backward, steps, direction, draws, cuts):
  """Forward and backward passes of one pair, without what is shared by all."""
  if method == "routes":
    return {"forward": 1, "backward": 0}
  if method == "exact":
    return {"forward": 2 + cuts, "backward": 0}
  num = path_gradients.passes(method, net, steps)
  if method == "second-order":
    products = {"path": 1, "own": draws, "writer": len(net.writers)}
    num = 4 * products[direction]
  elif backward == "atp*":
    num = net.config.num_blocks
  return {"forward": 2 + num, "backward": num}
