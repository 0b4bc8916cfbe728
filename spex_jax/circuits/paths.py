"""Path patching: what a sender does to a behaviour through certain receivers.

The clean prompt is run with all heads frozen as they are, but for a sender that
writes what it does elsewhere; receivers note what reaches them on the way
(Wang et al. 2022, arXiv 2211.00593, section 3.1). Then the clean prompt is run
again, receivers get what they noted, and everything behind them follows.

  freeze_mlps    no: MLPs between sender and receiver follow, too, as in the
                 paper. Yes: nothing lies between, so that with one receiver
                 this is a cut of one edge (Miller et al. 2024, arXiv
                 2407.08734, appendix F)
  freeze_norms   yes: norms before MLPs and receivers divide by what they do in
                 the clean run; all is linear but MLPs

`CONVENTIONS` has the two of the paper and of TransformerLens
(`direct_path_patching`). A path without attention stays at its position: what a
sender writes at one place reaches receivers there, and nowhere else.

The forwards of the senders run together, in one program for a set of receivers.
Attention is frozen in the first of the two, so that it costs the MLPs at most;
into the logits there is no second one, and the last position alone is run.

Shapes: I senders, K places, N pairs, B of a batch, P positions, W writers, d
width, V tokens.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import ablations, many, metrics, patching, runs, swaps
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import cut_edges, sites

CONVENTIONS: Mapping[str, Mapping[str, bool]] = {
  "ioi": {"freeze_mlps": False, "freeze_norms": False},
  "direct": {"freeze_mlps": True, "freeze_norms": True},
}
_ROWS = 4096  # Senders and places of a call, at most.
_ATTENTION = re.compile(r"(blocks\.\d+\.attn\.[qkv])_in")


class Receiver(NamedTuple):
  """A row of a reader, as edges of `graph` name it.

  Attributes:
    reader: "blocks.3.attn.q_in", "blocks.3.mlp.read", or the final norm's.
    row: the head; of keys and values that heads share, the group.
  """

  reader: str
  row: int = 0


LOGITS = Receiver("final_norm.in")


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What a program is compiled for: readers, a first block, what is frozen."""

  readers: tuple[str, ...]
  start: int
  mlps: bool
  norms: bool

  @property
  def to_logits(self) -> bool:
    """Whether nothing but the logits receives: one forward, one position."""
    return self.readers == (LOGITS.reader,)

  @property
  def noted(self) -> tuple[str, ...]:
    """The site behind each reader's norm where its rows are."""
    return tuple(_behind(reader) for reader in self.readers)


