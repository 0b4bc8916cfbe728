"""LoRA adapters of `peft`, merged into the tensors of a checkpoint as read.

An adapter is a directory with `adapter_config.json` and
`adapter_model.safetensors`; a matrix W `[out, in]` of the base becomes
W + scale B A, with A `[r, in]`, B `[out, r]` and scale alpha / r (rsLoRA: alpha
over the root of r; Hu et al. 2021, arXiv 2106.09685). Embeddings, DoRA and
modules that are saved whole are refused by name.
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from spex_jax.models import files, reading

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(
  r"base_model\.model\.(?P<name>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight"
)
# Settings that change the function, and what they may be here.
_PLAIN = {
  "peft_type": "LORA", "bias": "none", "use_dora": False,
  "modules_to_save": None, "lora_bias": False, "trainable_token_indices": None,
  "megatron_config": None, "layer_replication": None,
}  # fmt: skip


class Adapter:
  """The changes of an adapter, by the matrix that they change.

  Attributes:
    base: the model that it was trained on, as it names it, or None.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads a directory.

    Raises:
      FileNotFoundError: one without the two files.
      ValueError: a kind of adapter that is not implemented, a matrix without
        its other half, or of another rank.
    """
    self._folder = folder
    told = reading.json_object(folder / CONFIG)
    for name, plain in _PLAIN.items():
      if told.get(name, plain) not in (plain, None, [], False):
        raise ValueError(
          f"{folder / CONFIG} sets {name}={told[name]!r}, which is not "
          f"implemented; only {plain!r}."
        )
    self.base = told.get("base_model_name_or_path")
    self._told, self._turned = told, bool(told.get("fan_in_fan_out"))
    self._halves: dict[str, dict[str, Callable[[], np.ndarray]]] = {}
    for key, read in files.tensors(folder / WEIGHTS):
      found = _KEY.fullmatch(key)
      if found is None:
        raise ValueError(
          f"{folder / WEIGHTS} holds {key!r}, which is no matrix A or B of "
          "LoRA: it is not implemented."
        )
      self._halves.setdefault(found["name"], {})[found["part"]] = read
    for name, both in self._halves.items():
      if both.keys() != {"A", "B"}:
        raise ValueError(
          f"{folder / WEIGHTS} has but one of A and B for {name!r}."
        )

  def merged(self, tensors: files.Tensors) -> Iterator[Any]:
    """Tensors of the base with the adapter in them, as they are read.

    Raises:
      ValueError: at the end, where the base lacks a matrix that is changed; on
        reading one, where its shape is another: the adapter is another model's.
    """
    left = {*self._halves}
    for key, read in tensors:
      name = key.removesuffix(".weight")
      # A bare model is saved without the name of its part.
      own = [one for one in left if one == name or one.endswith(f".{name}")]
      if key.endswith(".weight") and own:
        left.remove(own[0])
        yield key, self._sum(key, read, own[0])
      else:
        yield key, read
    if left:
      raise ValueError(
        f"{self._folder} changes {sorted(left)[0]!r}"
        + (f" and {len(left) - 1} more" if len(left) > 1 else "")
        + ", which this base does not have: it is the adapter of another "
        f"({self.base!r})."
      )

  def _sum(self, key, read, name) -> Callable[[], np.ndarray]:
    def both() -> np.ndarray:
      base, a, b = read(), *(self._halves[name][x]() for x in "AB")
      change = b.astype(np.float32) @ a.astype(np.float32)
      change = change.T if self._turned else change
      if change.shape != base.shape:
        raise ValueError(
          f"{self._folder} changes {key!r} by {change.shape}; the base has "
          f"{base.shape}: it is the adapter of another ({self.base!r})."
        )
      scale = self._scale(name, len(a))
      return (base.astype(np.float32) + scale * change).astype(base.dtype)

    return both

  def _scale(self, name: str, rank: int) -> float:
    told = self._told
    alpha = _of(told.get("alpha_pattern") or {}, name, told.get("lora_alpha"))
    want = _of(told.get("rank_pattern") or {}, name, told.get("r"))
    if want != rank or not reading.is_positive(alpha):
      raise ValueError(
        f"{self._folder / CONFIG} gives {name!r} r={want!r} and "
        f"lora_alpha={alpha!r}; its matrices have rank {rank}."
      )
    return alpha / (rank**0.5 if told.get("use_rslora") else rank)


def _of(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
  """What the first pattern says that a name ends with, as `peft` has it."""
  for pattern, value in patterns.items():
    if re.fullmatch(rf"(.*\.)?({pattern})", name):
      return value
  return default
