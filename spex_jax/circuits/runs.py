"""Runs of pairs of prompts, as scores, judging and patching share them.

Pairs come in batches of one shape each, the last one filled up, so that every
program is compiled once. A program takes a network as a static `Model`, and its
parameters and the batch as arguments:

  @functools.partial(jax.jit, static_argnames=("model", "metric"))
  def program(model, metric, params, batch): ...

Only the logits behind the last token of each prompt are computed. Networks are
causal, so that what follows it in a padded row changes nothing.

Shapes: B pairs of a batch, P positions, V tokens, A right and C wrong answers,
W writers, d width, Q tokens of a rest.
"""

from collections.abc import Iterator
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import metrics
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import cut_edges, generate, sites

# About as many tokens in a batch are the fastest on a CPU.
_TOKENS = 256


@flax.struct.dataclass
class Batch:
  """Some pairs, in a fixed shape.

  Attributes:
    clean: int32 `[B, P]`, the ids of clean prompts.
    corrupted: int32 `[B, P]`, the ids of corrupted prompts.
    last: int32 `[B]`, the position whose logits are read.
    right: int32 `[B, A]`, padded with -1.
    wrong: int32 `[B, C]`, padded with -1.
    real: bool `[B]`, False for a copy that fills the batch up.
  """

  clean: base.Array
  corrupted: base.Array
  last: base.Array
  right: base.Array
  wrong: base.Array
  real: base.Array

  @property
  def inside(self) -> jax.Array:
    """The positions of the prompts, without padding: bool `[B, P]`."""
    at = jnp.arange(self.clean.shape[1])[None]
    return (at <= jnp.asarray(self.last)[:, None]) & self.real[:, None]


@flax.struct.dataclass
class Rest:
  """The last tokens of prompts, behind what all runs of a batch share.

  Where no run is edited before them, they alone are run again: attention gets
  the keys and values of the others from one clean run.

  Attributes:
    ids: int32 `[B, Q]`, of clean prompts.
    slots: int32 `[B, Q]`, their positions.
    caches: of the clean run, P slots for every block.
  """

  ids: jax.Array
  slots: jax.Array
  caches: generate.Caches

  def of(self, x: base.Array, axis: int = 1) -> jax.Array:
    """What holds for these positions, of `x` with axes B|1 and P|1.

    Args:
      x: any array; `axis` is that of positions, the one before that of pairs.
      axis: the axis of positions in `x`, 1 or more.
    """
    x = jnp.asarray(x)
    if x.shape[axis] == 1:
      return x
    at = self.slots.reshape(
      *(1,) * (axis - 1), *self.slots.shape, *(1,) * (x.ndim - axis - 1)
    )
    return jnp.take_along_axis(x, at, axis=axis)


@flax.struct.dataclass
class Ends:
  """What the two unedited runs of a batch give.

  Attributes:
    logits: `[B, V]`, of the clean run.
    clean: `[B]`, the metric there.
    corrupted: `[B]`, the metric on the corrupted prompts.
  """

  logits: jax.Array
  clean: jax.Array
  corrupted: jax.Array


