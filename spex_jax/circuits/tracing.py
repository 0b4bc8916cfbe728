"""Causal tracing: where what is known of a subject passes through (ROME).

The tokens of a subject are hidden in noise, and single states of the clean run
are put back: where this brings the answer back, the states carry it (Meng et
al. 2022, arXiv 2202.05262, section 2.1 and appendix B). As in the
authors' code:

- noise is added to the token embeddings of the subject alone, or takes their
  place (`replace`): "s3", Gaussian, 3 times as wide as the entries of these
  embeddings spread; "0.1", of that standard deviation; "m", Gaussian of the
  mean and covariance of the model's table of embeddings; "t5", of the same two
  moments and heavy tails, Student's with 5 degrees; "u3", uniform in +-3 ("us3"
  in +-3 times their spread). Each of `copies` noisy runs has a draw of its own,
  the same for every state that is put back;
- a state is what a layer leaves in the stream ("resid"), or what MLPs or
  attention add to it ("mlp", "attn") in a window of 10 layers around it;
- the effect is the mean of the answer's probability over the noisy runs;
- prompts that the model gets wrong are left out.

The spread is that of the subjects of these pairs, where the paper takes 1,000
others, and the table's moments count each token once, where the authors weigh
them by a corpus; of "t5" they multiply the mean, too, which stays here.
Corrupted prompts are not used. In the authors' code a window around
layer l is [l - 5, l + 5); so it is here, for any width w: [l - w // 2,
l - w // 2 + w), cut off at the ends.

Shapes: N prompts, B of a batch, P positions, K places, L layers, d width.
"""

import dataclasses
import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base, shown
from spex_jax.circuits import many, measured, metrics, patching, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

KINDS = {"resid": "hook_resid_post", "mlp": "hook_mlp_out",
         "attn": "hook_attn_out"}  # fmt: skip
_NOISE = re.compile(r"m|(us|s|t|u|)(\d+\.?\d*|\.\d+)")
_EMBED = "embed.tokens"


def probability(
  logits: base.Array,
  clean_logits: base.Array,
  right: base.Array,
  wrong: base.Array,
) -> jax.Array:
  """The probability of a right answer, whatever is wrong; a metric."""
  chex.assert_rank([logits, right, wrong], 1)
  none = -jnp.ones_like(jnp.asarray(wrong))
  return metrics.probability_difference(logits, clean_logits, right, none)


@dataclasses.dataclass(frozen=True, eq=False)
class Traced(shown.Shown):
  """What states of the clean run bring back.

  Attributes:
    kind: which states were put back, one of `KINDS`.
    labels: the K names of the places.
    values: float64 `[L, K, N]`, the metric with one state put back, a mean
      over noisy copies.
    low: float64 `[N]`, the metric with noise and nothing put back.
    high: float64 `[N]`, of the clean run.
    used: int `[N]`, which of the pairs these are: the model gets them right.
    noise: its width, as "s3" or a number has it; of "t5" its degrees, and 1
      of "m".
  """

  kind: str
  labels: tuple[str, ...]
  values: np.ndarray
  low: np.ndarray
  high: np.ndarray
  used: np.ndarray
  noise: float

  @property
  def total(self) -> float:
    """What noise costs on average: the mean of `high - low`."""
    return float((self.high - self.low).mean())

  def effects(self) -> np.ndarray:
    """The mean indirect effect of each state: float64 `[L, K]`."""
    return (self.values - self.low).mean(axis=-1)

  def sheet(self) -> shown.Sheet:
    """A row of every state, the largest effect first."""
    effects = self.effects()
    order = np.argsort(-np.abs(effects), axis=None, kind="stable")
    layers, places = np.unravel_index(order, effects.shape)
    lost = f"{self.total:.4g} of the metric, on {len(self.used)} pairs"
    return shown.Sheet(
      f"What states of {self.kind} bring back that noise takes away",
      {
        "layer": layers,
        "place": [self.labels[k] for k in places],
        "effect": effects.ravel()[order],
      },
      trust=[("lost by noise", lost, not self.total > 0)],
      facts={"noise": f"{self.noise:.4g}"},
    )


