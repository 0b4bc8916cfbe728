"""Two runs of one forward, compared: KL, Jensen-Shannon, differences.

Rows come in pairs: row 2i is a run and row 2i + 1 the run that it is compared
with, such as the same text without its context. Both are rows of one batch, so
that a mask costs one forward; what is compared are the predictions of the same
tokens, wherever these stand in either row.

  measure                of a run's p, the other's q, and the token y, if any
  "kl"                   KL(p || q) = sum_v p(v) ln(p(v) / q(v)), nats
  "kl_reverse"           KL(q || p), nats
  "jensen_shannon"       (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, nats,
                         at most ln 2
  "total_variation"      sum_v |p(v) - q(v)| / 2, in 0..1
  "entropy"              H(p) - H(q), nats
  "logit"                of y, the difference of logits
  "log_probability"      ln p(y) - ln q(y), nats: P-CXMI in nats, not bits
  "probability"          p(y) - q(y)

All are computed from log-probabilities in float32 at least, so that no logit
is too large. A difference of nearly equal runs is exact to rounding of the
logits: some 1e-7 of the largest, and a divergence may fall below 0 by that.

`pecore` of inseq calls the run without context the first: its "kl_divergence"
is "kl_reverse" here, its "contrast_prob_diff" the negative of "probability".

Shapes: B rows in B / 2 pairs, L tokens, V tokens of the vocabulary.
Sources: Sarti et al., arXiv:2310.01188 (contextual sensitivity); Fernandes et
al., arXiv:2105.03482 (P-CXMI).
"""

from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import likelihoods, readouts

_Pair = Callable[[jax.Array, jax.Array], jax.Array]


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """KL(p || q) in nats, of log-probabilities `[..., V]`: `[...]`.

  Infinite where p has a token that q has not.
  """
  return jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * (log_p - log_q), 0).sum(
    axis=-1
  )


def jensen_shannon(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """The Jensen-Shannon divergence in nats, `[..., V]` to `[...]`."""
  log_m = jnp.logaddexp(log_p, log_q) - np.log(2).astype(log_p.dtype)
  return (kl(log_p, log_m) + kl(log_q, log_m)) / 2


def total_variation(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """Half of the sum of |p - q|, `[..., V]` to `[...]`."""
  return jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(axis=-1) / 2


def entropy(log_p: jax.Array) -> jax.Array:
  """The entropy in nats, `[..., V]` to `[...]`."""
  return -jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * log_p, 0).sum(axis=-1)


# Of two distributions; and, of one token, what is subtracted.
DIVERGENCES: Mapping[str, _Pair] = {
  "kl": kl,
  "kl_reverse": lambda log_p, log_q: kl(log_q, log_p),
  "jensen_shannon": jensen_shannon,
  "total_variation": total_variation,
  "entropy": lambda log_p, log_q: entropy(log_p) - entropy(log_q),
}
DIFFERENCES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "logit": lambda logits: logits,
  "log_probability": jax.nn.log_softmax,
  "probability": jax.nn.softmax,
}


def prediction(
  measure: str,
  targets: readouts.Targets | None = None,
  position: int | None = None,
) -> readouts.Prediction:
  """Compares two predictions of a class or next token: `[B / 2]`.

  Args:
    measure: how the two are compared, by name, from the table above.
    targets: y, for those that need one; several give `[B / 2, T]`, and None
      all of them, `[B / 2, V]`. None for a divergence.
    position: as for `readouts.logit`.

  Raises:
    TypeError: targets that are no integers.
    ValueError: an unknown measure, or targets for a divergence. When read: an
      odd number of rows, and as `readouts.logit`.
  """
  _check(measure)
  if measure in DIVERGENCES:
    if targets is not None:
      raise ValueError(f"{measure!r} is of all tokens: leave out targets.")
    compare = DIVERGENCES[measure]
    return readouts.prediction(
      lambda logits: compare(*_pairs(jax.nn.log_softmax(logits))), position
    )
  wanted = None if targets is None else readouts.targets_of(targets)
  transform = DIFFERENCES[measure]

  def difference(logits):
    of_run, of_other = _pairs(readouts.pick(transform(logits), wanted))
    return of_run - of_other

  return readouts.prediction(difference, position)


