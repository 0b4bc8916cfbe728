"""Parts of one run put into another by degrees, each at its own place.

A member is a writer (a head or an MLP) at a place: a named span of the pairs,
wherever each has it; a position, from -1 backwards the last of each prompt; or
None for all positions. Its gate g mixes what it gives in this run, x, with what
it has in another, y: g x + (1 - g) y. Heads are mixed before their projection.

`Judge` asks for many sets of members at once. Circuits of heads hold means
(`groups`), learned masks another prompt's values (`dcm`), and a model those of
another one (`cmap`): what heads gather, or what they read with (`FORMS`),

  out            what heads gather, before their projection; what MLPs write
  q, k, v, ...   queries at their place, keys and values at all positions. With
                 keys or values all else that these heads gather (elsewhere, or
                 by heads that share the keys) is held as this run has it

Shapes: N pairs, B of a batch, P positions, K places, M members, L blocks, H
heads, C sets of members.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import stand_ins
from spex_jax.circuits import many, metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

Place: TypeAlias = str | int | None
Member: TypeAlias = tuple[str, Place]

KINDS = ("resample", "mean-position", "mean", "zero")
FORMS = ("out", "q", "k", "v", "qk", "qv", "kv", "qkv")
_WRITER = re.compile(r"blocks\.(\d+)\.(?:heads\.(\d+)|mlp)")


def places(pairs: pairs_lib.Pairs, names: Sequence[Place]) -> np.ndarray:
  """Where places are in every pair: bool `[K, N, P]`.

  Raises:
    ValueError: spans that the pairs, or one of them, lack; a position outside
      of a prompt; the pair is named.
  """
  at = np.arange(pairs.clean.shape[1])[None]
  lengths = np.asarray(pairs.lengths)[:, None]
  found = []
  for name in names:
    if name is None:
      found.append(np.broadcast_to(at >= 0, pairs.clean.shape))
      continue
    if isinstance(name, str):
      known = () if pairs.spans is None else pairs.spans.names
      if pairs.spans is None or name not in known:
        raise ValueError(
          f"These pairs have no span {name!r}; they have {list(known)}."
        )
      one = pairs.spans.owner == known.index(name)
      one = np.broadcast_to(one, pairs.clean.shape)
      what = f"span {name!r}"
    else:
      number = base.check_integer(name, "A position")
      one = at == np.where(number < 0, lengths + number, number)
      one = one & (at < lengths)
      what = f"position {number}"
    if (missing := np.flatnonzero(~one.any(axis=1))).size:
      row = int(missing[0])
      raise ValueError(
        f"Pair {row} of {pairs.lengths[row]} tokens has no {what}."
      )
    found.append(one)
  return np.stack(found)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which members there are; a static part of programs.

  Attributes:
    members: M distinct ones, each a part and its place.
    block: of each member the number of its block.
    column: of each its head, or H for an MLP.
    places: K distinct ones: None, positions or names of spans.
    place: of each member the number of its place.
    heads: H, how many heads a block has.
  """

  members: tuple[Member, ...]
  block: tuple[int, ...]
  column: tuple[int, ...]
  places: tuple[Place, ...]
  place: tuple[int, ...]
  heads: int

  @classmethod
  def of(cls, net: sites.Network, members: Sequence[Member]) -> "Layout":
    """Of a network.

    Raises:
      ValueError: no member, one twice, or a writer that is no head or MLP of
        this network.
    """
    members = tuple((str(writer), place) for writer, place in members)
    if not members or len({*members}) < len(members):
      raise ValueError("Members must be distinct, and one at least.")
    known, heads = {*net.writers}, net.config.num_heads
    block, column = [], []
    for writer, _ in members:
      parts = _WRITER.fullmatch(writer)
      if parts is None or writer not in known:
        raise ValueError(
          f"{writer!r} is no head or MLP of this network, such as "
          "blocks.0.heads.1 or blocks.0.mlp."
        )
      block.append(int(parts[1]))
      column.append(heads if parts[2] is None else int(parts[2]))
    distinct = tuple(dict.fromkeys(place for _, place in members))
    numbers = tuple(distinct.index(place) for _, place in members)
    return cls(members, tuple(block), tuple(column), distinct, numbers, heads)

  def __len__(self) -> int:
    return len(self.members)

  @property
  def names(self) -> tuple[str, ...]:
    """Of members: `blocks.0.heads.1 @ end`."""
    return tuple(
      writer if place is None else f"{writer} @ {place}"
      for writer, place in self.members
    )

  @property
  def mlps(self) -> bool:
    """Whether any member is an MLP."""
    return self.heads in self.column

  def where(self, pairs: pairs_lib.Pairs) -> np.ndarray:
    """Where its places are: bool `[K, N, P]`.

    Raises:
      ValueError: as `places`, or two that overlap: a part would have two gates.
    """
    found = places(pairs, self.places)
    if (twice := np.argwhere(found.sum(axis=0) > 1)).size:
      row, position = twice[0]
      both = [str(self.places[k]) for k in np.flatnonzero(found[:, *twice[0]])]
      raise ValueError(
        f"Places {' and '.join(both)} of pair {row} overlap at position "
        f"{position}."
      )
    return found

  def rest(self, pairs: pairs_lib.Pairs) -> int:
    """How many tokens `runs.Rest` needs: from the first place on, at most."""
    first = self.where(pairs).any(axis=0).argmax(axis=1)
    return int((np.asarray(pairs.lengths) - first).max())

  def touched(self, net: sites.Network, every: bool = False) -> tuple[str, ...]:
    """The sites that members have, or those of all blocks' heads, too."""
    blocks = range(net.config.num_blocks) if every else sorted({*self.block})
    names = []
    for number in blocks:
      names.append(f"blocks.{number}.attn.z")
      if self.mlps:
        names.append(f"blocks.{number}.mlp.out")
    return tuple(names)

  def gates(
    self,
    blocks: int,
    strengths: base.Array,
    where: base.Array,
    rest: base.Array | float = 1.0,
  ) -> jax.Array:
    """Gates of all parts at all positions: `[L, B, P, H + 1]`.

    Args:
      blocks: L, how many blocks the network has.
      strengths: float `[M]`, the gates of members.
      where: bool `[K, B, P]`, True where a place is.
      rest: the gate of heads that are no members; MLPs that are none have 1.
    """
    strengths = jnp.asarray(strengths)
    chex.assert_shape(strengths, (len(self),))
    chex.assert_shape(where, (len(self.places), None, None))
    rest = jnp.asarray(rest, strengths.dtype)
    each = jnp.append(jnp.broadcast_to(rest, (self.heads,)), 1.0)
    each = each.astype(strengths.dtype)
    off = jnp.zeros((blocks, len(self.places), self.heads + 1), each.dtype)
    at = (np.array(self.block), np.array(self.place), np.array(self.column))
    off = off.at[at].set(strengths - each[np.array(self.column)])
    at = jnp.asarray(where, each.dtype)
    mixed = jnp.einsum("kbp,lkc->lbpc", at, off, precision="highest")
    return each[None, None, None] + mixed

  def edits(
    self, gates: jax.Array, values: Mapping[str, jax.Array]
  ) -> sites.Edits:
    """Mixes parts with what they have elsewhere.

    Args:
      gates: float `[L, B, P, H + 1]`, as `gates` gives them; 1 keeps what is
        there.
      values: `[B|1, P, H, h]` at `attn.z` and `[B|1, P, d]` at `mlp.out`, of
        the sites that are edited.
    """
    chex.assert_rank(gates, 4)
    scale, add = {}, {}
    for site, value in values.items():
      gate = gates[int(site.split(".")[1])]
      gate = (
        gate[..., -1:] if site.endswith("mlp.out") else gate[..., :-1, None]
      )
      gate = gate.astype(value.dtype)
      scale[site], add[site] = gate, (1 - gate) * value
    return sites.Edits(scale=scale, add=add)


