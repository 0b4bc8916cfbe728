"""What a role is, and whether it stands: its parts can replace each other.

A role says that some heads, or some edges, do the same. What it is called
cannot be judged without a person; that its parts are alike can (functional
interchangeability, arXiv 2603.20101, `circuits.alike`): each is put in the
place of every other, and must keep more there than heads drawn at random do.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from spex_jax.circuits import alike, metrics
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

# A writer, such as "blocks.1.heads.0", or an edge that leaves one.
Part: TypeAlias = str | graph_lib.Edge
_HEAD = re.compile(r"blocks\.(\d+)\.heads\.(\d+)")


@dataclasses.dataclass(frozen=True)
class Role:
  """What some parts do, all of them the same.

  Attributes:
    note: what the parts do, in words.
    parts: writers or edges, all of one sort.
    tag: a word of a taxonomy, or "".
  """

  note: str
  parts: tuple[Part, ...]
  tag: str = ""

  @property
  def is_of_edges(self) -> bool:
    """Whether its parts are edges."""
    return any(not isinstance(part, str) for part in self.parts)

  @property
  def heads(self) -> dict[alike.Head, list[graph_lib.Edge]]:
    """The heads that it is of, each with its edges (none of a role of heads).

    Raises:
      ValueError: a part that is no head and leaves none; heads and edges.
    """
    found: dict[alike.Head, list[graph_lib.Edge]] = {}
    for part in self.parts:
      writer = part if isinstance(part, str) else part[0]
      inside = _HEAD.fullmatch(writer)
      if inside is None:
        raise ValueError(
          f"{writer!r} is no head, such as blocks.1.heads.0: what heads do can "
          "be put in another place."
        )
      own = found.setdefault((int(inside[1]), int(inside[2])), [])
      if not isinstance(part, str):
        own.append(part)
    if self.is_of_edges and not all(found.values()):
      raise ValueError("A role is of heads or of edges, not of both.")
    return found


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How a role was judged.

  Attributes:
    role: the role that was judged.
    swaps: of every two of its heads, either way; none of a role of one head.
    error: why it could not be judged, or "".
  """

  role: Role
  swaps: tuple[alike.Swap, ...] = ()
  error: str = ""

  @property
  def kept(self) -> float:
    """The mean share that a part keeps in another's place; NaN without any."""
    return _mean([swap.kept for swap in self.swaps])

  @property
  def rank(self) -> float:
    """The mean share of random heads that keep less; .5 is chance."""
    return _mean([swap.rank for swap in self.swaps])

  def __str__(self) -> str:
    note = f"{self.role.tag} {self.role.note}".strip()
    if self.error or not self.swaps:
      return f"{note}: {self.error or 'of one head, nothing to compare'}"
    random = np.concatenate([s.control for s in self.swaps])
    return (
      f"{note}: {len(self.role.heads)} heads keep {self.kept:.2f} of each "
      f"other, random ones {np.mean(random):.2f}; above {self.rank:.0%} of them"
    )


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if values else float("nan")


def judge(
  net: sites.Network,
  params: Any,
  fitted: pairs_lib.Pairs,
  judged: pairs_lib.Pairs,
  roles: Sequence[Role],
  metric: metrics.Metric,
  *,
  random: int = 5,
  **options: Any,
) -> list[Verdict]:
  """Puts every head of a role in the place of every other.

  Of a role of edges, only these see the other head. What cannot be judged is
  told in its verdict, and does not stop the others.

  Args:
    net: the causal language model that the heads are of.
    params: the parameters of the network.
    fitted: pairs that maps between heads are fitted on.
    judged: others, on which the metric is read.
    roles: the claims, each of parts that should do the same.
    metric: what is read off the answers.
    random: how many other heads are put in each place, for comparison.
    **options: further arguments of `alike.interchange`.
  """
  found = []
  for role in roles:
    try:
      heads = role.heads
      claims = [*itertools.permutations(heads, 2)]
      if not claims:
        found.append(Verdict(role))
        continue
      edges = [heads[place] for place, _ in claims]
      swaps = alike.interchange(
        net, params, fitted, judged, claims, metric, random=random,
        edges=edges if role.is_of_edges else None, **options,
      )  # fmt: skip
      found.append(Verdict(role, swaps))
    except ValueError as error:
      found.append(Verdict(role, error=str(error)))
  return found
