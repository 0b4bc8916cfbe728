"""Parts of a network as players: heads, neurons, filters, whole blocks.

A player owns units: entries along one axis of the activations at one site or
several. An absent player's units are set to zero, or to what stands in for
them (`stand_ins`): a mean activation, or one resampled from another input.
Every position and every example of a batch is treated alike. Zero times a NaN
is NaN: a network that breaks is not mended by its ablation, and evaluators
refuse such values.

`edits` is what `sites.Network.apply` takes, traced, so that one compiled
program serves every mask:

  f = lambda mask, params: read(net.apply(params, heads.edits(mask), **inputs))

`evaluator` is that, compiled, with what no player touches computed once.
`KINDS` lists the usual players by name; `chosen` takes patterns of site names.

Shapes: n players; an activation has any shape `[B, ...]`, with B examples.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import evaluate, prefix, readouts
from spex_jax.models import sites

HEADS = ("*attn.z", "*cross.z")  # [B, P, H, h]; query heads.
NEURONS = ("*mlp.neurons", "layers.*.neurons")  # [B, P, F], [B, F].
FILTERS = ("*conv", "*conv[0-9]")  # [B, F, H, W].
BLOCKS = ("attn.out", "cross.out", "mlp.out")  # [B, P, d]
_BLOCK = re.compile(r"((?:.*\.)?blocks\.\d+)\.(.+)")


@dataclasses.dataclass(frozen=True)
class Players:
  """Named players and the units that each owns.

  Attributes:
    names: n distinct names.
    owner: site to int32 of the full rank of its activation, 1 where
      broadcast: the player that owns each unit, or n for a unit that nobody
      owns and that is always kept.
  """

  names: tuple[str, ...]
  owner: Mapping[str, np.ndarray]

  def __post_init__(self):
    n = len(self.names)
    if len(set(self.names)) != n:
      raise ValueError("Player names must be distinct.")
    present: set[int] = set()
    for site, owner in self.owner.items():
      if owner.dtype.kind not in "iu":
        raise TypeError(f"Owners must be integers; {site} has {owner.dtype}.")
      present.update(np.unique(owner).tolist())
    if present - set(range(n + 1)):
      raise ValueError(f"Owners must lie in 0..{n}; got {sorted(present)}.")
    idle = [self.names[i] for i in range(n) if i not in present]
    if idle:
      raise ValueError(f"These players own nothing: {', '.join(idle)}.")

  @property
  def n(self) -> int:
    return len(self.names)

  def edits(
    self,
    mask: base.Array,
    absent: Mapping[str, base.Array] | None = None,
    *,
    rescale: bool = False,
  ) -> sites.Edits:
    """The edits that remove absent players. Unbatched over masks.

    Args:
      mask: bool `[n]`.
      absent: None for zero, by a scale; or site to what stands in for its
        units, of the full rank of the activation, 1 where broadcast: of
        `stand_ins`.
      rescale: multiply what is left at a site by its units over those that are
        kept, as ProxySPEX does with the heads of a layer (arXiv 2505.17495,
        section 5). A site where none is kept stays zero. Not with `absent`.

    Raises:
      ValueError: a mask of another shape, stand-ins that lack a site of these
        players or have one of another rank, or both options.
    """
    if np.shape(mask) != (self.n,):
      raise ValueError(f"Need a mask [{self.n}]; got {np.shape(mask)}.")
    padded = jnp.append(jnp.asarray(mask, jnp.bool_), True)
    kept = {site: padded[owner] for site, owner in self.owner.items()}
    if absent is None:
      scale = {}
      for site, keep in kept.items():
        scale[site] = keep.astype(jnp.float32)
        if rescale:
          left = jnp.maximum(scale[site].sum(), 1)
          scale[site] *= keep.size / left
      return sites.Edits(scale=scale)
    if rescale:
      raise ValueError(
        "rescale=True makes up for units that are zero; with stand-ins "
        "(`absent`) there are none."
      )
    self._check_absent(absent)
    return sites.Edits(
      replace={
        site: (~keep, jnp.asarray(absent[site])) for site, keep in kept.items()
      }
    )

  def strengths(
    self,
    amounts: base.Array,
    absent: Mapping[str, base.Array] | None = None,
  ) -> sites.Edits:
    """The edits that keep players to a degree: differentiable gates.

    Args:
      amounts: float `[n]`, or `[B, n]` for every example its own; 1 is kept,
        0 absent.
      absent: as for `edits`.

    Raises:
      ValueError: as `edits`.
    """
    amounts = jnp.asarray(amounts)
    if amounts.ndim not in (1, 2) or amounts.shape[-1] != self.n:
      raise ValueError(
        f"Need strengths [{self.n}] or [B, {self.n}]; got {amounts.shape}."
      )
    rows = amounts.reshape(-1, self.n)
    padded = jnp.pad(rows, ((0, 0), (0, 1)), constant_values=1)
    scale = {site: padded[:, owner[0]] for site, owner in self.owner.items()}
    if absent is None:
      return sites.Edits(scale=scale)
    self._check_absent(absent)
    rest = {site: (1 - gate) * absent[site] for site, gate in scale.items()}
    return sites.Edits(scale=scale, add=rest)

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
    owner = {site: new[old] for site, old in self.owner.items()}
    used = {s: own for s, own in owner.items() if (own < len(groups)).any()}
    return Players(tuple(groups), used)


def shapes(
  net: sites.Network, params: Any, **inputs: Any
) -> dict[str, tuple[int, ...]]:
  """The shape of the activation at every site, without running the network.

  Args:
    net: the network.
    params: its parameters, or their shapes.
    **inputs: batched arrays, by their usual names, or their shapes.
  """
  run = lambda params, inputs: net.apply(params, capture=("*",), **inputs)
  found = jax.eval_shape(run, params, inputs).activations
  return {site: found[site].shape for site in net.sites if site in found}


def heads(at: Mapping[str, tuple[int, ...]]) -> Players:
  """Every attention head, named as "blocks.0.attn 3"; `at` is of `shapes`.

  The head's output before the projection (`attn.z`) is removed. With grouped
  queries these are query heads. Sites are in the order of computation, so the
  mask is layer-major. A part of `at` gives the heads of a part of the layers.
  """
  return _units(at, HEADS, 2, "attention heads", cut=".z")


def kv_groups(at: Mapping[str, tuple[int, ...]]) -> Players:
  """Every key-value head with its query heads, as "blocks.0.attn kv 1".

  What its query heads give (`attn.z`) is removed together. Nobody else reads
  its values, so that this equals zeroing them (`attn.v`). Without grouped
  queries each head is a group.

  Raises:
    ValueError: no heads, or `at` lacks the values of a layer.
  """
  groups: dict[str, list[str]] = {}
  for site, shape in at.items():
    if not any(fnmatch.fnmatchcase(site, one) for one in HEADS):
      continue
    layer = site.removesuffix(".z")
    if f"{layer}.v" not in at:
      raise ValueError(
        f"Key-value groups of {site} need the shape of {layer}.v, too."
      )
    size = shape[2] // at[f"{layer}.v"][2]
    for head in range(shape[2]):
      group = groups.setdefault(f"{layer} kv {head // size}", [])
      group.append(f"{layer} {head}")
  return heads(at).grouped(groups)


def neurons(at: Mapping[str, tuple[int, ...]]) -> Players:
  """Every MLP neuron, named as "blocks.0.mlp 17"; `at` is of `shapes`."""
  return _units(at, NEURONS, -1, "MLP neurons", cut=".neurons")


def filters(at: Mapping[str, tuple[int, ...]]) -> Players:
  """Every convolution filter, as "stages.0.blocks.1.conv2 5", by `shapes`.

  Removed before bias and batch norm: the same as zeroing its weights.
  """
  return _units(at, FILTERS, 1, "convolution filters", cut="")


def blocks(at: Mapping[str, tuple[int, ...]]) -> Players:
  """Every block, named as "blocks.0": what it adds to the residual stream.

  The outputs of its attention and its MLP (`attn.out`, `cross.out`,
  `mlp.out`) are removed; its normalisations stay.

  Raises:
    ValueError: `at` has no such site.
  """
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site, shape in at.items():
    found = _BLOCK.fullmatch(site)
    if found and found[2] in BLOCKS:
      if found[1] not in names:
        names.append(found[1])
      number = names.index(found[1])
      owner[site] = np.full((1,) * len(shape), number, np.int32)
  if not names:
    raise ValueError(_none("blocks", BLOCKS, at))
  return Players(tuple(names), owner)


def units(
  at: Mapping[str, tuple[int, ...]], patterns: Sequence[str], axis: int
) -> Players:
  """Every entry along `axis` of the sites that any of the patterns names.

  Args:
    at: site to shape, of `shapes`.
    patterns: as `sites.match` takes them.
    axis: of the activations; not 0, the examples.

  Raises:
    ValueError: a pattern that names no site (close ones are listed), or a site
      without that axis.
  """
  sites.match(tuple(at), patterns, "patterns")
  return _units(at, patterns, axis, "units", cut="")


def chosen(
  at: Mapping[str, tuple[int, ...]],
  patterns: Sequence[str],
  *,
  whole: bool = False,
) -> Players:
  """The parts at the sites that patterns name: ("blocks.3.mlp.neurons",).

  What a part is follows from the site: a head, a neuron, a filter, named as by
  `heads`, `neurons` and `filters`; any other site is one player of its name.

  Args:
    at: site to shape, of `shapes`.
    patterns: as `sites.match` takes them.
    whole: one player for each site, named after it, whatever its kind.

  Raises:
    ValueError: a pattern that names no site; close ones are listed.
  """
  found = sites.match(tuple(at), patterns, "patterns")
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site in (site for site in at if site in found):
    kind = None if whole else _kind(site)
    if kind is None:
      owner[site] = np.full((1,) * len(at[site]), len(names), np.int32)
      names.append(site)
    else:
      _add_units(owner, names, site, at[site], *kind)
  return Players(tuple(names), owner)


# The usual players by name, each from `shapes`.
KINDS: Mapping[str, Callable[[Mapping[str, tuple[int, ...]]], Players]] = {
  "heads": heads,
  "kv_groups": kv_groups,
  "neurons": neurons,
  "filters": filters,
  "blocks": blocks,
}


def first_block(net: sites.Network, players: Players) -> int | None:
  """The first block that any player's site is in or before, or None.

  The blocks before it are the same for every mask: `net.enter` runs them. None
  where there is nothing to run apart: a site before block 0, or a network
  whose blocks cannot be entered.

  Raises:
    ValueError: a site of the players that the network lacks.
  """
  missing = sorted(players.owner.keys() - {*net.sites})
  if missing:
    raise ValueError(f"The network has no sites {missing}.")
  if not net.resumes:
    return None
  first = min(net.sites.index(site) for site in players.owner)
  starts = [
    net.sites.index(f"blocks.{number}.resid_pre")
    for number in range(net.config.num_blocks)
  ]
  before = sum(start <= first for start in starts)
  return before - 1 if before else None


def evaluator(
  net: sites.Network,
  players: Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  absent: Mapping[str, base.Array] | None = None,
  rescale: bool = False,
  params: Any = None,
  **settings: Any,
) -> evaluate.Evaluator:
  """A compiled evaluator of a network's parts on given inputs.

  One forward of a mask serves all examples and all that is read of them.

  The blocks before the first that a player touches run once, here, whichever
  masks are drawn; and only the logits that `read` needs are computed.

  Args:
    net: any network.
    players: of its parts.
    inputs: batched arrays, by their usual names; one example, or B of them.
    read: what to read of the output: `[B]`, or `[B, T]`.
    absent: as for `Players.edits`; or with one more axis in front, of R draws
      (`stand_ins.resampled`): then a value is the mean over the draws.
    rescale: as for `Players.edits`.
    params: of the network; its own by default.
    **settings: of `evaluate.compiled`.

  Returns:
    An evaluator of `players.n` players, with one target for every example, T of
    one, or B * T, those of the first example first; a single one has no axis
    of targets.

  Raises:
    ValueError: no parameters; see `first_block`, `Players.edits`,
      `prefix.split`.
  """
  params = net.params if params is None else params
  if params is None:
    raise ValueError("This network has no parameters: give `params`.")
  inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
  start = first_block(net, players)
  # Traced with the parameters, so that they are no constants of the program.
  shared = (params, inputs, absent or {})

  some = next(iter(players.owner))
  rank = players.owner[some].ndim
  drawn = (absent or {}).get(some, np.zeros(0)).ndim == rank + 1

  def values(mask, shared, run):
    params, inputs, stand_ins = shared

    def one(stand_in):
      edits = players.edits(
        mask, None if absent is None else stand_in, rescale=rescale
      )
      return readouts.forward(
        net, read, inputs, functools.partial(run, params, edits)
      )

    out = jax.vmap(one)(stand_ins).mean(axis=0) if drawn else one(stand_ins)
    return out[0] if len(out) == 1 else out.reshape(-1)

  if start is None or start == 0:
    whole = lambda mask, shared: values(
      mask,
      shared,
      lambda params, edits, **given: net.apply(params, edits, **given),
    )
    return evaluate.compiled(whole, players.n, shared=shared, **settings)

  block: int = start

  def tail(mask, x, shared):
    run = lambda params, edits, **given: net.resume(
      params, block, x, edits, **given
    )
    return values(mask, shared, run)

  head = lambda shared: net.enter(shared[0], block, **shared[1])
  return prefix.split(head, tail, players.n, shared=shared, **settings)


def _units(at, patterns, axis, what, cut) -> Players:
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site, shape in at.items():
    if any(fnmatch.fnmatchcase(site, one) for one in patterns):
      _add_units(owner, names, site, shape, axis, cut)
  if not names:
    raise ValueError(_none(what, patterns, at))
  return Players(tuple(names), owner)


def _add_units(owner, names, site, shape, axis, cut) -> None:
  """Makes every entry along `axis` of a site a player."""
  if not -len(shape) < axis < len(shape) or axis == 0:
    raise ValueError(f"{site} {shape} has no axis {axis} of units.")
  size = shape[axis]
  full = [1] * len(shape)
  full[axis] = size
  first = len(names)
  owner[site] = np.arange(first, first + size, dtype=np.int32).reshape(full)
  names += [f"{site.removesuffix(cut)} {i}" for i in range(size)]


def _kind(site) -> tuple[int, str] | None:
  """The axis of a site's units, and what their names leave out of its name."""
  named = lambda patterns: any(fnmatch.fnmatchcase(site, p) for p in patterns)
  if named(HEADS):
    return 2, ".z"
  if named(NEURONS):
    return -1, ".neurons"
  return (1, "") if named(FILTERS) else None


def _none(what, patterns, at) -> str:
  return (
    f"No {what} here: no site named like {' or '.join(patterns)}. Sites are "
    f"{list(at)}."
  )
