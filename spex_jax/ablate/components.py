"""Parts of a network as players: heads, neurons, filters, whole blocks.

A player owns units: entries along one axis of the activations at one site or
several. An absent player's units are set to zero, or to what stands in for
them: a mean activation, or one resampled from another input. Every position
and every example of a batch is treated alike.

`edits` is what `sites.Network.apply` takes, traced, so that one compiled
program serves every mask:

  f = lambda mask, params: read(net.apply(params, heads.edits(mask), **inputs))

`evaluator` is that, compiled, with what no player touches computed once.

Shapes: n players; an activation has any shape `[B, ...]`, with B examples.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence
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
    self, mask: base.Array, absent: Mapping[str, base.Array] | None = None
  ) -> sites.Edits:
    """The edits that remove absent players. Unbatched over masks.

    Args:
      mask: bool `[n]`.
      absent: None for zero, by a scale; or site to what stands in for its
        units, of the full rank of the activation, 1 where broadcast: `mean`
        or `resampled` of captured activations.

    Raises:
      ValueError: a mask of another shape, or stand-ins that lack a site of
        these players or have one of another rank.
    """
    if np.shape(mask) != (self.n,):
      raise ValueError(f"Need a mask [{self.n}]; got {np.shape(mask)}.")
    padded = jnp.append(jnp.asarray(mask, jnp.bool_), True)
    kept = {site: padded[owner] for site, owner in self.owner.items()}
    if absent is None:
      scale = {site: keep.astype(jnp.float32) for site, keep in kept.items()}
      return sites.Edits(scale=scale)
    missing = sorted(kept.keys() - absent.keys())
    if missing:
      raise ValueError(f"`absent` lacks activations of {missing}.")
    replace = {}
    for site, keep in kept.items():
      if np.ndim(absent[site]) != keep.ndim:
        raise ValueError(
          f"`absent` at {site} has shape {np.shape(absent[site])}; it needs "
          f"{keep.ndim} axes, 1 long where broadcast."
        )
      replace[site] = (~keep, jnp.asarray(absent[site]))
    return sites.Edits(replace=replace)

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
    ValueError: a pattern that names no site, or a site without that axis.
  """
  sites.match(tuple(at), patterns)
  return _units(at, patterns, axis, "units", cut="")


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
  params: Any = None,
  **settings: Any,
) -> evaluate.Evaluator:
  """A compiled evaluator of a network's parts on given inputs.

  The blocks before the first that a player touches run once, here, whichever
  masks are drawn; and only the logits that `read` needs are computed.

  Args:
    net: any network.
    players: of its parts.
    inputs: batched arrays, by their usual names; one example, or B of them.
    read: what to read of the output: `[B]`, or `[1, T]` of one example.
    absent: as for `Players.edits`.
    params: of the network; its own by default.
    **settings: of `evaluate.compiled`.

  Returns:
    An evaluator of `players.n` players, with one target for every example, or
    T of one; a single one has no axis of targets.

  Raises:
    ValueError: no parameters, or several targets of several examples (when
      first called); see `first_block`, `Players.edits`, `prefix.split`.
  """
  params = net.params if params is None else params
  if params is None:
    raise ValueError("This network has no parameters: give `params`.")
  inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
  start = first_block(net, players)
  # Traced with the parameters, so that they are no constants of the program.
  shared = (params, inputs, absent or {})

  def values(mask, shared, run):
    params, inputs, stand_ins = shared
    edits = players.edits(mask, None if absent is None else stand_ins)
    out = readouts.forward(
      net, read, inputs, functools.partial(run, params, edits)
    )
    if len(out) == 1:
      return out[0]
    if out.ndim > 1:
      raise ValueError(
        f"Several targets of several examples, {out.shape}: one or the other."
      )
    return out

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


def mean(
  activations: Mapping[str, base.Array],
  axes: Sequence[int],
  weights: base.Array | None = None,
) -> dict[str, jax.Array]:
  """The mean activation at each site, to stand in for absent players.

  Args:
    activations: captured ones, `[B, ...]`, such as those of a background.
    axes: to average over, and to leave 1 long: (0,) keeps positions apart,
      (0, 1) does not; (0, 2, 3) for filters.
    weights: `[B]`, or `[B, P]` such as an attention mask, so that padding does
      not count; of the leading axes, all of them averaged over.

  Raises:
    ValueError: weights that are negative or all zero, of another shape, or of
      axes that are kept; axes that an activation lacks.
  """
  axes = tuple(axes)
  out = {}
  for site, captured in activations.items():
    x = np.asarray(captured, np.float64)  # Summed so: there may be many.
    if not set(axes) <= set(range(x.ndim)):
      raise ValueError(f"{site} has axes 0..{x.ndim - 1}; got axes={axes}.")
    if weights is None:
      found = x.mean(axis=axes, keepdims=True)
    else:
      w = _weights(weights, x, axes, site)
      found = (w * x).sum(axis=axes, keepdims=True) / (
        np.broadcast_to(w, x.shape).sum(axis=axes, keepdims=True)
      )
    out[site] = jnp.asarray(found, jnp.float32)
  return out


def resampled(
  key: base.Key, activations: Mapping[str, base.Array], num_draws: int
) -> dict[str, jax.Array]:
  """Activations of other inputs, drawn once: site to `[R, 1, ...]`.

  A draw takes the same input at every site. Average the output over R by a
  `vmap` over the leading axis; every mask sees the same draws.

  Args:
    key: consumed.
    activations: captured ones, `[B, ...]` each.
    num_draws: R, distinct inputs, at most B.

  Raises:
    ValueError: R outside 1..B, or sites of unequal B.
  """
  sizes = {len(x) for x in activations.values()}
  if len(sizes) != 1 or not 1 <= num_draws <= min(sizes):
    raise ValueError(
      f"Need 1 <= num_draws <= B and one B for all sites; got {num_draws} of "
      f"B in {sorted(sizes)}."
    )
  rows = jax.random.choice(key, sizes.pop(), (num_draws,), replace=False)
  return {s: jnp.asarray(x)[rows][:, None] for s, x in activations.items()}


def _weights(weights, x, axes, site) -> np.ndarray:
  w = np.asarray(weights, np.float64)
  if w.shape != x.shape[: w.ndim] or not set(range(w.ndim)) <= set(axes):
    raise ValueError(
      f"Weights {w.shape} must be of the leading axes of {site}, "
      f"{x.shape}, and `axes` must name these axes; got {axes}."
    )
  if (w < 0).any() or not w.any():
    raise ValueError("Weights must not be negative, nor all zero.")
  return w.reshape(w.shape + (1,) * (x.ndim - w.ndim))


def _units(at, patterns, axis, what, cut) -> Players:
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site, shape in at.items():
    if not any(fnmatch.fnmatchcase(site, one) for one in patterns):
      continue
    if not -len(shape) < axis < len(shape) or axis == 0:
      raise ValueError(f"{site} {shape} has no axis {axis} of units.")
    size = shape[axis]
    full = [1] * len(shape)
    full[axis] = size
    first = len(names)
    owner[site] = np.arange(first, first + size, dtype=np.int32).reshape(full)
    names += [f"{site.removesuffix(cut)} {i}" for i in range(size)]
  if not names:
    raise ValueError(_none(what, patterns, at))
  return Players(tuple(names), owner)


def _none(what, patterns, at) -> str:
  return (
    f"No {what} here: no site named like {' or '.join(patterns)}. Sites are "
    f"{list(at)}."
  )
