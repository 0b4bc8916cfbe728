"""Strict reading of a checkpoint's JSON: nothing that matters is ignored.

A family takes the settings that it implements, refuses by name the values of
settings that it does not, and at the end every setting that nobody asked for
and that is not known to be harmless.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from spex_jax.models import blocks

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
  "cross_attention_hidden_size encoder_stride output_past tie_weights_ "
  "_num_labels n_special predict_special_tokens is_llama_config "
  "transformers.js_config directionality pooler_fc_size "
  "pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head "
  "pooler_type _model_name_or_path bad_words_ids suppress_tokens "
  "begin_suppress_tokens typical_p num_beam_groups diversity_penalty "
  "encoder_no_repeat_ngram_size remove_invalid_values output_scores "
  "return_dict_in_generate exponential_decay_length_penalty tf_legacy_loss "
  "_attn_implementation_autoset _attn_implementation_internal "
  "attn_implementation_internal unsloth_version unsloth_fixed model_max_length "
  "max_new_tokens min_new_tokens is_composition use_flash_attn xla_device"
)

# Refused for every family unless empty.
_REFUSED = (
  "quantization_config",
  "pruned_heads",
  "add_cross_attention",
  "adapters",
  "use_mrope",
  "rope_interleaved",
  "qk_layernorm",
)
_MISSING = object()
# No size that anyone means is larger; a larger one only fills the memory.
_MOST = 10**8
_MOST_BLOCKS = 1000


class UnknownSettings(ValueError):
  """Settings that nobody asked for; `names` holds them."""

  def __init__(self, message: str, names: Iterable[str]):
    super().__init__(message)
    self.names = frozenset(names)


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
  except RecursionError:
    raise ValueError(f"{path} is nested too deeply.") from None
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

  def size(
    self, *names: str, default: Any = _MISSING, most: int = _MOST
  ) -> int:
    """A whole number from 1 to `most`, read as by `get`.

    Raises:
      ValueError: another value, named with its setting.
    """
    return self._checked(
      names,
      self.get(*names, default=default),
      lambda x: isinstance(x, int) and 1 <= x <= most,
      f"a whole number from 1 to {most:,}",
    )

  def num_blocks(self, *names: str, default: Any = _MISSING) -> int:
    """The number of blocks, read as by `size`."""
    return self.size(*names, default=default, most=_MOST_BLOCKS)

  def positive(self, *names: str, default: Any = _MISSING) -> float:
    """A finite number above 0, read as by `get`.

    Raises:
      ValueError: another value, named with its setting.
    """
    return self._checked(
      names, self.get(*names, default=default), is_positive, _POSITIVE
    )

  def flag(self, name: str, default: bool) -> bool:
    """A truth value, read as by `get`.

    Raises:
      ValueError: another value, named with its setting.
    """
    value = self.get(name, default=default)
    is_flag = lambda x: isinstance(x, bool) or x in (0, 1)
    return bool(self._checked((name,), value, is_flag, "true or false", True))

  def activation(self, *names: str, default: str) -> str:
    """A name of `blocks.ACTIVATIONS`, read as by `get`.

    Raises:
      ValueError: another value, named with its setting.
    """
    known = blocks.ACTIVATIONS
    return self._checked(
      names,
      self.get(*names, default=default),
      lambda x: isinstance(x, str) and x in known,
      f"one of {', '.join(known)}",
    )

  def sequence(self, name: str, default: Any = _MISSING) -> Any:
    """A list, or null where that is the default, read as by `get`.

    Raises:
      ValueError: another value, named with its setting.
    """
    value = self.get(name, default=default)
    is_list = lambda x: x is None or isinstance(x, list | tuple)
    return self._checked((name,), value, is_list, "a list")

  def head_width(self, width: int, heads: int) -> int:
    """The width of each of `heads` heads that share `width` evenly.

    Raises:
      ValueError: they cannot.
    """
    if width % heads:
      raise ValueError(
        f"config.json of this {self.family} gives {heads} heads a width of "
        f"{width}, which they do not divide."
      )
    return width // heads

  def _checked(self, names, value, fits, what, boolean=False):
    if (isinstance(value, bool) and not boolean) or not fits(value):
      name = next((x for x in names if x in self.settings), names[0])
      raise ValueError(
        f"config.json of this {self.family} sets {name}={value!r}; it must be "
        f"{what}."
      )
    return value

  def optional_positive(self, name: str, absent: Any) -> float | None:
    """A finite number above 0, or None where null is given.

    Raises:
      ValueError: another value, named with its setting.
    """
    value = self.given(name, absent)
    fits = lambda x: x is None or is_positive(x)
    return self._checked((name,), value, fits, _POSITIVE)

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
    fits = lambda x: x is None or isinstance(x, dict)
    self._checked(("id2label",), labels, fits, "an object")
    number = None
    if self.settings.get("num_labels") is not None:
      number = self.size("num_labels")
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
    fits = lambda x: isinstance(x, list) and all(isinstance(y, list) for y in x)
    self._checked(("bad_words_ids",), words, fits, "a list of lists")
    if any(len(tokens) != 1 for tokens in words):
      raise ValueError(
        f"config.json of this {self.family} sets bad_words_ids={words!r}; "
        "single tokens can be suppressed, phrases not."
      )
    return tuple(tokens[0] for tokens in words)

  def finish(self) -> None:
    """Refuses settings that nobody asked for.

    Raises:
      UnknownSettings: a ValueError that names them.
    """
    self._read.update(("id2label", "num_labels", "pad_token_id"))
    unread = sorted(
      name
      for name, value in self.settings.items()
      if name not in self._read and value is not None
    )
    if unread:
      raise UnknownSettings(
        f"config.json of this {self.family} has settings that are not known "
        f"here and may change its function: "
        + ", ".join(f"{name}={self.settings[name]!r}" for name in unread)
        + f". If they do not, leave them out by ignore={tuple(unread)!r}.",
        unread,
      )


_POSITIVE = "a finite number above 0"


def is_positive(value: Any) -> bool:
  """Whether a value is a finite number above 0."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and 0 < value < math.inf
