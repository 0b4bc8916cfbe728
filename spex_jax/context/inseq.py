"""Inseq's JSON of context attribution, written and read.

What `inseq attribute-context --save_path` writes and its
`AttributeContextOutput.from_dict` reads, version 0.7.1. The scores of a context
are those of its own tokens, one each: Inseq's are one off where the tokenizer
puts a token before the text.
"""

import json
import os
import pathlib
from typing import Any

FIELDS = (
  "input_context",
  "input_context_tokens",
  "output_context",
  "output_context_tokens",
  "output_current",
  "output_current_tokens",
  "cti_scores",
  "cci_scores",
)
CUE_FIELDS = (
  "cti_idx",
  "cti_token",
  "cti_score",
  "contextual_output",
  "contrast_token",
  "contextless_output",
  "input_context_scores",
  "output_context_scores",
)


def written(found: Any) -> dict[str, Any]:
  """A `reliance.Pecore` as Inseq's dict.

  `contextual_output` and `contextless_output` are the spellings of the
  response up to the token, and of that with its contrast.
  """
  runs, texts = found.runs, found.texts
  spell = lambda ids: [f"<{int(i)}>" for i in ids]
  tokens = list(runs.response_tokens or spell(runs.response))
  pieces = list(runs.tokens or spell(runs.with_context))
  outer = None
  if runs.output_context is not None:
    outer = spell(runs.output_context_ids)
    if runs.tokens and not runs.is_encoder_decoder:
      outer = pieces[slice(*runs.output_context)]
  made = []
  for cue in found.cues:
    before = "".join(tokens[: cue.index])
    made.append(
      {
        "cti_idx": cue.index,
        "cti_token": cue.token,
        "cti_score": cue.score,
        "contextual_output": before + cue.token,
        "contrast_token": cue.contrast_token,
        "contextless_output": before + cue.contrast_token,
        "input_context_scores": list(cue.scores),
        "output_context_scores": (
          None if cue.output_scores is None else list(cue.output_scores)
        ),
      }
    )
  return {
    "input_context": texts["input_context"],
    "input_context_tokens": pieces[slice(*runs.context)],
    "output_context": texts["output_context"],
    "output_context_tokens": outer,
    "output_current": texts["output_current"],
    "output_current_tokens": tokens,
    "cti_scores": found.sensitivity.tolist(),
    "cci_scores": made,
  }


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Inseq's JSON, checked; `info`, its settings, as it is.

  Raises:
    ValueError: no JSON object, fields missing or not known, or lists of other
      lengths than the tokens that they score.
  """
  try:
    given = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is no JSON: {error}") from error
  if not isinstance(given, dict):
    raise ValueError(f"{path} holds no object of Inseq's.")
  _same(path, {*given} - {"info"}, FIELDS)
  if len(given["cti_scores"]) != len(given["output_current_tokens"]):
    raise ValueError(
      f"{path}: {len(given['cti_scores'])} scores for "
      f"{len(given['output_current_tokens'])} tokens of the output."
    )
  for number, cue in enumerate(given["cci_scores"]):
    _same(f"{path}: cci_scores[{number}]", {*cue}, CUE_FIELDS)
    for side in ("input", "output"):
      scores = cue[f"{side}_context_scores"]
      names = given[f"{side}_context_tokens"]
      if scores is not None and len(scores) != len(names or ()):
        raise ValueError(
          f"{path}: cci_scores[{number}] has {len(scores)} scores for "
          f"{len(names or ())} tokens of the {side} context. Inseq's console "
          "view lengthens them; save without it."
        )
  return given


def _same(where: Any, found: set[str], wanted: tuple[str, ...]) -> None:
  if found != {*wanted}:
    raise ValueError(
      f"{where}: missing {sorted({*wanted} - found)}, not known "
      f"{sorted(found - {*wanted})}."
    )
