"""Strict reading of a checkpoint's JSON: nothing that matters is ignored.

A family takes the settings that it implements, refuses by name the values of
settings that it does not, and at the end every setting that nobody asked for
and that is not known to be harmless.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

# Training, generation, bookkeeping: none of these changes the forward pass.
# Dropout is off when a trained model is run.
_HARMLESS: str = (
  "_name_or_path architectures model_type transformers_version torch_dtype "
  "dtype use_cache initializer_range initializer_factor bos_token_id "
  "eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id "
  "decoder_start_token_id forced_bos_token_id forced_eos_token_id "
  "attention_dropout hidden_dropout hidden_dropout_prob "
  "attention_probs_dropout_prob classifier_dropout attn_pdrop embd_pdrop "
  "resid_pdrop summary_first_dropout embedding_dropout dropout qa_dropout "
  "seq_classif_dropout label2id problem_type finetuning_task "
  "gradient_checkpointing task_specific_params output_attentions "
  "output_hidden_states return_dict pretraining_tp torchscript use_bfloat16 "
  "chunk_size_feed_forward auto_map _attn_implementation "
  "attn_implementation _commit_hash keys_to_ignore_at_inference "
  "tokenizer_class prefix max_length min_length do_sample num_beams "
  "temperature top_k top_p repetition_penalty length_penalty "
  "no_repeat_ngram_size early_stopping num_return_sequences "
  "cache_implementation n_ctx tie_encoder_decoder "
  "cross_attention_hidden_size encoder_stride"
)

# Refused for every family unless empty.
_REFUSED = (
  "quantization_config",
  "pruned_heads",
  "add_cross_attention",
  "adapters",
)
_MISSING = object()


def json_object(
  path: pathlib.Path, *, optional: bool = False
) -> dict[str, Any]:
  """The object that a JSON file holds; {} where an optional one is missing.

  Raises:
    FileNotFoundError: no such file, unless it is optional.
    ValueError: no JSON of UTF-8, or no object.
  """
  if not path.is_file():
    if optional:
      return {}
    raise FileNotFoundError(f"{path} is missing.")
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # Of JSON, and of UTF-8.
    raise ValueError(f"{path} is not JSON: {error}.") from error
  if not isinstance(content, dict):
    raise ValueError(f"{path} must hold an object.")
  return content


class Reader:
  """The settings of one `config.json`, with account of what was read."""

  def __init__(
    self, settings: Mapping[str, Any], *, encoder_decoder: bool | None = False
  ):
    """Of an encoder-decoder, or not; None where a file may say either."""
    self.settings = settings
    self.family = settings.get("model_type", "?")
    self._read: set[str] = set(_HARMLESS.split())
    for name in _REFUSED:
      self.only(name, False)
    either = encoder_decoder is None
    allowed = (False, True) if either else (encoder_decoder,)
    self.only("is_encoder_decoder", *allowed)

  def get(self, *names: str, default: Any = _MISSING) -> Any:
    """The first of these settings that is present and not null.

    Raises:
      ValueError: none of them, and no default.
    """
    self._read.update(names)
    for name in names:
      if self.settings.get(name) is not None:
        return self.settings[name]
    if default is _MISSING:
      raise ValueError(
        f"config.json of a {self.family} must set {' or '.join(names)}."
      )
    return default

  def given(self, name: str, absent: Any) -> Any:
    """A setting for which null says something else than its absence does."""
    self._read.add(name)
    return self.settings.get(name, absent)

  def only(self, name: str, *allowed: Any) -> None:
    """Refuses a setting that is given and has none of these values.

    Raises:
      ValueError: naming the setting, its value and what is implemented.
    """
    self._read.add(name)
    value = self.settings.get(name)
    if value not in (None, {}, []) and value not in allowed:
      raise ValueError(
        f"config.json of this {self.family} sets {name}={value!r}, which is "
        f"not implemented; only {' or '.join(map(repr, allowed))}."
      )

  def ignore(self, *names: str) -> None:
    """Settings that do not change what this architecture computes."""
    self._read.update(names)

  def num_labels(self) -> int:
    """Classes of a classifier; 2 where nothing says how many.

    Raises:
      ValueError: `id2label` and `num_labels` that disagree.
    """
    labels = self.get("id2label", default=None)
    number = self.get("num_labels", default=None)
    if labels and number is not None and len(labels) != number:
      raise ValueError(
        f"config.json of a {self.family} names {len(labels)} labels in "
        f"id2label, and num_labels={number}."
      )
    return len(labels) if labels else int(2 if number is None else number)

  def suppressed(self) -> tuple[int, ...]:
    """The tokens that are never generated.

    Raises:
      ValueError: a phrase of several tokens among them.
    """
    words = self.get("bad_words_ids", default=[])
    if any(len(tokens) != 1 for tokens in words):
      raise ValueError(
        f"config.json of this {self.family} sets bad_words_ids={words!r}; "
        "single tokens can be suppressed, phrases not."
      )
    return tuple(tokens[0] for tokens in words)

  def finish(self) -> None:
    """Refuses settings that nobody asked for.

    Raises:
      ValueError: naming them.
    """
    self._read.update(("id2label", "num_labels", "pad_token_id"))
    unread = sorted(
      name
      for name, value in self.settings.items()
      if name not in self._read and value is not None
    )
    if unread:
      raise ValueError(
        f"config.json of this {self.family} has settings that are not known "
        f"here and may change its function: "
        + ", ".join(f"{name}={self.settings[name]!r}" for name in unread)
        + "."
      )
