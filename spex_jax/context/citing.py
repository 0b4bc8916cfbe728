"""Citations: which sources an answer stands on, and which of them together.

  sources = context.sources.of_texts(passages, query, net.tokenizer)
  found = context.cite(net, sources, " Paris", key=key, budget=64)
  found.values, found.sets, found.r2, found.span(0, 3), found.totals()

One set of masks serves the whole response: every token's value under each of
them is kept, and any span is attributed later without a forward.

  auto, exact, spex, proxyspex, lasso, gaussian, gram
                 ours: `api.decode` on all masks where the budget holds them,
                 else on both ends, each source left out where there is
                 room, and uniform masks; a quarter of the budget
                 verifies sets by the model itself (`sets`), an eighth tests
                 the expansion and is not fitted to
  contextcite    a lasso over masks of seeds 0, 1, ... (arXiv:2409.00729)
  leave_one_out  v(all) - v(all but i); with `coarse` only within the strongest
                 coarser sources, with `proxy` only the strongest of a smaller
                 model (AttriBoT, arXiv:2411.15102)
  jsd            Jensen-Shannon divergence of leaving one out, summed over the
                 tokens (ARC-JSD, arXiv:2505.16415)
  shapley        exact where all masks fit, else KernelSHAP on pairs of masks

Shapes: n sources, B masks asked, R tokens of the response.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax import base, shown
from spex_jax.ablate import text as text_lib
from spex_jax.context import asking, scoring
from spex_jax.context import cited as cited_lib
from spex_jax.context import sets as sets_lib
from spex_jax.context import sources as sources_lib
from spex_jax.masks import request
from spex_jax.models import sites

METHODS = asking.METHODS
# Nats: a citation doubles its sentence's probability. Of other units, any gain.
_LEAST, _ANY = float(np.log(2)), float(np.finfo(np.float64).tiny)
_BESIDE = 0.25  # Of the strongest source's value: what is cited beside it.


class Citations(shown.Shown):
  """The record of a run: masks, every token's values, and what they say.

  `values`, `strengths`, `sets`, `needed`, `r2` and `total` are those of the
  whole response.

  Attributes:
    sources: the prompt and its n sources.
    response: int32 `[R]`, the token ids of the response.
    pieces: the texts of these tokens.
    masks: bool `[B, n]`, all that were asked, distinct, in the order asked.
    scores: the scores of each token under each mask.
    divergences: `[B, R]` of "jsd"; None of all others.
    method: how sources are valued, as it was asked for.
    value: what is shared out, of `scoring.VALUES`, or "jsd".
    forwards: B, how many masks were asked.
    whole: what the whole response stands on.
    notes: what was decided on the way.
    threshold: least strength of a source that is cited for a sentence, in units
      of the value; by default ln 2 of those in nats that have no bound: what
      does not double the probability is no citation; of "probability" and
      "jsd" all above 0. `calibrate` gives one for none.
  """

  def __init__(self, record: asking.Record, method: str, value: str, notes=()):
    self.sources, self.response = record.sources, record.scorer.response
    self.pieces = record.scorer.pieces
    self.masks, self.scores = record.masks, record.scores
    self.divergences = record.divergences
    self.method, self.value, self.notes = method, value, tuple(notes)
    free = method != "jsd" and scoring.UNITS[value] == "nat"
    self.threshold = _LEAST if free else _ANY
    self._record = record
    self._found: dict[tuple[int, int, str], cited_lib.Cited] = {}
    self.whole = self.span()

  @property
  def forwards(self) -> int:
    return len(self.masks)

  @property
  def knows_ends(self) -> bool:
    """Whether the method asked for all sources and for none: `totals`."""
    return None not in self._record.ends()

  values = property(lambda self: self.whole.values)
  strengths = property(lambda self: self.whole.strengths)
  sets = property(lambda self: self.whole.sets)
  needed = property(lambda self: self.whole.needed)
  r2 = property(lambda self: self.whole.r2)
  total = property(lambda self: self.whole.total)

  def span(
    self, start: int = 0, stop: int | None = None, value: str | None = None
  ) -> cited_lib.Cited:
    """What a span of the response stands on; no forward.

    Sets are those that the masks asked can show. Half a second or so where
    "auto" decodes anew.

    Args:
      start: the first token of the span, from 0.
      stop: behind the last one; the end by default.
      value: what is shared out, of `scoring.VALUES`; the run's by default.

    Raises:
      ValueError: an empty span or one outside, or an unknown value.
    """
    start, stop = scoring.check_span(start, stop, len(self.response))
    value = value or self.value
    key = (start, stop, value)
    if key not in self._found:
      self._found[key] = cited_lib.of_record(self._record, self.method, *key)
    return self._found[key]

  def totals(self) -> list[sets_lib.Total]:
    """Every token's account: its P-CXMI and the sets that sum to it.

    Raises:
      ValueError: a method that did not ask both ends.
    """
    full, none = self._record.ends()
    if full is None or none is None:
      raise ValueError(
        f"{self.method} did not ask for both ends: v(all) - v(none) is not "
        "known. Use method='auto'."
      )
    n = self.sources.n
    fit = self.whole.fit
    sets = tuple((i,) for i in range(n)) if fit is None else fit.sets
    return sets_lib.totals(
      self.masks, self.scores.log_probs, self.pieces, sets, full, none
    )

  def sentences(
    self, threshold: float | None = None
  ) -> list[tuple[cited_lib.Cited, tuple[int, ...]]]:
    """Each sentence of the answer, and the sources that are cited for it.

    Cited are sources whose strength is at least the threshold and a quarter of
    the strongest's, the strongest first; none is an answer, too.

    Args:
      threshold: another than that of the citations.
    """
    threshold = self.threshold if threshold is None else threshold
    out = []
    for start, stop in sentence_spans(self.pieces):
      found = self.span(start, stop)
      strengths = found.strengths
      least = max(threshold, _BESIDE * float(strengths.max()))
      order = sets_lib.ranked(strengths)
      out.append((found, tuple(int(i) for i in order if strengths[i] >= least)))
    return out

  def strongest(self) -> list[float]:
    """The strongest source's strength for each sentence, for `calibrate`."""
    return [float(found.strengths.max()) for found, _ in self.sentences()]

  def sheet(self) -> shown.Sheet:
    """The sources, the strongest first.

    Columns: `source`, `value`, `strength`, `needed`, `text`.
    """
    order = sets_lib.ranked(self.strengths).tolist()
    texts = list(self.sources.texts)
    answer = "".join(self.pieces)
    facts = {"answer": answer, "cost": f"{self.forwards} forwards"}
    return shown.Sheet(
      f"Which of {len(texts)} sources the answer stands on",
      {
        "source": order,
        "value": self.values[order],
        "strength": self.strengths[order],
        "needed": [i in self.needed for i in order],
        "text": [texts[i] for i in order],
      },
      facts=facts | {f"note {i}": note for i, note in enumerate(self.notes, 1)},
      views=[{"kind": "citations", "body": self.to_dict()}],
    )

  def to_dict(self) -> dict[str, Any]:
    """As JSON takes it: `values`, `sets`, `r2` of the response, and spans.

    `totals` are the tokens' accounts, where both ends were asked.
    """
    return self.whole.to_dict() | {
      "totals": (
        [total.to_dict() for total in self.totals()]
        if self.knows_ends
        else None
      ),
      "sources": list(self.sources.texts),
      "tokens": list(self.pieces),
      "response_ids": self.response.tolist(),
      "forwards": self.forwards,
      "threshold": self.threshold,
      "method": self.method,
      "decoder": self.whole.method,
      "spans": [
        found.to_dict() | {"cited": list(cited)}
        for found, cited in self.sentences()
      ],
      "notes": list(self.notes),
    }

  def save(self, path: str | os.PathLike) -> None:
    """Writes `to_dict` as JSON with a checksum, whole or not at all."""
    base.write_json(path, self.to_dict())


