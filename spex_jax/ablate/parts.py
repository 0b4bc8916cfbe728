"""Who owns which parts of a network, and the edits that remove absent owners.

A player owns units: entries of the activations at one site or several; or
edges between parts, or both. An absent player's units are set to zero, or to
what stands in for them (`stand_ins`): a mean activation, or one resampled from
another input. Players are kept to a degree: strength s mixes a unit x with its
stand-in a, `s x + (1 - s) a`, so that 1 keeps it, 0 removes it, and the value
is differentiable between. Zero times a NaN is NaN: a network that breaks is not
mended by its ablation, and evaluators refuse such values.

`edits` is what `sites.Network.apply` takes, traced, so that one compiled
program serves every mask:

  f = lambda mask, params: read(net.apply(params, heads.edits(mask), **inputs))

Shapes: n players; an activation has any shape `[B, ...]`, with B examples.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import sites


@dataclasses.dataclass(frozen=True, eq=False)
class Players(base.ByValue):
  """Named players and the units that each owns.

  Attributes:
    names: the names of the n players, distinct.
    owner: site to int32 of the full rank of its activation, 1 where
      broadcast: the player that owns each unit, or n for a unit that nobody
      owns and that is always kept.
    edges: reader to int32 `[B|1, P|1, R, W']`, as `sites.Edits.cut`: the player
      that owns each edge, or n.
  """

  names: tuple[str, ...]
  owner: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  edges: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    n = len(self.names)
    if len(set(self.names)) != n:
      raise ValueError("Player names must be distinct.")
    present: set[int] = set()
    for site, owner in (*self.owner.items(), *self.edges.items()):
      if owner.dtype.kind not in "iu":
        raise TypeError(f"Owners must be integers; {site} has {owner.dtype}.")
      present.update(np.unique(owner).tolist())
    if not present <= set(range(n + 1)):
      raise ValueError(f"Owners must lie in 0..{n}; got {sorted(present)}.")
    idle = [self.names[i] for i in range(n) if i not in present]
    if idle:
      raise ValueError(f"These players own nothing: {', '.join(idle)}.")

  @property
  def n(self) -> int:
    return len(self.names)

  def edits(
    self,
    strengths: base.Array,
    absent: Mapping[str, base.Array] | None = None,
    *,
    ref: base.Array | None = None,
    rescale: bool = False,
  ) -> sites.Edits:
    """The edits that keep players to a degree. Unbatched; differentiable.

    Args:
      strengths: float `[n]`, 1 kept and 0 absent; or a mask, bool `[n]`.
      absent: None for zero; or site to what stands in for its units, of the
        full rank of the activation, 1 where broadcast: of `stand_ins`.
      ref: of `sites.Edits`: what absent edges carry. Needed by players that
        own edges.
      rescale: multiply what is left at a site by its units over those that are
        kept, as ProxySPEX does with the heads of a layer (arXiv 2505.17495,
        section 5). A site where none is kept stays zero. Not with `absent`.

    Raises:
      ValueError: strengths of another shape, stand-ins that lack a site of
        these players or have one of another rank, edges without `ref`, or
        `absent` and `rescale` both.
    """
    if np.shape(strengths) != (self.n,):
      raise ValueError(
        f"Need a mask or strengths [{self.n}]; got {np.shape(strengths)}."
      )
    # One gather for all that is owned.
    owners = [*self.owner.values(), *self.edges.values()]
    whose = np.concatenate([owner.reshape(-1) for owner in owners])
    gates = jnp.append(jnp.asarray(strengths, jnp.float32), 1.0)[whose]
    sizes = [owner.size for owner in owners]
    each = [
      gate.reshape(owner.shape)
      for gate, owner in zip(jnp.split(gates, np.cumsum(sizes)[:-1]), owners)
    ]
    scale = dict(zip(self.owner, each))
    add: dict[str, jax.Array] = {}
    if absent is not None:
      if rescale:
        raise ValueError(
          "rescale=True makes up for units that are zero; with stand-ins "
          "(`absent`) there are none."
        )
      self._check_absent(absent)
      add = {site: (1 - gate) * absent[site] for site, gate in scale.items()}
    elif rescale:
      for site, gate in scale.items():
        scale[site] = gate * (gate.size / jnp.maximum(gate.sum(), 1))
    cut = {
      reader: 1 - gate
      for reader, gate in zip(self.edges, each[len(self.owner) :])
    }
    if cut and ref is None:
      raise ValueError(
        "These players own edges: give `ref`, what absent ones carry "
        "(`Network.contributions` of another run, or zeros)."
      )
    return sites.Edits(scale=scale, add=add, cut=cut, ref=ref if cut else None)

  def _check_absent(self, absent: Mapping[str, base.Array]) -> None:
    missing = sorted(self.owner.keys() - absent.keys())
    if missing:
      raise ValueError(f"`absent` lacks activations of {missing}.")
    for site, owner in self.owner.items():
      if np.ndim(absent[site]) != owner.ndim:
        raise ValueError(
          f"`absent` at {site} has shape {np.shape(absent[site])}; it needs "
          f"{owner.ndim} axes, 1 long where broadcast."
        )

  def grouped(self, groups: Mapping[str, Sequence[str]]) -> "Players":
    """Coarser players: each group owns what its members own together.

    Players in no group become nobody's: they are always kept.

    Raises:
      ValueError: a group that names no player, or one that another group has.
    """
    index = {name: i for i, name in enumerate(self.names)}
    new = np.full(self.n + 1, len(groups), np.int32)
    for number, (group, members) in enumerate(groups.items()):
      for member in members:
        if member not in index:
          raise ValueError(f"Group {group!r} names no player {member!r}.")
        if new[index[member]] != len(groups):
          raise ValueError(f"Player {member!r} is in two groups.")
        new[index[member]] = number

    def used(owners):
      found = {site: new[owner] for site, owner in owners.items()}
      return {s: own for s, own in found.items() if (own < len(groups)).any()}

    return Players(tuple(groups), used(self.owner), used(self.edges))

  def apart(self, count: int) -> "Players":
    """These players in each of `count` examples, all of the first one first.

    Raises:
      ValueError: owners that tell examples apart already, of another number.
    """
    numbers = np.arange(count, dtype=np.int32)

    def each(owners):
      found = {}
      for site, owner in owners.items():
        if len(owner) not in (1, count):
          raise ValueError(f"{site} has owners of {len(owner)} examples.")
        first = numbers.reshape(-1, *[1] * (owner.ndim - 1)) * self.n
        found[site] = np.where(owner < self.n, owner + first, count * self.n)
      return found

    names = tuple(f"{name} [{b}]" for b in range(count) for name in self.names)
    return Players(names, each(self.owner), each(self.edges))


def joined(first: sites.Edits, later: sites.Edits) -> sites.Edits:
  """One intervention that does `first` and, on what it gives, `later`.

  Cut edges carry what `later.ref` says, or `first.ref` where it says nothing.

  Args:
    first: any edits of a network.
    later: replaces nothing, as the edits of players.
  """
  scale, add, cut = dict(first.scale), dict(first.add), dict(first.cut)
  for site, factor in later.scale.items():
    scale[site] = scale[site] * factor if site in scale else factor
    if site in add:
      add[site] = add[site] * factor
  for site, summand in later.add.items():
    add[site] = add[site] + summand if site in add else summand
  for reader, edges in later.cut.items():
    whole = 1 - edges
    cut[reader] = 1 - (1 - cut[reader]) * whole if reader in cut else edges
  ref = first.ref if later.ref is None else later.ref
  return sites.Edits(first.replace, scale, add, cut, ref)


def only(edits: sites.Edits, names: Iterable[str]) -> sites.Edits:
  """Of some edits those at the named sites and readers."""
  names = frozenset(names)
  some = lambda found: {k: v for k, v in found.items() if k in names}
  cut = some(edits.cut)
  return sites.Edits(
    replace=some(edits.replace),
    scale=some(edits.scale),
    add=some(edits.add),
    cut=cut,
    ref=edits.ref if cut else None,
  )
