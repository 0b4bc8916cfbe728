"""What a Hugging Face `config.json` says, checked: nothing is ignored unsaid.

A setting changes the function that a network computes, or it does not. One of
the first kind must be read by the family, or have the one value that the
family's code stands for; the others are named as harmless. Anything else is
refused, because a silent difference is the worst way to fail.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax

# By Hugging Face's names; "gelu" is exact there, and the others are not.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "gelu": lambda x: nn.gelu(x, approximate=False),
  "gelu_new": nn.gelu,
  "gelu_pytorch_tanh": nn.gelu,
  "silu": nn.silu,
  "swish": nn.silu,
  "tanh": nn.tanh,
}

# Of every model: where it came from, how it was trained, how it is used.
_HARMLESS = frozenset(
  (
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "dtype",
    "finetuning_task",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "model_type",
    "output_past",
    "problem_type",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
  )
)


def check(
  hub: Mapping[str, Any],
  *,
  read: Iterable[str],
  fixed: Mapping[str, Any],
  harmless: Iterable[str] = (),
) -> None:
  """Refuses settings that nobody reads.

  Args:
    hub: the contents of `config.json`.
    read: settings that the family reads itself.
    fixed: settings and the one value each that the family's code stands for.
    harmless: settings that do not change the function, beside the usual ones.

  Raises:
    ValueError: an unknown setting, or a fixed one of another value, by name.
  """
  known = {*read, *fixed, *harmless, *_HARMLESS}
  wrong = [f"{name}={hub[name]!r}" for name in hub if name not in known]
  wrong += [
    f"{name}={hub[name]!r} (only {value!r} is implemented)"
    for name, value in fixed.items()
    if name in hub and hub[name] != value
  ]
  if wrong:
    raise ValueError(
      f"config.json of a {hub.get('model_type', 'network')} has settings that "
      f"are not implemented: {', '.join(sorted(wrong))}."
    )


def num_labels(hub: Mapping[str, Any]) -> int:
  """How many classes a classification head has; 2 where nothing says it.

  Raises:
    ValueError: `id2label` and `num_labels` that disagree.
  """
  labels, number = hub.get("id2label"), hub.get("num_labels")
  if labels is not None and number is not None and len(labels) != number:
    raise ValueError(
      f"config.json names {len(labels)} labels in id2label, and "
      f"num_labels={number}."
    )
  if labels is not None:
    return len(labels)
  return 2 if number is None else number
