"""What a network's residual stream has: writers, readers, numbered edges.

Edges are numbered reader by reader in the order of computation, row by row, and
writer by writer; see `graph`.

Shapes: E edges, S rows of all readers, R rows of one, W writers, W' before it,
F neurons of all blocks.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from spex_jax import base
from spex_jax.models import sites

# Writer, reader, row.
Edge = tuple[str, str, int]

LEVELS = ("edge", "position", "node", "neuron")
NEURONS = "mlp.neurons"
_HEAD = re.compile(r"blocks\.(\d+)\.heads\.(\d+)")
_ATTENTION = re.compile(r"(blocks\.\d+)\.attn\.[qkv]_in")
_KIND = re.compile(r"blocks\.\d+\.attn\.([qkv])_in")


class Reader(NamedTuple):
  """A reader of the stream.

  Attributes:
    name: its site, such as "blocks.3.attn.q_in".
    rows: R, how many rows it reads: heads, or 1.
    before: W', how many writers there are before it.
    start: the number of its first edge; it has R W' of them.
  """

  name: str
  rows: int
  before: int
  start: int


@dataclasses.dataclass(frozen=True)
class Numbering:
  """The writers, readers and edges of a network; equal where these are.

  Attributes:
    writers: the W names of the writers, in order.
    readers: the readers, in the order of computation.
    width: d, the width of the stream.
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
  def of(cls, net: sites.Network, ungrouped: bool = False) -> Self:
    """The graph of a network, which needs no parameters.

    Args:
      net: a network with edges.
      ungrouped: whether keys and values have a row for each query head.

    Raises:
      ValueError: a network without edges, with the reason.
    """
    if net.no_edges or not net.readers:
      why = net.no_edges.rstrip(".") or "no reader is named"
      raise ValueError(
        f"This network has no edges: {why}. Its nodes can be asked about by "
        "`spex attribute components`."
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
    return fixed(np.concatenate(each))

  @functools.cached_property
  def reader(self) -> np.ndarray:
    """The number of each edge's reader: int32 `[E]`."""
    counts = [r.rows * r.before for r in self.readers]
    return fixed(np.repeat(np.arange(len(self.readers)), counts))

  @functools.cached_property
  def row(self) -> np.ndarray:
    """The row of its reader that each edge leads to: int32 `[E]`."""
    each = [np.repeat(np.arange(r.rows), r.before) for r in self.readers]
    return fixed(np.concatenate(each))

  @functools.cached_property
  def slot(self) -> np.ndarray:
    """The number of that row among all S rows: int32 `[E]`."""
    starts = np.cumsum([0, *(r.rows for r in self.readers)])
    return fixed(starts[self.reader] + self.row)

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
    if not isinstance(edge, list | tuple) or len(edge) != 3:
      raise ValueError(f"An edge is (writer, reader, row); got {edge!r}.")
    writer, name, row = edge
    if not (isinstance(writer, str) and isinstance(name, str)):
      raise ValueError(f"Writer and reader of an edge are names; got {edge!r}.")
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

  def drawn(self, number: int, score: float | None = None) -> dict[str, Any]:
    """An edge as a page and figures draw it.

    Args:
      number: the number of the edge, from 0.
      score: the score of this edge, if it has one.

    Returns:
      `name`, the writer it is `from`, the nodes it leads `into` (several heads
      may share a row), its `kind` ("q", "k", "v" or "") and its `score`.
    """
    writer, reader, _ = self.edge(number)
    into = np.flatnonzero(self.fed[self.slot[number]])
    kind = _KIND.fullmatch(reader)
    return {
      "name": self.name(number),
      "from": writer,
      "into": [self.writers[i] for i in into] or [reader],
      "kind": kind[1] if kind else "",
      "score": score,
    }


def fixed(array: np.ndarray) -> np.ndarray:
  """As int32, read-only."""
  array = array.astype(np.int32)
  array.flags.writeable = False
  return array
