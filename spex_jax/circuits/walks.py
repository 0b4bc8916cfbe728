"""Groups of heads, found by path patching from the logits backwards.

A walk is data: steps, each of which says into which input of an earlier group
its heads write, at which place, and how many are taken. The one of Prakash et
al. 2024 (arXiv 2402.14811) goes from the logits to what fetches the value, by
its queries to what passes the position on, and by their values to what detects
it and what reads the structure. Their scores are relative changes of a
probability; here a head has the share of the whole effect that it moves.

Shapes: N pairs, I heads.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax.circuits import metrics, patching, paths, swaps
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

PORTS = ("q", "k", "v")
_LEAST = 1e-6  # A share of the effect; what moves less may be rounding.
_HEAD = re.compile(r"blocks\.(\d+)\.heads\.(\d+)")


def into(
  net: sites.Network, heads: Sequence[str], port: str
) -> list[paths.Receiver]:
  """The receivers that are queries, keys or values of heads.

  Args:
    net: the network, with edges.
    heads: writers, such as "blocks.3.heads.1".
    port: "q", "k" or "v".

  Raises:
    ValueError: another port, or no head.
  """
  if port not in PORTS:
    raise ValueError(f"port={port!r}: choose from {', '.join(PORTS)}.")
  config, found = net.config, {}
  for name in heads:
    inside = _HEAD.fullmatch(name)
    if inside is None or name not in net.writers:
      raise ValueError(f"{name!r} is no head of this network.")
    shared = 1 if port == "q" else config.num_heads // config.num_kv_heads
    row = int(inside[2]) // shared
    found[paths.Receiver(f"blocks.{inside[1]}.attn.{port}_in", row)] = None
  return list(found)


@dataclasses.dataclass(frozen=True)
class Step:
  """A group of heads, by what it does to one that was found before.

  Attributes:
    name: the name of the group.
    into: the name of an earlier one, or "logits".
    port: which input of its heads, "q", "k" or "v"; "" of logits.
    at: where the heads write, and those of `into` read: for queries where
      these stand, for keys and values where they look.
    top: as many heads as move the metric most towards the source; or
    least: those that move it by at least this share of the whole effect.
  """

  name: str
  into: str = "logits"
  port: str = ""
  at: swaps.Place = -1
  top: int | None = None
  least: float | None = None

  def __post_init__(self):
    if (self.top is None) == (self.least is None):
      raise ValueError(f"Step {self.name!r} needs one of `top` and `least`.")
    if (self.into == "logits") == bool(self.port):
      raise ValueError(
        f"Step {self.name!r} into {self.into!r} has port={self.port!r}: heads "
        "have q, k or v, logits none."
      )


class Group(NamedTuple):
  """Heads that do one thing.

  Attributes:
    name: the name of the group.
    at: the place where they do it.
    heads: the writers, such as "blocks.3.heads.1", the strongest first.
    patched: what each head does alone on the path that they were found by, `[I,
      1, N]`; None where they come from elsewhere.
  """

  name: str
  at: swaps.Place
  heads: tuple[str, ...]
  patched: patching.Patched | None = None

  @property
  def members(self) -> tuple[swaps.Member, ...]:
    """Its heads at its place."""
    return tuple((head, self.at) for head in self.heads)


def walk(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  steps: Sequence[Step],
  metric: metrics.Metric,
  **settings: Any,
) -> tuple[Group, ...]:
  """Groups of heads, from the logits backwards.

  Heads are ranked by the share of the whole effect that patching them moves on
  the path; those that move the metric the other way are never taken. A head may
  be in several groups, at different places.

  Args:
    net: a causal language model with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    steps: in the order in which groups are found.
    metric: one example's logits to a number, of the answers.
    **settings: further arguments of `paths.patch`.

  Raises:
    ValueError: steps of one name, or into a group that was not found before; a
      group without a head; as `paths.patch`.
  """
  found: dict[str, Group] = {}
  for step in steps:
    if step.name in found or step.name == "logits":
      raise ValueError(f"Two steps are called {step.name!r}.")
    if step.into != "logits" and step.into not in found:
      raise ValueError(
        f"Step {step.name!r} goes into {step.into!r}, which no step before it "
        f"finds: {', '.join(found) or 'there is none'}."
      )
    receivers = (
      [paths.LOGITS]
      if step.into == "logits"
      else into(net, found[step.into].heads, step.port)
    )
    before = max(net.readers[one.reader][1] for one in receivers)
    heads = [name for name in net.writers[:before] if _HEAD.fullmatch(name)]
    if not heads:
      raise ValueError(
        f"Step {step.name!r}: no head stands before {step.into!r}."
      )
    one = paths.patch(
      net, params, pairs, receivers, metric, senders=heads, places=[step.at],
      at=None if step.into == "logits" else step.at, **settings,
    )  # fmt: skip
    moved = one.moved()[:, 0]
    order = np.argsort(-moved, kind="stable")
    least = _LEAST if step.least is None else step.least
    order = [i for i in order if moved[i] >= max(least, 0)]
    chosen = tuple(heads[i] for i in order[: step.top])
    if not chosen:
      raise ValueError(
        f"Step {step.name!r}: no head moves {least:.2g} of the effect; the "
        f"most is {moved.max():.3g}."
      )
    found[step.name] = Group(step.name, step.at, chosen, one)
  return tuple(found.values())


def overlap(
  groups: Sequence[Group], others: Sequence[Group]
) -> dict[str, tuple[float, float]]:
  """Of each group the share of its heads that a group of that name has, too.

  Returns:
    Group to that share, and to the share of the other group's heads that are
    here.
  """
  named = {group.name: {*group.heads} for group in others}
  found = {}
  for group in groups:
    theirs = named.get(group.name, set())
    both = len({*group.heads} & theirs)
    found[group.name] = both / len(group.heads), both / max(len(theirs), 1)
  return found
