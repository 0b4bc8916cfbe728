"""Whether two heads do the same: one is put in the place of the other.

That two heads have one role is claimed from what they attend to or write. If
they do, a linear map of what one gathers should stand in for the other. The map
is fitted on some prompts (least squares, with a constant), and judged on
others: the head's output is replaced by the mapped output of the other, and

  kept = (m(swapped) - m(constant)) / (m(clean) - m(constant)),

where "constant" puts the head's mean in: 1 where the map does all that the
head does, 0 where it does no more than a constant. Two random heads share some
of the stream, and a map finds it: so the same head is also given maps from
other heads, drawn at random, and a claim stands only above these (functional
interchangeability, arXiv 2603.20101; there outputs are swapped as they are).

What a head gathers is `attn.z`, before its projection. The other head's output
is that of the clean run, so that it may lie in any layer. Of edges that leave a
head, these alone carry what it would write with the other's output; all other
readers see what it writes.

Shapes: N prompts, B of a batch, P positions, S swaps, H heads, h head width, R
rows of a reader, W' writers before it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import many, metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

Head = tuple[int, int]  # Layer and head.


@dataclasses.dataclass(frozen=True)
class Swap:
  """One head in the place of another.

  Attributes:
    place: the head that is replaced, as (layer, head).
    by: the head that is put there, mapped.
    kept: of what the place does for the metric, the share that is kept.
    explained: R^2 of the map on the judged prompts.
    control: `kept` of heads drawn at random in the same place.
  """

  place: Head
  by: Head
  kept: float
  explained: float
  control: tuple[float, ...]

  @property
  def rank(self) -> float:
    """The share of the control that keeps less; ties count half."""
    control = np.array(self.control)
    both = (control < self.kept).sum() + (control == self.kept).sum() / 2
    return float(both / len(control)) if len(control) else float("nan")

  def __str__(self) -> str:
    told = f"{self.by[0]}.{self.by[1]} in {self.place[0]}.{self.place[1]}"
    control = ", ".join(f"{x:.2f}" for x in sorted(self.control))
    return (
      f"{told}: keeps {self.kept:.2f} (R^2 {self.explained:.2f}); random heads "
      f"{control or 'not asked'}"
    )


def interchange(
  net: sites.Network,
  params: Any,
  fitted: pairs_lib.Pairs,
  judged: pairs_lib.Pairs,
  claims: Sequence[tuple[Head, Head]],
  metric: metrics.Metric,
  *,
  edges: Sequence[Sequence[graph_lib.Edge]] | None = None,
  random: int = 5,
  ridge: float = 1e-3,
  seed: int = 0,
  size: int | None = None,
  at_once: int | None = None,
) -> tuple[Swap, ...]:
  """Puts heads in the place of others that they are claimed to be like.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    fitted: pairs whose clean prompts the maps are fitted on.
    judged: others, on which the metric is read.
    claims: (place, by), heads as (layer, head).
    metric: one example's logits to a number, see `metrics`, of the answers.
    edges: of every claim, edges that leave the place: only through these the
      swap is seen; through all where this is None.
    random: other heads in each place, for the control.
    ridge: of the map, in the mean square of what is mapped.
    seed: an integer, the seed of the control.
    size: pairs of a batch; `runs.batch_size` by default.
    at_once: swaps computed side by side; `many.at_once` by default.

  Returns:
    A swap of every claim, in order.

  Raises:
    ValueError: no claim, a head that there is not, one in its own place, a
      place whose mean does for the metric what it does itself: nothing to keep;
      edges that leave another place, or none; pairs that the model cannot read.
  """
  config = net.config
  every = [
    (layer, head)
    for layer in range(config.num_blocks)
    for head in range(config.num_heads)
  ]
  # Every claim, and random heads in its place: maps fitted, and rows to run.
  swaps = _swaps(claims, every, random, np.random.default_rng(seed))
  metrics.check(metric, config.vocab_size)
  for pairs in (fitted, judged):
    pairs.check(config.vocab_size, config.max_positions)
  cut = {} if edges is None else _cut(net, claims, edges, 1 + random)
  model = sites.Model(net)
  maps, means = _maps(model, params, fitted, swaps, ridge, size)
  place = np.array(
    [layer * config.num_heads + head for (layer, head), _ in swaps]
  )
  by = np.array([layer * config.num_heads + head for _, (layer, head) in swaps])
  # With nothing of the other head the map is the mean alone.
  rows = {
    "place": np.concatenate([place, place]),
    "by": np.concatenate([by, by]),
    "kernel": np.concatenate([maps[0], np.zeros_like(maps[0])]),
    "bias": np.concatenate([maps[1], means]),
    "cut": {name: np.concatenate([x, x]) for name, x in cut.items()},
  }
  # All rows on the judged pairs, batch by batch.
  size = runs.batch_size(judged) if size is None else size
  at_once = at_once or many.at_once(size * judged.clean.shape[1], plain=True)
  count = len(rows["place"])
  rows = jax.tree.map(lambda x: many.padded(x, 0, at_once), rows)
  found, clean, errors = [], [], 0.0
  for batch in runs.batches(judged, size):
    values, whole, error = _swapped(
      model, metric, at_once, params, batch, rows, count
    )
    found.append(runs.real_rows(batch, np.asarray(values)[:count].T))
    clean.append(runs.real_rows(batch, whole))
    errors = errors + np.asarray(error, np.float64)[:count]
  # What of the place's effect each swap keeps, above the mean's.
  values = np.concatenate(found).astype(np.float64).mean(axis=0)
  clean = np.concatenate(clean).astype(np.float64)
  swapped, constant = np.split(values, 2)
  off, spread = np.split(np.asarray(errors), 2)
  explained = 1 - off / spread
  kept = []
  for k, ((layer, head), _) in enumerate(swaps):
    try:
      kept.append(
        float(
          judged_lib.ratio(swapped[k], clean, np.full_like(clean, constant[k]))
        )
      )
    except ValueError as error:
      raise ValueError(
        f"Head {head} of layer {layer} does no more than its mean for this "
        f"metric ({clean.mean():.4g} with either): nothing can be kept."
      ) from error
  each = 1 + random
  return tuple(
    Swap(
      *swaps[k], kept[k], float(explained[k]),
      control=tuple(kept[k + 1 : k + each]),
    )
    for k in range(0, len(swaps), each)
  )  # fmt: skip


def _swaps(claims, every, random, rng) -> list[tuple[Head, Head]]:
  """Every claim and its control behind it."""
  if not claims:
    raise ValueError("There is no claim to test: name (place, by).")
  found = []
  for place, by in claims:
    for head in (place, by):
      if tuple(head) not in every:
        raise ValueError(
          f"There is no head {head}: layers are 0..{every[-1][0]}, heads "
          f"0..{every[-1][1]}."
        )
    if tuple(place) == tuple(by):
      raise ValueError(f"{place} is claimed to be like itself.")
    others = [one for one in every if one not in (tuple(place), tuple(by))]
    if len(others) < random:
      raise ValueError(
        f"{len(others)} other heads are too few for random={random}."
      )
    drawn = rng.choice(len(others), random, replace=False)
    found.append((tuple(place), tuple(by)))
    found += [(tuple(place), others[k]) for k in drawn]
  return found


def _cut(net, claims, edges, each) -> dict[str, np.ndarray]:
  """Edges as `sites.Edits.cut` has them, of all swaps: `[S, R, W']`."""
  graph, found = graph_lib.Graph.of(net), {}
  if len(edges) != len(claims) or not all(map(len, edges)):
    raise ValueError("edges: as many sets as claims, none of them empty.")
  for k, (((layer, head), _), own) in enumerate(zip(claims, edges)):
    for edge in own:
      graph.index(edge)  # Raises for what is no edge.
      writer, reader, row = edge
      if writer != (place := f"blocks.{layer}.heads.{head}"):
        raise ValueError(f"The edge {edge} does not leave {place}.")
      if reader not in found:
        shape = (len(claims), *net.readers[reader])
        found[reader] = np.zeros(shape, np.float32)
      found[reader][k, row, graph.writers.index(writer)] = 1
  return {name: np.repeat(x, each, axis=0) for name, x in found.items()}


def _maps(model, params, pairs, swaps, ridge, size):
  """Kernels `[S, h, h]` and constants `[S, h]`; and means `[S, h]`."""
  heads = model.net.config.num_heads
  used = sorted({head for swap in swaps for head in swap})
  number = {head: k for k, head in enumerate(used)}
  flat = np.array([layer * heads + head for layer, head in used])
  size = runs.batch_size(pairs) if size is None else size
  # Sums of products of all heads that occur: what least squares needs.
  total: Any = None
  for batch in runs.batches(pairs, size):
    new = [np.asarray(x, np.float64) for x in _sums(model, params, batch, flat)]
    total = new if total is None else [a + b for a, b in zip(total, new)]
  count, sums, squares = total
  mean = sums / count
  spread = squares / count - mean[:, None, :, None] * mean[None, :, None, :]
  kernels, biases = [], []
  for place, by in swaps:
    a, b = number[place], number[by]
    gram = spread[b, b] + ridge * np.eye(len(mean[b])) * max(
      np.trace(spread[b, b]) / len(mean[b]), np.finfo(np.float64).tiny
    )
    kernel = np.linalg.solve(gram, spread[b, a])
    kernels.append(kernel)
    biases.append(mean[a] - mean[b] @ kernel)
  means = np.stack([mean[number[place]] for place, _ in swaps])
  return (np.stack(kernels), np.stack(biases)), means


@functools.partial(jax.jit, static_argnames="model")
def _sums(model, params, batch, flat):
  """Rows, sums `[U, h]` and products `[U, U, h, h]` of U heads."""
  z = _gathered(model.net, params, batch)[:, :, flat]
  inside = batch.inside.astype(z.dtype)
  chex.assert_equal_shape_prefix([z, inside], 2)
  add = functools.partial(jnp.einsum, precision="highest")
  products = add("bp,bpuh,bpvk->uvhk", inside, z, z)
  return inside.sum(), add("bp,bpuh->uh", inside, z), products


def _gathered(net, params, batch) -> jax.Array:
  """What all heads gather on the clean prompts: `[B, P, L H, h]`."""
  names = _names(net)
  found = net.apply(params, capture=names, input_ids=jnp.asarray(batch.clean))
  return jnp.concatenate([found.activations[name] for name in names], axis=2)


def _names(net) -> tuple[str, ...]:
  return tuple(f"blocks.{n}.attn.z" for n in range(net.config.num_blocks))


@functools.partial(jax.jit, static_argnames=("model", "metric", "at_once"))
def _swapped(model, metric, at_once, params, batch, rows, count):
  """Metrics of swaps `[S, B]`, of the clean run `[B]`, squared errors `[S]`."""
  net = model.net
  heads = net.config.num_heads
  z = _gathered(net, params, batch)
  chex.assert_shape(rows["kernel"], (None, z.shape[-1], z.shape[-1]))
  chex.assert_shape(rows["bias"], (None, z.shape[-1]))
  logits = runs.logits(net, params, batch)
  inside = batch.inside.astype(z.dtype)

  def mapped(row):
    other = jnp.take(z, row["by"], axis=2)
    return other @ row["kernel"].astype(z.dtype) + row["bias"][
      None, None
    ].astype(z.dtype)

  def one(row):
    value = mapped(row)[:, :, None]
    replace = {}
    for layer, name in enumerate(_names(net)):
      where = jnp.arange(heads) + layer * heads == row["place"]
      replace[name] = where[None, None, :, None], value
    edits = sites.Edits(replace=replace)
    if row["cut"]:
      ids = jnp.asarray(batch.clean)
      ref = net.contributions(params, edits, input_ids=ids)
      cut = {n: x.astype(ref.dtype)[None, None] for n, x in row["cut"].items()}
      edits = sites.Edits(cut=cut, ref=ref)
    return runs.measured(net, params, metric, batch, logits, edits)

  def off(row):
    own = jnp.take(z, row["place"], axis=2)
    return (inside * jnp.square(mapped(row) - own).sum(-1)).sum()

  values = many.mapped(one, rows, count, at_once)
  errors = jax.lax.map(off, rows)
  clean = runs.read(metric, logits, logits, batch)
  return values, clean, errors
