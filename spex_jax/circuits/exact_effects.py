"""Exact effects: the metric with one part cut, less that of the clean run.

A part is an edge, an edge at one position, all edges out of a writer, or a
neuron.

Before a single cut everything is as in the clean run. So a cut adds the change
of its writer to its row alone, and what comes before its block is known: runs
are batched over cuts, each from its own block on, with attention patterns and
keys shared where a cut does not touch them. Few edges, scattered over blocks,
take one program for the whole network instead of one for each block.

Shapes: B pairs, P positions, M cuts, S rows of all readers, W writers, E edges,
F neurons of a block, d width.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import ablations, metrics, runs, taps
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

Keep = Callable[[int, Callable[[], np.ndarray]], np.ndarray]

_TOKENS = 1024  # Run together, of all pairs and cuts.
_SAVED = 512  # Runs of a block that are worth a program without them.


def effects(
  net: sites.Network,
  params: Any,
  metric: metrics.Metric,
  level: taps.Level,
  batch: runs.Batch,
  fixed: jax.Array | None,
  which: base.Array,
  keep: Keep | None = None,
) -> np.ndarray:
  """Effects of cuts on the metric of every pair: float64 `[B, M]`.

  Args:
    net: the network that is cut.
    params: the parameters of the network.
    metric: one example's logits to a number, see `metrics`.
    level: what is cut: edges (at positions), nodes or neurons, see
      `taps.Level`.
    batch: B pairs of prompts, in a fixed shape.
    fixed: `[1, 1|P, W, d]`, what cut edges carry; None to resample it.
    which: int `[M]`, by number; of level "position" that of `[P, E]`, flat.
    keep: called with the first block of some of the cuts and what computes
      their effects, float `[m, B]`; it returns these, perhaps from before.
  """
  which = np.asarray(which)
  model = sites.Model(net)
  state = _state(model, level, metric, params, batch, fixed)
  length = batch.clean.size
  found = np.zeros((len(batch.last), len(which)))
  for start, names, at in _groups(net, level, which):
    chunk = int(np.clip(_TOKENS // length, 1, len(at)))
    # The last chunk is filled up.
    some = which[np.resize(at, -(-len(at) // chunk) * chunk)]

    def run(start=start, names=names, chunk=chunk, some=some, at=at):
      part = _program(
        model, level, metric, start, names, chunk,
        params, batch, state, jnp.asarray(some),
      )  # fmt: skip
      return np.asarray(part, np.float64)[: len(at)]

    found[:, at] = (run() if keep is None else keep(start, run)).T
  return found


def of_pairs(
  net: sites.Network,
  params: Any,
  metric: metrics.Metric,
  level: taps.Level,
  pairs: pairs_lib.Pairs,
  fixed: jax.Array | None,
  which: base.Array,
  size: int,
) -> np.ndarray:
  """`effects` on N pairs, in batches of `size`: float64 `[N, M]`."""
  found = [
    runs.real_rows(
      batch, effects(net, params, metric, level, batch, fixed, which)
    )
    for batch in runs.batches(pairs, size)
  ]
  return np.concatenate(found)


def _groups(net, level, which):
  """Yields the block to start at, the sites there, and which of the cuts."""
  graph = level.graph
  if level.name == "node":
    sites_of = ablations.by_site(net)
    every = tuple(sites_of)
    site = np.repeat(np.arange(len(every)), list(sites_of.values()))[which]
  elif level.name == "neuron":
    every = level.graph.neuron_sites
    site = np.repeat(np.arange(len(every)), level.graph.neurons)[which]
  else:
    every = tuple(reader.name for reader in graph.readers)
    site = graph.reader[which % len(graph)]
  blocks = np.array([_block(name, net) for name in every])
  first = blocks[site]
  counts = np.bincount(first, minlength=net.config.num_blocks + 1)
  apart = counts * np.arange(len(counts)) >= _SAVED
  for start in np.flatnonzero(apart):
    names = tuple(np.array(every)[blocks == start].tolist())
    yield int(start), names, np.flatnonzero(first == start)
  rest = np.flatnonzero(~apart[first])
  if len(rest):
    if not first[rest].any():
      every = tuple(np.array(every)[blocks == 0].tolist())
    yield 0, every, rest


def _block(name, net) -> int:
  """The block of a site; the one behind the last for the output."""
  if name.startswith("blocks."):
    return int(name.split(".")[1])
  return net.config.num_blocks if name.startswith("final") else 0


@functools.partial(jax.jit, static_argnames=("model", "level", "metric"))
def _state(model, level, metric, params, batch, fixed):
  """What cuts share: the clean run, and the change of every writer."""
  net = model.net
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  enters = [f"blocks.{i}.resid_pre" for i in range(net.config.num_blocks)]
  names = (*enters, "final_norm.in")
  ids = jnp.asarray(batch.clean)
  out = net.apply(params, capture=names, input_ids=ids).activations
  z, logits = runs.observed(net, params, batch)
  value = runs.read(metric, logits, logits, batch)
  ref = ablations.of_batch(net, params, batch, fixed)
  change = level.change(net, params, batch, ref - z, fixed)
  return [out[name] for name in names], logits, value, change


@functools.partial(
  jax.jit,
  static_argnames=("model", "level", "metric", "start", "names", "chunk"),
)
def _program(
  model, level, metric, start, names, chunk, params, batch, state, which
):
  """Effects `[M, B]` of cuts at some sites of block `start` and later."""
  net, graph = model.net, level.graph
  enters, logits, value, change = state
  chex.assert_rank(which, 1)

  def at_readers(number):
    edge = number % len(graph)
    moved = change[:, jnp.asarray(graph.writer)[edge]]
    if level.name == "position":
      at = jnp.arange(moved.shape[1]) == number // len(graph)
      moved = moved * at.astype(moved.dtype)[None, :, None]
    reader, row = (jnp.asarray(x)[edge] for x in (graph.reader, graph.row))
    add = {}
    for i, one in enumerate(graph.readers):
      if one.name in names:
        here = (reader == i) & (row == jnp.arange(one.rows))
        each = _only(moved, here)
        add[one.name] = each if ".attn." in one.name else each[:, :, 0]
    return enters[start], add

  def at_writers(number):
    x, add, begin = enters[start], {}, 0
    moved = change[:, number]
    for site, num in ablations.by_site(net).items():
      here = number == begin + jnp.arange(num)
      begin += num
      if site not in names:
        continue
      each = _only(moved, here)
      if site == "embed":
        x = x + each[:, :, 0]
      else:
        add[site] = each if ablations.holds_heads(site) else each[:, :, 0]
    return x, add

  def at_neurons(number):
    add, begin = {}, 0
    for site, num in zip(level.graph.neuron_sites, level.graph.neurons):
      here = number == begin + jnp.arange(num)
      begin += num
      if site in names:
        add[site] = jnp.where(here[None, None], change[site], 0)
    return enters[start], add

  cut = {"node": at_writers, "neuron": at_neurons}.get(level.name, at_readers)

  def effect(number):
    x, add = cut(number)
    edits, inputs = sites.Edits(add=add), runs.inputs(batch)
    found = net.resume(params, start, x, edits, **inputs).logits[:, 0]
    return runs.read(metric, found, logits, batch) - value

  return jax.lax.map(effect, which, batch_size=chunk)


def _only(moved, here):
  """A change `[B, P, d]` in the rows that are `here`, `[R]`: `[B, P, R, d]`."""
  return moved[:, :, None] * here.astype(moved.dtype)[None, None, :, None]
