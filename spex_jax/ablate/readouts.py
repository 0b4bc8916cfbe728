"""What is read from a network's output: the value that a mask is given.

A readout takes what `Network.apply` returned and the inputs that it was given,
and gives one number per row, or one per row and target. Any function of these
two will do; those here are the usual ones, each traceable.

Which token is the last one follows from `attention_mask`, so that the same
readout serves prompts of which tokens are masked, hidden or removed.

Shapes: B rows, P positions, V classes or tokens, T targets, d width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import sites
from spex_jax.training import learners

# Output and inputs to `[B]` or `[B, T]`.
Readout: TypeAlias = Callable[
  [sites.Output, Mapping[str, base.Array]], jax.Array
]
Targets: TypeAlias = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A readout of a causal model's predictions at a few positions.

  Called like any other, it takes them from all logits. Who knows it for what
  it is (`value`, `forward`) has only those computed.

  Attributes:
    whole: of the output.
    where: inputs to the positions that are read, int `[B, k]`.
    of: logits there, `[B, k, V]`, and the inputs to `[B]` or `[B, T]`.
  """

  whole: Readout
  where: Callable[[Mapping[str, base.Array]], jax.Array]
  of: Callable[[jax.Array, Mapping[str, base.Array]], jax.Array]

  def __call__(
    self, output: sites.Output, inputs: Mapping[str, base.Array]
  ) -> jax.Array:
    return self.whole(output, inputs)


def forward(
  net: sites.Network,
  read: Readout,
  inputs: Mapping[str, base.Array],
  run: Callable[..., sites.Output],
  capture: Sequence[str] = (),
) -> jax.Array:
  """Runs a network and reads its output, with no more logits than are read.

  Args:
    net: any network.
    read: what to read.
    inputs: of the network, B rows.
    run: keyword inputs to the output, such as `net.apply` with parameters.
    capture: what `run` captures; then nothing is left out.

  Returns:
    `[B]` or `[B, T]`.
  """
  few = isinstance(read, Prediction) and "logits_to_keep" in net.optional
  if few and not capture and "logits_to_keep" not in inputs:
    assert isinstance(read, Prediction)
    out = run(**inputs, logits_to_keep=read.where(inputs))
    return read.of(out.logits, inputs)
  return read(run(**inputs), inputs)


def value(
  net: sites.Network,
  see: Callable[[base.Array], Mapping[str, base.Array]],
  read: Readout,
  *,
  capture: Sequence[str] = (),
  **fixed: base.Array,
) -> Callable[[base.Array, Any], jax.Array]:
  """The function that `evaluate.compiled` lifts, with parameters shared.

  Args:
    net: any network.
    see: one mask `[n]` to inputs of one row, as `absent.inputs` makes it.
    read: of the output.
    capture: sites that `read` asks for.
    **fixed: inputs that do not depend on the mask, of one row.

  Returns:
    `f(mask, params)`, a scalar or `[T]`.
  """

  def f(mask: base.Array, params: Any) -> jax.Array:
    inputs: dict[str, Any] = {**fixed, **see(mask)}
    run = functools.partial(net.apply, params, capture=capture)
    return forward(net, read, inputs, run, capture)[0]

  return f


def logit(targets: Targets, position: int | None = None) -> Prediction:
  """The logit of a class or token, or of several.

  Args:
    targets: one of them gives `[B]`, T of them `[B, T]`.
    position: of a language model's prediction; None for the last token that
      attention sees. A classifier has none. One that is fixed is a place in
      the row: where absent tokens are removed, other tokens move there, and a
      hidden token is read all the same.

  Raises:
    TypeError: targets that are no integers.
    ValueError: no target. When read: one outside the vocabulary or the
      classes, or a position outside the text.
  """
  wanted = _targets(targets)
  return _prediction(lambda scores: _pick(scores, wanted), position)


def log_probability(
  targets: Targets, position: int | None = None
) -> Prediction:
  """The same of log-probabilities, in nats."""
  wanted = _targets(targets)
  return _prediction(
    lambda scores: _pick(jax.nn.log_softmax(scores), wanted), position
  )


