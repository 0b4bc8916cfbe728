"""Arguments of Inseq's commands, and what they are called here."""

from collections.abc import Sequence

# Of `inseq attribute-context`.
CONTEXT = {
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
  "decoder_input_output_separator": "config.separator",
}
_OUTPUTS = ("output_current_text", "output_context_text")

# Of `inseq attribute`, with one text.
ATTRIBUTE = {
  "model_name_or_path": "model",
  "input_texts": "prompt",
  "generated_texts": "response",
  "save_path": "output",
  "attribution_method": "config.method",
  "attributed_fn": "config.target",
}


def of_inseq(arguments: Sequence[str], word: str = "") -> list[str]:
  """Arguments by our names, `--NAME VALUE` of Inseq's as `--NAME=VALUE`.

  Outputs by Inseq's names have its separator before them, a space.

  Args:
    arguments: of the command.
    word: of `usage.CONTEXTS`.
  """
  known = ATTRIBUTE if word == "attribute" else CONTEXT
  found, words, separator = [], iter(arguments), ""
  for word in words:
    name, is_set, value = word.removeprefix("--").partition("=")
    if word.startswith("--") and name in known:
      value = value if is_set else next(words, "")
      word = f"--{known[name]}={value}"
      if known is CONTEXT and name in _OUTPUTS:
        separator = f"--{CONTEXT['decoder_input_output_separator']}= "
    found.append(word)
  # In front: what is said later counts.
  return [separator, *found] if separator else found