def patch(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  receivers: Sequence[Receiver],
  metric: metrics.Metric,
  *,
  senders: Sequence[str | Sequence[str]] | None = None,
  places: Sequence[swaps.Place] = (None,),
  at: swaps.Place = None,
  freeze_mlps: bool = False,
  freeze_norms: bool = False,
  source: str = "resample",
  fixed: jax.Array | None = None,
  direction: str = "noise",
  size: int | None = None,
  at_once: int | None = None,
) -> patching.Patched:
  """Path patching of every sender at every place into one set of receivers.

  Args:
    net: a causal language model with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    receivers: at least one; `LOGITS` are read at the last token.
    metric: of the answers to the clean prompts, whatever the direction.
    senders: writers, or groups of writers that are one sender; by default every
      writer before the last receiver.
    places: where senders write it: see `swaps.places`.
    at: where receivers get what they noted; elsewhere they follow.
    freeze_mlps: whether MLPs in between stay as they were; see above.
    freeze_norms: see above. Norms of queries and keys are not among them.
    source: what a sender writes instead: one of `ablations.KINDS`.
    fixed: what that is, `[1, 1|P, W, d]`, where it was computed before.
    direction: one of `patching.DIRECTIONS`: which prompts are run, "noise" the
      clean ones; senders are resampled from the others.
    size: pairs of a batch; `runs.batch_size` by default.
    at_once: senders computed side by side; `many.at_once` by default.

  Returns:
    Values `[I, K, N]`; its `source` is the metric where all writers are senders
    into the logits: under resampling that of the other prompts.

  Raises:
    ValueError: no receiver, one that there is not, or the logits beside others;
      a sender that no receiver reads, a place that a pair lacks, another source
      or direction; NaN.
  """
  if direction not in patching.DIRECTIONS:
    raise ValueError(
      f"direction={direction!r}: choose from {', '.join(patching.DIRECTIONS)}."
    )
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size, net.config.max_positions)
  # Who sends, who receives and where.
  plan, rows = _planned(net, receivers, freeze_mlps, freeze_norms)
  labels, chosen = _senders(net, plan, senders)
  where = swaps.places(pairs, places)
  listening = swaps.places(pairs, [at])[0]
  size = runs.batch_size(pairs) if size is None else size
  length = 1 if plan.to_logits else pairs.clean.shape[1]
  at_once = at_once or many.at_once(size * length, plain=True)
  if fixed is None:
    fixed = ablations.stand_ins(net, params, pairs, source, size=size)
  # Every sender at every place, batch by batch.
  model, found, ends = sites.Model(net), [], []
  count = np.indices((len(chosen), len(places))).reshape(2, -1)
  at_once = many.even(min(count.shape[1], _ROWS), at_once)
  for number, batch in enumerate(runs.batches(pairs, size)):
    state = _begun(
      model, metric, plan, direction == "noise", params, batch, fixed
    )
    place = runs.of_batch(where, number, size)
    heard = runs.of_batch(listening[None], number, size)[0]
    values = []
    for begin in range(0, count.shape[1], _ROWS):
      some = count[:, begin : begin + _ROWS]
      room = _ROWS if count.shape[1] > _ROWS else 0
      items = tuple(
        many.padded(x, room, at_once) for x in (chosen[some[0]], some[1])
      )
      out = _patched(
        model, metric, plan, at_once, direction == "noise", params, batch,
        state, rows, place, heard, items, some.shape[1],
      )  # fmt: skip
      values.append(np.asarray(out, np.float64)[: some.shape[1]])
    found.append(runs.real_rows(batch, np.concatenate(values).T))
    ends.append([runs.real_rows(batch, x) for x in (state["end"])])
  values = np.concatenate(found).T
  if not np.isfinite(values).all():
    item = int(np.argwhere(~np.isfinite(values))[0, 0]) // len(places)
    raise ValueError(
      f"With {labels[item]} as a sender the metric is NaN or infinite."
    )
  unpatched, other = (np.concatenate(x).astype(np.float64) for x in zip(*ends))
  shape = (len(labels), len(places), len(pairs))
  named = tuple("all" if name is None else str(name) for name in places)
  return patching.Patched(
    " ".join(dict.fromkeys(plan.readers)), ("sender", "pos"), (labels, named),
    values.reshape(shape), unpatched, other,
  )  # fmt: skip


def _planned(net, receivers, freeze_mlps, freeze_norms):
  """What is compiled, and of every reader its rows: bool `[R]`."""
  if not receivers:
    raise ValueError("Name at least one receiver, such as paths.LOGITS.")
  rows: dict[str, np.ndarray] = {}
  for reader, row in receivers:
    if reader not in net.readers:
      raise ValueError(
        f"No receiver {reader!r}; they are {', '.join([*net.readers][:4])}, "
        f"..., {[*net.readers][-1]}."
      )
    count = net.readers[reader][0]
    if not 0 <= row < count:
      raise ValueError(f"{reader} has rows 0..{count - 1}; got {row}.")
    rows.setdefault(reader, np.zeros(count, bool))[row] = True
  readers = tuple(name for name in net.readers if name in rows)
  if LOGITS.reader in rows and len(rows) > 1:
    raise ValueError(
      f"Of {', '.join(readers)} the last one alone would be heard: what is "
      "noted there takes the place of all that comes before. Ask for it apart."
    )
  start = min(_block(name, net.config.num_blocks) for name in readers)
  plan = _Plan(readers, start, freeze_mlps, freeze_norms)
  return plan, {name: rows[name] for name in readers}


def _senders(net, plan, given):
  """Names of senders, and of each its writers: bool `[I, W]`."""
  before = max(net.readers[name][1] for name in plan.readers)
  if given is None:
    given = net.writers[:before]
  if not len(given):
    raise ValueError("Name at least one sender, or none for all of them.")
  numbers = {name: i for i, name in enumerate(net.writers)}
  chosen, labels = np.zeros((len(given), len(net.writers)), bool), []
  for row, names in enumerate(given):
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
      if name not in numbers:
        raise ValueError(f"No writer {name!r}, which could be a sender, here.")
      if numbers[name] >= before:
        raise ValueError(
          f"Sender {name} writes behind the receivers: the last of them, "
          f"{plan.readers[-1]}, reads the writers before {net.writers[before]}."
          if before < len(net.writers)
          else f"Sender {name} writes behind the receivers."
        )
      chosen[row, numbers[name]] = True
    labels.append(" + ".join(names))
  return tuple(labels), chosen


