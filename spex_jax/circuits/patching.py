"""Activation patching: a part of one run put into another.

"denoise" runs the corrupted prompt and puts in what the part was on the clean
one: what is enough to restore the answer. "noise" runs the clean prompt and
puts in what the part was on the corrupted one: what is needed for it. They
are no mirror images: of two parts that back each other up, either is enough and
neither is needed (Heimersheim and Nanda 2024, arXiv 2404.15255).

A sweep patches a site in every layer, and where asked for at every position (or
span of the pairs), in every head, or at every key that a query looks at. The
fifteen of TransformerLens (`patching.py`) are in `SWEEPS` by its names, without
`get_act_patch_`, and `STACKS` says which of them its three `..._every` are: by
position, those of patterns are `[layer, head, pos]`, the others `[layer, pos,
head]`. `Sweep` describes any other. Values are per pair, in the units of the
metric; TransformerLens gives `metric(logits)` of a batch.

One program serves many layers: a patch is an entry of masks that all its layers
have, and it starts at the first of these layers. More programs start closer to
the patch, and take longer to compile.

Positions count from the left, so that pairs of different lengths meet in one
column; behind the end of a prompt a patch changes nothing.

Shapes: I patches, N pairs, B of a batch, P positions, K places, H heads, L
layers, V tokens.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base, shown
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import judges, many, metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import hooks, sites

DIRECTIONS = ("denoise", "noise")
AXES = ("layer", "pos", "head", "dest", "src")
_PROGRAMS = 4
_ROWS = 4096  # Patches of a call, at most.
_PATTERNS = ("attn.scores", "attn.pattern")  # [B, H, P, P]
_HEADS = ("q", "q_rot", "q_in", "z", "heads")
_SHARED = ("k", "v", "k_rot", "k_in", "v_in")  # By grouped queries.


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A site, and what of it is patched one by one.

  Attributes:
    site: of a block, without "blocks.L.": "resid_pre", "attn.z", "mlp.out";
      or a hook of TransformerLens, such as "attn.hook_z".
    axes: some of `AXES`, in the order of the result's; without "layer" there
      would be nothing to sweep. "dest" and "src" are the queries and keys of
      attention's scores and patterns, "pos" and "head" of anything else.
  """

  site: str
  axes: tuple[str, ...]

  def __post_init__(self):
    pattern = self.site.endswith(("scores", "pattern"))
    allowed = ("layer", "head", "dest", "src") if pattern else AXES[:3]
    wrong = [axis for axis in self.axes if axis not in allowed]
    if wrong or "layer" not in self.axes or len({*self.axes}) < len(self.axes):
      raise ValueError(
        f"A sweep of {self.site!r} is over 'layer' and any of {allowed[1:]}; "
        f"got {self.axes}."
      )


def _sweeps() -> dict[str, Sweep]:
  found = {
    "resid_pre": Sweep("hook_resid_pre", ("layer", "pos")),
    "resid_mid": Sweep("hook_resid_mid", ("layer", "pos")),
    "attn_out": Sweep("hook_attn_out", ("layer", "pos")),
    "mlp_out": Sweep("hook_mlp_out", ("layer", "pos")),
  }
  for name, hook in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v")):
    one = f"attn.hook_{hook}"
    found[f"attn_head_{name}_by_pos"] = Sweep(one, ("layer", "pos", "head"))
    found[f"attn_head_{name}_all_pos"] = Sweep(one, ("layer", "head"))
  one = "attn.hook_pattern"
  for name, axes in (
    ("by_pos", ("layer", "head", "dest")),
    ("all_pos", ("layer", "head")),
    ("dest_src_pos", ("layer", "head", "dest", "src")),
  ):
    found[f"attn_head_pattern_{name}"] = Sweep(one, axes)
  return found


