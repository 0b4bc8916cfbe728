"""Edges of the residual stream as players: what a part reads of another.

An edge leads from a writer (`embed`, a head, an MLP) to a row of a reader (the
query, key or value input of a head, an MLP's input, the final norm). A player
owns one edge or several. Kept, its edges are whole; absent, they carry what the
writer writes in another run (`ref` of `components.game`), or zero.

Edges are named "WRITER -> READER", with a reader's row where it has several:

  "embed -> blocks.0.attn.q_in 3"      "blocks.0.heads.1 -> final_norm.in"

and patterns of such names have `*` and `?` on both sides, as in `fnmatch`:

  chosen(net, ("* -> *",))                       all
  chosen(net, ("* -> blocks.9.attn.?_in *",))    into the heads of a layer
  chosen(net, ("embed -> blocks.0.mlp.read",))   one, by its name

Any set, of ten edges or 30,000, is arrays: `chosen` finds which, `owned` makes
players of them, and `parts.Players.edits` one gather for each reader. Only the
readers that a player has are named in `sites.Edits.cut`.

Shapes: W writers, S rows of all readers together, in the order of computation.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from spex_jax.ablate import parts
from spex_jax.models import checks, sites

ARROW = " -> "


def exist(net: sites.Network) -> np.ndarray:
  """Which edges there are: bool `[S, W]`.

  Raises:
    ValueError: a network without edges.
  """
  if net.no_edges or not net.readers:
    raise ValueError(f"No edges here: {net.no_edges or 'no reader is named'}.")
  before = [num for rows, num in net.readers.values() for _ in range(rows)]
  return np.arange(len(net.writers)) < np.asarray(before)[:, None]


def rows(net: sites.Network) -> tuple[str, ...]:
  """The names of the readers' rows: S of them."""
  return tuple(
    name if count == 1 else f"{name} {row}"
    for name, (count, _) in net.readers.items()
    for row in range(count)
  )


def chosen(net: sites.Network, patterns: Sequence[str]) -> parts.Players:
  """Every edge that any of the patterns names, each a player.

  Args:
    net: a network with edges.
    patterns: the patterns of names of edges, see the head of this file.

  Raises:
    ValueError: no edge here of a pattern, or one without an arrow.
  """
  found = _named(net, patterns)
  owner = np.full(found.shape, found.sum(), np.int32)
  owner[found] = np.arange(found.sum())
  read = rows(net)
  names = [
    f"{net.writers[writer]}{ARROW}{read[row]}"
    for row, writer in np.argwhere(found).tolist()
  ]
  return owned(net, names, owner)


def grouped(
  net: sites.Network, groups: Mapping[str, Sequence[str]]
) -> parts.Players:
  """Players that own all edges of some patterns each.

  Args:
    net: a network with edges.
    groups: player to patterns, as for `chosen`; edges in no group are kept.

  Raises:
    ValueError: no edge here of a pattern, or an edge in two groups.
  """
  owner = np.full(exist(net).shape, len(groups), np.int32)
  for number, (name, patterns) in enumerate(groups.items()):
    mask = _named(net, patterns)
    if (twice := mask & (owner < len(groups))).any():
      row, writer = np.argwhere(twice)[0]
      raise ValueError(
        f"Edge {net.writers[writer]}{ARROW}{rows(net)[row]} is of {name!r} and "
        f"of {list(groups)[owner[row, writer]]!r}."
      )
    owner[mask] = number
  return owned(net, tuple(groups), owner)


def between(
  net: sites.Network,
  writers: Mapping[str, Sequence[str]],
  readers: Mapping[str, Sequence[str]],
) -> parts.Players:
  """A player for every group of writers and group of readers with an edge.

  It is named "WRITERS -> READERS", by the groups' names. `layers` and `nodes`
  are the usual groups.

  Args:
    net: a network with edges.
    writers: group to patterns of writers.
    readers: group to patterns of readers' rows.

  Raises:
    ValueError: a pattern that names none, a writer or a row in two groups, or
      no edge between the groups.
  """
  sources = _groups(net.writers, writers, "writers")
  targets = _groups(rows(net), readers, "readers")
  pair = targets[:, None] * len(writers) + sources[None]
  inside = exist(net) & (targets[:, None] < len(readers))
  inside &= sources[None] < len(writers)
  if not inside.any():
    raise ValueError(f"No edge leads from {list(writers)} to {list(readers)}.")
  used, number = np.unique(pair[inside], return_inverse=True)
  owner = np.full(pair.shape, len(used), np.int32)
  owner[inside] = number
  a, b = list(writers), list(readers)
  names = [f"{a[k % len(a)]}{ARROW}{b[k // len(a)]}" for k in used]
  return owned(net, names, owner)