def _block(reader: str, last: int) -> int:
  return int(reader.split(".")[1]) if reader.startswith("blocks.") else last


def _behind(reader: str) -> str:
  """The site, behind the norm, where a reader's rows are what they read."""
  if inside := _ATTENTION.fullmatch(reader):
    return inside[1]
  if reader.endswith(".mlp.read"):
    return reader.removesuffix("read") + "in"
  return reader.removesuffix(".in")


def sums(net: sites.Network) -> list[tuple[str, str]]:
  """Of every block the sites of what all heads add, and what its MLP does."""
  after = net.config.order == "sandwich"
  names = ("attn.post_norm", "mlp.post_norm") if after else (
    "attn.out", "mlp.out"
  )  # fmt: skip
  return [
    (f"blocks.{i}.{names[0]}", f"blocks.{i}.{names[1]}")
    for i in range(net.config.num_blocks)
  ]


def _norms(net: sites.Network) -> dict[str, tuple[str, str, str]]:
  """Site behind each norm to the one before it, its kind, and its path."""
  c, found = net.config, {}
  kind = c.pre_norm or c.norm
  for i in range(c.num_blocks):
    site = f"blocks.{i}"
    first = (c.first_norm if i == 0 else "") or kind
    found[f"{site}.attn.in"] = f"{site}.resid_pre", first, f"blocks_{i}/norm1"
    found[f"{site}.mlp.in"] = f"{site}.mlp.read", kind, f"blocks_{i}/norm2"
  return found | {"final_norm": ("final_norm.in", c.norm, "final_norm")}


class _Held(sites.Tap):
  """A tap under which norms divide by the size that they had elsewhere."""

  def __init__(self, net, params, edits, captured, clean):
    super().__init__(edits, frozenset(captured))
    self._norms, self._clean = _norms(net), clean
    self._before = {one[0]: name for name, one in self._norms.items()}
    self._params, self._eps = params, net.config.norm_eps
    self._seen: dict[str, jax.Array] = {}

  def __call__(self, site, x, axis=1):
    if site in self._norms:
      x = self._as_it_was(site, x)
    x = super().__call__(site, x, axis)
    if site in self._before:
      self._seen[self._before[site]] = x
    return x

  def _as_it_was(self, site, x):
    name, kind, path = self._norms[site]
    own = self._params
    for part in path.split("/"):
      own = own.get(part, {})
    now = self._seen[site]
    then = self._taken(self._clean[name], 1, now.shape[1])
    ratio = self._size(now, kind) / self._size(then, kind)
    bias = own["bias"][None, None] if "bias" in own else jnp.zeros((1, 1, 1))
    bias = bias.astype(x.dtype)
    return (x - bias) * ratio.astype(x.dtype) + bias

  def _size(self, x, kind):
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if kind == "none":
      return jnp.ones((*x.shape[:-1], 1), x.dtype)
    if kind in ("layer", "centred"):
      x = x - x.mean(axis=-1, keepdims=True)
    return jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self._eps)


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "plan", "on_clean")
)
def _begun(model, metric, plan, on_clean, params, batch, fixed):
  """What senders share: the run, how writers would change, and both ends."""
  net = model.net
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  names = ["embed", "final_norm.in"]
  names += [one for both in sums(net) for one in both]
  if plan.start < net.config.num_blocks:
    names.append(f"blocks.{plan.start}.resid_pre")
  if plan.norms:
    names += [one[0] for one in _norms(net).values()]
  # What the logits read comes from its own position alone.
  at = jnp.asarray(batch.last)[:, None]
  few = (lambda x: sites.take(x, at)) if plan.to_logits else (lambda x: x)
  ids = batch.clean if on_clean else batch.corrupted
  other = batch.corrupted if on_clean else batch.clean
  out, z = _written(net, params, ids, names, few)
  ref = fixed
  if fixed is None:
    _, ref = _written(net, params, other, [], few)
  elif fixed.shape[1] > 1:
    ref = few(jnp.broadcast_to(fixed, (len(ids), *fixed.shape[1:])))
  change = ref - z
  inputs = runs.inputs(batch, corrupted=not on_clean)
  ending = lambda x: net.resume(
    params, net.config.num_blocks, x, **inputs
  ).logits[:, 0]
  last, total = out["final_norm.in"], change.sum(axis=2)
  if plan.to_logits:
    inputs = {"input_ids": jnp.take_along_axis(jnp.asarray(ids), at, axis=1)}
  unpatched = ending(last)
  clean = unpatched if on_clean else runs.logits(net, params, batch)
  ends = [
    runs.read(metric, logits, clean, batch)
    for logits in (unpatched, ending(last + total))
  ]
  return {"out": out, "change": change, "clean": clean, "end": ends}


