"""Parts of a network as players: heads, neurons, experts, filters, blocks.

`KINDS` lists the usual players by name; `chosen` takes patterns of site names;
`edges` has players of edges, `spans` those at some positions. What they own,
and what becomes of absent ones, is in `parts`. `game` is the network's value
as they are kept to a degree, with what no player touches computed once, and
`evaluator` the same on masks, compiled.

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
from spex_jax.ablate import evaluate, parts, readouts
from spex_jax.models import checks, sites
from spex_jax.models import cut_edges as stream_edges

HEADS = ("*attn.z", "*cross.z")  # [B, P, H, h]; query heads.
NEURONS = ("*mlp.neurons", "layers.*.neurons")  # [B, P, F], [B, F].
EXPERTS = ("*mlp.experts",)  # [B, P, E, d].
FILTERS = ("*conv", "*conv[0-9]")  # [B, F, H, W].
BLOCKS = ("attn.out", "cross.out", "mlp.out")  # [B, P, d]
_BLOCK = re.compile(r"((?:.*\.)?blocks\.\d+)\.(.+)")


def shapes(
  net: sites.Network, params: Any, **inputs: Any
) -> dict[str, tuple[int, ...]]:
  """The shape of the activation at every site, without running the network.

  Args:
    net: the network, which is not run.
    params: the parameters of the network, or their shapes.
    **inputs: batched arrays, by their usual names, or their shapes.
  """
  run = lambda params, inputs: net.apply(params, capture=("*",), **inputs)
  found = jax.eval_shape(run, params, inputs).activations
  return {site: found[site].shape for site in net.sites if site in found}


def heads(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
  """Every attention head, named as "blocks.0.attn 3"; `at` is of `shapes`.

  The head's output before the projection (`attn.z`) is removed. With grouped
  queries these are query heads. Sites are in the order of computation, so the
  mask is layer-major. A part of `at` gives the heads of a part of the layers.
  """
  return _units(at, HEADS, 2, "attention heads", cut=".z")


def kv_groups(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
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


def neurons(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
  """Every MLP neuron, named as "blocks.0.mlp 17"; `at` is of `shapes`."""
  return _units(at, NEURONS, -1, "MLP neurons", cut=".neurons")


def experts(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
  """Every expert, named as "blocks.0.mlp.expert 5"; `at` is of `shapes`.

  What it adds to the output of its block (`mlp.experts`) is removed; the other
  experts weigh what they weighed, and no other is chosen in its place.
  """
  return _units(at, EXPERTS, 2, "experts", cut="s")


def filters(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
  """Every convolution filter, as "stages.0.blocks.1.conv2 5", by `shapes`.

  Removed before bias and batch norm: the same as zeroing its weights.
  """
  return _units(at, FILTERS, 1, "convolution filters", cut="")


def blocks(at: Mapping[str, tuple[int, ...]]) -> parts.Players:
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
  return parts.Players(tuple(names), owner)


def units(
  at: Mapping[str, tuple[int, ...]], patterns: Sequence[str], axis: int
) -> parts.Players:
  """Every entry along `axis` of the sites that any of the patterns names.

  Args:
    at: site to shape, of `shapes`.
    patterns: as `models.checks.match` takes them.
    axis: the axis of the activations; not 0, the examples.

  Raises:
    ValueError: a pattern that names no site (close ones are listed), or a site
      without that axis.
  """
  checks.match(tuple(at), patterns, "patterns")
  return _units(at, patterns, axis, "units", cut="")


def chosen(
  at: Mapping[str, tuple[int, ...]],
  patterns: Sequence[str],
  *,
  whole: bool = False,
) -> parts.Players:
  """The parts at the sites that patterns name: ("blocks.3.mlp.neurons",).

  What a part is follows from the site: a head, a neuron, an expert, a filter,
  named as by `heads`, `neurons`, `experts` and `filters`; any other site is one
  player of its name.

  Args:
    at: site to shape, of `shapes`.
    patterns: as `models.checks.match` takes them.
    whole: one player for each site, named after it, whatever its kind.

  Raises:
    ValueError: a pattern that names no site; close ones are listed.
  """
  found = checks.match(tuple(at), patterns, "patterns")
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site in (site for site in at if site in found):
    kind = None if whole else _kind(site)
    if kind is None:
      owner[site] = np.full((1,) * len(at[site]), len(names), np.int32)
      names.append(site)
    else:
      _add_units(owner, names, site, at[site], *kind)
  return parts.Players(tuple(names), owner)


# The usual players by name, each from `shapes`.
KINDS: Mapping[
  str, Callable[[Mapping[str, tuple[int, ...]]], parts.Players]
] = {
  "heads": heads,
  "kv_groups": kv_groups,
  "neurons": neurons,
  "experts": experts,
  "filters": filters,
  "blocks": blocks,
}


def first_block(net: sites.Network, players: parts.Players) -> int | None:
  """The first block that any player's site or reader is in or before, or None.

  The blocks before it are the same for every mask: they run once. None where
  there is nothing to run apart: a site before block 0, or a network whose
  blocks cannot be entered.

  Raises:
    ValueError: a site or reader of the players that the network lacks.
  """
  touched = {*players.owner, *players.edges}
  missing = sorted(touched - {*net.sites})
  if missing:
    raise ValueError(f"The network has no sites {missing}.")
  if not net.resumes:
    return None
  first = min(net.sites.index(site) for site in touched)
  names = (f"blocks.{i}.resid_pre" for i in range(net.config.num_blocks))
  before = sum(net.sites.index(name) <= first for name in names)
  return before - 1 if before else None


def game(
  net: sites.Network,
  players: parts.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  absent: Mapping[str, base.Array] | None = None,
  ref: base.Array | None = None,
  rescale: bool = False,
  edits: sites.Edits | None = None,
  params: Any = None,
  capture: Sequence[str] = (),
  units: str = "",
) -> base.Game:
  """A network's parts on given inputs, kept to a degree.

  One forward of all players' strengths serves all examples and all that is
  read of them. The blocks before the first that a player touches are the game's
  `head`; and only the logits that `read` needs are computed.

  Args:
    net: any network whose parts players own.
    players: the players, of parts or of edges.
    inputs: batched arrays, by their usual names; one example, or B of them.
    read: what to read of the output: `[B]`, or `[B, T]`.
    absent: as for `Players.edits`; or with one more axis in front, of R draws
      (`stand_ins.resampled`): then a value is the mean over the draws.
    ref: what absent edges carry, as for `Players.edits`; zeros by default, or
      the `ref` of `edits` where that cuts edges.
    rescale: as for `Players.edits`.
    edits: what is done to the network whoever is kept, before the players' own
      edits: an edited model, a circuit.
    params: the parameters of the network; its own by default.
    capture: names of the sites that `read` asks for.
    units: the units of the values.

  Returns:
    A game of `players.n` players, with one target for every example, T of
    one, or B * T, those of the first example first; a single one has no axis
    of targets. Its `shared` has "params", "inputs", "absent", "ref", "edits".

  Raises:
    ValueError: no parameters, or a `ref` that no player needs; see
      `first_block`. As `Players.edits`, where it is traced.
  """
  params = net.given(params)
  fixed = sites.Edits() if edits is None else edits
  if players.edges and not fixed.cut:
    zeros = jnp.zeros((1, 1, len(net.writers), net.config.width))
    fixed = dataclasses.replace(fixed, ref=zeros if ref is None else ref)
  elif ref is not None:
    raise ValueError(
      "`ref` is for players that own edges; where `edits` cuts some, too, all "
      "carry what its own `ref` says."
    )
  shared = {
    "params": params,
    "inputs": {name: jnp.asarray(value) for name, value in inputs.items()},
    "absent": absent,
    "edits": fixed,
  }
  start = first_block(net, players) or 0
  enters = f"blocks.{start}.resid_pre"
  line = net.sites.index(enters) if start else 0
  # Edges cut from there on need what was written before.
  cuts = players.edges or not fixed.cut.keys() <= {*net.sites[:line]}
  wrote = [one for one in net.writer_sites if one in net.sites[:line]]
  some = next(iter(players.owner), None)
  drawn = (
    absent is not None
    and some in absent
    and np.ndim(absent[some]) == players.owner[some].ndim + 1
  )

  def value(strengths, given):
    if start:
      (x, written), shared = given
      whole = functools.partial(
        net.resume, shared["params"], start, x, written=written
      )
    else:
      shared = given
      whole = functools.partial(net.apply, shared["params"])
    late = parts.only(shared["edits"], net.sites[line:])

    def one(stand_in):
      own = players.edits(
        strengths, stand_in, ref=shared["edits"].ref, rescale=rescale
      )
      run = functools.partial(whole, parts.joined(late, own), capture=capture)
      return readouts.forward(net, read, shared["inputs"], run, capture)

    stand_ins = shared["absent"]
    out = jax.vmap(one)(stand_ins).mean(axis=0) if drawn else one(stand_ins)
    return out[0] if len(out) == 1 else out.reshape(-1)

  def head(shared):
    early = parts.only(shared["edits"], net.sites[:line])
    params, inputs = shared["params"], shared["inputs"]
    if not cuts:
      return net.enter(params, start, early, **inputs), None
    # Compiled, this runs nothing behind what is captured.
    out = net.apply(params, early, capture=(enters, *wrote), **inputs)
    found = out.activations
    return found[enters], stream_edges.stacked([found[site] for site in wrote])

  return base.Game(
    value,
    players.names,
    units,
    shared,
    "zero" if absent is None else "what stands in for it",
    head if start else None,
  )


def evaluator(
  net: sites.Network,
  players: parts.Players,
  inputs: Mapping[str, base.Array],
  read: readouts.Readout,
  *,
  absent: Mapping[str, base.Array] | None = None,
  ref: base.Array | None = None,
  rescale: bool = False,
  edits: sites.Edits | None = None,
  params: Any = None,
  **settings: Any,
) -> evaluate.Evaluator:
  """`game` on masks, compiled; `settings` are those of `evaluate.compiled`."""
  made = game(
    net, players, inputs, read,
    absent=absent, ref=ref, rescale=rescale, edits=edits, params=params,
  )  # fmt: skip
  return evaluate.compiled(made, **settings)


def _units(at, patterns, axis, what, cut) -> parts.Players:
  owner: dict[str, np.ndarray] = {}
  names: list[str] = []
  for site, shape in at.items():
    if any(fnmatch.fnmatchcase(site, one) for one in patterns):
      _add_units(owner, names, site, shape, axis, cut)
  if not names:
    raise ValueError(_none(what, patterns, at))
  return parts.Players(tuple(names), owner)


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
  if named(EXPERTS):
    return 2, "s"
  return (1, "") if named(FILTERS) else None


def _none(what, patterns, at) -> str:
  return (
    f"No {what} here: no site named like {' or '.join(patterns)}. Sites are "
    f"{list(at)}."
  )