def batch_size(pairs: pairs_lib.Pairs, tokens: int = _TOKENS) -> int:
  """How many pairs go into a batch of about so many tokens."""
  return int(np.clip(tokens // pairs.clean.shape[1], 1, len(pairs)))


def batches(pairs: pairs_lib.Pairs, size: int) -> Iterator[Batch]:
  """Pairs in batches of `size`, in order; the last one is filled up.

  Raises:
    ValueError: a size below 1, or no pairs.
  """
  if size < 1 or not len(pairs):
    raise ValueError(f"Need pairs in batches of 1 or more; got {len(pairs)} in "
                     f"batches of {size}.")  # fmt: skip
  for start in range(0, len(pairs), size):
    rows = np.arange(start, start + size)
    at = np.minimum(rows, len(pairs) - 1)
    yield Batch(
      np.asarray(pairs.clean)[at],
      np.asarray(pairs.corrupted)[at],
      np.asarray(pairs.lengths)[at] - 1,
      np.asarray(pairs.right)[at],
      np.asarray(pairs.wrong)[at],
      rows < len(pairs),
    )


def of_batch(where: np.ndarray, number: int, size: int) -> np.ndarray:
  """Of places `[K, N|1, P]` those of one of the `batches`: `[K, B|1, P]`."""
  if where.shape[1] == 1:
    return where
  rows = np.arange(number * size, (number + 1) * size)
  return where[:, np.minimum(rows, where.shape[1] - 1)]


def real_rows(batch: Batch, values: base.Array) -> np.ndarray:
  """Of values `[B, ...]` those of real pairs, on the host."""
  return np.asarray(values)[np.asarray(batch.real)]


def logits(
  net: sites.Network,
  params: Any,
  batch: Batch,
  edits: sites.Edits | None = None,
  *,
  corrupted: bool = False,
  rest: Rest | None = None,
) -> jax.Array:
  """Logits behind the last token of every prompt, under edits: `[B, V]`.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    batch: B pairs of prompts, of which one half is run.
    edits: of the run, or None; with a rest, of its Q positions.
    corrupted: whether the corrupted prompts are run.
    rest: of the clean prompts, if nothing is edited before it.
  """
  if rest is not None:
    chex.assert_equal_shape([rest.ids, rest.slots])
    last = jnp.asarray(batch.last) - rest.slots[:, 0]
    return generate.extend(
      net, params, rest.ids, rest.slots[:, 0], rest.caches, edits, last
    ).logits[:, 0]
  return net.apply(params, edits, **inputs(batch, corrupted)).logits[:, 0]


def begun(
  net: sites.Network, params: Any, batch: Batch, count: int
) -> tuple[jax.Array, Rest | None]:
  """Clean logits `[B, V]`, and the rest of so many tokens where it is shorter.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    batch: B pairs of prompts, in a fixed shape.
    count: Q, at most P: up to the last token of each prompt.
  """
  ids = jnp.asarray(batch.clean)
  rows, length = ids.shape
  last = jnp.asarray(batch.last)
  chex.assert_shape(last, (rows,))
  if count >= length:
    return logits(net, params, batch), None
  dtype = jax.tree.leaves(params)[0].dtype
  caches = generate.empty_caches(net.config, rows, length, dtype)
  clean = generate.extend(net, params, ids, 0, caches, logits_at=last)
  start = jnp.maximum(last + 1 - count, 0)[:, None]
  slots = (start + jnp.arange(count)[None]).astype(jnp.int32)
  few = jnp.take_along_axis(ids, slots, axis=1)
  return clean.logits[:, 0], Rest(few, slots, clean.caches)


def inputs(batch: Batch, corrupted: bool = False) -> dict[str, Any]:
  """What `Network.apply`, `enter` and `resume` take: logits `[B, 1, V]`."""
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  chex.assert_shape(batch.last, (len(batch.clean),))
  ids = batch.corrupted if corrupted else batch.clean
  last = jnp.asarray(batch.last)[:, None]
  return {"input_ids": jnp.asarray(ids), "logits_to_keep": last}


def read(
  metric: metrics.Metric,
  found: jax.Array,
  clean_logits: jax.Array,
  batch: Batch,
) -> jax.Array:
  """The metric of each pair, `[B]`, from logits `[B, V]`.

  In float32 at least: differences of narrow logits would be rounded again.
  """
  chex.assert_equal_shape([found, clean_logits])
  wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
  found, clean_logits = wide(found), wide(clean_logits)
  right, wrong = jnp.asarray(batch.right), jnp.asarray(batch.wrong)
  return jax.vmap(metric)(found, clean_logits, right, wrong)


def measured(
  net: sites.Network,
  params: Any,
  metric: metrics.Metric,
  batch: Batch,
  clean_logits: jax.Array,
  edits: sites.Edits | None = None,
  rest: Rest | None = None,
) -> jax.Array:
  """The metric of each pair on its clean prompt under edits: `[B]`.

  A kernel: `vmap` it over `edits` for many circuits, differentiate it by them.
  """
  found = logits(net, params, batch, edits, rest=rest)
  return read(metric, found, clean_logits, batch)


def ends(
  net: sites.Network, params: Any, metric: metrics.Metric, batch: Batch
) -> Ends:
  """The clean and the corrupted run, without edits."""
  clean = logits(net, params, batch)
  other = logits(net, params, batch, corrupted=True)
  value = lambda found: read(metric, found, clean, batch)
  return Ends(clean, value(clean), value(other))


def written(
  net: sites.Network, params: Any, batch: Batch, *, corrupted: bool = False
) -> jax.Array:
  """What every writer writes: `[B, P, W, d]`.

  On the corrupted prompts it is the `ref` of resample ablation.
  """
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  ids = batch.corrupted if corrupted else batch.clean
  return net.contributions(params, input_ids=jnp.asarray(ids))


def observed(
  net: sites.Network, params: Any, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """`written` on the clean prompts and their `logits`, of one forward."""
  chex.assert_equal_shape([batch.clean, batch.corrupted])
  last = "final_norm.in"
  out = net.apply(
    params,
    capture=(*net.writer_sites, last),
    input_ids=jnp.asarray(batch.clean),
  ).activations
  x = out[last]
  end = net.resume(params, net.config.num_blocks, x, **inputs(batch))
  z = cut_edges.stacked([out[site] for site in net.writer_sites])
  return z, end.logits[:, 0]