def probability(targets: Targets, position: int | None = None) -> Prediction:
  """The same of probabilities, in 0..1."""
  wanted = _targets(targets)
  return _prediction(
    lambda scores: _pick(jax.nn.softmax(scores), wanted), position
  )


def margin(
  target: int, rivals: Targets | None = None, position: int | None = None
) -> Prediction:
  """The logit of `target` above the largest of its rivals'.

  Args:
    target: class or token.
    rivals: one or several others; None for all others.
    position: as for `logit`.

  Raises:
    TypeError: targets that are no integers.
    ValueError: `target` among its rivals. When read: one outside the
      vocabulary or the classes, or no other class at all.
  """
  own = _targets(target)
  others = None if rivals is None else np.atleast_1d(_targets(rivals))
  if others is not None and own in others:
    raise ValueError(f"Target {own} is among its rivals {others.tolist()}.")

  def above(scores):
    top = _pick(scores, own)
    if others is not None:
      return top - _pick(scores, others).max(axis=-1)
    _check_rivals(scores)
    at_target = jnp.arange(scores.shape[-1])[None] == own
    return top - jnp.where(at_target, -jnp.inf, scores).max(axis=-1)

  return _prediction(above, position)


def margins(labels: base.Array, position: int | None = None) -> Prediction:
  """Each row's own margin: its right class's logit less the largest other.

  What COAR (Shah et al. 2024, arXiv 2404.11534, section 4) reads of
  classifiers, and datamodels of images.

  Args:
    labels: int `[B]`, each row's right class, or next token.
    position: as for `logit`.

  Raises:
    TypeError: labels that are no integers.
    ValueError: no label. When read: another number of rows, or a label outside
      the vocabulary or the classes, or no other class at all.
  """
  right = np.atleast_1d(_targets(labels))

  def above(scores):
    if len(scores) != len(right):
      raise ValueError(f"{len(right)} labels for {len(scores)} rows.")
    _check_targets(right, scores.shape[-1])
    _check_rivals(scores)
    return learners.outputs(scores, right, "margin")

  return _prediction(above, position)


def token_margin() -> Readout:
  """Mean margin of the tokens that are seen, each given those before it.

  The logit of the token above the largest other, over all tokens but the
  first: what COAR reads of language models. NaN where one token is left.
  """

  def read(output, inputs):
    ids, scores, counts = _predicted(output, inputs)
    scores = scores.astype(jnp.float32)
    own = jnp.take_along_axis(scores, ids[..., None], axis=-1)[..., 0]
    at_own = jnp.arange(scores.shape[-1])[None, None] == ids[..., None]
    others = jnp.where(at_own, -jnp.inf, scores).max(axis=-1)
    each = jnp.where(counts, own - others, 0)
    return each.sum(axis=1) / counts.sum(axis=1)

  return read