SWEEPS: Mapping[str, Sweep] = _sweeps()
STACKS: Mapping[str, tuple[str, ...]] = {
  "block_every": ("resid_pre", "attn_out", "mlp_out"),
  **{
    f"attn_head_{at}_every": tuple(
      f"attn_head_{part}_{at}" for part in ("out", "q", "k", "v", "pattern")
    )
    for at in ("all_pos", "by_pos")
  },
}


@dataclasses.dataclass(frozen=True, eq=False)
class Patched(shown.Shown):
  """What patches do.

  Attributes:
    site: the name of the site that was patched.
    axes: the names of the axes of `values` but the last.
    labels: of each axis, the name of every entry.
    values: float64 `[..., N]`, the metric of every patch and pair.
    unpatched: float64 `[N]`, of the run that is patched.
    source: float64 `[N]`, of the run that the patches come from.
  """

  site: str
  axes: tuple[str, ...]
  labels: tuple[tuple[str, ...], ...]
  values: np.ndarray
  unpatched: np.ndarray
  source: np.ndarray

  def moved(self) -> np.ndarray:
    """The share of the way to the source that a patch goes: float64 `[...]`.

    (mean patched - mean unpatched) / (mean source - mean unpatched): 1 where
    the patch alone does all, 0 where it does nothing.

    Raises:
      ValueError: the two runs have nearly the same metric.
    """
    values = self.values.mean(axis=-1)
    names = "the source", "the run that is patched"
    return judged_lib.ratio(values, self.source, self.unpatched, names)

  def sheet(self) -> shown.Sheet:
    """`rows` as a table, what moves most first."""
    rows = sorted(self.rows(), key=lambda row: -abs(row["moved"]))
    names = (*self.axes, "metric", "moved")
    return shown.Sheet(
      f"What patching {self.site} moves, on {self.values.shape[-1]} pairs",
      {name: [row[name] for row in rows] for name in names},
    )

  def rows(self) -> list[dict[str, Any]]:
    """For a table: labels, the mean metric and the share moved."""
    shares, means = self.moved(), self.values.mean(axis=-1)
    every = itertools.product(*(range(len(names)) for names in self.labels))
    return [
      {axis: names[i] for axis, names, i in zip(self.axes, self.labels, at)}
      | {"metric": float(means[at]), "moved": float(shares[at])}
      for at in every
    ]


def sweep(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  what: str | Sweep,
  metric: metrics.Metric,
  *,
  direction: str = "denoise",
  spans: bool = False,
  programs: int = _PROGRAMS,
  size: int | None = None,
  at_once: int | None = None,
  progress: judges.Progress | None = None,
) -> Patched:
  """Patches a site in every layer, at every place that is asked for.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    what: one of `SWEEPS`, or a sweep of one's own.
    metric: of the answers to the clean prompts, whatever the direction.
    direction: which run is patched with which, one of `DIRECTIONS`.
    spans: whether places are the named spans of the pairs, wherever each has
      them, rather than positions.
    programs: how many are compiled: each begins at another layer.
    size: pairs of a batch; `runs.batch_size` by default.
    at_once: patches computed side by side; `many.at_once` by default.
    progress: called with the batches that are done, and their number.

  Raises:
    ValueError: a sweep, a direction or a site that is not known, spans that the
      pairs lack, heads of a site that has none, NaN or infinity.
  """
  if isinstance(what, str):
    if what not in SWEEPS:
      raise ValueError(
        f"Unknown sweep {what!r}; known are {', '.join(SWEEPS)} (and, of "
        f"several, {', '.join(STACKS)})."
      )
    what = SWEEPS[what]
  if direction not in DIRECTIONS:
    raise ValueError(
      f"direction={direction!r}: choose from {', '.join(DIRECTIONS)}."
    )
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size, net.config.max_positions)
  # Patches: every layer with every place, head or key that is asked for.
  where, labels = places_of(pairs, spans)
  named = every_block(net, what.site)
  layers = tuple(map(str, range(net.config.num_blocks)))
  over = {"layer": layers, "pos": labels, "dest": labels, "src": labels}
  if "head" in what.axes:
    over["head"] = _heads(net, named[0])
  labels = tuple(over[axis] for axis in what.axes)
  items = _items(what.axes, [len(one) for one in labels], len(where) - 1)
  model = sites.Model(net)
  size = runs.batch_size(pairs) if size is None else size
  at_once = at_once or many.at_once(size * pairs.clean.shape[1], plain=True)
  # Batch by batch: the run, what is put in, and both unpatched.
  found, ends, batches = [], [], list(runs.batches(pairs, size))
  for number, batch in enumerate(batches):
    end = _ends(model, metric, params, batch)
    ids = batch.corrupted, batch.clean
    run, source = ids if direction == "denoise" else ids[::-1]
    values = patched(
      model, metric, params, batch, items,
      run=run, source=source, logits=end.logits,
      where=runs.of_batch(where, number, size), named=named,
      programs=programs, at_once=at_once,
    )  # fmt: skip
    found.append(runs.real_rows(batch, values.T))
    both = end.corrupted, end.clean
    both = both if direction == "denoise" else both[::-1]
    ends.append([runs.real_rows(batch, one) for one in both])
    if progress is not None:
      progress(number + 1, len(batches))
  values = np.concatenate(found).T
  if not np.isfinite(values).all():
    raise ValueError(f"Patched at {named[0]}, the metric is NaN or infinite.")
  unpatched, source = (np.concatenate(x).astype(np.float64) for x in zip(*ends))
  values = values.reshape(*map(len, labels), len(pairs))
  return Patched(what.site, what.axes, labels, values, unpatched, source)


