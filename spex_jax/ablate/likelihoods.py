"""How likely a language model finds a text's own tokens.

Readouts, as those of `readouts`: of the last tokens, of one continuation among
several, of a decoder's labels, of all tokens. Which tokens are there follows
from `attention_mask`. What is not reduced has a target for every token,
`[B, L]`, so that one ablated forward serves all of them.

Shapes: B rows, P positions, V tokens, L tokens that are read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import readouts
from spex_jax.models import sites

Value = Literal["margin", "accuracy"]


def continuation(
  num_tokens: int | Sequence[int] | np.ndarray,
  *,
  reduce: str | None = "sum",
  log: bool = True,
) -> readouts.Prediction:
  """How likely the last tokens of the text are, given those before them.

  Teacher-forced: they stand in `input_ids` themselves, owned by nobody (see
  `text.continued`), and each is predicted at the token that attention sees
  before it.

  Args:
    num_tokens: how many tokens of the text's end; or `[B]`, of each row's.
    reduce: "sum" of their log-probabilities, or "mean"; None for each token's,
      `[B, L]`, where all rows have as many.
    log: in nats; False for the probability (of a mean, the geometric mean).

  Raises:
    TypeError: a number of tokens that is no integer.
    ValueError: fewer than one token, another way to reduce, or none for rows
      of different numbers of tokens. When read: a text that is not longer than
      its continuation, other than B rows, or no language model.
  """
  _check_reduce(reduce)
  counts = _counts(num_tokens)
  if reduce is None and counts.min() < counts.max():
    raise ValueError(
      f"Continuations of {counts.tolist()} tokens have no targets in common; "
      "reduce them by sum or mean."
    )
  most = int(counts.max())
  # Columns hold a row's last tokens; those before its own do not count.
  own = np.arange(most)[None] >= most - counts[:, None]

  def score(scores, words):
    each = jnp.where(own, _log_likelihoods(scores, words), 0)
    return _reduced(each, reduce, log, counts)

  return read_continuation(counts, score)


def read_continuation(
  num_tokens: int | Sequence[int] | np.ndarray,
  score: Callable[[jax.Array, jax.Array], jax.Array],
) -> readouts.Prediction:
  """Any readout of the predictions of the last tokens of the text.

  Args:
    num_tokens: as for `continuation`; L is the largest.
    score: logits `[B, L, V]` and the tokens int `[B, L]` that they predict, to
      `[B / g]` or `[B / g, L]`, of rows in groups of g.

  Returns:
    A readout of what `score` gives; NaN where one of a group of rows sees too
    few tokens.

  Raises:
    TypeError, ValueError: as `continuation`.
  """
  counts = _counts(num_tokens)
  most = int(counts.max())

  def places(inputs):
    """Ids, the positions of the tokens and of that before, and ranks."""
    ids = jnp.asarray(inputs["input_ids"])
    seen = readouts.seen_tokens(inputs, ids.shape)
    if len(counts) not in (1, len(ids)):
      raise ValueError(f"{len(counts)} continuations, {len(ids)} rows.")
    if ids.shape[1] <= most:
      raise ValueError(
        f"A text of {ids.shape[1]} tokens has no continuation of {most}: "
        "a token must stand before it."
      )
    # The rank of a token among those seen, from 1; the last has rank `count`.
    rank = jnp.cumsum(seen, axis=1)
    steps = jnp.arange(-most, 1)
    wanted = rank[:, -1:, None] + steps[None, None]
    # The first of that rank.
    return ids, (rank[..., None] == wanted).argmax(axis=1), rank

  def of(scores, inputs):
    ids, at, rank = places(inputs)
    words = jnp.take_along_axis(ids, at[:, 1:], axis=1)
    found = score(scores, words)
    # A row that sees too little has no such tokens; never an innocent number.
    enough = (rank[:, -1] > counts).reshape(len(found), -1).all(axis=1)
    enough = enough.reshape(-1, *(1,) * (found.ndim - 1))
    return jnp.where(enough, found, jnp.nan)

  def whole(output, inputs):
    _tokens(output, inputs)
    _, at, _ = places(inputs)
    scores = jnp.take_along_axis(output.logits, at[:, :-1, None], axis=1)
    return of(scores, inputs)

  where = lambda inputs: places(inputs)[1][:, :-1]
  return readouts.Prediction(whole, where, of)


def choice(
  num_tokens: int | Sequence[int] | np.ndarray,
  num_choices: int,
  *,
  value: Value = "margin",
  reduce: str = "sum",
) -> readouts.Prediction:
  """Whether a language model prefers the right one of several continuations.

  Rows come in groups of `num_choices`: one question with each of its answers
  behind it, the right one first.

  Args:
    num_tokens: the number of tokens of each answer: one number, or `[B]`.
    num_choices: K, 2 or more.
    value: the log-probability of the right answer above the largest other, in
      nats; or 1 where it is the largest, alone, else 0.
    reduce: an answer's log-probability is the "sum" of its tokens', or the
      "mean".

  Returns:
    A readout `[B / K]`.

  Raises:
    TypeError, ValueError: as `continuation`; fewer than two choices, another
      value. When read: rows that are no whole groups.
  """
  if base.check_integer(num_choices, "num_choices") < 2:
    raise ValueError(f"num_choices must be at least 2; got {num_choices}.")
  if value not in ("margin", "accuracy"):
    raise ValueError(f"value={value!r}: choose margin or accuracy.")
  if reduce is None:
    raise ValueError("Answers are compared whole: reduce by sum or mean.")
  each = continuation(num_tokens, reduce=reduce)

  def compared(scores: jax.Array) -> jax.Array:
    if len(scores) % num_choices:
      raise ValueError(
        f"{len(scores)} rows are no groups of {num_choices} answers."
      )
    groups = scores.reshape(-1, num_choices)
    margin = groups[:, 0] - groups[:, 1:].max(axis=1)
    # What is NaN stays so.
    return margin if value == "margin" else jnp.heaviside(margin, 0.0)

  return readouts.Prediction(
    lambda output, inputs: compared(each.whole(output, inputs)),
    each.where,
    lambda logits, inputs: compared(each.of(logits, inputs)),
  )


def sequence(
  labels: base.Array | Sequence[int],
  *,
  reduce: str | None = "sum",
  log: bool = True,
) -> readouts.Readout:
  """How likely an encoder-decoder finds `labels`, teacher-forced.

  Args:
    labels: int `[L]`; `decoder_input_ids` are the start token and all labels
      but the last.
    reduce: "sum" of their log-probabilities, or "mean"; None for each
      label's, `[B, L]`.
    log: in nats; False for the probability (of a mean, the geometric mean).

  Raises:
    TypeError: labels that are no integers.
    ValueError: no labels, or another way to reduce. When read: a label outside
      the vocabulary, or another number of predictions.
  """
  _check_reduce(reduce)
  return read_sequence(
    labels,
    lambda scores, words: _reduced(
      _log_likelihoods(scores, words), reduce, log, words.shape[1]
    ),
  )


def read_sequence(
  labels: base.Array | Sequence[int],
  score: Callable[[jax.Array, jax.Array], jax.Array],
) -> readouts.Readout:
  """Any readout of an encoder-decoder's predictions of `labels`.

  Args:
    labels: int `[L]`, as for `sequence`.
    score: logits `[B, L, V]` and labels `[B, L]` to `[B]` or `[B, L]`, as for
      `read_continuation`.

  Raises:
    TypeError, ValueError: as `sequence`.
  """
  words = np.atleast_1d(readouts.targets_of(labels))

  def read(output, inputs):
    del inputs
    logits = output.logits
    if logits.ndim != 3 or logits.shape[1] != len(words):
      raise ValueError(
        f"{len(words)} labels need logits [B, {len(words)}, V]; got "
        f"{logits.shape}."
      )
    readouts.check_targets(words, logits.shape[-1])
    rows = jnp.broadcast_to(jnp.asarray(words)[None], logits.shape[:2])
    return score(logits, rows)

  return read


def log_perplexity() -> readouts.Readout:
  """Mean negative log-probability, in nats, of the tokens that are seen.

  Of all but the first, each given those before it. A text of which one token
  is left has no perplexity: NaN, which evaluators refuse.
  """

  def read(output, inputs):
    ids, scores, counts = _predicted(output, inputs)
    each = jnp.where(counts, _log_likelihoods(scores, ids), 0)
    return -each.sum(axis=1) / counts.sum(axis=1)

  return read


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
  return ids, readouts.seen_tokens(inputs, ids.shape)


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


def _counts(num_tokens: int | Sequence[int] | np.ndarray) -> np.ndarray:
  """Numbers of tokens `[1]` or `[B]`, checked."""
  counts = np.asarray([num_tokens] if np.ndim(num_tokens) == 0 else num_tokens)
  if counts.dtype.kind not in "iu" or counts.ndim != 1 or not counts.size:
    raise TypeError(f"num_tokens must be integers; got {num_tokens!r}.")
  if counts.min() < 1:
    raise ValueError(f"num_tokens must be at least 1; got {counts.min()}.")
  return counts


def _check_reduce(reduce: str | None) -> None:
  if reduce not in ("sum", "mean", None):
    raise ValueError(f"reduce={reduce!r}: choose sum, mean or None.")


def _log_likelihoods(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """Of each token under its prediction: `[B, L]` from `[B, L, V]`."""
  logs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]


def _reduced(each, reduce, log, counts):
  """Log-probabilities `[B, L]`, 0 where none is, of `counts` tokens."""
  if reduce is not None:
    each = each.sum(axis=1)
    each = each / counts if reduce == "mean" else each
  return each if log else jnp.exp(each)
