"""Whether a circuit is all there is, and whether all of it is needed.

A circuit C is complete where taking any part K out of it does to it what taking
K out of the whole model M does, |F(C - K) - F(M - K)| small, and minimal where
each member v matters at some K: F(C - K) and F(C - K - v) differ (Wang et al.
2022, arXiv 2211.00593, sections 4.1 and 4.2). F is the faithfulness here, so
that gaps are shares of what the model does; in the paper it is the metric.

K is drawn at random, given by name (the groups of roles in a circuit), or grown
greedily, as the paper does it: a few candidates are tried in every round, and
the one that widens the gap most is taken. Backups outside of the circuit show
as F(M - K) above F(C - K).

Members are edges, or nodes: writers with all edges that they write to.

Shapes: K knock-outs, V members, N pairs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax import shown
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import judges
from spex_jax.circuits import metrics as metrics_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

MEMBERS = ("nodes", "edges")
_MOST = 128  # Members, all pairs of which are run.


@dataclasses.dataclass(frozen=True, eq=False)
class Completeness(shown.Shown):
  """What knock-outs do to a circuit and to the model.

  Attributes:
    names: of K knock-outs: "random 0", the names of groups, "greedy 0.3" (the
      third round of the first growth).
    removed: K circuits, what is knocked out.
    circuit: float64 `[K]`, F(C - K).
    model: float64 `[K]`, F(M - K).
  """

  names: tuple[str, ...]
  removed: tuple[graph_lib.Circuit, ...]
  circuit: np.ndarray
  model: np.ndarray

  @property
  def gaps(self) -> np.ndarray:
    """float64 `[K]`, |F(C - K) - F(M - K)|."""
    return np.abs(self.circuit - self.model)

  def sheet(self) -> shown.Sheet:
    """A row of every knock-out, the largest gap first."""
    order = np.argsort(-self.gaps, kind="stable")
    return shown.Sheet(
      f"What {len(order)} knock-outs do to a circuit and to the model",
      {
        "knock-out": [self.names[k] for k in order],
        "edges": [len(self.removed[k]) for k in order],
        "circuit": self.circuit[order],
        "model": self.model[order],
        "gap": self.gaps[order],
      },
      trust=[("largest gap", f"{self.gaps.max():.3f}", False)],
    )

  def __str__(self) -> str:
    lines = ["F(C - K)  F(M - K)    gap  edges  knock-out"]
    for k, name in enumerate(self.names):
      lines.append(
        f"{self.circuit[k]:8.3f} {self.model[k]:9.3f} {self.gaps[k]:6.3f} "
        f"{len(self.removed[k]):6,d}  {name}"
      )
    return "\n".join([*lines, f"largest gap {self.gaps.max():.3f}"])


def completeness(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  circuit: graph_lib.Circuit,
  metric: metrics_lib.Metric,
  *,
  members: str = "nodes",
  random: int = 10,
  groups: Mapping[str, graph_lib.Circuit] | None = None,
  greedy: int = 0,
  rounds: int = 5,
  candidates: int = 10,
  seed: int = 0,
  **settings: Any,
) -> Completeness:
  """Knocks parts out of a circuit and of the model, and compares.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    circuit: C, the circuit that is judged.
    metric: one example's logits to a number: what is kept or lost.
    members: "nodes" or "edges", what knock-outs are drawn and grown from.
    random: knock-outs that have each member with probability 1/2.
    groups: further ones by name; what is outside of the circuit is ignored.
    greedy: growths of `rounds` knock-outs each.
    rounds: how many members a growth takes, one each round.
    candidates: members tried in a round, drawn at random.
    seed: an integer, the seed of what is drawn.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: a circuit without edges, or of another graph; no knock-out.
  """
  judge, each = _asked(net, params, pairs, circuit, metric, members, settings)
  rng = np.random.default_rng(seed)
  names, removed = [], []
  for number in range(random):
    names.append(f"random {number}")
    drawn = rng.random(len(each)) < 0.5
    removed.append(each[drawn].any(axis=0))
  for name, group in (groups or {}).items():
    names.append(name)
    removed.append((group & circuit).kept)
  gap = lambda out: np.abs(np.subtract(*_both(judge, circuit, out)))
  for number in range(greedy):
    so_far, left = np.zeros_like(circuit.kept), np.arange(len(each))
    for step in range(min(rounds, len(each))):
      tried = rng.choice(left, min(candidates, len(left)), replace=False)
      best = tried[gap(np.stack([so_far | each[v] for v in tried])).argmax()]
      so_far, left = so_far | each[best], left[left != best]
      names.append(f"greedy {number}.{step}")
      removed.append(so_far)
  if not removed:
    raise ValueError("Nothing is knocked out: ask for random, groups, greedy.")
  inside, outside = _both(judge, circuit, np.stack(removed))
  return Completeness(
    tuple(names),
    tuple(graph_lib.Circuit(circuit.graph, out) for out in removed),
    inside,
    outside,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Minimality(shown.Shown):
  """How much each member of a circuit matters.

  Attributes:
    names: the names of the V members.
    alone: float64 `[V]`, |F(C) - F(C - v)|.
    change: float64 `[V]`, the largest |F(C - K) - F(C - K - v)| over the K that
      were tried, the empty one among them.
    partners: of each the names in that K.
  """

  names: tuple[str, ...]
  alone: np.ndarray
  change: np.ndarray
  partners: tuple[tuple[str, ...], ...]

  def needed(self, least: float = 0.01) -> tuple[str, ...]:
    """The members whose change is at least so much."""
    return tuple(n for n, x in zip(self.names, self.change) if x >= least)

  def sheet(self) -> shown.Sheet:
    """A row of every member, the most needed first."""
    order = np.argsort(-self.change, kind="stable")
    return shown.Sheet(
      f"How much each of {len(order)} members of a circuit matters",
      {
        "member": [self.names[v] for v in order],
        "alone": self.alone[order],
        "change": self.change[order],
        "without": [", ".join(self.partners[v]) for v in order],
      },
    )

  def __str__(self) -> str:
    lines = [" alone  change  member (without)"]
    for v in np.argsort(-self.change, kind="stable"):
      without = f" ({', '.join(self.partners[v])})" * bool(self.partners[v])
      lines.append(
        f"{self.alone[v]:6.3f} {self.change[v]:7.3f}  {self.names[v]}{without}"
      )
    return "\n".join(lines)


def minimality(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  circuit: graph_lib.Circuit,
  metric: metrics_lib.Metric,
  *,
  members: str = "nodes",
  partners: float = 0.3,
  **settings: Any,
) -> Minimality:
  """What each member is worth, alone and without those that back it up.

  For each member the others are ranked by what they lose together, and K is
  none of them, the first one, and so on in doublings up to a share of all
  (Prakash et al. 2024, arXiv 2402.14811, take one K, of that share).

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    circuit: C, the circuit that is judged.
    metric: one example's logits to a number: what is kept or lost.
    members: "nodes" or "edges". All pairs of them are run.
    partners: the largest K, in all members.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: a share outside 0..1; as `completeness`.
  """
  if not 0 <= partners <= 1:
    raise ValueError(f"partners must lie in 0..1; got {partners}.")
  judge, each = _asked(net, params, pairs, circuit, metric, members, settings)
  count = len(each)
  names = _names(circuit, members)
  most = min(int(np.ceil(partners * count)), count - 1)
  if most and count > _MOST:
    raise ValueError(
      f"All pairs of {count} {members} are too many, more than of {_MOST}: ask "
      "for a smaller circuit, for nodes, or with partners=0."
    )
  together = np.zeros((count, count))
  if most:
    first, second = np.triu_indices(count)
    lost = _kept(judge, circuit.kept & ~(each[first] | each[second]))
    together[first, second] = together[second, first] = lost
  sizes = [0, *(2**k for k in range(most.bit_length())), most]
  sizes = sorted({size for size in sizes if size <= most})
  rows, who = [], []
  for v in range(count):
    # Those without which it matters most that v is gone, too.
    ranked = [w for w in np.argsort(together[v], kind="stable") if w != v]
    for size in sizes:
      out = each[ranked[:size]].any(axis=0)
      rows += [circuit.kept & ~out, circuit.kept & ~(out | each[v])]
      who.append(tuple(ranked[:size]))
  values = _kept(judge, np.stack(rows)).reshape(count, len(sizes), 2)
  change = np.abs(values[..., 0] - values[..., 1])
  best = change.argmax(axis=1)
  return Minimality(
    names,
    change[:, 0],
    change.max(axis=1),
    tuple(
      tuple(names[w] for w in who[v * len(sizes) + best[v]])
      for v in range(count)
    ),
  )


def _asked(net, params, pairs, circuit, metric, members, settings):
  """A judge, and the edges of every member: bool `[V, E]`."""
  if members not in MEMBERS:
    raise ValueError(f"members={members!r}: choose from {', '.join(MEMBERS)}.")
  if not circuit:
    raise ValueError("A circuit without edges has nothing to knock out.")
  net, params = judges.fitting(net, params, circuit.graph)
  circuit.check(graph_lib.Graph.of(net))
  metrics_lib.check(metric, net.config.vocab_size)
  judge = judges.Judge(net, params, pairs, metric, **settings)
  if members == "edges":
    each = np.zeros((len(circuit), circuit.graph.num_edges), bool)
    each[np.arange(len(circuit)), circuit.numbers] = True
    return judge, each
  graph = circuit.graph
  each = [graph.of_writers([name]).kept for name in circuit.nodes]
  return judge, np.stack(each)


def _names(circuit, members) -> tuple[str, ...]:
  if members == "nodes":
    return circuit.nodes
  return tuple(circuit.graph.name(i) for i in circuit.numbers)


def _both(judge, circuit, out) -> tuple[np.ndarray, np.ndarray]:
  """F(C - K) and F(M - K) of knock-outs bool `[K, E]`: `[K]` each."""
  values = _kept(judge, np.concatenate([circuit.kept & ~out, ~out]))
  inside, outside = np.split(values, 2)
  return inside, outside


def _kept(judge, kept) -> np.ndarray:
  """The faithfulness of circuits bool `[C, E]`: float64 `[C]`."""
  ends = np.zeros((1, kept.shape[1]), bool)
  values = judge(np.concatenate([kept, ends, ~ends]))
  *values, empty, full = values
  return judged_lib.ratio(np.array(values).mean(axis=1), full, empty)