def continuation(
  num_tokens: int, *, reduce: str = "sum", log: bool = True
) -> Prediction:
  """How likely the last tokens of the text are, given those before them.

  Teacher-forced: they stand in `input_ids` themselves, owned by nobody (see
  `text.continued`), and each is predicted at the token that attention sees
  before it.

  Args:
    num_tokens: how many tokens of the text's end.
    reduce: "sum" of their log-probabilities, or "mean".
    log: in nats; False for the probability (of a mean, the geometric mean).

  Raises:
    TypeError: a number of tokens that is no integer.
    ValueError: fewer than one token, or another way to reduce. When read: a
      text that is not longer than its continuation, or no language model.
  """
  num_tokens = base.check_integer(num_tokens, "num_tokens")
  if num_tokens < 1:
    raise ValueError(f"num_tokens must be at least 1; got {num_tokens}.")
  _check_reduce(reduce)

  def places(inputs):
    """Ids, the positions of the tokens and of that before, and ranks."""
    ids = jnp.asarray(inputs["input_ids"])
    seen = seen_tokens(inputs, ids.shape)
    if ids.shape[1] <= num_tokens:
      raise ValueError(
        f"A text of {ids.shape[1]} tokens has no continuation of {num_tokens}: "
        "a token must stand before it."
      )
    # The rank of a token among those seen, from 1; the last has rank `count`.
    rank = jnp.cumsum(seen, axis=1)
    steps = jnp.arange(-num_tokens, 1)
    wanted = rank[:, -1:, None] + steps[None, None]
    # The first of that rank.
    return ids, (rank[..., None] == wanted).argmax(axis=1), rank

  def of(scores, inputs):
    ids, at, rank = places(inputs)
    words = jnp.take_along_axis(ids, at[:, 1:], axis=1)
    # A row that sees too little has no such tokens; never an innocent number.
    enough = rank[:, -1] > num_tokens
    each = jnp.where(enough[:, None], _log_likelihoods(scores, words), jnp.nan)
    return _reduced(each, reduce, log)

  def whole(output, inputs):
    _tokens(output, inputs)
    _, at, _ = places(inputs)
    scores = jnp.take_along_axis(output.logits, at[:, :-1, None], axis=1)
    return of(scores, inputs)

  return Prediction(whole, lambda inputs: places(inputs)[1][:, :-1], of)


def sequence(
  labels: base.Array, *, reduce: str = "sum", log: bool = True
) -> Readout:
  """How likely an encoder-decoder finds `labels`, teacher-forced.

  Args:
    labels: int `[L]`; `decoder_input_ids` are the start token and all labels
      but the last.
    reduce: "sum" of their log-probabilities, or "mean".
    log: in nats; False for the probability (of a mean, the geometric mean).

  Raises:
    TypeError: labels that are no integers.
    ValueError: no labels, or another way to reduce. When read: a label outside
      the vocabulary, or another number of predictions.
  """
  words = np.atleast_1d(_targets(labels))
  _check_reduce(reduce)

  def read(output, inputs):
    del inputs
    logits = output.logits
    if logits.ndim != 3 or logits.shape[1] != len(words):
      raise ValueError(
        f"{len(words)} labels need logits [B, {len(words)}, V]; got "
        f"{logits.shape}."
      )
    _check_targets(words, logits.shape[-1])
    rows = jnp.broadcast_to(jnp.asarray(words)[None], logits.shape[:2])
    return _reduced(_log_likelihoods(logits, rows), reduce, log)

  return read


def log_perplexity() -> Readout:
  """Mean negative log-probability, in nats, of the tokens that are seen.

  Of all but the first, each given those before it. A text of which one token
  is left has no perplexity: NaN, which evaluators refuse.
  """

  def read(output, inputs):
    ids, scores, counts = _predicted(output, inputs)
    each = jnp.where(counts, _log_likelihoods(scores, ids), 0)
    return -each.sum(axis=1) / counts.sum(axis=1)

  return read


def _targets(targets: Any) -> np.ndarray:
  """Targets as int32 `[]` or `[T]`."""
  array = np.asarray(targets)
  if array.ndim > 1 or array.size == 0:
    raise ValueError(f"Need one target or [T] of them; got {targets!r}.")
  if array.dtype.kind not in "iu":
    raise TypeError(f"Targets must be integers; got {targets!r}.")
  if (array < 0).any():
    raise ValueError(f"Target {array.min()} is below 0.")
  return array.astype(np.int32)


def _check_targets(targets: np.ndarray, size: int) -> None:
  if targets.max() >= size:
    raise ValueError(
      f"Target {targets.max()} lies outside the {size} classes or tokens, "
      f"0..{size - 1}."
    )


def _check_rivals(scores: jax.Array) -> None:
  if scores.shape[-1] < 2:
    raise ValueError("A margin needs a second class; there is one.")


def _check_reduce(reduce: str) -> None:
  if reduce not in ("sum", "mean"):
    raise ValueError(f"reduce={reduce!r}: choose sum or mean.")


def _pick(scores: jax.Array, targets: np.ndarray) -> jax.Array:
  _check_targets(targets, scores.shape[-1])
  return scores[:, targets]


