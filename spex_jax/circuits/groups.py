"""Circuits of heads, each at the place where it does its part.

As Prakash et al. 2024 (arXiv 2402.14811) judge them: every head outside, and
every head of the circuit at other places than its own, holds its mean over
prompts at that position; MLPs and embeddings are left alone. F is the share of
prompts whose likeliest next token is right, or the mean of a metric.

  faithfulness   F(circuit) / F(model)
  minimality     what a head is worth, in F, where those that back it up are out
  completeness   |F(C - K) - F(M - K)| of parts K that are out of both

Their code ranks pairs of heads for a minimality score, and by a slip never
removes two of one number in different layers together; here all pairs are.

Shapes: C circuits, M members, N pairs, B of a batch, P positions, K places.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import metrics, scored, swaps, walks
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites


class Share(NamedTuple):
  """A number with its interval by bootstrap over pairs.

  Attributes:
    value: float, the number itself.
    low, high: the ends of its interval, of 95 % by bootstrap.
  """

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{self.value:.3f} ({self.low:.3f}..{self.high:.3f})"


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
  """What a circuit of groups does, beside the model and random circuits.

  Attributes:
    model: F of the whole model, with its interval.
    circuit: F of the circuit, with its interval.
    random: float64 `[R]`, F of circuits of as many random heads in each group.
    minimality: of every member, F(C - K) - F(C - K - v), in F(C): with K empty
      and with the K of its group that makes it matter most.
    completeness: by the name of K, |F(C - K) - F(M - K)|.
  """

  model: Share
  circuit: Share
  random: np.ndarray
  minimality: dict[str, tuple[Share, Share]]
  completeness: dict[str, Share]

  @property
  def faithfulness(self) -> float:
    """F(circuit) / F(model); NaN where the model does nothing."""
    whole = self.model.value
    return self.circuit.value / whole if whole else float("nan")

  def needed(self, least: float = 0.01) -> tuple[str, ...]:
    """The members that are worth at least so much, alone or without others."""
    return tuple(
      name
      for name, both in self.minimality.items()
      if max(one.value for one in both) >= least
    )

  def __str__(self) -> str:
    lines = [
      f"model        {self.model}",
      f"circuit      {self.circuit}; faithfulness {self.faithfulness:.3f}",
      f"random       {self.random.mean():.3f}, at most {self.random.max():.3f}"
      if len(self.random)
      else "random       not drawn",
      f"needed       {len(self.needed())} of {len(self.minimality)} members",
      "incomplete   "
      + ", ".join(f"{k} {v.value:.3f}" for k, v in self.completeness.items()),
    ]
    return "\n".join(lines)


def evaluate(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  groups: Sequence[walks.Group],
  metric: metrics.Metric,
  *,
  of: str = "right",
  partners: float = 0.3,
  random: int = 10,
  seed: int = 0,
  **settings: Any,
) -> Evaluated:
  """Faithfulness, minimality and completeness of a circuit of heads.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    groups: the groups of heads that the circuit has.
    metric: one example's logits to a number, see `metrics`.
    of: F, "right" or "metric".
    partners: the share of a member's group that K may have, ranked by what F
      loses when both go.
    random: circuits of random heads, and random K of completeness.
    seed: of what is drawn, and of bootstraps.
    **settings: of `swaps.Judge`; "mean-position" is the ablation.

  Raises:
    ValueError: another F, a share outside 0..1, no head; as `swaps.Judge`.
  """
  if of not in ("right", "metric") or not 0 <= partners <= 1:
    raise ValueError(
      f"F is of 'right' or 'metric', partners lie in 0..1; got {of!r}, "
      f"{partners}."
    )
  rng = np.random.default_rng(seed)
  # A head may be in two groups, at one place.
  members = list(dict.fromkeys(m for group in groups for m in group.members))
  inside = np.array([[m in g.members for m in members] for g in groups], bool)
  drawn = [_drawn(net, groups, rng) for _ in range(random)]
  every = list(dict.fromkeys([*members, *(m for one in drawn for m in one)]))
  given: dict[str, Any] = {"ablation": "mean-position"} | settings
  judge = swaps.Judge(net, params, pairs, every, metric, **given)
  count = len(members)

  def ask(kept, rest=0.0):
    """F of circuits of members `[C, M]`, or of all: float64 `[C, N]`."""
    more = np.full((len(kept), len(every) - kept.shape[1]), rest > 0)
    kept = np.concatenate([kept, more], axis=1)
    found = judge(kept, np.full(len(kept), rest))
    return found[of == "right"].astype(np.float64)

  ends = lambda x: map(float, scored.bootstrap(x, seed=seed))
  share = lambda x: Share(float(x.mean()), *ends(x))
  whole = np.ones((1, count), bool)
  model, circuit = ask(whole, 1.0)[0], ask(whole)[0]
  others = np.array([[m in one for m in every] for one in drawn], bool)
  by_chance = ask(others).mean(axis=1) if random else np.zeros(0)
  # Minimality: pairs of a group, then every member without some of the others.
  first, second = np.triu_indices(count)
  out = np.ones((len(first), count), bool)
  rows = np.arange(len(first))
  out[rows, first] = out[rows, second] = False
  lost = np.zeros((count, count))
  lost[first, second] = lost[second, first] = ask(out).mean(axis=1)
  kept = []
  for v in range(count):
    beside = np.asarray(inside[inside[:, v]].any(axis=0))
    order = np.argsort(lost[v], kind="stable")
    own = [w for w in order if w != v and beside[w]]
    for some in (own[:0], own[: int(np.ceil(partners * len(own)))]):
      without = np.ones((2, count), bool)
      without[:, some] = False
      without[1, v] = False
      kept.append(without)
  each = ask(np.concatenate(kept)).reshape(count, 2, 2, -1)
  worth = (each[:, :, 0] - each[:, :, 1]) / (circuit.mean() or 1.0)
  minimality = {
    name: (share(one[0]), share(one[1]))
    for name, one in zip(judge.layout.names[:count], worth)
  }
  # Completeness: each group, and random halves.
  parts = {group.name: row for group, row in zip(groups, inside)}
  parts |= {f"random {i}": rng.random(count) < 0.5 for i in range(random)}
  left = ~np.stack(list(parts.values()))
  gaps = ask(left) - ask(left, 1.0)
  completeness = {}
  for name, gap in zip(parts, gaps):
    low, high = ends(gap)
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    value = abs(float(gap.mean()))
    completeness[name] = Share(value, least, float(max(abs(low), abs(high))))
  return Evaluated(
    share(model), share(circuit), by_chance, minimality, completeness
  )


def circuit(
  net: sites.Network, groups: Sequence[walks.Group]
) -> graph_lib.Circuit:
  """Its heads, all MLPs and the embedding as nodes, for `judging`.

  There edges are cut, at all positions, and MLPs read what is left.
  """
  heads = {head for group in groups for head in group.heads}
  kept = [w for w in net.writers if ".heads." not in w or w in heads]
  return graph_lib.Graph.of(net).of_writers(kept)


def _drawn(
  net: sites.Network, groups: Sequence[walks.Group], rng: np.random.Generator
) -> list[swaps.Member]:
  """As many heads in each group, drawn at random, at the same places."""
  every, taken = swaps.heads_of(net), []
  for group in groups:
    free = [(h, group.at) for h in every if (h, group.at) not in taken]
    order = rng.permutation(len(free))[: len(group.heads)]
    taken += [free[i] for i in order]
  return taken