def layers(net: sites.Network) -> parts.Players:
  """Edges between layers: "embed -> blocks.1", "blocks.0 -> final_norm.in"."""
  return _by(net, lambda name: ".".join(name.split(".")[:2]))


def nodes(net: sites.Network) -> parts.Players:
  """Edges between heads and MLPs, whichever of q, k and v reads them.

  With grouped queries, keys and values are read by nodes of their own, such as
  "blocks.0.kv 1".
  """

  def node(name):
    block = ".".join(name.split(".")[:2])
    if ".mlp." in name:
      return f"{block}.mlp"
    reader, _, row = name.partition(" ")
    if ".attn." not in reader:
      return name
    queries = net.readers[f"{block}.attn.q_in"][0]
    own = net.readers[reader][0] == queries
    # A row has no number where there is but one.
    return f"{block}.heads.{row or 0}" if own else f"{block}.kv {row or 0}"

  return _by(net, node)


def owned(
  net: sites.Network, names: Sequence[str], owner: np.ndarray
) -> parts.Players:
  """Players of edges from who owns each.

  Args:
    net: a network with edges.
    names: the names of the n players, distinct.
    owner: int `[S, W]`, or `[B|1, P|1, S, W]` by example and position; n for
      an edge that nobody owns, or that there is not.

  Raises:
    ValueError: owners of another shape, or of edges that there are not.
  """
  there = exist(net)
  owner = np.asarray(owner, np.int32)
  if owner.ndim not in (2, 4) or owner.shape[-2:] != there.shape:
    raise ValueError(
      f"Owners of edges must be [S, W] = {there.shape}, with axes of examples "
      f"and positions before them or none; got {owner.shape}."
    )
  if (owner[..., ~there] < len(names)).any():
    raise ValueError("Owners have edges into readers from writers after them.")
  if owner.ndim == 2:
    owner = owner[None, None]
  found, start = {}, 0
  for name, (count, before) in net.readers.items():
    part = owner[:, :, start : start + count, :before]
    if (part < len(names)).any():
      found[name] = part
    start += count
  return parts.Players(tuple(names), edges=found)


def _by(net, node) -> parts.Players:
  """`between` the groups that `node` makes of names of writers and rows."""
  whose: dict[str, dict[str, list[str]]] = {"writers": {}, "rows": {}}
  for side, names in (("writers", net.writers), ("rows", rows(net))):
    for name in names:
      whose[side].setdefault(node(name), []).append(name)
  return between(net, whose["writers"], whose["rows"])


def _groups(names, groups, what) -> np.ndarray:
  """The group of each name, or their number for none."""
  owner = np.full(len(names), len(groups), np.int32)
  for number, patterns in enumerate(groups.values()):
    found = checks.match(names, patterns, what)
    mask = np.array([name in found for name in names])
    if (mask & (owner < len(groups))).any():
      name = names[int(np.argmax(mask & (owner < len(groups))))]
      raise ValueError(f"{name} is in two groups of {what}.")
    owner[mask] = number
  return owner


def _named(net: sites.Network, patterns: Sequence[str]) -> np.ndarray:
  """Which edges any of the patterns names: bool `[S, W]`."""
  if isinstance(patterns, str):
    raise ValueError(f"Give patterns of edges: ({patterns!r},).")
  there = exist(net)
  sides = rows(net), net.writers
  # A name is looked up, so that thousands of them cost no more than a few.
  index = [{name: [i] for i, name in enumerate(side)} for side in sides]
  found = np.zeros_like(there)
  for pattern in patterns:
    source, arrow, target = pattern.partition(ARROW)
    if not arrow:
      raise ValueError(
        f"{pattern!r} names no edge: write it as 'WRITER{ARROW}READER'."
      )
    ends = [
      index[k].get(part)
      or [i for name, (i,) in index[k].items() if fnmatchcase(name, part)]
      for k, part in enumerate((target, source))
    ]
    block = np.ix_(*ends) if all(ends) else None
    if block is None or not there[block].any():
      raise ValueError(
        f"No edge is named like {pattern!r}. Writers are {list(net.writers)}; "
        f"readers are {list(sides[0])}; and a writer comes before its reader."
      )
    found[block] = True
  return found & there
