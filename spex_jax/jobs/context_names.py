"""Arguments of Inseq's commands, and what they are called here."""

from collections.abc import Sequence

_SHORT = {
  "-m": "model_name_or_path",
  "-o": "save_path",
  "-a": "attribution_method",
  "-fn": "attributed_fn",
  "-bs": "batch_size",
}
_BOTH = {
  "model_name_or_path": "model",
  "save_path": "output",
  "attributed_fn": "config.target",
  "batch_size": "config.batch_size",
}
# Of `inseq attribute-context`.
CONTEXT = _BOTH | {
  "input_context_text": "context",
  "input_current_text": "query",
  "output_current_text": "response",
  "context_sensitivity_metric": "config.sensitivity",
  "context_sensitivity_std_threshold": "config.at",
  "context_sensitivity_topk": "config.most",
  "attribution_method": "config.attribution",
  "attribution_std_threshold": "config.cue_at",
  "attribution_topk": "config.cue_most",
  "input_template": "config.template",
  "contextless_input_current_text": "config.contextless",
  "output_context_text": "config.output_context",
  "decoder_input_output_separator": "config.separator",
}
_OUTPUTS = ("output_current_text", "output_context_text")

# Of `inseq attribute`, with one text.
ATTRIBUTE = _BOTH | {
  "input_texts": "prompt",
  "generated_texts": "response",
  "attribution_method": "config.method",
}
# Values with which they say what is done here anyway.
_MEANT = {
  "output_template": ("{current}", "{context} {current}"),
  "contextless_output_current_text": ("{current}",),
}
_CONTRASTS = "contrasts are what the run without context predicts"
# Others, and what there is in their place.
_INSTEAD = {
  "output_template": "write what stands around the outputs into --response and "
  "--config.output_context",
  "contextless_output_current_text": "the response is the same in both runs; "
  "--ids takes any ids",
  "handle_output_context_strategy": "give --config.output_context, or leave it "
  "out",
  "contextless_output_next_tokens": _CONTRASTS,
  "prompt_user_for_contextless_output_next_tokens": _CONTRASTS,
  "show_intermediate_outputs": "they are printed",
  "add_output_info": "--config.format=own has all there is",
  "viz_path": "`spex report DIR` makes the page of --output",
  "show_viz": "`spex report DIR` makes the page of --output",
  "attribution_selectors": "--config.format=own has every score",
  "attribution_aggregators": "scores of a token are joined as Inseq joins them",
  "normalize_attributions": "--config.normalise of `spex context attribute`",
  "rescale_attributions": "--config.normalise of `spex context attribute`",
  "generation_kwargs": "answers are greedy, of --config.max_new_tokens",
  "attribution_kwargs": "see --help for the settings of a method",
  "model_kwargs": "--config.dtype",
  "tokenizer_kwargs": "--config.bos",
  "device": "JAX_PLATFORMS in the environment",
}


def of_inseq(arguments: Sequence[str], word: str = "") -> list[str]:
  """Arguments by our names, `--NAME VALUE` of Inseq's as `--NAME=VALUE`.

  Outputs by Inseq's names have its separator before them, a space. Special
  tokens of a template stay here, so those that are to be kept are not passed
  on; nor is what says what is done anyway.

  Args:
    arguments: the words of the command line behind the command.
    word: what follows `spex context`, of `usage.CONTEXTS`; "" for nothing.

  Raises:
    ValueError: one of Inseq's that has no equal here, or other values; the
      message says what to use.
  """
  known = {"": CONTEXT, "attribute": ATTRIBUTE}.get(word, {})
  found, words, separator = [], list(arguments), ""
  while words:
    said = words.pop(0)
    first, is_set, value = said.partition("=")
    name = _SHORT.get(first, first.removeprefix("--"))
    if not known or not first.startswith("-"):
      found.append(said)
    elif name in known and (first in _SHORT or first.startswith("--")):
      value = _value(words, is_set, value)
      found.append(f"--{known[name]}={value}")
      if known is CONTEXT and name in _OUTPUTS:
        separator = f"--{CONTEXT['decoder_input_output_separator']}= "
    elif name == "special_tokens_to_keep":
      while words and not words[0].startswith("-"):  # A list.
        words.pop(0)
    elif name in _INSTEAD:
      given = ""
      if name in _MEANT:
        value = _value(words, is_set, value)
        _check_context(name, value, arguments)
        if value in _MEANT[name]:
          continue
        given = f"={value!r}"
      raise ValueError(
        f"--{name}{given} of Inseq's has no equal here: {_INSTEAD[name]}."
      )
    else:
      found.append(said)
  # In front: what is said later counts.
  return [separator, *found] if separator else found


def _value(words: list[str], is_set: str, value: str) -> str:
  return value if is_set else words.pop(0) if words else ""


def _check_context(name, value, arguments) -> None:
  """An output context that would be generated is not."""
  given = any("output_context" in said for said in arguments)
  if name == "output_template" and "{context}" in value and not given:
    raise ValueError(
      "--output_template has {context}: give --output_context_text, which is "
      "not generated here."
    )
