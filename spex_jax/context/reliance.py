"""PECoRe: which tokens of a response rely on the context, and on what of it.

Sensitive tokens (`sensitivity`), which of them count (`selectors`), and their
cues (`cues`), from one forward of two runs and one of each method's passes.

Source: Sarti et al., arXiv:2310.01188. What Inseq 0.7.1 calls by a name is
computed here by that name; where it goes wrong (the first context token of a
tokenizer with `<s>`, the second cue behind a contextless prefix, text that is
tokenized again) the ids decide here.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base, explanation, shown
from spex_jax.context import cues as cues_lib
from spex_jax.context import inseq, selectors, sensitivity
from spex_jax.context import response_runs as runs_lib
from spex_jax.models import sites


@dataclasses.dataclass(frozen=True)
class Cue:
  """What one token of the response owes to the context.

  Attributes:
    index: the index of the token in the response.
    token: its spelling, or its id in words.
    score: how sensitive it is, in the units of the metric.
    contrast: y*, the id that the run without context predicts.
    contrast_token: the spelling of that id.
    contrast_text: the text of that id behind the tokens before it.
    scores: the scores of the context's tokens, in order.
    output_scores: of the output context's, or None.
    chosen: context tokens that count, the strongest first.
    shift: ln p(y) with context less without, nats: P-CXMI.
  """

  index: int
  token: str
  score: float
  contrast: int
  contrast_token: str
  contrast_text: str
  scores: tuple[float, ...]
  output_scores: tuple[float, ...] | None
  chosen: tuple[int, ...]
  shift: float


@dataclasses.dataclass(frozen=True, eq=False)
class Pecore(shown.Shown):
  """A response's reliance on its context.

  Attributes:
    runs: the response with and without its context.
    metric: how sensitivity was measured, of `sensitivity.NAMES`.
    method: how cues were scored, of `methods.METHODS` or `cues.SETS`.
    target: what of the prediction was attributed, of `cues.TARGETS`.
    sensitivity: float64 `[R]`, how far each prediction moved with the context.
    selected: indices of sensitive tokens, the strongest first; perhaps none.
    cues: the cues of each target that was asked for.
    texts: `input_context`, `output_context` and `output_current` where a
      tokenizer knows them.
    pieces: the texts of the tokens of "context", "output_context" and
      "response"; ids in brackets where there is no tokenizer.
    sets: SPEX-CCI's explanation of the cues' targets, or None.
  """

  runs: runs_lib.Runs
  metric: str
  method: str
  target: str
  sensitivity: np.ndarray
  selected: tuple[int, ...]
  cues: tuple[Cue, ...]
  texts: Mapping[str, str | None]
  pieces: Mapping[str, tuple[str, ...]]
  sets: explanation.Explanation | None = None

  def to_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return {
      "metric": self.metric,
      "method": self.method,
      "target": self.target,
      "sensitivity": self.sensitivity.tolist(),
      "selected": list(self.selected),
      "cues": [dataclasses.asdict(cue) for cue in self.cues],
      "response": self.runs.response.tolist(),
      "context": list(self.runs.context),
      **self.texts,
      **{f"{name}_tokens": list(all_) for name, all_ in self.pieces.items()},
      "vocabulary": inseq.vocabulary(self.runs),
    }

  def sheet(self) -> shown.Sheet:
    """A row of every target and token of the context, the largest first.

    Columns: `target`, `token` and `sensitivity` of the response's token, `cue`
    and `text` of the context's, its `score`, and whether it is `chosen`.
    """
    own, answer = self.pieces["context"], self.pieces["response"]
    rows = [
      (cue.index, answer[cue.index], cue.score, i, own[i], cue.scores[i],
       i in cue.chosen)
      for cue in self.cues
      for i in np.argsort(-np.asarray(cue.scores), kind="stable").tolist()
    ]  # fmt: skip
    names = ("target", "token", "sensitivity", "cue", "text", "score", "chosen")
    return shown.Sheet(
      f"{len(self.selected)} of {len(self.sensitivity)} tokens of the response "
      f"depend on the context by {self.metric}",
      {name: [row[k] for row in rows] for k, name in enumerate(names)},
      facts={"selected": str(self) if self.selected else "none"},
      views=[{"kind": "context", "body": self.to_dict()}],
    )

  def to_inseq(self) -> dict[str, Any]:
    """The structure of Inseq's JSON: see `inseq.written`."""
    return inseq.written(self.to_dict())

  def save(self, path: str | os.PathLike, form: str = "own") -> None:
    """Writes JSON.

    Args:
      path: the path of the file.
      form: "own" for all of it, "inseq" for Inseq's format.

    Raises:
      ValueError: another form.
    """
    if form not in ("own", "inseq"):
      raise ValueError(f"form={form!r}: choose own or inseq.")
    found = self.to_dict() if form == "own" else self.to_inseq()
    text = json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False)
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")

  def __str__(self) -> str:
    if not self.selected and not self.cues:
      return "No token of the response depends on the context by this selector."
    lines = []
    for cue in self.cues:
      own = self.pieces["context"]
      named = ", ".join(
        f"{own[i].strip()} ({cue.scores[i]:.3g})" for i in cue.chosen
      )
      lines.append(
        f"{self.pieces['response'][cue.index].strip()} ({self.metric} "
        f"{cue.score:.3g}; else {cue.contrast_text.strip()}): "
        f"{named or 'no cue stands out'}"
      )
    return "\n".join(lines)


