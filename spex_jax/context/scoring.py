"""A response scored under masks of its sources: every token's value, kept.

One ablated, teacher-forced forward gives for each token y_t of the response

  log-odds   ln(p_t / (1 - p_t)) = z_y - logsumexp of the other logits
  margin     z_y - the largest other logit; above 0 where y_t is the greedy one

both in log space, so that no token is too certain. All values of any span of
the response follow from them on the host, without another forward:

  "log_probability"  ln P = sum_t ln p_t, nats; sums over spans
  "log_odds"         ln P / (1 - P), of the whole span, as ContextCite has it
  "probability"      P

Shapes: n sources, B masks, R tokens of the response.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import (
  absent,
  contrasts,
  evaluate,
  likelihoods,
  prefix,
  readouts,
  trie,
)
from spex_jax.ablate import text as text_lib
from spex_jax.context import response_runs as runs_lib
from spex_jax.context import sources as sources_lib
from spex_jax.context import templates
from spex_jax.models import seq2seq, sites

VALUES = ("log_probability", "log_odds", "probability")
UNITS = {"log_probability": "nat", "log_odds": "nat", "probability": ""}
_SHARED = 16  # Tokens before the first source that pay for a cache of theirs.
_LONG = 64  # Tokens of a text whose rows pay for two programs.
_OF_REUSE = {
  "batch_size", "dtype", "memory_limit", "remember_bytes", "progress"
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of each token of the response under each mask.

  Attributes:
    log_odds: float64 `[B, R]`, ln(p / (1 - p)).
    margins: float64 `[B, R]`, logits above the largest other; NaN where an
      endpoint does not say.
  """

  log_odds: np.ndarray
  margins: np.ndarray

  @property
  def log_probs(self) -> np.ndarray:
    """ln p, float64 `[B, R]`: exact to rounding at both ends."""
    return -np.logaddexp(0, -self.log_odds)

  def of(self, value: str, start: int = 0, stop: int | None = None):
    """The value of a span of the response under each mask: float64 `[B]`.

    Args:
      value: what is computed, of `VALUES`.
      start: the first token of the span, from 0.
      stop: behind the last one; the end by default.

    Raises:
      ValueError: an unknown value, or a span that is empty or outside.
    """
    start, stop = check_span(start, stop, self.log_odds.shape[1])
    if value not in VALUES:
      raise ValueError(f"value={value!r}: choose from {', '.join(VALUES)}.")
    if value == "log_odds" and stop - start == 1:
      return self.log_odds[:, start]
    total = self.log_probs[:, start:stop].sum(axis=1)
    if value == "log_odds":
      # 1 - P of several tokens: -expm1 keeps the digits near P = 1.
      return total - np.log(-np.expm1(np.minimum(total, -1e-300)))
    return np.asarray(total if value == "log_probability" else np.exp(total))

  def greedy(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Whether greedy decoding gives the span, token by token: bool `[B]`."""
    start, stop = check_span(start, stop, self.margins.shape[1])
    return np.all(self.margins[:, start:stop] > 0, axis=1)


def check_span(start: int, stop: int | None, length: int) -> tuple[int, int]:
  """A span of a response, half open.

  Raises:
    TypeError: no integers.
    ValueError: empty, or outside the response.
  """
  start = base.check_integer(start, "start")
  stop = length if stop is None else base.check_integer(stop, "stop")
  if not 0 <= start < stop <= length:
    raise ValueError(
      f"The span {start}:{stop} is empty or outside the {length} tokens of the "
      "response."
    )
  return start, stop


class Scorer:
  """Masks to `Scores` by a local model: compiled once; nothing runs twice.

  Made by `scorer`; `remote.scorer` has the same face.

  Attributes:
    sources: the prompt and its n sources.
    response: int32 `[R]`, the token ids of the response.
    pieces: the text of each token of the response.
  """

  def __init__(
    self,
    sources: sources_lib.Sources,
    response: np.ndarray,
    run: evaluate.Evaluator,
    diverge: Any = None,
  ):
    self.sources, self.response = sources, response
    self.pieces = sources.tokenizer.pieces(response.tolist())
    self._run, self._diverge = run, diverge

  def __call__(self, masks: base.Masks) -> Scores:
    found = self._run(base.check_masks(masks, self.sources.n))
    chex.assert_shape(found, (len(masks), 2 * len(self.response)))
    odds, margins = np.split(found, 2, axis=1)
    return Scores(odds, margins)

  def diverged(self, masks: base.Masks) -> tuple[Scores, np.ndarray]:
    """Scores, and how far each run is from that with all sources.

    Two rows a mask, in one forward: the second is the run with all sources.

    Returns:
      The scores, and Jensen-Shannon divergences `[B, R]`, nats.

    Raises:
      ValueError: a scorer that has no full distributions.
    """
    if self._diverge is None:
      raise ValueError(
        "Jensen-Shannon needs whole distributions: a local causal model."
      )
    run = self._diverge()
    run.expect(len(masks))
    found = run(base.check_masks(masks, self.sources.n))
    odds, margins, apart = np.split(found, 3, axis=1)
    return Scores(odds, margins), apart

  def expect(self, masks: int) -> None:
    """Says how many masks will be asked in all, before the first one."""
    self._run.expect(masks)

  @property
  def memory_bytes(self) -> int | None:
    """What a batch needs on one device, parameters included; compiles."""
    return self._run.prepare().memory_bytes

  @property
  def stats(self) -> evaluate.Stats:
    return self._run.stats


def scorer(
  net: sites.Network,
  sources: sources_lib.Sources,
  response: str | Sequence[int],
  *,
  way: str = "remove",
  token: int | str | None = None,
  budget: int = 64,
  params: Any = None,
  reuse: bool | None = None,
  **settings: Any,
) -> Scorer:
  """Scores a response, its own or another model's, under masks of sources.

  Args:
    net: a causal language model, or an encoder-decoder, whose encoder reads
      the prompt and whose decoder is fed the response.
    sources: the prompt and its sources.
    response: its text, with its leading space where it has one, or token ids;
      another model's answer is as good.
    way: what becomes of an absent source, of `absent.WAYS`; by default its
      tokens are gone, and the others move up.
    token: as for `absent.inputs`, of ways "mask" and "one".
    budget: how many masks will be asked, for the lengths of rows.
    params: the parameters of the network; its own by default.
    reuse: whether tokens that kept sources share are run once, and no row is
      padded to the whole prompt (`ablate.trie`); by default where that is
      possible, fits in memory and pays, which is for texts of some length.
    **settings: of `evaluate.compiled`, such as `batch_size` or `dtype`; with
      `reuse` those of `trie.evaluator` alone.

  Raises:
    ValueError: a response of no tokens, one that spells a special token, or
      whose tokens join the prompt's; a prompt and response longer than the
      model takes; `reuse` where it is not possible; see `absent.inputs`.
  """
  if not len(response):
    raise ValueError("The response has no tokens: nothing can be scored.")
  if isinstance(response, str):
    templates.refuse_special(sources.tokenizer, "response", response)
  params = net.params if params is None else params
  tokenizer = sources.tokenizer
  given: dict[str, Any] = {"batch_size": None} | settings
  if isinstance(net.module, seq2seq.EncoderDecoder):
    return _encoded(
      net, sources, response, params, way=way, token=token, **given
    )
  whole, count = text_lib.continued(
    sources.prompt, response, tokenizer, max_length=sources.max_length
  )
  see = absent.inputs(
    whole,
    tokenizer,
    way,
    token=token,
    lengths=absent.lengths(whole, way, budget),
  )
  read = likelihoods.read_continuation(count, odds_and_margins)
  # Whether what sources share is computed once.
  owned = whole.players.owner < whole.n
  can = way == "remove" and trie.fits(net, whole, count)
  if reuse and not can:
    raise ValueError(
      "reuse=True is of way='remove', a causal model, and a prompt with a "
      "token before the response that is always kept."
    )
  if reuse is None:
    reuse = can and whole.num_tokens >= _LONG and {*given} <= _OF_REUSE
    reuse = reuse and trie.affordable(
      net,
      whole,
      params,
      dtype=given.get("dtype"),
      memory_limit=given.get("memory_limit"),
    )
  # The evaluator: a cache of sources, a shared prefix, or whole rows.
  if reuse:
    run = trie.evaluator(
      net, whole, count, odds_and_margins, params=params,
      tokenizer=tokenizer, **given,
    )  # fmt: skip
  elif owned.argmax() >= _SHARED:
    run = prefix.evaluator(
      net, whole, read, way, token=token, lengths=see.lengths,
      params=params, tokenizer=tokenizer, **given,
    )  # fmt: skip
  else:
    run = evaluate.compiled(
      readouts.value(net, see, read), whole.n, shared=params, **given
    )

  def diverge():
    full = {k: np.asarray(x) for k, x in see(np.ones(whole.n, bool)).items()}
    pair = contrasts.beside(see, **full)
    read = likelihoods.read_continuation(count, _beside_all)
    return evaluate.compiled(
      readouts.value(net, pair, read), whole.n, shared=params, **given
    )

  ids = whole.encoding.ids[-count:]
  return Scorer(sources, ids, run, diverge)


def generated(
  net: sites.Network,
  sources: sources_lib.Sources,
  max_new_tokens: int = 64,
  *,
  params: Any = None,
) -> np.ndarray:
  """The model's own greedy answer with all sources: int32 `[R]`, no end token.

  Shorter than `max_new_tokens` where the model takes no more.

  Raises:
    ValueError: an answer that is empty, as the end comes first, or for which
      there is no room behind the prompt.
  """
  given = {"input_ids": sources.prompt.encoding.ids}
  if isinstance(net.module, seq2seq.EncoderDecoder):
    given["decoder_input_ids"] = np.array([net.config.start_id], np.int32)
  params = net.params if params is None else params
  found = runs_lib.generated(
    net, params, given, max_new_tokens, sources.tokenizer
  )
  if not len(found):
    raise ValueError("The model answers nothing: its first token is the end.")
  return found


def odds_and_margins(logits: jax.Array, words: jax.Array) -> jax.Array:
  """Logits `[B, R, V]` and tokens int `[B, R]` to `[B, 2R]`, in float32."""
  chex.assert_rank([logits, words], [3, 2])
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  own = jnp.take_along_axis(logits, words[..., None], axis=-1)[..., 0]
  mine = jnp.arange(logits.shape[-1])[None, None] == words[..., None]
  others = jnp.where(mine, -jnp.inf, logits)
  odds = own - jax.nn.logsumexp(others, axis=-1)
  return jnp.concatenate([odds, own - others.max(axis=-1)], axis=1)


def _beside_all(logits: jax.Array, words: jax.Array) -> jax.Array:
  """Rows in pairs, `[B, R, V]`: odds and margins of the first, divergence."""
  logs = jax.nn.log_softmax(logits.astype(jnp.float32))
  apart = contrasts.jensen_shannon(logs[::2], logs[1::2])
  own = odds_and_margins(logits[::2], words[::2])
  return jnp.concatenate([own, apart], axis=1)


def _encoded(net, sources, response, params, *, way, token, **settings):
  """Of an encoder-decoder: its encoder reads the prompt."""
  tokenizer = sources.tokenizer
  if isinstance(response, str):
    response = tokenizer.encode(response, add_special=False).ids
  labels = np.array([tokenizer.check_id(int(t)) for t in response], np.int32)
  see = absent.inputs(sources.prompt, tokenizer, way, token=token)
  fed = np.concatenate([[net.config.start_id], labels[:-1]]).astype(np.int32)
  read = likelihoods.read_sequence(labels, odds_and_margins)
  value = readouts.value(net, see, read, decoder_input_ids=fed[None])
  run = evaluate.compiled(value, sources.n, shared=params, **settings)
  return Scorer(sources, labels, run)