def cite(
  net: sites.Network | Any,
  sources: sources_lib.Sources | None = None,
  response: str | Sequence[int] | None = None,
  *,
  key: base.Key,
  budget: int = 64,
  method: str = "auto",
  value: str | None = None,
  coarse: sources_lib.Sources | None = None,
  proxy: Any = None,
  keep: int = 3,
  max_new_tokens: int = 64,
  tell: Callable[[str], None] | None = None,
  **settings: Any,
) -> Citations:
  """Attributes a response to its sources.

  Args:
    net: a language model; or a scorer (`scoring.scorer`, `remote.scorer`),
      which has sources and response with it.
    sources: the prompt and its sources, of `context.sources`.
    response: text or ids, the model's own or another's; None for the model's
      greedy answer.
    key: a random key, consumed where masks are drawn.
    budget: most distinct masks to ask, one forward each, those that verify
      sets included.
    method: how sources are valued, one of `METHODS`.
    value: of `scoring.VALUES`: "log_odds" for ContextCite, else
      "log_probability", by default.
    coarse: of "leave_one_out": the same prompt at a coarser level; only what
      lies within the `keep` strongest of its sources is left out one by one.
    proxy: of "leave_one_out": a scorer of a smaller model; only the `keep`
      strongest of its sources are asked of `net`, the others are 0.
    keep: how many of the strongest are asked again, with `coarse` or `proxy`.
    max_new_tokens: the most tokens of a response that is made.
    tell: called with one line before the run: tokens, forwards, memory.
    **settings: of `scoring.scorer`: `way`, `token`, `params`, `reuse`,
      `batch_size`, `memory_limit`.

  Raises:
    TypeError: neither a network nor a scorer.
    ValueError: an unknown method or value, a budget that cannot carry the
      method (the message says what would), a response of no tokens, or what
      `scoring.scorer` refuses.
  """
  request.choice("method", method, METHODS)
  budget = request.whole("budget", budget, 2)
  value = value or (
    "log_odds" if method == "contextcite" else "log_probability"
  )
  request.choice("value", value, scoring.VALUES)
  if method != "leave_one_out" and (coarse is not None or proxy is not None):
    raise ValueError("coarse and proxy are of method='leave_one_out'.")
  scorer = net
  if isinstance(net, sites.Network):
    if sources is None:
      raise ValueError("Give the sources of the prompt: `context.sources`.")
    said: Any = response
    if response is None:
      said = scoring.generated(
        net, sources, max_new_tokens, params=settings.get("params")
      ).tolist()
    scorer = scoring.scorer(net, sources, said, budget=budget, **settings)
  elif not hasattr(net, "sources") or sources is not None or settings:
    raise TypeError(
      "Give a network with sources and settings, or a scorer alone; got "
      f"{type(net).__name__}."
    )
  record = asking.Record(scorer, budget)
  if tell is not None:
    tell(_stated(scorer, budget))
  notes = asking.ask(record, key, method, value, coarse, proxy, keep)
  return Citations(record, method, value, notes)