def _prediction(
  score: Callable[[jax.Array], jax.Array], position: int | None
) -> Prediction:
  """`score` of the classes `[B, V]`, or of the tokens at a position."""

  def where(inputs):
    shape = np.shape(inputs["input_ids"])
    if position is None:
      return ends(seen_tokens(inputs, shape))[1][:, None]
    _check_position(position, shape[1])
    return jnp.full((shape[0], 1), position % shape[1])

  return Prediction(
    lambda output, inputs: score(_predictions(output, inputs, position)),
    where,
    lambda logits, inputs: score(logits[:, 0].astype(jnp.float32)),
  )


def _check_position(position: int, length: int) -> None:
  if not -length <= position < length:
    raise ValueError(
      f"position={position} lies outside the {length} predictions."
    )


def _predictions(
  output: sites.Output, inputs: Mapping[str, base.Array], position: int | None
) -> jax.Array:
  """Logits `[B, V]` of the classes, or at a position, in float32."""
  logits = output.logits.astype(jnp.float32)
  if logits.ndim == 2:
    if position is not None:
      raise ValueError(
        f"position={position}: logits {logits.shape} have no positions."
      )
    return logits
  if logits.ndim != 3:
    raise ValueError(f"Logits must be [B, V] or [B, P, V]; got {logits.shape}.")
  if position is not None:
    _check_position(position, logits.shape[1])
    return logits[:, position]
  if "decoder_input_ids" in inputs:
    return logits[:, -1]
  at = ends(seen_tokens(inputs, logits.shape[:2]))[1]
  return jnp.take_along_axis(logits, at[:, None, None], axis=1)[:, 0]


def _tokens(
  output: sites.Output, inputs: Mapping[str, base.Array]
) -> tuple[jax.Array, jax.Array]:
  """Ids and which are seen, `[B, P]`, of a causal language model."""
  if "input_ids" not in inputs or output.logits.ndim != 3:
    raise ValueError(
      "A text's own tokens can be read from a language model: input_ids, and "
      f"logits [B, P, V]; got {sorted(inputs)}, {output.logits.shape}."
    )
  ids = jnp.asarray(inputs["input_ids"])
  if ids.shape != output.logits.shape[:2]:
    raise ValueError(
      f"Each of the tokens {ids.shape} needs its prediction; logits are "
      f"{output.logits.shape}. For an encoder-decoder use `sequence`."
    )
  return ids, seen_tokens(inputs, ids.shape)


def _predicted(
  output: sites.Output, inputs: Mapping[str, base.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Ids `[B, P]`, the logits that predict each, and which are predicted.

  Each seen token but the first is, by the nearest seen one before it.
  """
  ids, seen = _tokens(output, inputs)
  places = jnp.arange(ids.shape[1])[None]
  last = jax.lax.cummax(jnp.where(seen, places, -1), axis=1)
  before = jnp.concatenate([jnp.full_like(last[:, :1], -1), last[:, :-1]], 1)
  scores = jnp.take_along_axis(
    output.logits, jnp.maximum(before, 0)[..., None], axis=1
  )
  return ids, scores, seen & (before >= 0)


def seen_tokens(
  inputs: Mapping[str, base.Array], shape: tuple[int, ...]
) -> jax.Array:
  """Which positions attention sees: bool `[B, P]`."""
  mask = inputs.get("attention_mask")
  if mask is None:
    return jnp.ones(shape, bool)
  if np.shape(mask) != shape:
    raise ValueError(
      f"The attention mask {np.shape(mask)} does not fit the {shape} positions "
      "that are read."
    )
  return jnp.asarray(mask).astype(bool)


def ends(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first and the last position seen, `[B]` each."""
  return seen.argmax(axis=1), seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)


def _log_likelihoods(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """Of each token under its prediction: `[B, L]` from `[B, L, V]`."""
  logs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]


def _reduced(each: jax.Array, reduce: str, log: bool) -> jax.Array:
  total = each.sum(axis=1) if reduce == "sum" else each.mean(axis=1)
  return total if log else jnp.exp(total)
