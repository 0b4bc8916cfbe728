"""Circuits by size, and against a reference: CMD, CPR, overlap.

f(x) is the faithfulness of the circuit with a share x of all edges. Over sizes
x_1 < ... < x_k, by trapezoids:

  CMD  the area of |1 - f|: 0 is best, and overshooting costs as much as failing
  CPR  the area of f: a circuit that beats the model scores above it

(MIB, Mueller et al. 2025, arXiv 2504.13151, section 4.1.) CMD is named first:
signed selections drop what works against the answer, reach several times the
model's own value, and win CPR. Over linear size the half of all edges has half
of the weight, and all below 1 % of them under 1 %: so both are given over the
logarithm of size, too. A linear area is not divided by x_k - x_1, as in MIB's
code; a logarithmic one is divided by ln(x_k / x_1), so that it is a mean.

Shapes: K sizes, E edges, N pairs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base, shown
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import judges
from spex_jax.circuits import metrics as metrics_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

# Shares of all edges, MIB's.
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RANDOM = 3  # Random circuits of each size.


@dataclasses.dataclass(frozen=True)
class Areas:
  """Areas of a curve; see the head of this module."""

  cmd: float
  cpr: float
  log_cmd: float
  log_cpr: float


def areas(shares: base.Array, faithfulness: base.Array) -> Areas:
  """CMD and CPR of a curve, over linear and over logarithmic size.

  Args:
    shares: `[K]`, of all edges, ascending, above 0.
    faithfulness: float `[K]`, of the circuit of each size.

  Raises:
    ValueError: fewer than two sizes, or sizes that do not ascend from above 0.
  """
  x = np.asarray(shares, np.float64)
  f = np.asarray(faithfulness, np.float64)
  if x.shape != f.shape or x.ndim != 1 or len(x) < 2:
    raise ValueError(
      f"An area needs two sizes or more, and a value at each; got {x.shape} "
      f"and {f.shape}."
    )
  if not (x[0] > 0 and (np.diff(x) > 0).all()):
    raise ValueError(f"Sizes must ascend from above 0; got {x.tolist()}.")
  off, log = np.abs(1 - f), np.log(x)
  span = log[-1] - log[0]
  return Areas(
    cmd=float(np.trapezoid(off, x)),
    cpr=float(np.trapezoid(f, x)),
    log_cmd=float(np.trapezoid(off, log) / span),
    log_cpr=float(np.trapezoid(f, log) / span),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Curve(shown.Shown):
  """Faithfulness by size.

  Attributes:
    judged: the circuits of every size, the smallest first.
    shares: float64 `[K]`, edges asked for over all edges.
    faithfulness: float64 `[K]`, of the circuit of each size.
    random: float64 `[R, K]` of random circuits as large; R may be 0.
    areas: CMD and CPR, the areas of `faithfulness`.
  """

  judged: judged_lib.Judged
  shares: np.ndarray
  faithfulness: np.ndarray
  random: np.ndarray
  areas: Areas

  def sheet(self) -> shown.Sheet:
    """A row of every size, with intervals; drawn beside random circuits."""
    rows = self.judged.sheet()
    columns = {"share": self.shares, **rows.columns}
    if len(self.random):
      columns["random_low"] = self.random.min(axis=0)
      columns["random_high"] = self.random.max(axis=0)
    view = {
      "kind": "curve",
      "title": "Faithfulness by size",
      "sizes": np.asarray(self.judged.edges).tolist(),
      "connected": np.asarray(self.judged.connected).tolist(),
      "faithfulness": self.faithfulness.tolist(),
      "random": self.random.tolist(),
      "start": len(self.shares) - 1,
      "edges": [],
      "circuits": [],
    }
    a = self.areas
    told = f"{a.cmd:.3f} (0 is best), CPR {a.cpr:.3f}"
    trust = [*rows.trust, ("CMD", told, False)]
    return rows._replace(
      title=f"Faithfulness of circuits of {len(self.shares)} sizes",
      columns=columns,
      trust=trust,
      views=[view],
    )

  def __str__(self) -> str:
    a = self.areas
    lines = [
      f"CMD {a.cmd:.3f} (log {a.log_cmd:.3f})   CPR {a.cpr:.3f} (log "
      f"{a.log_cpr:.3f})",
      "  share     edges  connected  faithful"
      + "  random" * bool(len(self.random)),
    ]
    for k, share in enumerate(self.shares):
      line = (
        f"{100 * share:6.2f}% {self.judged.edges[k]:9,d} "
        f"{self.judged.connected[k]:10,d} {self.faithfulness[k]:9.3f}"
      )
      if len(self.random):
        low, high = self.random[:, k].min(), self.random[:, k].max()
        line += f"  {low:.3f}..{high:.3f}"
      lines.append(line)
    return "\n".join([*lines, *self.judged.identities.lines()])


def curve(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  chosen: Callable[[int], graph_lib.Circuit],
  metric: metrics_lib.Metric,
  *,
  among: graph_lib.Circuit | None = None,
  fractions: Sequence[float] = FRACTIONS,
  random: int = RANDOM,
  seed: int = 0,
  **settings: Any,
) -> Curve:
  """Judges circuits of several sizes, and random ones, in one call.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: what to judge on; not those that scores came from, best.
    chosen: a number of edges to the circuit, such as `selection.top` of scores.
    metric: one example's logits to a number: what is kept or lost.
    among: all edges (or nodes, neurons) of which circuits are parts, a whole
      circuit; those of the network's own graph by default.
    fractions: the sizes of circuits, as shares of `among`, in (0, 1].
    random: random circuits of every size, for the band; 0 for none.
    seed: of these, and of ablations that are learned.
    **settings: further arguments of `judges.faithfulness`.

  Raises:
    ValueError: fractions outside 0..1; as `judges.faithfulness`.
  """
  among = graph_lib.Graph.of(net).full if among is None else among
  shares = np.sort(np.asarray(fractions, np.float64))
  if not len(shares) or shares[0] <= 0 or shares[-1] > 1:
    raise ValueError(f"Fractions must lie in (0, 1]; got {list(fractions)}.")
  sizes = np.maximum(1, np.round(shares * among.kept.size)).astype(int)
  rng = np.random.default_rng(seed)
  circuits = [chosen(int(size)) for size in sizes]
  for _ in range(random):
    # Nested: one order, as a ranking by random scores.
    order = rng.permutation(among.kept.size).reshape(among.kept.shape)
    circuits += [dataclasses.replace(among, kept=order < n) for n in sizes]
  every = judges.faithfulness(
    net, params, pairs, circuits, metric, seed=seed, **settings
  )
  kept = every.faithfulness().reshape(random + 1, len(sizes))
  return Curve(
    judged=every[: len(sizes)],
    shares=shares,
    faithfulness=kept[0],
    random=kept[1:],
    areas=areas(shares, kept[0]),
  )


@dataclasses.dataclass(frozen=True)
class Overlap:
  """How much of a reference a circuit finds, and how much of it is in there.

  Attributes:
    precision: of the circuit's members, the share that the reference has; 1
      where the circuit has none.
    recall: of the reference's members, the share that the circuit has.
    iou: members of both over members of either.
  """

  precision: float
  recall: float
  iou: float


def overlap(
  circuit: graph_lib.Circuit, reference: graph_lib.Circuit
) -> Mapping[str, Overlap]:
  """Overlap of two circuits, by "edges" and by "nodes".

  An edge of the reference that the circuit lacks counts against recall, as it
  should; in MIB's `compare_graphs` it counts as found.

  Raises:
    ValueError: circuits of two graphs, or a reference without edges.
  """
  reference.check(circuit.graph)
  if not reference:
    raise ValueError("The reference has no edge: nothing could be found.")
  return {
    "edges": _overlap({*circuit.numbers}, {*reference.numbers}),
    "nodes": _overlap({*circuit.nodes}, {*reference.nodes}),
  }


def _overlap(found: set, wanted: set) -> Overlap:
  both = len(found & wanted)
  return Overlap(
    precision=both / len(found) if found else 1.0,
    recall=both / len(wanted),
    iou=both / len(found | wanted),
  )
