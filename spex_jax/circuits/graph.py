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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base, shown
from spex_jax.circuits import numbering

Edge, LEVELS = numbering.Edge, numbering.LEVELS
_SHOWN = 3  # Edges that an error names.
_DRAWN = 400  # Edges of a picture, at most.


@dataclasses.dataclass(frozen=True)
class Graph(numbering.Numbering):
  """The writers, readers and edges of a network, and sets of them."""

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
    return numbering.fixed(np.concatenate([part.ravel() for part in found]))

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
class Circuit(shown.Shown):
  """A set of edges of a graph, or of what else `LEVELS` names.

  Attributes:
    graph: the graph that edges and writers are of.
    kept: bool `[E]`, read-only; of level "position" `[P, E]`, "node" `[W]`,
      "neuron" `[F]`.
    level: what is kept, one of `LEVELS`.
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
  def members(self) -> list[Any]:
    """What it has, as JSON: `[writer, reader, row]`, and the position behind.

    Of nodes their names; of neurons `[site, number]`.
    """
    graph, numbers = self.graph, self.numbers.tolist()
    if self.level == "node":
      return list(self.nodes)
    if self.level == "neuron":
      count = graph.neurons[0]
      return [[graph.neuron_sites[i // count], i % count] for i in numbers]
    if self.level == "position":
      both = [divmod(i, graph.num_edges) for i in numbers]
      return [[*graph.edge(edge), at] for at, edge in both]
    return [list(edge) for edge in self.edges]

  def sheet(self) -> shown.Sheet:
    """What it has, in order, and of few edges a picture."""
    names = {
      "node": ["node"], "neuron": ["site", "neuron"],
      "edge": ["writer", "reader", "row"],
    }.get(self.level, ["writer", "reader", "row", "position"])  # fmt: skip
    rows = self.members
    if self.level == "node":
      rows = [[name] for name in rows]
    views = []
    if self.level == "edge" and 0 < len(self) <= _DRAWN:
      edges = [self.graph.drawn(i) for i in self.numbers.tolist()]
      views = [{"kind": "circuit", "title": "The circuit", "edges": edges}]
    return shown.Sheet(
      f"A circuit of {len(self):,} of {self.kept.size:,} {self.level}s",
      {name: [row[i] for row in rows] for i, name in enumerate(names)},
      facts={
        "connected": f"{self.connected:,} edges lie on a path to the output",
        "graph": self.graph.fingerprint,
      },
      views=views,
    )

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
      return Circuit(graph, np.asarray(self.kept.any(axis=0)))
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
