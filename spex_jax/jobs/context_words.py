"""The words of `spex context`: settings and what runs them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from spex_jax import settings
from spex_jax.jobs import context, context_cite

# Arguments of `inseq attribute-context`, and what they are here.
_OF_INSEQ = {
  "model_name_or_path": "model",
  "input_context_text": "context",
  "input_current_text": "query",
  "output_current_text": "response",
  "save_path": "output",
  "context_sensitivity_metric": "config.sensitivity",
  "context_sensitivity_std_threshold": "config.at",
  "context_sensitivity_topk": "config.most",
  "attribution_method": "config.attribution",
  "attributed_fn": "config.target",
  "attribution_std_threshold": "config.cue_at",
  "attribution_topk": "config.cue_most",
  "input_template": "config.template",
  "contextless_input_current_text": "config.contextless",
  "output_context_text": "config.output_context",
}


def of_inseq(arguments: Sequence[str]) -> list[str]:
  """Arguments by our names, `--NAME VALUE` of Inseq's as `--NAME=VALUE`."""
  found, words = [], iter(arguments)
  for word in words:
    name, is_set, value = word.removeprefix("--").partition("=")
    if word.startswith("--") and name in _OF_INSEQ:
      value = value if is_set else next(words, "")
      word = f"--{_OF_INSEQ[name]}={value}"
    found.append(word)
  return found


def kind_of(
  word: str, given: Mapping[str, Any], where: str
) -> type[settings.Settings]:
  """The class of settings of a word: "" or "cite"."""
  del given, where  # They have one class each.
  return context_cite.Cite if word == "cite" else context.Context


def run(word: str, config: Any, workdir: pathlib.Path, before: float) -> None:
  """Runs a word.

  Args:
    word: "" or "cite".
    config: of its class.
    workdir: neither has one; what they write is `config.output`.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: what a job refuses.
  """
  del workdir
  job = context_cite.run if word == "cite" else context.run
  job(config, before=before)