def trace(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  subject: str,
  *,
  key: base.Key,
  kind: str = "resid",
  metric: metrics.Metric = probability,
  spans: bool = False,
  window: int = 10,
  copies: int = 10,
  noise: str | float = "s3",
  replace: bool = False,
  skip_wrong: bool = True,
  programs: int = 4,
  size: int | None = None,
  at_once: int | None = None,
) -> Traced:
  """Traces what is known of a subject, at every layer and place.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: their clean prompts and right answers.
    subject: the named span of the pairs that is hidden.
    key: a random key, consumed; of the noise.
    kind: which states are put back, one of `KINDS`.
    metric: one example's logits to a number, of the right answer.
    spans: whether places are the pairs' spans rather than positions.
    window: layers around one whose MLPs or attention are put back; "resid" has
      no window.
    copies: how many noisy runs every prompt has.
    noise: of the authors' code, as said above: "s3", "m", "t5", "u3", "us3", or
      a standard deviation.
    replace: whether noise takes the embeddings' place.
    skip_wrong: whether prompts are left out whose right answers are not the
      model's first choice.
    programs: how many are compiled, as for `patching.sweep`.
    size: prompts of a batch, with all copies; `runs.batch_size` by default.
    at_once: states computed side by side; `many.at_once` by default.

  Raises:
    ValueError: pairs without that span, an unknown kind or noise, a window, a
      number of copies or a noise that is not positive, or no prompt that the
      model gets right.
  """
  _check(pairs, subject, kind, window, copies)
  shape, wide = _noise(noise)
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size, net.config.max_positions)
  model = sites.Model(net)
  # Prompts that the model gets right, and the tokens that are hidden.
  used = np.arange(len(pairs))
  if skip_wrong:
    able = measured.measure(net, params, pairs, metric, size=size)
    used = used[able.first]
    if not len(used):
      raise ValueError(
        f"The model gets none of {len(pairs)} prompts right: there is no "
        "knowledge to trace (or pass skip_wrong=False)."
      )
    pairs = pairs[used]
  assert pairs.spans is not None
  number = pairs.spans.names.index(subject)
  inside = np.broadcast_to(pairs.spans.owner == number, pairs.clean.shape)
  if (missing := np.flatnonzero(~inside.any(axis=1))).size:
    raise ValueError(f"Pair {used[missing[0]]} has no {subject!r} to hide.")
  # The noise, which some kinds take from the embeddings themselves.
  size = max(1, (size or runs.batch_size(pairs)) // copies)
  batches = list(runs.batches(pairs, size))
  if shape.endswith("s"):
    shape = shape[:-1]
    wide *= _spread(model, params, batches, inside, size)
  table = _table(net, params) if shape in ("m", "t") else None
  # What is put back, where.
  where, labels = patching.places_of(pairs, spans)
  named = patching.every_block(net, KINDS[kind])
  items = _items(len(named), len(labels), window if kind != "resid" else 1)
  at_once = at_once or many.at_once(
    size * copies * pairs.clean.shape[1], plain=True
  )
  # Copies of a prompt are rows of a batch; their mean is what counts.
  found, low, high = [], [], []
  for number, batch in enumerate(batches):
    rows = np.minimum(np.arange(size) + number * size, len(pairs) - 1)
    copied, added, logits, ends = _noisy(
      model, metric, copies, shape, replace, params, batch,
      jax.random.fold_in(key, number), inside[rows], wide, table,
    )  # fmt: skip
    values = patching.patched(
      model, metric, params, copied, items,
      run=copied.clean, source=copied.clean, logits=logits,
      where=where if where.shape[1] == 1
      else np.repeat(where[:, rows], copies, axis=1),
      named=named, noise=added, programs=programs, at_once=at_once,
    )  # fmt: skip
    mean = lambda x: np.asarray(x, np.float64).reshape(size, copies, -1).mean(1)
    found.append(runs.real_rows(batch, mean(values.T)))
    low.append(runs.real_rows(batch, mean(ends[1])[:, 0]))
    high.append(runs.real_rows(batch, mean(ends[0])[:, 0]))
  values = np.concatenate(found).T.reshape(len(named), len(labels), -1)
  if not np.isfinite(values).all():
    raise ValueError("With states put back, the metric is NaN or infinite.")
  return Traced(
    kind, labels, values, np.concatenate(low), np.concatenate(high), used,
    wide,
  )  # fmt: skip


def _check(pairs, subject, kind, window, copies) -> None:
  names = () if pairs.spans is None else pairs.spans.names
  if subject not in names:
    raise ValueError(
      f"The pairs have no span {subject!r}; they have {list(names)}."
    )
  if kind not in KINDS:
    raise ValueError(f"kind={kind!r}: choose from {', '.join(KINDS)}.")
  if window < 1 or copies < 1:
    raise ValueError(
      f"window and copies must be at least 1; got {window}, {copies}."
    )


def _noise(given) -> tuple[str, float]:
  """What is drawn, "s" behind where it is to spread as subjects do; how wide.

  That is "" for Gaussian, "u", "m" or "t".
  """
  found = _NOISE.fullmatch(str(given))
  wide = float(found[2] or 1) if found else 0.0
  if found is None or not (0 < wide < np.inf):
    raise ValueError(
      f"noise={given!r}: give s3, m, t5, u3, us3 (numbers above 0) or a "
      "standard deviation above 0."
    )
  if found[1] == "t" and wide <= 2:
    raise ValueError(f"noise={given!r}: below 2 degrees it has no covariance.")
  return ("m" if found[2] is None else found[1]), wide


def _table(net, params) -> tuple[jax.Array, jax.Array]:
  """Mean `[d]` and a root of the covariance `[d, d]` of token embeddings.

  The root is the symmetric one, of the moments over the vocabulary, each token
  once.
  """
  ids = jnp.arange(net.config.vocab_size)
  most = net.config.max_positions or len(ids)
  x = np.concatenate(
    [
      np.asarray(
        net.apply(
          params, capture=(_EMBED,), input_ids=ids[None, start : start + most]
        ).activations[_EMBED][0],
        np.float64,
      )
      for start in range(0, len(ids), most)
    ]
  )
  value, vector = np.linalg.eigh(np.cov(x, rowvar=False))
  root = vector * np.sqrt(np.maximum(value, 0)) @ vector.T
  return jnp.asarray(x.mean(0)), jnp.asarray(root)


def _spread(model, params, batches, inside, size) -> float:
  """The standard deviation of all entries of the subjects' embeddings."""
  entries = []
  for number, batch in enumerate(batches):
    own = inside[number * size : (number + 1) * size]
    x = runs.real_rows(batch, _embedded(model, params, batch))
    entries.append(np.asarray(x, np.float64)[own].ravel())
  return float(np.concatenate(entries).std())


@functools.partial(jax.jit, static_argnames="model")
def _embedded(model, params, batch):
  found = model.net.apply(
    params, capture=(_EMBED,), input_ids=jnp.asarray(batch.clean)
  )
  return found.activations[_EMBED]


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "copies", "shape", "replace")
)
def _noisy(
  model, metric, copies, shape, replace, params, batch, key, inside, wide,
  table,
):  # fmt: skip
  """A batch of copies, `[B copies]` rows; what is added to each; and its ends.

  Returns:
    The batch; `[B copies, P, d]`; logits of the clean run; and the metric of
    every row, clean and noisy.
  """
  net = model.net
  chex.assert_equal_shape([inside, batch.clean])
  copied = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), copies, 0), batch)
  tokens = net.apply(params, capture=(_EMBED,), input_ids=copied.clean)
  x = tokens.activations[_EMBED]
  wide = jnp.asarray(wide, x.dtype)
  if shape == "u":
    added = wide * jax.random.uniform(key, x.shape, x.dtype, -1, 1)
  else:
    own, other = jax.random.split(key) if shape == "t" else (key, key)
    added = jax.random.normal(own, x.shape, x.dtype)
    if shape in ("m", "t"):
      mean, root = (one.astype(x.dtype) for one in table)
      added = jnp.matmul(added, root, precision="highest")
      if shape == "t":  # A chi-square of each token.
        drawn = jax.random.gamma(other, wide / 2, (*x.shape[:2], 1), x.dtype)
        added = added * jnp.sqrt((wide - 2) / (2 * drawn))
      added = added + mean[None, None]
    else:
      added = wide * added
  added = added - x if replace else added
  hidden = jnp.repeat(jnp.asarray(inside), copies, 0)[..., None]
  added = jnp.where(hidden, added, 0)
  logits = runs.logits(net, params, copied)
  clean = runs.read(metric, logits, logits, copied)
  edits = sites.Edits(add={_EMBED: added})
  noisy = runs.measured(net, params, metric, copied, logits, edits)
  return copied, added, logits, (clean, noisy)


def _items(num_layers: int, num_places: int, window: int) -> np.ndarray:
  """A window of layers around each, at every place: int32 `[I, 5]`."""
  layer, place = np.indices((num_layers, num_places)).reshape(2, -1)
  first = layer - window // 2
  behind = np.minimum(first + window, num_layers)
  rest = np.full_like(layer, -1)
  everywhere = np.full_like(layer, num_places)
  rows = [np.maximum(first, 0), behind, place, rest, everywhere]
  return np.stack(rows, axis=1).astype(np.int32)
