"""Contextual cues: what a sensitive token's prediction owes to the context.

Step two of PECoRe (CCI). For token y of a step, y* is what the run *without*
context predicts behind the same prefix of the response: its largest logit in
the forward that found the sensitive tokens, at every step of it. Targets are
of the run with context, at that step:

  name                    of its p, the run's without context q (constant)
  "contrast_prob_diff"    p(y) - p(y*)
  "contrast_logits_diff"  the same of logits
  "kl_divergence"         KL(p || q), nats; not 0 where y* = y
  "probability", "logit"  of y
  "log_probability"       ln p(y): less ln q(y) it is what the context gives
  "pcxmi"                 log2 p(y) / p(y*), bits
  "in_context_pvi"        ln p(y) / p(y*), nats
  "shift"                 ln p(y) / q(y), nats: P-CXMI
  "shift_bits"            the same in bits

Where y* = y the differences and ratios take q(y) for p(y*), as Inseq does; its
signs of both ratios are the other way round. A method is of `methods.METHODS`,
or one of `api` ("spex", "auto", "proxyspex", "lasso", ...), which gives sets of
cues as well (SPEX-CCI): masks of context tokens, removed by re-packing, are
shared by all steps, and with "shift" values of sets sum to the step's P-CXMI.
Where `way` is "mask", unknown tokens stand in their place, as for "occlusion"
and "lime": for models that read no shortened context. Sums are then those of
the context less one of unknown tokens.

Shapes: S steps, C tokens of the context, V tokens of the vocabulary.
Source: Sarti et al., arXiv:2310.01188, section 3.2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import api, base, explanation
from spex_jax.ablate import contrasts
from spex_jax.ablate import text as text_lib
from spex_jax.context import attributions, games, methods
from spex_jax.context import response_runs as runs_lib
from spex_jax.context import steps as steps_lib
from spex_jax.models import sites

SETS = tuple(name for name in api.DECODERS)
WAYS = ("remove", "mask")


def _difference(transform, factor=1.0):
  def target(logits, given):
    y, other, q = given
    same = steps_lib.of(transform(q), y)
    rival = steps_lib.of(transform(logits), other)
    own = steps_lib.of(transform(logits), y)
    return factor * (own - jnp.where(other == y, same, rival))

  return target


def _own(transform, factor=1.0, less=False):
  def target(logits, given):
    y, _, q = given
    found = steps_lib.of(transform(logits), y)
    return factor * (found - steps_lib.of(transform(q), y) if less else found)

  return target


def _kl(logits, given):
  return contrasts.kl(jax.nn.log_softmax(logits), jax.nn.log_softmax(given[2]))


_BITS = float(1 / np.log(2))
# Of logits `[S, V]` and (y, y*, the logits without context), to `[S]`.
TARGETS: Mapping[str, games.Target] = {
  "contrast_prob_diff": _difference(jax.nn.softmax),
  "contrast_logits_diff": _difference(lambda logits: logits),
  "kl_divergence": _kl,
  "probability": _own(jax.nn.softmax),
  "logit": _own(lambda logits: logits),
  "log_probability": _own(jax.nn.log_softmax),
  "pcxmi": _difference(jax.nn.log_softmax, _BITS),
  "in_context_pvi": _difference(jax.nn.log_softmax),
  "shift": _own(jax.nn.log_softmax, less=True),
  "shift_bits": _own(jax.nn.log_softmax, _BITS, less=True),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Cues:
  """Scores of the context at some steps.

  Attributes:
    steps: indices of the response's tokens, S of them.
    contrasts: int32 `[S]`, y*, what the run without context predicts.
    scores: float64 `[S, C]`, of the context's own tokens.
    output_scores: float64 `[S, O]`, of the output context; None where there is
      none, or the method cannot score it.
    sets: of the targets that SPEX-CCI explains, one for each step; None for
      other methods.
  """

  steps: tuple[int, ...]
  contrasts: np.ndarray
  scores: np.ndarray
  output_scores: np.ndarray | None
  sets: explanation.Explanation | None


def impute(
  net: sites.Network,
  runs: runs_lib.Runs,
  steps: Sequence[int],
  predictions: tuple[jax.Array, jax.Array],
  *,
  method: str = "saliency",
  target: str = "contrast_prob_diff",
  params: Any = None,
  budget: int = 1000,
  key: base.Key | None = None,
  unknown: int | None = None,
  way: str = "remove",
) -> Cues:
  """Scores of the context's tokens for steps of a response.

  Args:
    net: a causal model, or an encoder-decoder.
    runs: the response, with its context and without.
    steps: indices of the response's tokens, from 0.
    predictions: what `sensitivity.logits` gave, `[R, V]` with and without
      context.
    method: how tokens are scored, of `methods.METHODS`, or of `SETS`.
    target: what is attributed at a step, of `TARGETS`.
    params: the parameters of the network; its own by default.
    budget: masks, where a method draws some.
    key: consumed by methods that draw masks.
    unknown: the id in place of an occluded token; the tokenizer's unknown one
      by default, else its padding, else 0.
    way: of `WAYS`: what becomes of absent tokens where sets are asked for.

  Raises:
    ValueError: an unknown method, target or way, a step outside the response,
      an unknown token outside the vocabulary, no key where masks are drawn, or
      scores that are not finite.
  """
  known = (*methods.METHODS, *SETS)
  if method not in known:
    raise ValueError(f"method={method!r}: choose from {', '.join(known)}.")
  if target not in TARGETS:
    raise ValueError(f"target={target!r}: choose from {', '.join(TARGETS)}.")
  if way not in WAYS:
    raise ValueError(f"way={way!r}: choose from {', '.join(WAYS)}.")
  unknown = stand_in(net) if unknown is None else unknown
  size = net.config.vocab_size
  if not 0 <= base.check_integer(unknown, "unknown") < size:
    raise ValueError(f"unknown={unknown} is outside the vocabulary of {size}.")
  # Steps, and what each is contrasted with: the other run's first choice.
  wanted = np.array([step_of(runs, step) for step in steps], np.int32)
  without = predictions[1]
  rivals = np.asarray(without.argmax(axis=-1), np.int32)
  outer = len(runs.output_context_ids)
  if not len(wanted):
    none = np.zeros((0, runs.num_context)), np.zeros((0, outer))
    return Cues((), rivals[wanted], none[0], none[1] if outer else None, None)
  game = games.Game(
    net,
    net.given(params),
    _first(runs, runs.inputs()),
    runs.places()[0][wanted],
    TARGETS[target],
    (
      jnp.asarray(runs.response[wanted]),
      jnp.asarray(rivals[wanted]),
      without[wanted],
    ),
    _spans(runs, masks=method in (*SETS, *methods.MASKING)),
    unknown,
    kept(net, runs.is_encoder_decoder),
    key=key,
    budget=budget,
  )
  # Sets of tokens from masks, or one score for each.
  sets = None
  if method in SETS:
    if key is None:
      raise ValueError(f"method={method!r} draws masks; give a key.")
    sets = explained(game, runs, method, budget, key, way)
    scores = attributions.firsts(sets, len(wanted))
  else:
    scores = methods.METHODS[method](game)
  inner = scores[:, : runs.num_context]
  outside = scores[:, runs.num_context :]
  return Cues(
    tuple(wanted.tolist()),
    rivals[wanted],
    inner,
    outside if outside.shape[1] else None,
    sets,
  )


def explained(
  game: games.Game,
  runs: runs_lib.Runs,
  method: str,
  budget: int,
  key: base.Key,
  way: str = "remove",
) -> explanation.Explanation:
  """SPEX-CCI: sets of context tokens, all steps from one set of masks.

  The last token of the context takes with it what the run without context
  lacks besides, the space behind it, where tokens are removed.

  Args:
    game: the steps, what is attributed, and its tokens.
    runs: the runs that the context is of.
    method: how sets are found, one of `SETS`.
    budget: how many masks are asked.
    key: a random key, consumed by the draw of masks.
    way: what becomes of absent tokens, one of `WAYS`.
  """
  ids = runs.with_context
  n = game.num_tokens
  owner = np.full(len(ids), n, np.int32)
  at = np.concatenate([np.arange(a, b) for _, a, b in game.spans])
  owner[at] = np.arange(n)
  start, end = runs.context
  # Where the other run is this one less a stretch around the context.
  more = len(ids) - len(runs.without_context) - n
  for first, last in ((start, end + more), (start - more, end)):
    rest = np.concatenate([ids[: max(first, 0)], ids[last:]])
    if way == "mask" or more <= 0:
      break
    if rest.tolist() == runs.without_context.tolist():
      owner[end:last], owner[max(first, 0) : start] = runs.num_context - 1, 0
      break
  pieces = runs.tokens or tuple(str(i) for i in ids)
  names = text_lib.distinct(pieces[i] for i in at)  # A token may come twice.
  run = games.masked(game, way, owner, names)
  return api.explain(run, budget=budget, method=method, key=key, names=names)


def stand_in(net: sites.Network) -> int:
  """The id that stands for an occluded token."""
  special = {} if net.tokenizer is None else net.tokenizer.special
  return special.get("unk", special.get("pad", 0))


def kept(net: sites.Network, is_pair: bool) -> tuple[int, ...]:
  """Ids that nothing stands for: the end token, and a decoder's start token."""
  special = {} if net.tokenizer is None else net.tokenizer.special
  ends = (special["eos"],) if "eos" in special else ()
  return (*ends, net.config.start_id) if is_pair else ends


def _first(runs, inputs):
  """The run with context alone, without its padding."""
  found = {name: rows[:1] for name, rows in inputs.items()}
  for prefix in ("decoder_", "") if runs.is_encoder_decoder else ("",):
    size = int(found[f"{prefix}attention_mask"].sum())
    for name in (f"{prefix}input_ids", f"{prefix}attention_mask"):
      found[name] = found[name][:, :size]
  return found


def _spans(runs, masks: bool):
  found = [("input_ids", *runs.context)]
  if runs.output_context is not None:
    where = "decoder_input_ids" if runs.is_encoder_decoder else "input_ids"
    if not (masks and runs.is_encoder_decoder):
      found.append((where, *runs.output_context))
  return tuple(found)


def step_of(runs: Any, step: Any) -> int:
  """An index of a response's tokens, checked.

  Raises:
    TypeError: no integer.
    ValueError: one outside it.
  """
  step = base.check_integer(step, "A step")
  if not 0 <= step < len(runs.response):
    raise ValueError(
      f"Step {step} lies outside the response of {len(runs.response)} tokens."
    )
  return step