class _Writing(sites.Tap):
  """A tap that keeps what writers write, of few positions."""

  def __init__(self, captured, few):
    super().__init__(captured=frozenset(captured))
    self._few = few
    self.wrote: list[jax.Array] = []

  splits = True  # Heads are told apart.

  def write(self, z):
    z = z.at(self._few).each if isinstance(z, cut_edges.Heads) else self._few(z)
    self.wrote.append(z)


def _written(net, params, ids, captured, few):
  """Of some sites, and of all writers `[B, P, W, d]`, few positions."""
  tap = _Writing(captured, few)
  forward: Any = net.module.apply
  forward({"params": params}, tap, input_ids=jnp.asarray(ids))
  found = {site: few(x) for site, x in tap.activations.items()}
  return found, cut_edges.stacked(tap.wrote)


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "plan", "at_once", "on_clean")
)
def _patched(
  model, metric, plan, at_once, on_clean, params, batch, state, rows, where,
  heard, items, count,
):  # fmt: skip
  """The metric of every sender at its place: `[I, B]`."""
  net, out, change = model.net, state["out"], state["change"]
  chex.assert_rank([where, heard, items[0]], [3, 2, 2])
  given = runs.inputs(batch, corrupted=not on_clean)
  if plan.to_logits:
    at = jnp.asarray(batch.last)[:, None]
    given = {"input_ids": jnp.take_along_axis(given["input_ids"], at, axis=1)}
    where = jnp.take_along_axis(jnp.asarray(where), at[None], axis=2)
  every = jnp.ones((1, 1, 1), bool)

  def one(item):
    chosen, place = item
    here = jnp.asarray(where)[place][..., None]
    weight = chosen.astype(change.dtype)
    moved = lambda name, part: jnp.where(here, out[name] + part, out[name])
    replace = {"embed": (every, moved("embed", weight[0] * change[:, :, 0]))}
    begin, heads = 1, net.config.num_heads
    for attn, mlp in sums(net):
      end = begin + heads
      part = jnp.einsum(
        "h,bphd->bpd", weight[begin:end], change[:, :, begin:end],
        precision="highest",
      )  # fmt: skip
      replace[attn] = every, moved(attn, part)
      value = out[mlp] + change[:, :, end]
      if plan.mlps:
        replace[mlp] = every, moved(mlp, weight[end] * change[:, :, end])
      else:
        replace[mlp] = here & chosen[end], value
      begin = end + 1
    edits = sites.Edits(replace=replace)
    noted = () if plan.to_logits else plan.noted
    tap = (
      _Held(net, params, edits, noted, out)
      if plan.norms
      else sites.Tap(edits, frozenset(noted))
    )
    forward: Any = net.module.apply
    logits, _ = forward({"params": params}, tap, **given)
    if not plan.to_logits:
      logits = _again(tap.activations)
    return runs.read(metric, logits[:, 0], state["clean"], batch)

  def _again(found):
    replace = {}
    for reader, name in zip(plan.readers, plan.noted):
      mask = jnp.asarray(heard)[..., None]
      if found[name].ndim == 4:
        mask = mask[..., None] & jnp.asarray(rows[reader])[None, None, :, None]
      replace[name] = mask, found[name]
    edits = sites.Edits(replace=replace)
    x = out[f"blocks.{plan.start}.resid_pre"]
    return net.resume(params, plan.start, x, edits, **given).logits

  items = jax.tree.map(jnp.asarray, items)
  return many.mapped(one, items, count, at_once)
