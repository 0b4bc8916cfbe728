"""Scores of a generation's tokens: joined, merged, compared, kept in files.

Tokens are joined to words where the vocabulary marks them: one that begins with
a space or a line break ("▁", "Ġ", "Ċ", " ") begins a word, one that begins with
"##" does not, and punctuation stays with the word before it; tokens in angle
brackets, as special ones are spelled, are words. Of a span, scores are joined
along the source first and then along the steps; step scores as `steps.JOINED`
has it, others by their largest size.

Shapes: S steps, N tokens of the source, D tokens behind it, R of the response.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import shown
from spex_jax.context import inseq, steps

Span = tuple[int, int]
_MARKS = ("▁", "Ġ", "Ċ", " ", "\n")


def _absmax(x: np.ndarray, axis: int) -> np.ndarray:
  at = np.abs(x).argmax(axis=axis, keepdims=True)
  return np.take_along_axis(x, at, axis).squeeze(axis)


JOINS: Mapping[str, Callable[..., np.ndarray]] = {
  "sum": np.sum,
  "mean": np.mean,
  "absmax": _absmax,
  "max": np.max,
  "min": np.min,
  "prod": np.prod,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution(shown.Shown):
  """What steps of a generation owe to the tokens before them.

  Attributes:
    method: how tokens were scored, of `methods.METHODS`, or several names.
    target: what was attributed at each step, of `steps.NAMES`.
    source: tokens that were read, `[N]`; ids are -1 where tokens are joined.
    source_ids: the N ids of these tokens.
    behind: tokens behind the source, `[D]`: of a decoder its prefix, then the
      response.
    behind_ids: the D ids of these tokens.
    response: the R tokens of the response.
    response_ids: the R ids of these tokens.
    steps: indices of the response, `[S]`.
    scores: float64 `[S, N]`, of each token of the source at each step.
    prefix_scores: float64 `[S, D]`, 0 where a step does not see a token; or
      None.
    step_scores: name to float64 `[S]`.
    is_encoder_decoder: whether the model is an encoder-decoder.
  """

  method: str
  target: str
  source: tuple[str, ...]
  source_ids: tuple[int, ...]
  behind: tuple[str, ...]
  behind_ids: tuple[int, ...]
  response: tuple[str, ...]
  response_ids: tuple[int, ...]
  steps: tuple[int, ...]
  scores: np.ndarray
  prefix_scores: np.ndarray | None
  step_scores: Mapping[str, np.ndarray]
  is_encoder_decoder: bool

  def sheet(self) -> shown.Sheet:
    """A row of every step and token before it, the largest first.

    Columns: `step` and `token` of the response, `of` the source or the response
    (or a prefix before it), `at` and `text` of the token there, its `score`.
    """
    rows = [
      (step, self.response[step], "source", at, self.source[at], score)
      for step, own in zip(self.steps, self.scores.tolist())
      for at, score in enumerate(own)
    ]
    ahead = len(self.behind) - len(self.response)
    if self.prefix_scores is not None:
      rows += [
        (step, self.response[step], "prefix" if at < ahead else "response",
         at - ahead * (at >= ahead), self.behind[at], score)
        for step, own in zip(self.steps, self.prefix_scores.tolist())
        for at, score in enumerate(own[: ahead + step])
      ]  # fmt: skip
    rows.sort(key=lambda row: -abs(row[-1]))
    names = ("step", "token", "of", "at", "text", "score")
    return shown.Sheet(
      f"What {len(self.steps)} steps owe to the tokens before them, by "
      f"{self.method} of {self.target}",
      {name: [row[i] for row in rows] for i, name in enumerate(names)},
    )

  def normalised(self) -> "Attribution":
    """Scores of a step, with those of its prefix, over the sum of their sizes.

    As Inseq shows them. A step whose scores are all 0 keeps them.
    """
    parts = [x for x in (self.scores, self.prefix_scores) if x is not None]
    total = sum(np.abs(x).sum(axis=1, keepdims=True) for x in parts)
    return self._mapped(lambda x: x / np.where(total == 0, 1, total))

  def words(self, how: str = "sum") -> "Attribution":
    """Tokens joined to words, of source and response.

    Args:
      how: of `JOINS`. Inseq's "subwords" takes "absmax", and leaves the last
        word of a text as it is.

    Raises:
      ValueError: another, or a vocabulary that marks no word.
    """
    found = [words_of(part) for part in (self.source, self.response)]
    return self.joined(*found, how=how)

  def joined(
    self,
    source: Sequence[Span] = (),
    response: Sequence[Span] = (),
    *,
    how: str = "sum",
  ) -> "Attribution":
    """Tokens joined in spans; those outside stay.

    Args:
      source: half open, ascending, apart from each other.
      response: likewise; of tokens that are all steps, or none of them.
      how: how scores of a span become one, of `JOINS`.

    Raises:
      ValueError: another, a span that is empty, outside, or overlaps, or one
        of the response of which only some tokens are steps.
    """
    inner = _cells("source", source, len(self.source))
    outer = _cells("response", response, len(self.response))
    ahead = len(self.behind) - len(self.response)
    behind = [(i, i + 1) for i in range(ahead)]
    behind += [(a + ahead, b + ahead) for a, b in outer]
    rows, kept = [], []
    for number, (a, b) in enumerate(outer):
      own = [self.steps.index(i) for i in range(a, b) if i in self.steps]
      if own and len(own) < b - a:
        raise ValueError(
          f"response: of the span {(a, b)} only some tokens are steps: "
          f"{list(self.steps)}."
        )
      if own:
        rows.append(own)
        kept.append(number)
    along, rule = _join(how), lambda name: steps.JOINED.get(name, "absmax")

    def join(scores, cells):
      wide = np.stack([along(scores[:, a:b], axis=1) for a, b in cells], axis=1)
      return np.stack([along(wide[own], axis=0) for own in rows])

    prefix = self.prefix_scores
    return dataclasses.replace(
      self,
      **_together("source", self, inner),
      **_together("behind", self, behind),
      **_together("response", self, outer),
      steps=tuple(kept),
      scores=join(self.scores, inner),
      prefix_scores=None if prefix is None else join(prefix, behind),
      step_scores={
        name: np.array([JOINS[rule(name)](x[own], axis=0) for own in rows])
        for name, x in self.step_scores.items()
      },
    )

  def less(self, other: "Attribution") -> "Attribution":
    """The scores less another's, of as many tokens; Inseq's "pair" negated.

    Where tokens differ both are named, as in "she → he", other first.

    Raises:
      ValueError: other numbers of tokens, other steps, or one that lacks
        scores of the other.
    """
    _same(self, other, tokens=False)
    pairs = {
      name: tuple(
        a if a == b else f"{b} → {a}"
        for a, b in zip(getattr(self, name), getattr(other, name))
      )
      for name in ("source", "behind", "response")
    }
    prefix = None
    if self.prefix_scores is not None and other.prefix_scores is not None:
      prefix = self.prefix_scores - other.prefix_scores
    return dataclasses.replace(
      self,
      **pairs,
      scores=self.scores - other.scores,
      prefix_scores=prefix,
      step_scores={
        name: x - other.step_scores[name]
        for name, x in self.step_scores.items()
      },
    )

  def to_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    found = dataclasses.asdict(self)
    plain = lambda x: x.tolist() if isinstance(x, np.ndarray) else x
    found["step_scores"] = {k: plain(v) for k, v in self.step_scores.items()}
    return {name: plain(value) for name, value in found.items()}

  def save(
    self, path: str | os.PathLike, form: str = "own", **more: Any
  ) -> None:
    """Writes JSON.

    Args:
      path: the path of the file.
      form: "own", or "inseq" for a file of `FeatureAttributionOutput.load`.
      **more: of "own", what is written beside, such as `again`.

    Raises:
      ValueError: another form, or steps that Inseq's cannot hold.
    """
    if form not in ("own", "inseq"):
      raise ValueError(f"form={form!r}: choose own or inseq.")
    own = form == "own"
    found = self.to_dict() | more if own else inseq.output([self])
    text = json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False)
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")

  def _mapped(self, change):
    prefix = self.prefix_scores
    return dataclasses.replace(
      self,
      scores=change(self.scores),
      prefix_scores=None if prefix is None else change(prefix),
    )


def load(path: str | os.PathLike) -> list[Attribution]:
  """What `Attribution.save` or Inseq wrote, one or several.

  Of Inseq's, scores of embeddings are joined by their L2 norm, those of layers
  and heads by their mean, and NaN, of what a step does not see, is 0.

  Raises:
    ValueError: no JSON, or fields missing or not known.
  """
  try:
    given = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is no JSON: {error}") from error
  if isinstance(given, dict) and inseq.is_output(given):
    return [Attribution(**fields) for fields in inseq.fields_of(given, path)]
  names = {field.name for field in dataclasses.fields(Attribution)}
  if isinstance(given, dict):
    given.pop("again", None)  # How a command made it.
  if not isinstance(given, dict) or {*given} != names:
    raise ValueError(
      f"{path} holds no attribution: it has {sorted(given)[:5]}, needed are "
      f"{sorted(names)}."
    )
  made: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
  }
  array = lambda x: None if x is None else np.array(x, np.float64)
  made |= {k: array(given[k]) for k in ("scores", "prefix_scores")}
  made["step_scores"] = {k: array(v) for k, v in given["step_scores"].items()}
  return [Attribution(**made)]


def merged(found: Sequence[Attribution], how: str = "mean") -> Attribution:
  """Several attributions of the same tokens as one: the mean over methods.

  Sizes differ by method: normalise them first.

  Args:
    found: attributions of the same tokens and steps, one or more.
    how: how scores of several become one, of `JOINS`.

  Raises:
    ValueError: none, other tokens or steps, or an unknown `how`.
  """
  if not found:
    raise ValueError("Nothing is given to merge.")
  first = found[0]
  for other in found[1:]:
    _same(first, other)
  along = _join(how)
  stack = lambda parts: along(np.stack(parts), axis=0)
  prefixes = [each.prefix_scores for each in found]
  return dataclasses.replace(
    first,
    method=" ".join(dict.fromkeys(each.method for each in found)),
    target=" ".join(dict.fromkeys(each.target for each in found)),
    scores=stack([each.scores for each in found]),
    prefix_scores=(
      None if any(x is None for x in prefixes) else stack(prefixes)
    ),
  )


def words_of(tokens: Sequence[str]) -> list[Span]:
  """Spans of words, all tokens in one.

  Raises:
    ValueError: no token has a mark.
  """
  if not any(token.startswith((*_MARKS, "##")) for token in tokens[1:]):
    if len(tokens) < 2:
      return [(0, len(tokens))] if tokens else []
    raise ValueError(
      f"No token of {list(tokens[:6])} marks where a word begins; give spans."
    )
  suffixes = any(token.startswith("##") for token in tokens)
  special = [
    token[:1] == "<" and token[-1:] == ">" and token[:3] != "<0x"
    for token in tokens
  ]
  starts = [
    not number
    or special[number]
    or special[number - 1]
    or (not token.startswith("##") if suffixes else token.startswith(_MARKS))
    for number, token in enumerate(tokens)
  ]
  at = [*np.flatnonzero(starts).tolist(), len(tokens)]
  return list(itertools.pairwise(at))


def _join(how: str) -> Callable[..., np.ndarray]:
  if how not in JOINS:
    raise ValueError(f"how={how!r}: choose from {', '.join(JOINS)}.")
  return JOINS[how]


def _cells(what, spans, size) -> list[Span]:
  """The spans and the single tokens between them."""
  cells, end = [], 0
  for first, last in spans:
    if not end <= first < last <= size:
      raise ValueError(
        f"{what}: the span {(first, last)} is empty, overlaps or lies outside "
        f"the {size} tokens; spans ascend."
      )
    cells += [(i, i + 1) for i in range(end, first)] + [(first, last)]
    end = last
  return cells + [(i, i + 1) for i in range(end, size)]


def _together(name, found, cells) -> dict[str, Any]:
  tokens, ids = getattr(found, name), getattr(found, f"{name}_ids")
  return {
    name: tuple("".join(tokens[a:b]) for a, b in cells),
    f"{name}_ids": tuple(ids[a] if b - a == 1 else -1 for a, b in cells),
  }


def _same(one, other, tokens=True) -> None:
  names = ("source", "behind", "response")
  size = lambda x: [*x] if tokens else len(x)
  for name in names:
    a, b = (size(getattr(x, name)) for x in (one, other))
    if a != b:
      raise ValueError(f"Attributions differ in their {name}: {a} and {b}.")
  if one.steps != other.steps:
    raise ValueError(
      f"Attributions differ in their steps: {one.steps} and {other.steps}."
    )
  if not tokens and {*one.step_scores} != {*other.step_scores}:
    raise ValueError(
      f"Attributions differ in their step scores: {sorted(one.step_scores)} "
      f"and {sorted(other.step_scores)}."
    )