def continuation(
  num_tokens: int | Sequence[int] | np.ndarray, measure: str
) -> readouts.Prediction:
  """Compares the predictions of the last tokens of the text: `[B / 2, L]`.

  Teacher-forced, as `likelihoods.continuation`: both rows of a pair end with
  the same L tokens, each of which is y at its place.

  Args:
    num_tokens: L, the same for all rows, at least 1.
    measure: how the two are compared, by name, from the table above.

  Raises:
    TypeError: a number of tokens that is no integer.
    ValueError: an unknown measure, fewer than one token, or rows of different
      numbers. When read: an odd number of rows, and as
      `likelihoods.continuation`. The value is NaN where the rows of a pair end
      with different tokens.
  """
  _check(measure)
  if np.ndim(num_tokens):
    raise ValueError(
      f"Pairs are compared token by token: one number; got {num_tokens!r}."
    )
  return likelihoods.read_continuation(num_tokens, _by_token(measure))


def sequence(
  labels: base.Array | Sequence[int], measure: str
) -> readouts.Readout:
  """Compares an encoder-decoder's predictions of `labels`: `[B / 2, L]`.

  Args:
    labels: int `[L]`, as for `likelihoods.sequence`.
    measure: how the two are compared, by name, from the table above.

  Raises:
    TypeError, ValueError: as `likelihoods.sequence`; an unknown measure. When
      read: an odd number of rows.
  """
  _check(measure)
  return likelihoods.read_sequence(labels, _by_token(measure))


def beside(
  see: Callable[[base.Array], Mapping[str, base.Array]], **other: base.Array
) -> Callable[[base.Array], dict[str, jax.Array]]:
  """Inputs of pairs: what a mask leaves, and what it is compared with.

  Args:
    see: one mask `[n]` to inputs of one row, as `absent.inputs` makes it.
    **other: of the other run, `[1, P']`, with `attention_mask` where tokens are
      to be seen; the shorter of the two is padded behind, unseen. An input that
      is not named is the same in both rows, one that `see` lacks likewise (such
      as `decoder_input_ids`).

  Returns:
    A mask `[n]` to inputs of two rows, for `readouts.value`.

  Raises:
    ValueError: other inputs that are not of one row.
  """
  for name, x in other.items():
    if np.ndim(x) != 2 or len(x) != 1:
      raise ValueError(f"{name} must be of one row [1, P]; got {np.shape(x)}.")

  def pair(mask: base.Array) -> dict[str, jax.Array]:
    own = see(mask)
    found = {}
    for name in (*own, *(name for name in other if name not in own)):
      rows = [
        jnp.asarray(given[name]) for given in (own, other) if name in given
      ]
      rows = rows if len(rows) == 2 else rows * 2
      length = max(row.shape[1] for row in rows)
      found[name] = jnp.concatenate(
        [jnp.pad(row, ((0, 0), (0, length - row.shape[1]))) for row in rows]
      )
    return found

  return pair


def _by_token(measure: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Logits `[B, L, V]` and tokens `[B, L]` to `[B / 2, L]`."""

  def score(logits, words):
    chex.assert_rank([logits, words], [3, 2])
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if measure in DIVERGENCES:
      found = DIVERGENCES[measure](*_pairs(jax.nn.log_softmax(logits)))
    else:
      each = DIFFERENCES[measure](logits)
      each = jnp.take_along_axis(each, words[..., None], axis=-1)[..., 0]
      of_run, of_other = _pairs(each)
      found = of_run - of_other
    return jnp.where(jnp.equal(*_pairs(words)), found, jnp.nan)

  return score


def _pairs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The runs and what they are compared with, `[B / 2, ...]` each."""
  if len(x) % 2:
    raise ValueError(f"{len(x)} rows are no pairs of a run and another.")
  return x[::2], x[1::2]


def _check(measure: str) -> None:
  known = [*DIVERGENCES, *DIFFERENCES]
  if measure not in known:
    raise ValueError(f"measure={measure!r}: choose from {', '.join(known)}.")