def pecore(
  net: sites.Network,
  runs: runs_lib.Runs,
  *,
  metric: str = "kl_divergence",
  method: str = "saliency",
  target: str = "contrast_prob_diff",
  targets: str | Sequence[int] = "selected",
  selector: str = "mean_std",
  selector_settings: Mapping[str, Any] | None = None,
  cue_selector: str = "mean_std",
  cue_settings: Mapping[str, Any] | None = None,
  params: Any = None,
  budget: int = 1000,
  key: base.Key | None = None,
  unknown: int | None = None,
  way: str = "remove",
) -> Pecore:
  """Which tokens of a response depend on its context, and on what of it.

  Args:
    net: a causal model, or an encoder-decoder.
    runs: the response with and without its context.
    metric: how sensitivity is measured, of `sensitivity.NAMES`.
    method: of `methods.METHODS`, or one of `cues.SETS`, for sets.
    target: what of the prediction is attributed, of `cues.TARGETS`.
    targets: whose cues: "selected", "all", or indices of the response.
    selector: how sensitive tokens are chosen, of `selectors.SELECTORS`.
    selector_settings: its `k`, `p`, `q`, `threshold`, `signed` or `most`.
    cue_selector: how cues among the context's tokens are chosen, likewise.
    cue_settings: its settings, as `selector_settings`.
    params: the parameters of the network; its own by default.
    budget: masks, where the method draws some.
    key: consumed by a method that draws masks.
    unknown: the id in place of an occluded token, as for `cues.impute`.
    way: what becomes of absent tokens where sets are asked for, likewise.

  Raises:
    TypeError, ValueError: as `sensitivity.scores`, `selectors.select` and
      `cues.impute`; targets that are neither words nor indices.
  """
  # Which tokens of the response are sensitive, and whose cues are asked for.
  p, q = sensitivity.logits(net, runs, params)
  scores = sensitivity.scores(net, runs, metric, params, predictions=(p, q))
  shift = sensitivity.scores(net, runs, "in_context_pvi", predictions=(p, q))
  chosen = selectors.select(scores, selector, **(selector_settings or {}))
  if isinstance(targets, str):
    if targets not in ("selected", "all"):
      raise ValueError(
        f"targets={targets!r}: choose selected or all, or give indices."
      )
    wanted = chosen if targets == "selected" else range(len(scores))
  else:
    wanted = targets
  found = cues_lib.impute(
    net,
    runs,
    tuple(wanted),
    (p, q),
    method=method,
    target=target,
    params=params,
    budget=budget,
    key=key,
    unknown=unknown,
    way=way,
  )
  # Cues of each, among the scores of the context's tokens.
  spell = _speller(net)
  pieces = _pieces(net)
  made = []
  for row, step in enumerate(found.steps):
    own = found.scores[row]
    outer = found.output_scores
    made.append(
      Cue(
        index=step,
        token=spell(runs.response[step]),
        score=float(scores[step]),
        contrast=int(found.contrasts[row]),
        contrast_token=spell(found.contrasts[row]),
        contrast_text=_next(pieces, runs.response[:step], found.contrasts[row]),
        scores=tuple(own.tolist()),
        output_scores=None if outer is None else tuple(outer[row].tolist()),
        chosen=selectors.select(own, cue_selector, **(cue_settings or {})),
        shift=float(shift[step]),
      )
    )
  return Pecore(
    runs,
    metric,
    method,
    target,
    scores,
    chosen,
    tuple(made),
    _texts(net, runs),
    {
      "context": pieces(runs.context_ids),
      "output_context": pieces(runs.output_context_ids),
      "response": pieces(runs.response),
    },
    found.sets,
  )


def _speller(net):
  if net.tokenizer is None:
    return lambda token: f"<{int(token)}>"
  return lambda token: net.tokenizer.token(int(token))


def _pieces(net):
  """Ids to their texts."""
  if net.tokenizer is None:
    return lambda ids: tuple(f"<{int(token)}> " for token in ids)
  return lambda ids: net.tokenizer.pieces(ids.tolist())


def _next(pieces, before, token) -> str:
  """The text of a token behind others."""
  return pieces(np.append(before[-4:], token))[-1]


def _texts(net, runs) -> dict[str, str | None]:
  decode = lambda ids: (
    None if net.tokenizer is None or not len(ids) else net.tokenizer.decode(ids)
  )
  return {
    "input_context": decode(runs.context_ids),
    "output_context": decode(runs.output_context_ids),
    "output_current": decode(runs.response),
  }
