"""The graph of a network's residual stream, and circuits: parts of it.

An edge leads from a writer (`embed`, a head, an MLP) to a row of a reader (the
query, key or value input of a head, an MLP's input, the final norm); names are
those of `sites.Network`. Edges are numbered reader by reader in the order of
computation, row by row, and writer by writer, so that those of one reader are
an array `[R, W']` in a row, as `sites.Edits.cut` has it.

A circuit is a set of edges; or of edges at single positions, of nodes (all
edges that leave a writer), or of neurons of MLPs. Run, its edges carry what
their writers write, and all others what they write in another run
(`sites.Edits.ref`); neurons outside have their values of that run.

With grouped queries, a row of a key or value reader serves several heads. An
ungrouped graph has a row for each of them; `ungrouped.network` makes a network
of that graph from any other. Exact effects of a group are not sums over its
members, first-order scores are.

Shapes: E edges, S rows of all readers, R rows of one, W writers, W' before it,
P positions, F neurons of all blocks.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import sites

# Writer, reader, row.
Edge = tuple[str, str, int]

LEVELS = ("edge", "position", "node", "neuron")
NEURONS = "mlp.neurons"
_SHOWN = 3  # Edges that an error names.
_HEAD = re.compile(r"blocks\.(\d+)\.heads\.(\d+)")
_ATTENTION = re.compile(r"(blocks\.\d+)\.attn\.[qkv]_in")


class Reader(NamedTuple):
  """A reader of the stream.

  Attributes:
    name: its site, such as "blocks.3.attn.q_in".
    rows: R.
    before: W', the writers before it.
    start: the number of its first edge; it has R W' of them.
  """

  name: str
  rows: int
  before: int
  start: int


@dataclasses.dataclass(frozen=True)
class Graph:
  """The writers, readers and edges of a network; equal where these are.

  Attributes:
    writers: W names in order.
    readers: in the order of computation.
    width: d of the stream.
    vocab_size: of its tokens, or 0.
    joined: whether a norm stands behind the sum of a block's heads (Gemma 2),
      so that what one of them reads changes the size of what all write.
    neurons: of the MLP of each block, or ().
  """

  writers: tuple[str, ...]
  readers: tuple[Reader, ...]
  width: int
  vocab_size: int
  joined: bool = False
  neurons: tuple[int, ...] = ()

  @classmethod
  def of(cls, net: sites.Network, ungrouped: bool = False) -> "Graph":
    """The graph of a network, which needs no parameters.

    Args:
      net: any with edges.
      ungrouped: whether keys and values have a row for each query head.

    Raises:
      ValueError: a network without edges, with the reason.
    """
    if net.no_edges or not net.readers:
      why = net.no_edges.rstrip(".") or "no reader is named"
      raise ValueError(
        f"This network has no edges: {why}. Its nodes can be asked about by "
        "`spex attribute components`, or by activation patching."
      )
    readers, start = [], 0
    for name, (rows, before) in net.readers.items():
      if ungrouped and (inside := _ATTENTION.fullmatch(name)):
        rows = net.readers[f"{inside[1]}.attn.q_in"][0]
      readers.append(Reader(name, rows, before, start))
      start += rows * before
    return cls(
      net.writers,
      tuple(readers),
      net.config.width,
      getattr(net.config, "vocab_size", 0),
      getattr(net.config, "order", "") == "sandwich",
      (getattr(net.config, "num_neurons", 0),) * net.config.num_blocks
      if f"blocks.0.{NEURONS}" in net.sites
      else (),
    )

  def __len__(self) -> int:
    return self.num_edges

  @property
  def num_edges(self) -> int:
    """E."""
    last = self.readers[-1]
    return last.start + last.rows * last.before

  @property
  def neuron_sites(self) -> tuple[str, ...]:
    """The site of every block's neurons."""
    return tuple(f"blocks.{i}.{NEURONS}" for i in range(len(self.neurons)))

  def size(self, level: str) -> int:
    """How many there are of a level: E, W or F; of "position" E at each."""
    if level == "node":
      return len(self.writers)
    return sum(self.neurons) if level == "neuron" else self.num_edges

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of what it is, not of any parameters: 16 hexadecimal digits."""
    parts = [r[:3] for r in self.readers]
    own = [self.writers, parts, self.width, self.vocab_size]
    body = json.dumps([*own, "joined"] if self.joined else own)
    return hashlib.sha256(body.encode()).hexdigest()[:16]

  @functools.cached_property
  def writer(self) -> np.ndarray:
    """The number of each edge's writer: int32 `[E]`."""
    each = [np.tile(np.arange(r.before), r.rows) for r in self.readers]
    return _fixed(np.concatenate(each))

  @functools.cached_property
  def reader(self) -> np.ndarray:
    """The number of each edge's reader: int32 `[E]`."""
    counts = [r.rows * r.before for r in self.readers]
    return _fixed(np.repeat(np.arange(len(self.readers)), counts))

  @functools.cached_property
  def row(self) -> np.ndarray:
    """The row of its reader that each edge leads to: int32 `[E]`."""
    each = [np.repeat(np.arange(r.rows), r.before) for r in self.readers]
    return _fixed(np.concatenate(each))

  @functools.cached_property
  def slot(self) -> np.ndarray:
    """The number of that row among all S rows: int32 `[E]`."""
    starts = np.cumsum([0, *(r.rows for r in self.readers)])
    return _fixed(starts[self.reader] + self.row)

  @functools.cached_property
  def fed(self) -> np.ndarray:
    """Which writers compute from which rows: bool `[S, W]`.

    A head from its query row and the key and value rows that it shares.
    """
    number = {name: i for i, name in enumerate(self.writers)}
    found = np.zeros(
      (sum(r.rows for r in self.readers), len(self.writers)), bool
    )
    start = 0
    for reader in self.readers:
      block = reader.name.removesuffix(".mlp.read")
      if inside := _ATTENTION.fullmatch(reader.name):
        heads = self._heads[inside[1]]
        share = len(heads) // reader.rows
        for head, writer in enumerate(heads):
          found[start + head // share, writer] = True
      elif block != reader.name:
        found[start, number[f"{block}.mlp"]] = True
      start += reader.rows
    found.flags.writeable = False
    return found

  @functools.cached_property
  def moved(self) -> np.ndarray:
    """Which writers change when a row does: bool `[S, W]`.

    Those that it feeds, and all heads of the block where they are `joined`.
    """
    if not self.joined:
      return self.fed
    found = self.fed.copy()
    for heads in self._heads.values():
      found[:, heads] |= found[:, heads].any(axis=1, keepdims=True)
    found.flags.writeable = False
    return found

  @functools.cached_property
  def _heads(self) -> dict[str, list[int]]:
    """Block to the numbers of its heads."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(self.writers):
      if inside := _HEAD.fullmatch(name):
        found.setdefault(f"blocks.{inside[1]}", []).append(number)
    return found

  @functools.cached_property
  def _by_name(self) -> tuple[dict[str, int], dict[str, Reader]]:
    numbers = {name: i for i, name in enumerate(self.writers)}
    return numbers, {reader.name: reader for reader in self.readers}

  def index(self, edge: Sequence[Any]) -> int:
    """The number of an edge `(writer, reader, row)`.

    Raises:
      ValueError: there is none such, with what is wrong.
    """
    if isinstance(edge, str) or len(edge) != 3:
      raise ValueError(f"An edge is (writer, reader, row); got {edge!r}.")
    writer, name, row = edge
    numbers, readers = self._by_name
    if writer not in numbers:
      raise ValueError(
        f"No writer {writer!r} here; they are {self.writers[0]}, "
        f"{self.writers[1]}, ..., {self.writers[-1]}."
      )
    if name not in readers:
      raise ValueError(
        f"No reader {name!r} here; they are {self.readers[0].name}, ..., "
        f"{self.readers[-1].name}."
      )
    reader = readers[name]
    row = base.check_integer(row, f"The row of {name!r}")
    if not 0 <= row < reader.rows:
      raise ValueError(
        f"{name!r} has rows 0..{reader.rows - 1}; got row {row}."
      )
    if numbers[writer] >= reader.before:
      raise ValueError(f"{writer!r} writes behind {name!r}: no edge there.")
    return reader.start + row * reader.before + numbers[writer]

  def edge(self, number: int) -> Edge:
    """The edge of a number: writer, reader, row."""
    reader = self.readers[self.reader[number]]
    return self.writers[self.writer[number]], reader.name, int(self.row[number])

  def name(self, number: int) -> str:
    """As `ablate.edges` writes it: "WRITER -> READER ROW"."""
    writer, reader, row = self.edge(number)
    rows = self.readers[self.reader[number]].rows
    return f"{writer} -> {reader}" + (f" {row}" if rows > 1 else "")

  def split(self, values: base.Array) -> dict[str, jax.Array]:
    """Values of edges `[..., E]` by reader, `[..., R, W']`; traceable."""
    values = jnp.asarray(values)
    chex.assert_axis_dimension(values, -1, self.num_edges)
    return {
      r.name: values[..., r.start : r.start + r.rows * r.before].reshape(
        *values.shape[:-1], r.rows, r.before
      )
      for r in self.readers
    }

  def join(self, values: Mapping[str, base.Array]) -> jax.Array:
    """The reverse of `split`, of all readers: `[..., E]`; traceable."""
    parts = []
    for r in self.readers:
      chex.assert_shape(values[r.name], (..., r.rows, r.before))
      part = jnp.asarray(values[r.name])
      parts.append(part.reshape(*part.shape[:-2], -1))
    return jnp.concatenate(parts, axis=-1)

  def cut(self, kept: base.Array) -> dict[str, jax.Array]:
    """`cut` of `sites.Edits` for edges kept, `[E]` or `[P, E]`; traceable.

    Args:
      kept: bool, or float: 1 for a whole edge, 0 for a cut one.

    Returns:
      reader to float `[1, 1|P, R, W']`, of all readers.
    """
    kept = jnp.asarray(kept)
    kept = kept[None] if kept.ndim == 1 else kept
    chex.assert_shape(kept, (None, self.num_edges))
    if kept.dtype == jnp.bool_:
      kept = kept.astype(jnp.result_type(float))
    return {n: 1 - part[None] for n, part in self.split(kept).items()}

  def members(self, grouped: "Graph") -> np.ndarray:
    """Of every edge of this ungrouped graph its edge in a grouped one.

    Args:
      grouped: the graph of the same network, with shared keys and values.

    Returns:
      int32 `[E]`, numbers of edges of `grouped`; `np.bincount` of them with
      weights adds members up.

    Raises:
      ValueError: a graph of another network.
    """
    names = [r.name for r in self.readers]
    if self.writers != grouped.writers or names != [
      r.name for r in grouped.readers
    ]:
      raise ValueError("These are graphs of two networks.")
    found = []
    for own, other in zip(self.readers, grouped.readers):
      if own.rows % other.rows or own.before != other.before:
        raise ValueError(
          f"{own.name} has {own.rows} rows here and {other.rows} there: the "
          "second one is not the grouped graph of the first."
        )
      rows = np.arange(own.rows) // (own.rows // other.rows)
      found.append(
        other.start + rows[:, None] * other.before + np.arange(own.before)
      )
    return _fixed(np.concatenate([part.ravel() for part in found]))

  def circuit(self, edges: base.Array | Iterable[Any]) -> "Circuit":
    """A circuit from a bool array `[E]`, numbers of edges, or edges.

    Raises:
      ValueError: an edge that there is not, or an array of another length.
    """
    if isinstance(edges, np.ndarray | jax.Array):
      edges = np.asarray(edges)
      if edges.dtype == bool:
        return Circuit(self, edges)
      numbers = [base.check_integer(i, "An edge's number") for i in edges]
    else:
      numbers = [
        self.index(e) if isinstance(e, tuple | list) else int(e) for e in edges
      ]
    if outside := [i for i in numbers if not 0 <= i < self.num_edges]:
      raise ValueError(
        f"Edges have numbers 0..{self.num_edges - 1}; got {outside[:_SHOWN]}."
      )
    kept = np.zeros(self.num_edges, bool)
    kept[numbers] = True
    return Circuit(self, kept)

  def of_nodes(self, writers: Iterable[str]) -> "Circuit":
    """The circuit of some nodes.

    Raises:
      ValueError: a writer that there is not.
    """
    numbers, _ = self._by_name
    names = tuple(writers)
    if missing := [name for name in names if name not in numbers]:
      raise ValueError(f"No such writers here: {missing[:_SHOWN]}.")
    kept = np.zeros(len(self.writers), bool)
    kept[[numbers[name] for name in names]] = True
    return Circuit(self, kept, "node")

  def of_writers(self, writers: Iterable[str]) -> "Circuit":
    """The circuit of all edges from some writers.

    Raises:
      ValueError: as `of_nodes`.
    """
    return self.of_nodes(writers).of_edges

  @property
  def full(self) -> "Circuit":
    """All edges."""
    return Circuit(self, np.ones(self.num_edges, bool))

  @property
  def empty(self) -> "Circuit":
    """None of them."""
    return Circuit(self, np.zeros(self.num_edges, bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Circuit:
  """A set of edges of a graph, or of what else `LEVELS` names.

  Attributes:
    graph: theirs.
    kept: bool `[E]`, read-only; of level "position" `[P, E]`, "node" `[W]`,
      "neuron" `[F]`.
    level: one of `LEVELS`.
  """

  graph: Graph
  kept: np.ndarray
  level: str = "edge"

  def __post_init__(self):
    kept = np.array(self.kept)
    if self.level not in LEVELS:
      raise ValueError(f"Unknown level {self.level!r}; known are {LEVELS}.")
    size, rank = self.graph.size(self.level), 1 + (self.level == "position")
    if kept.dtype != bool or kept.ndim != rank or kept.shape[-1] != size:
      raise ValueError(
        f"A circuit is a bool array of {size} {self.level}s"
        f"{' at each position' * (rank - 1)}; got {kept.dtype} {kept.shape}."
      )
    kept.flags.writeable = False
    object.__setattr__(self, "kept", kept)

  def __len__(self) -> int:
    return int(self.kept.sum())

  def __bool__(self) -> bool:
    return bool(self.kept.any())

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Circuit):
      return NotImplemented
    same = self.graph == other.graph and self.level == other.level
    return same and np.array_equal(self.kept, other.kept)

  def __hash__(self) -> int:
    return hash((self.graph.fingerprint, self.level, self.kept.tobytes()))

  def __repr__(self) -> str:
    return (
      f"Circuit({len(self)} of {self.kept.size} {self.level}s, "
      f"{self.graph.fingerprint})"
    )

  def __and__(self, other: "Circuit") -> "Circuit":
    return self._of(self.kept & self._kept_of(other))

  def __or__(self, other: "Circuit") -> "Circuit":
    return self._of(self.kept | self._kept_of(other))

  def __sub__(self, other: "Circuit") -> "Circuit":
    return self._of(self.kept & ~self._kept_of(other))

  def __xor__(self, other: "Circuit") -> "Circuit":
    return self._of(self.kept ^ self._kept_of(other))

  def __invert__(self) -> "Circuit":
    return self._of(~self.kept)

  def __le__(self, other: "Circuit") -> bool:
    return not (self - other)

  @property
  def numbers(self) -> np.ndarray:
    """Those of its edges, or of what it has, in order: int `[len]`."""
    return np.flatnonzero(self.kept)

  @property
  def of_edges(self) -> "Circuit":
    """The edges that carry what their writers write, wholly or in part.

    Of nodes all that leave them, which run alike; of positions those kept at
    any; of neurons all but those from MLPs of which none is kept.
    """
    graph = self.graph
    if self.level == "edge":
      return self
    if self.level == "position":
      return Circuit(graph, self.kept.any(axis=0))
    if self.level == "node":
      return Circuit(graph, self.kept[graph.writer])
    ends = np.cumsum([0, *graph.neurons])
    gone = [
      f"blocks.{i}.mlp"
      for i in range(len(graph.neurons))
      if not self.kept[ends[i] : ends[i + 1]].any()
    ]
    return Circuit(graph, ~np.isin(np.array(graph.writers), gone)[graph.writer])

  @property
  def edges(self) -> tuple[Edge, ...]:
    """Its edges, in order: (writer, reader, row)."""
    return tuple(self.graph.edge(i) for i in self.of_edges.numbers)

  @property
  def nodes(self) -> tuple[str, ...]:
    """The writers that any of its edges leaves, in order."""
    used = np.unique(self.graph.writer[self.of_edges.kept])
    return tuple(self.graph.writers[i] for i in used)

  def prune(self) -> "Circuit":
    """Without the edges that lie on no path from `embed` to the output.

    The greatest part of it in which every node but these two has an edge into
    it and one out of it. A node is fed by any of its rows, as EAP-IG has it,
    and by those of all heads beside it where these are `Graph.joined`. Under
    resampling the value stays the same: what is left out carries what the other
    run writes there, or is read by nobody. Under zeros or means it may not. Of
    nodes those of such edges stay; of positions what any position connects; of
    neurons all.
    """
    if self.level == "neuron":
      return self
    if self.level == "position":
      return self._of(self.kept & self.of_edges.prune().kept)
    if self.level == "node":
      return self.graph.of_nodes(self.of_edges.prune().nodes)
    graph, kept = self.graph, self.kept
    moved, ends = graph.moved, []
    # By row, `[W']` each, without an array of all rows and all writers.
    for reader in graph.readers:
      size = reader.rows * reader.before
      part = kept[reader.start : reader.start + size]
      ends += list(part.reshape(reader.rows, reader.before))
    reached = np.zeros(len(graph.writers), bool)
    reached[0] = True
    for slot, row in enumerate(ends):
      if (row & reached[: len(row)]).any():
        reached |= moved[slot]
    heard = np.zeros(len(graph.writers), bool)
    live = np.zeros(len(ends), bool)
    for slot in reversed(range(len(ends))):
      live[slot] = slot == len(ends) - 1 or (moved[slot] & heard).any()
      if live[slot]:
        row = ends[slot]
        heard[: len(row)] |= row
    return Circuit(graph, kept & reached[graph.writer] & live[graph.slot])

  @property
  def connected(self) -> int:
    """How many of its edges lie on a path from `embed` to the output."""
    return len(self.prune())

  def check(self, graph: Graph, levels: Sequence[str] = LEVELS[:1]) -> None:
    """Refuses a circuit of another graph or level.

    Raises:
      ValueError: with both fingerprints, or the levels.
    """
    if self.level not in levels:
      raise ValueError(
        f"Need a circuit of level {' or '.join(levels)}; got {self.level!r}. "
        "Its `of_edges` may be what is asked for."
      )
    if self.graph != graph:
      raise ValueError(
        f"This circuit is of graph {self.graph.fingerprint} with "
        f"{self.graph.num_edges:,} edges, the model's is {graph.fingerprint} "
        f"with {graph.num_edges:,}: it is another model's."
      )

  def _kept_of(self, other: "Circuit") -> np.ndarray:
    if not isinstance(other, Circuit):
      raise TypeError(f"Expected a Circuit; got {type(other).__name__}.")
    other.check(self.graph, (self.level,))
    if other.kept.shape != self.kept.shape:
      raise ValueError(
        f"These circuits have {len(self.kept)} and {len(other.kept)} positions."
      )
    return other.kept

  def _of(self, kept: np.ndarray) -> "Circuit":
    return dataclasses.replace(self, kept=kept)


def _fixed(array: np.ndarray) -> np.ndarray:
  array = array.astype(np.int32)
  array.flags.writeable = False
  return array
