"""Inseq's JSON, written and read, of version 0.7.1.

What `inseq attribute-context --save_path` writes and its
`AttributeContextOutput.from_dict` reads; and attributions, which
`FeatureAttributionOutput.save` and `.load` write and read. The scores of a
context are those of its own tokens, one each: Inseq's are one off where the
tokenizer puts a token before the text.

Shapes: S steps, N tokens of the source, D tokens of the target: of a causal
model the source, then the response; of a decoder its prefix, then the response.
"""

import base64
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

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


def vocabulary(runs: Any) -> dict[str, list[str] | None]:
  """Tokens of `context.Runs` as the tokenizer spells them; ids without one."""
  spell = lambda ids: [f"<{int(i)}>" for i in ids]
  pieces = list(runs.tokens or spell(runs.with_context))
  outer = None
  if runs.output_context is not None:
    outer = runs.output_context_tokens or spell(runs.output_context_ids)
  return {
    "context": pieces[slice(*runs.context)],
    "output_context": None if outer is None else list(outer),
    "response": list(runs.response_tokens or spell(runs.response)),
  }


def written(body: Mapping[str, Any]) -> dict[str, Any]:
  """What `reliance.Pecore.to_dict` gave as Inseq's dict.

  `contextual_output` and `contextless_output` are the spellings of the
  response up to the token, and of that with its contrast.
  """
  tokens = body["vocabulary"]["response"]
  made = []
  for cue in body["cues"]:
    before = "".join(tokens[: cue["index"]])
    made.append(
      {
        "cti_idx": cue["index"],
        "cti_token": cue["token"],
        "cti_score": cue["score"],
        "contextual_output": before + cue["token"],
        "contrast_token": cue["contrast_token"],
        "contextless_output": before + cue["contrast_token"],
        "input_context_scores": list(cue["scores"]),
        "output_context_scores": (
          cue["output_scores"] and list(cue["output_scores"])
        ),
      }
    )
  return {
    "input_context": body["input_context"],
    "input_context_tokens": body["vocabulary"]["context"],
    "output_context": body["output_context"],
    "output_context_tokens": body["vocabulary"]["output_context"],
    "output_current": body["output_current"],
    "output_current_tokens": tokens,
    "cti_scores": body["sensitivity"],
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


_TYPE = "__instance_type__"
_MODULE = "inseq.data.attribution"


def output(found: Sequence[Any], **info: Any) -> dict[str, Any]:
  """`token_scores.Attribution`s as Inseq's `FeatureAttributionOutput`.

  Args:
    found: attributions of one method and one target, one for each example.
    **info: further settings, which the file says of the run.

  Raises:
    ValueError: none, or steps that do not follow each other.
  """
  if not found:
    raise ValueError("No attribution is given; Inseq's needs one.")
  sequences = [_sequence(each) for each in found]
  ends = [each["attributes"] for each in sequences]
  settings = {
    "attribution_method": found[0].method,
    "attributed_fn": f"{found[0].target}_fn",
    "attribute_target": found[0].prefix_scores is not None,
    "attr_pos_start": ends[0]["attr_pos_start"],
    "attr_pos_end": max(each["attr_pos_end"] for each in ends),
    "output_step_attributions": False,
    "step_scores": list(found[0].step_scores),
    "input_texts": ["".join(each.source) for each in found],
    "generated_texts": ["".join(each.response) for each in found],
  }
  return _instance(
    "FeatureAttributionOutput",
    sequence_attributions=sequences,
    step_attributions=None,
    info=settings | info,
  )


def is_output(given: Mapping[str, Any]) -> bool:
  """Whether a JSON object is one of `FeatureAttributionOutput`."""
  return given.get(_TYPE) == [_MODULE, "FeatureAttributionOutput"]


def fields_of(given: Mapping[str, Any], where: Any) -> Iterator[dict[str, Any]]:
  """The fields of a `token_scores.Attribution`, of each sequence of Inseq.

  Args:
    given: a JSON object of Inseq's, of which `is_output` holds.
    where: what the file is called in messages.

  Raises:
    ValueError: scores that are no safetensors of Inseq's.
  """
  info = given["attributes"]["info"]
  for each in given["attributes"]["sequence_attributions"]:
    own, kind = each["attributes"], each[_TYPE][1]
    is_norm = kind.startswith("Granular")
    read = functools.partial(_scores, is_norm=is_norm, where=where)
    start, end = own["attr_pos_start"], own["attr_pos_end"]
    pair = own["source_attributions"] is not None
    target = [x["attributes"] for x in own["target"]]
    source = (
      [x["attributes"] for x in own["source"]] if pair else target[:start]
    )
    rows = read(own["target_attributions"])
    behind = target if pair else target[start:]
    scores = read(own["source_attributions"]) if pair else rows[:start]
    prefix = rows if pair or rows is None else rows[start:]
    parts = {"source": source, "behind": behind, "response": target[start:]}
    steps = own["step_scores"] or {}
    yield {
      "method": info.get("attribution_method", ""),
      "target": info.get("attributed_fn", "probability").removesuffix("_fn"),
      **{k: tuple(x["token"] for x in part) for k, part in parts.items()},
      **{f"{k}_ids": tuple(x["id"] for x in v) for k, v in parts.items()},
      "steps": tuple(range(end - start)),
      "scores": scores.T,
      "prefix_scores": None if prefix is None else prefix.T,
      "step_scores": {name: read(text) for name, text in steps.items()},
      "is_encoder_decoder": pair,
    }


def _instance(name: str, module: str = _MODULE, **attributes: Any):
  return {_TYPE: [module, name], "attributes": attributes}


def _sequence(found) -> dict[str, Any]:
  first, num = found.steps[0], len(found.steps)
  if found.steps != tuple(range(first, first + num)):
    raise ValueError(
      f"Inseq's attributions hold steps that follow each other; got "
      f"{list(found.steps)}."
    )
  pair = found.is_encoder_decoder
  tokens, ids = found.behind, found.behind_ids
  start = len(tokens) - len(found.response) + first
  scores = found.prefix_scores
  if not pair:
    if scores is None:
      scores = np.full((num, len(tokens)), np.nan)
    scores = np.concatenate([found.scores, scores], axis=1)
    tokens, ids = found.source + tokens, found.source_ids + ids
    start += len(found.source)
  if scores is not None:
    # What a step does not see.
    unseen = np.arange(len(tokens)) >= start + np.arange(num)[:, None]
    scores = _safe(np.where(unseen, np.nan, scores).T)
  own = lambda tokens, ids: [
    _instance("TokenWithId", "inseq.utils.typing", token=token, id=number)
    for token, number in zip(tokens, ids)
  ]
  return _instance(
    "CoarseFeatureAttributionSequenceOutput",
    source=own(found.source, found.source_ids),
    target=own(tokens, ids),
    source_attributions=_safe(found.scores.T) if pair else None,
    target_attributions=scores,
    step_scores={k: _safe(x) for k, x in found.step_scores.items()},
    sequence_scores={},
    attr_pos_start=start,
    attr_pos_end=start + num,
  )


def _safe(scores) -> str:
  import safetensors.numpy  # Of files alone.

  own = np.ascontiguousarray(scores, np.float32)
  return base64.b64encode(safetensors.numpy.save({"attribution": own})).decode()


def _scores(text, is_norm, where) -> Any:
  """float64 `[D, S]` or `[S]`, 0 for NaN; None for None."""
  import safetensors
  import safetensors.numpy

  if text is None:
    return None
  try:
    found = safetensors.numpy.load(base64.b64decode(text))["attribution"]
  except (
    TypeError,
    ValueError,
    KeyError,
    safetensors.SafetensorError,
  ) as error:
    raise ValueError(
      f"{where}: scores are no safetensors of Inseq 0.7: {error}"
    ) from None
  found = np.nan_to_num(found.astype(np.float64), nan=0.0)
  if found.ndim < 3:
    return found
  if is_norm:
    return np.linalg.norm(found, axis=-1)
  return found.mean(axis=tuple(range(2, found.ndim)))


def _same(where: Any, found: set[str], wanted: tuple[str, ...]) -> None:
  if found != {*wanted}:
    raise ValueError(
      f"{where}: missing {sorted({*wanted} - found)}, not known "
      f"{sorted(found - {*wanted})}."
    )
