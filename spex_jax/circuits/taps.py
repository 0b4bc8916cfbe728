"""Gradients at readers and writers, contracted on their way back.

A score is a gradient times a change: that of the metric by what a reader reads,
times what a writer before it writes in another run less what it writes in this
one. All gradients of a forward at once are `[B, P, S, d]`, more than anything
else of it. So each is contracted where the backward pass makes it: at every
site a zero is added whose own derivative is the score.

Shapes: B pairs, P positions, S rows of all readers, R rows of one, W writers,
W' before a reader, E edges, F neurons, d width.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from spex_jax.circuits import ablations, metrics, runs
from spex_jax.circuits import graph as graph_lib
from spex_jax.models import sites


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _silent(
  rule: str, before: int | None, share: jax.Array, change: jax.Array
) -> jax.Array:
  """Zeros to add at a site; the derivative by `share` is the score.

  Args:
    rule: an einsum of the gradient and `change`, to the shape of `share`.
    before: as many entries of its last axis are in `share`; None for all. The
      others are computed for nothing, so that no part of `change`, the largest
      array, is copied for any reader.
    share: zeros.
    change: two axes of the activation are its last but one and its last.
  """
  del before
  return _zeros(rule, share, change)


def _zeros(rule, share, change):
  size = dict(zip(rule.split("->")[0].split(",")[1], change.shape))
  size |= dict(zip(rule.split("->")[1], share.shape))
  shape = [size[axis] for axis in rule.split(",")[0]]
  return jnp.zeros(shape, change.dtype)


def _forward(rule, before, share, change):
  del before
  return _zeros(rule, share, change), change


def _backward(rule, before, change, slope):
  share = jnp.einsum(rule, slope, change, precision="highest")
  return share[..., :before], None


_silent.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class Level:
  """What is scored; a static part of programs.

  Attributes:
    name: one of `graph.LEVELS`: "edge"; "position", edges at each position;
      "node", what a writer writes; "neuron", the neurons of MLPs.
    graph: the graph of the network.
  """

  name: str
  graph: graph_lib.Graph

  @classmethod
  def of(cls, net: sites.Network, name: str) -> "Level":
    """Of a network.

    Raises:
      ValueError: an unknown name.
    """
    if name not in graph_lib.LEVELS:
      raise ValueError(
        f"Unknown level {name!r}; known are {list(graph_lib.LEVELS)}."
      )
    return cls(name, graph_lib.Graph.of(net))

  @property
  def size(self) -> int:
    """Scores of one pair, at one position."""
    return self.graph.size(self.name)

  def shape(self, length: int) -> tuple[int, ...]:
    """Of the scores of one pair of so many positions."""
    return (length, self.size) if self.name == "position" else (self.size,)

  def names(self) -> list[str]:
    """Of what is scored, in order."""
    if self.name == "node":
      return list(self.graph.writers)
    if self.name == "neuron":
      each = zip(self.graph.neuron_sites, self.graph.neurons)
      return [f"{site} {i}" for site, size in each for i in range(size)]
    return [self.graph.name(i) for i in range(len(self.graph))]

  def change(
    self,
    net: sites.Network,
    params: Any,
    batch: runs.Batch,
    of_writers: jax.Array,
    fixed: jax.Array | None,
  ) -> Any:
    """What the other run has, less what this one has, as `slopes` takes it.

    Args:
      net: the network, with edges.
      params: the parameters of the network.
      batch: B pairs of prompts, in a fixed shape.
      of_writers: `[B, P, W, d]`, the change of what they write.
      fixed: of `ablations.stand_ins`; of neurons, which are changed by the
        prompts alone, None, or anything for zeros.

    Returns:
      `[B, W, P, d]`; of neurons `[B, P, F]` by site.
    """
    if self.name != "neuron":
      return jnp.moveaxis(of_writers, 2, 1)
    run = lambda ids: (
      net.apply(
        params, input_ids=jnp.asarray(ids), capture=self.graph.neuron_sites
      ).activations
    )
    clean = run(batch.clean)
    if fixed is not None:
      return jax.tree.map(jnp.negative, clean)
    return jax.tree.map(jnp.subtract, run(batch.corrupted), clean)

  def zeros(self, batch: runs.Batch, dtype: Any) -> dict[str, jax.Array]:
    """The `share` by which scores of a batch are derived."""
    num, length = batch.clean.shape
    make = lambda *sizes: jnp.zeros((num, *sizes), dtype)
    if self.name == "neuron":
      return {
        n: make(s) for n, s in zip(self.graph.neuron_sites, self.graph.neurons)
      }
    if self.name == "node":
      return {"": make(self.size)}
    lead = (length,) if self.name == "position" else ()
    return {r.name: make(*lead, r.rows, r.before) for r in self.graph.readers}

  def add(
    self, net: sites.Network, share: Mapping[str, jax.Array], change: Any
  ) -> dict[str, jax.Array]:
    """`Edits.add`: zeros that know their change."""
    found = {}
    if self.name == "neuron":
      for site, one in share.items():
        found[site] = _silent("bpf,bpf->bf", None, one, change[site])
      return found
    chex.assert_rank(change, 4)
    if self.name == "node":
      begin = 0
      for site, num in ablations.by_site(net).items():
        one, part = (
          share[""][:, begin : begin + num],
          change[:, begin:][:, :num],
        )
        begin += num
        if ablations.holds_heads(site):
          found[site] = _silent("bpkd,bkpd->bk", None, one, part)
        else:
          found[site] = _silent("bpd,bpd->b", None, one[:, 0], part[:, 0])
      return found
    for reader in self.graph.readers:
      one = share[reader.name]
      rule = "bprd,bwpd->bprw" if one.ndim == 4 else "bprd,bwpd->brw"
      if ".attn." not in reader.name:  # But one row: its site has no axis.
        rule, one = rule.replace("r", ""), one.reshape(*one.shape[:-2], -1)
      found[reader.name] = _silent(rule, reader.before, one, change)
    return found

  def join(self, share: Mapping[str, jax.Array]) -> jax.Array:
    """Scores `[B, size]`, or `[B, P, size]` by position."""
    if self.name == "neuron":
      return jnp.concatenate(list(share.values()), axis=-1)
    return share[""] if self.name == "node" else self.graph.join(share)


def slopes(
  net: sites.Network,
  level: Level,
  metric: metrics.Metric,
  params: Any,
  batch: runs.Batch,
  clean_logits: jax.Array,
  change: Any,
  edits: sites.Edits,
) -> jax.Array:
  """Gradients of the metric in one run, contracted with a change.

  Args:
    net: the network, with edges.
    level: what is scored: edges (at positions), nodes or neurons.
    metric: one example's logits to a number, see `metrics`.
    params: the parameters of the network.
    batch: B pairs, whose clean prompts are run.
    clean_logits: float `[B, V]`, of the unedited clean run.
    change: what the other run has, less this one, as `Level.change` gives it.
    edits: the edits of the run that gradients are taken in.

  Returns:
    `[B, size]`, or `[B, P, size]` by position.
  """
  chex.assert_rank(clean_logits, 2)

  def total(share):
    add: dict[str, Any] = level.add(net, share, change)
    for site, one in edits.add.items():
      add[site] = one + add[site] if site in add else one
    run = dataclasses.replace(edits, add=add)
    each = runs.measured(net, params, metric, batch, clean_logits, run)
    return each.sum()

  zeros = level.zeros(batch, clean_logits.dtype)
  return level.join(jax.grad(total)(zeros))