def prune(
  found: Citations, *, keep: int | None = None, share: float = 0.9
) -> tuple[str, tuple[int, ...]]:
  """The prompt without the sources that the answer does not stand on.

  Args:
    found: citations, as `cite` gave them.
    keep: how many sources to keep, the strongest; None for as few as leave
      `share` of the predicted effect of all, or of the values' positive sum
      where nothing predicts.
    share: of the predicted effect, in (0, 1], that is to stay.

  Returns:
    The shortened text, and the numbers of the sources kept, ascending.

  Raises:
    ValueError: a number or share out of range.
  """
  n = found.sources.n
  order = sets_lib.ranked(found.strengths)
  if keep is None:
    if not 0 < share <= 1:
      raise ValueError(f"share must lie in (0, 1]; got {share}.")
    keep = _enough(found, order, share)
  if not 0 <= base.check_integer(keep, "keep") <= n:
    raise ValueError(f"keep must lie in 0..{n}; got {keep}.")
  kept = tuple(sorted(int(i) for i in order[:keep]))
  return found.sources.kept_text(kept), kept


def calibrate(nulls: Sequence[float], level: float = 0.95) -> float:
  """The threshold that an unsupported sentence passes at most so rarely.

  Split conformal: the ceil((m + 1) level)-th smallest of the strongest values
  of m sentences that no source supports (`Citations.strongest`), such as
  answers to other questions. A new such sentence, exchangeable with them, is
  cited with probability 1 - level at most.

  Raises:
    ValueError: a level outside (0, 1), or too few to bound it (the message
      says how many it takes).
  """
  rank = calibrating_rank(len(nulls), level)
  # Above it, not at it.
  return float(np.nextafter(np.sort(nulls)[rank - 1], np.inf))


def calibrating_rank(count: int, level: float) -> int:
  """Which of so many sentences `calibrate` takes, from 1 on.

  Raises:
    ValueError: as `calibrate`.
  """
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1); got {level}.")
  rank = int(np.ceil((count + 1) * level * (1 - base.ROUNDING)))
  if rank > count:
    raise ValueError(
      f"{count} sentences bound nothing at level {level:g}: it takes "
      f"{int(np.ceil(level / (1 - level) * (1 - base.ROUNDING)))}."
    )
  return rank


def sentence_spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
  """Spans of tokens that hold the sentences of a response, in order.

  A token belongs to the sentence with its first visible character; all tokens
  belong to one.
  """
  text = "".join(pieces)
  if not text.strip():
    return [(0, len(pieces))]
  ends = [stop for _, stop in text_lib.cut(text, "sentences")]
  spans, start, at = [], 0, 0
  for token, piece in enumerate(pieces):
    visible = at + len(piece) - len(piece.lstrip())
    if token > start and ends and visible >= ends[0] and piece.strip():
      spans.append((start, token))
      start = token
    while ends and visible >= ends[0]:
      ends.pop(0)
    at += len(piece)
  return [*spans, (start, len(pieces))]


def _enough(found, order, share):
  """How many of the strongest sources carry a share of the effect."""
  n, fit = found.sources.n, found.whole.fit
  if fit is not None and fit.total > 0:
    masks = np.zeros((n + 1, n), bool)
    for k in range(n):
      masks[k + 1 :, order[k]] = True
    reached = fit(masks) - fit.none >= share * fit.total
    reached[-1] = True  # But for rounding.
  else:
    gains = np.cumsum(np.maximum(found.values[order], 0))
    reached = np.append(0.0, gains) >= share * gains[-1]
  return int(reached.argmax())


def _stated(scorer, budget):
  """What the run will take, in one line."""
  sources = scorer.sources
  memory = getattr(scorer, "memory_bytes", None)
  tokens = sources.prompt.num_tokens + len(scorer.response)
  return (
    f"{sources.n} sources, {tokens} tokens, at most {budget} forwards, "
    + ("memory not known" if memory is None else f"{memory / 2**20:,.0f} MiB")
    + " a device"
  )