class Judge:
  """What members do on given pairs where some hold what they are elsewhere.

  Attributes:
    layout: which members there are.
    metric: float64 `[N]`, of the whole model.
    right: bool `[N]`, whether its likeliest token is right.
  """

  def __init__(
    self,
    net: sites.Network,
    params: Any,
    pairs: pairs_lib.Pairs,
    members: Sequence[Member],
    metric: metrics.Metric,
    *,
    ablation: str = "resample",
    background: pairs_lib.Pairs | None = None,
    other: Any = None,
    form: str = "out",
    size: int | None = None,
    at_once: int | None = None,
  ):
    """Runs the model, and finds means.

    Args:
      net: a causal language model.
      params: the parameters of the network.
      pairs: N pairs of prompts, a clean and a corrupted one.
      members: (writer, place) of parts that may hold something else.
      metric: one example's logits to a number, see `metrics`.
      ablation: one of `KINDS`: what is put in.
      background: pairs whose clean prompts means are of; `pairs` by default.
      other: parameters whose run on the clean prompts gives what is put in,
        instead of an ablation.
      form: one of `FORMS`; others than "out" are of other parameters.
      size: pairs of a batch; `runs.batch_size` by default.
      at_once: circuits computed side by side; `many.at_once` by default.

    Raises:
      ValueError: another ablation or form, no member, a place that a pair
        lacks, queries of MLPs; NaN; see `Layout`.
    """
    if ablation not in KINDS:
      raise ValueError(f"Unknown ablation {ablation!r}; known are {KINDS}.")
    if form not in FORMS or (form != "out" and other is None):
      raise ValueError(
        f"form={form!r}: choose from {', '.join(FORMS)}; all but the first are "
        "of other parameters."
      )
    metrics.check(metric, net.config.vocab_size)
    pairs.check(net.config.vocab_size, net.config.max_positions)
    self.layout = Layout.of(net, members)
    size = runs.batch_size(pairs) if size is None else size
    if self.layout.mlps and form != "out":
      raise ValueError("MLPs have no queries, keys or values: take form out.")
    length = pairs.clean.shape[1]
    # What is run: keys and values are held everywhere.
    rest = self.layout.rest(pairs) if form in ("out", "q") else length
    often = lambda count: at_once or many.at_once(size * count, plain=True)
    self._ways = {False: (rest, often(rest)), True: (length, often(length))}
    self._given = sites.Model(net), metric, self.layout, form
    self._params = params, params if other is None else other
    self._own = other is None
    where = self.layout.where(pairs)
    # Batches, and where places are in them.
    self.batches = [
      (batch, runs.of_batch(where, number, size))
      for number, batch in enumerate(runs.batches(pairs, size))
    ]
    self._fixed = None
    if ablation != "resample" and other is None:
      given = pairs if background is None else background
      self._fixed = _means(net, params, given, ablation, size)
      shapes = {x.shape[1] for x in self._fixed.values()}
      if not shapes <= {1, length}:
        raise ValueError(
          f"The background has prompts of {max(shapes)} positions, the pairs "
          f"of {length}: pad one of them (`Pairs.padded`), or take the mean "
          "over positions."
        )
    none = np.ones((1, len(self.layout)), bool)
    self.metric, self.right = (x[0] for x in self(none))

  def __call__(
    self, kept: np.ndarray, rest: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The metric, float64 `[C, N]`, and whether the likeliest token is right.

    Args:
      kept: bool `[C, M]`, the members that stay as they are.
      rest: `[C]`, 0 where no other head stays as it is, 1 where all do; 1 by
        default.

    Raises:
      ValueError: a metric that is NaN or infinite.
    """
    found, rest = [], np.ones(len(kept)) if rest is None else np.asarray(rest)
    every = not (rest == 1).all()
    for batch, where in self.batches:
      some = np.asarray(kept, np.float32), np.asarray(rest, np.float32)
      way = self._ways[every]
      items = tuple(many.padded(x, 0, way[1]) for x in some)
      out = _judged(
        *self._given, *way, every, self._own, *self._params, batch, where,
        self._fixed, items, len(kept),
      )  # fmt: skip
      out = np.asarray(out, np.float64)[: len(kept)]
      found.append(runs.real_rows(batch, np.moveaxis(out, 1, 0)))
    values = np.concatenate(found)  # [N, C, 2]
    if not np.isfinite(values).all():
      raise ValueError("The metric is NaN or infinite with members put in.")
    return values[..., 0].T, values[..., 1].T > 0.5


@functools.partial(
  jax.jit,
  static_argnames=(
    "model",
    "metric",
    "layout",
    "form",
    "count",
    "at_once",
    "every",
    "own",
  ),
)
def _judged(
  model, metric, layout, form, count, at_once, every, own, params, other, batch,
  where, fixed, items, rows,
):  # fmt: skip
  """Metric and rightness of every row, by `count` tokens: `[C, B, 2]`."""
  chex.assert_rank([where, items[0], items[1]], [3, 2, 1])
  net, names = model.net, layout.touched(model.net, every)
  held, pinned = fixed, {}
  if form != "out":
    if {*form} & {*"kv"}:
      pinned = captured(net, params, names, batch.clean)
    names = [f"{z.removesuffix('z')}{part}" for z in names for part in form]
  if fixed is None:
    ids = batch.corrupted if own else batch.clean
    held = captured(net, other, names, ids)
  clean, rest = runs.begun(net, params, batch, count)
  given = {name: held[name] for name in names}
  if rest is not None:
    where = rest.of(where, axis=2)
    given = {name: rest.of(x) for name, x in given.items()}

  def one(item):
    kept, others = item
    gates = layout.gates(net.config.num_blocks, kept, where, others)
    edits = (
      layout.edits(gates, given)
      if form == "out"
      else _inputs(net, gates, given, pinned)
    )
    return read(net, params, metric, batch, clean, edits, rest)

  return many.mapped(one, jax.tree.map(jnp.asarray, items), rows, at_once)


def _inputs(net, gates, given, pinned):
  """Queries, keys and values of members; what else they touch stays."""
  chex.assert_rank(gates, 4)
  shared = net.config.num_heads // net.config.num_kv_heads
  replace = {}
  for name, value in given.items():
    taken = gates[int(name.split(".")[1]), ..., :-1] < 0.5  # [B, P, H]
    if name.endswith("attn.q"):
      replace[name] = taken[..., None], value
    else:
      replace[name] = _groups(taken, shared)[:, None, :, None], value
  for name, value in pinned.items():
    taken = gates[int(name.split(".")[1]), ..., :-1] < 0.5
    read = jnp.repeat(_groups(taken, shared), shared, axis=-1)
    replace[name] = (read[:, None] & ~taken)[..., None], value
  return sites.Edits(replace=replace)


def _groups(taken, shared):
  """Which keys and values serve a member anywhere: bool `[B, K]`."""
  chex.assert_rank(taken, 3)
  any_place = taken.any(axis=1)
  return any_place.reshape(len(taken), -1, shared).any(axis=-1)


def captured(
  net: sites.Network, params: Any, names: Sequence[str], ids: base.Array
) -> dict[str, jax.Array]:
  """What sites hold on prompts int `[B, P]`."""
  chex.assert_rank(ids, 2)
  run = net.apply(params, capture=tuple(names), input_ids=jnp.asarray(ids))
  return dict(run.activations)


def read(
  net: sites.Network,
  params: Any,
  metric: metrics.Metric,
  batch: runs.Batch,
  clean: jax.Array,
  edits: sites.Edits | None,
  rest: runs.Rest | None = None,
) -> jax.Array:
  """The metric of a clean run under edits, and whether it is right: `[B, 2]`.

  It is right, 1, where the likeliest token is one of the right ones.
  """
  logits = runs.logits(net, params, batch, edits, rest=rest)
  value = runs.read(metric, logits, clean, batch)
  likeliest = logits.argmax(axis=-1)
  chex.assert_equal_shape([value, likeliest])
  right = (jnp.asarray(batch.right) == likeliest[:, None]).any(axis=1)
  return jnp.stack([value, right.astype(value.dtype)], axis=-1)


def _means(net, params, pairs, kind, size) -> dict[str, jax.Array]:
  """What heads and MLPs hold, `[1, P|1, ...]` by site."""
  at = [f"blocks.{i}.{end}" for i in range(net.config.num_blocks)
        for end in ("attn.z", "mlp.out")]  # fmt: skip
  length = pairs.clean.shape[1]
  found = stand_ins.mean_of(
    net, at, {"input_ids": pairs.clean},
    (0,) if kind == "mean-position" else (0, 1), params=params,
    weights=np.arange(length) < np.asarray(pairs.lengths)[:, None],
    batch_size=size,
  )  # fmt: skip
  return {s: 0 * x for s, x in found.items()} if kind == "zero" else found


def heads_of(net: sites.Network) -> tuple[str, ...]:
  """The writers that are heads, in order."""
  return tuple(name for name in net.writers if ".heads." in name)