def places_of(
  pairs: pairs_lib.Pairs, spans: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Where patches go, and what that is called.

  Returns:
    bool `[K + 1, N|1, P]`, the last of which is everywhere; and K names.

  Raises:
    ValueError: spans that the pairs lack.
  """
  length = pairs.clean.shape[1]
  owner, names = np.arange(length)[None], tuple(map(str, range(length)))
  if spans:
    if pairs.spans is None:
      raise ValueError("These pairs have no named spans: sweep positions.")
    owner, names = pairs.spans.owner, pairs.spans.names
  each = owner == np.arange(len(names))[:, None, None]
  return np.concatenate([each, np.ones_like(each[:1])]), names


def patched(
  model: sites.Model,
  metric: metrics.Metric,
  params: Any,
  batch: runs.Batch,
  items: np.ndarray,
  *,
  run: base.Array,
  source: base.Array,
  logits: base.Array,
  where: base.Array,
  named: Sequence[str],
  noise: base.Array | None = None,
  programs: int = _PROGRAMS,
  at_once: int = 1,
) -> np.ndarray:
  """Patches of one batch: `[I, B]`, the metric of each and of every pair.

  Args:
    model: the network, hashable.
    metric: one example's logits to a number, of the answers.
    params: the parameters of the network.
    batch: B pairs of prompts, in a fixed shape.
    items: int32 `[I, 5]`: the first layer that is patched, the first that no
      longer is, the place, the head or -1 for all, and the place of keys.
    run: int `[B, P]`, what is run.
    source: int `[B, P]`, what patches are taken from.
    logits: `[B, V]` of the clean run.
    where: bool `[K, B|1, P]`, the places.
    named: the site of every layer, in order.
    noise: `[B, P, d]`, added to the embedding of what is run, or None.
    programs: how many are compiled: each begins at another layer.
    at_once: how many patches are computed side by side.
  """
  stride = -(-len(named) // programs)
  order = items[:, 0] // stride
  out: Any = None
  for part in np.unique(order):
    rows = np.flatnonzero(order == part)
    start, stop = int(part) * stride, int(items[rows, 1].max())
    stop = max(stop, min(start + stride, len(named)))  # One program for all.
    for begin in range(0, len(rows), _ROWS):
      some = rows[begin : begin + _ROWS]
      few = many.padded(items[some], _ROWS if len(rows) > _ROWS else 0, at_once)
      values = _patched(
        model, metric, tuple(named[start:stop]), start, at_once, params, batch,
        run, source, logits, where, noise, few, len(some),
      )  # fmt: skip
      values = np.asarray(values, np.float64)[: len(some)]
      out = np.zeros((len(items), values.shape[1])) if out is None else out
      out[some] = values
  return out


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "named", "start", "at_once")
)
def _patched(
  model, metric, named, start, at_once, params, batch, run, source, logits,
  where, noise, items, count,
):  # fmt: skip
  """As `patched`, of sites `named` from layer `start` on."""
  net = model.net
  chex.assert_shape(items, (None, 5))
  chex.assert_equal_shape([run, source])
  chex.assert_shape(where, (None, None, run.shape[1]))
  given = runs.inputs(batch) | {"input_ids": jnp.asarray(run)}
  early = {} if noise is None else {"embed.tokens": noise}
  x = net.enter(params, start, sites.Edits(add=early), **given)
  found = net.apply(params, capture=named, input_ids=jnp.asarray(source))
  where = jnp.asarray(where)

  def one(item):
    first, behind, place, head, key = item
    replace = {}
    for layer, name in enumerate(named, start):
      value = found.activations[name]
      on = (first <= layer) & (layer < behind)
      mask = on & _mask(name, value.shape, where[place], where[key], head)
      replace[name] = mask, value
    edits = sites.Edits(replace=replace)
    out = net.resume(params, start, x, edits, **given)
    return runs.read(metric, out.logits[:, 0], logits, batch)

  return many.mapped(one, jnp.asarray(items), count, at_once)


def _mask(name, shape, place, key, head) -> jax.Array:
  """Which entries of an activation are patched; of its rank."""
  chex.assert_rank([place, key], 2)
  if name.endswith(_PATTERNS):
    chosen = _one(head, shape[1])[None, :, None, None]
    return chosen & place[:, None, :, None] & key[:, None, None, :]
  mask = place.reshape(*place.shape, *[1] * (len(shape) - 2))
  if len(shape) == 4:
    mask = mask & _one(head, shape[2])[None, None, :, None]
  return mask


def _one(head, count) -> jax.Array:
  return (head < 0) | (jnp.arange(count) == head)


@functools.partial(jax.jit, static_argnames=("model", "metric"))
def _ends(model, metric, params, batch):
  return runs.ends(model.net, params, metric, batch)


def every_block(net: sites.Network, site: str) -> tuple[str, ...]:
  """A site in every block, from its name or its hook's.

  Raises:
    ValueError: neither is known, or this network lacks it.
  """
  known = f"blocks.0.{site}" in net.sites
  return tuple(
    f"blocks.{number}.{site}"
    if known
    else hooks.site(f"blocks.{number}.{site}", net)
    for number in range(net.config.num_blocks)
  )


def _heads(net, name) -> tuple[str, ...]:
  kind = name.rsplit(".")[-1]
  if kind not in (*_HEADS, *_SHARED, "scores", "pattern"):
    raise ValueError(f"{name} has no heads: sweep layers and positions.")
  config = net.config
  count = config.num_kv_heads if kind in _SHARED else config.num_heads
  return tuple(map(str, range(count)))


def _items(axes, sizes, everywhere) -> np.ndarray:
  """A patch of every entry: int32 `[I, 5]`, as `patched` takes them."""
  at = np.indices(sizes).reshape(len(sizes), -1)
  of = dict(zip(axes, at))
  count = at.shape[1]
  full = np.full(count, everywhere)
  return np.stack(
    [
      of["layer"],
      of["layer"] + 1,
      of.get("pos", of.get("dest", full)),
      of.get("head", np.full(count, -1)),
      of.get("src", full),
    ],
    axis=1,
  ).astype(np.int32)
