"""Hugging Face checkpoints to networks: `load`.

A directory or hub name with `config.json` and safetensors, as `transformers`
writes them. Tensors are read one at a time, cast, and placed on their devices
(`files`). Anything that is left over, unknown or not implemented is an error
that names it.
"""

import dataclasses
import fnmatch
import importlib
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models import files, lora, reading, sites, tokens, weights

# model_type to the module of its family, and the architectures of it that are
# implemented. A causal model that is saved bare, without its head, can be read
# where the head is the embedding table.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
  "gpt2": ("gpt2", ("GPT2LMHeadModel", "GPT2Model")),
  "llama": ("llama", ("LlamaForCausalLM", "LlamaModel")),
  "mistral": ("llama", ("MistralForCausalLM", "MistralModel")),
  "qwen2": ("llama", ("Qwen2ForCausalLM", "Qwen2Model")),
  "qwen3": ("llama", ("Qwen3ForCausalLM", "Qwen3Model")),
  "phi3": ("llama", ("Phi3ForCausalLM", "Phi3Model")),
  "gemma2": ("llama", ("Gemma2ForCausalLM", "Gemma2Model")),
  "gemma3_text": ("llama", ("Gemma3ForCausalLM", "Gemma3TextModel")),
  "olmo2": ("llama", ("Olmo2ForCausalLM", "Olmo2Model")),
  "mixtral": ("llama", ("MixtralForCausalLM", "MixtralModel")),
  "qwen3_moe": ("llama", ("Qwen3MoeForCausalLM", "Qwen3MoeModel")),
  "gpt_neo": ("gpt_neo", ("GPTNeoForCausalLM", "GPTNeoModel")),
  "gpt_neox": ("gpt_neox", ("GPTNeoXForCausalLM", "GPTNeoXModel")),
  "bert": (
    "bert",
    ("BertForSequenceClassification", "BertForMaskedLM", "BertModel"),
  ),
  "roberta": (
    "bert",
    ("RobertaForSequenceClassification", "RobertaForMaskedLM", "RobertaModel"),
  ),
  "distilbert": (
    "bert",
    (
      "DistilBertForSequenceClassification",
      "DistilBertForMaskedLM",
      "DistilBertModel",
    ),
  ),
  "modernbert": (
    "modernbert",
    (
      "ModernBertForSequenceClassification",
      "ModernBertForMaskedLM",
      "ModernBertModel",
    ),
  ),
  "dinov2": ("dinov2", ("Dinov2ForImageClassification", "Dinov2Model")),
  "vit": ("vit", ("ViTForImageClassification", "ViTModel")),
  "resnet": ("resnet", ("ResNetForImageClassification", "ResNetModel")),
  "t5": ("t5", ("T5ForConditionalGeneration", "T5EncoderModel")),
  "marian": ("marian", ("MarianMTModel",)),
}

# What of an encoder-decoder's `generation_config.json` is followed; it comes
# before `config.json`.
_GENERATION = ("decoder_start_token_id", "bad_words_ids")

# Which axis of a parameter is split over the mesh axis "model": heads, neurons
# or experts, where they enter and where they leave. All else is replicated.
_MODEL_AXIS = "model"
PARTITIONS: tuple[tuple[str, int], ...] = (
  ("*/attn/[qkv]/kernel", 1),
  ("*/attn/[qkv]/bias", 0),
  ("*/attn/out/kernel", 0),
  ("*/cross/[qkv]/kernel", 1),
  ("*/cross/[qkv]/bias", 0),
  ("*/cross/out/kernel", 0),
  ("*/mlp/up/kernel", 1),
  ("*/mlp/gate/kernel", 1),
  ("*/mlp/up/bias", 0),
  ("*/mlp/gate/bias", 0),
  ("*/mlp/down/kernel", 0),
  ("*/mlp/experts_*/kernel", 0),
)

_FILES = (
  "*.json",
  "1_Pooling/config.json",
  "*.safetensors",
  "tokenizer.model",
  "*.txt",
)

_HUB_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")


def load(
  path: str | pathlib.Path,
  dtype: Any = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
  *,
  ignore: Sequence[str] = (),
  adapter: str | pathlib.Path | None = None,
) -> sites.Network:
  """A network with the parameters of a checkpoint.

  Args:
    path: a directory, or a name on the Hugging Face hub (needs
      `huggingface_hub`). One that holds a LoRA adapter alone stands for the
      base that it names, with the adapter merged.
    dtype: floating; of the parameters, and so of the computation.
    mesh: where parameters are placed: split along `PARTITIONS` if the mesh
      has an axis "model" whose size divides them, else replicated. The
      default device without one.
    ignore: settings of `config.json` that are not known here and do not change
      the function; they are left out.
    adapter: a LoRA adapter, by directory or name, merged into the base.

  Returns:
    The network, with `params`, `config`, and `tokenizer` where there is one.

  Raises:
    FileNotFoundError: no such directory, or a file of it that is missing.
    ImportError: a hub name, or a tokenizer, without the library for it.
    ValueError: a family, architecture or setting that is not implemented, or
      two settings that disagree; a pickle instead of safetensors, or two sets
      of weights; a file that is truncated; tensors missing, left over, of the
      wrong shape, not finite, beyond the range of `dtype`, or said to be
      copies of another and none; a dtype that is not floating.
  """
  dtype = _check_dtype(dtype)
  folder = local(path)
  if adapter is None and _is_adapter(folder):
    path, adapter = lora.Adapter(folder).base or "", folder
    folder = local(path)
  merge = lambda tensors: tensors
  if adapter is not None:
    merge = lora.Adapter(local(adapter)).merged
  settings = reading.json_object(folder / "config.json")
  if settings.get("is_encoder_decoder"):
    told = reading.json_object(folder / "generation_config.json", optional=True)
    settings |= {name: told[name] for name in _GENERATION if name in told}
  family = _family(settings, folder)
  config = _config(family, settings, folder, ignore)
  _check_pooling(folder)
  held = files.Files(folder)
  if hasattr(family, "fit"):
    config = family.fit(config, settings, held.keys)
  network = family.network(config)
  shapes = parameter_shapes(network)

  def place(name: str, array: np.ndarray) -> jax.Array:
    array = np.ascontiguousarray(_cast(array, dtype))
    if mesh is None:
      placed = jnp.asarray(array)
    else:
      spec = partition(name, array.shape, mesh)
      placed = jax.device_put(array, jax.NamedSharding(mesh, spec))
    # Else the host's copies pile up behind the transfers.
    return jax.block_until_ready(placed)

  try:
    flat = weights.assign(
      family.rules(config), merge(held.tensors()), shapes, config, place
    )
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from None
  return dataclasses.replace(
    network, params=_nest(flat), tokenizer=tokens.load(folder)
  )


def _is_adapter(folder: pathlib.Path) -> bool:
  held = (folder / name for name in (lora.CONFIG, "config.json"))
  return [path.is_file() for path in held] == [True, False]


def _config(
  family: Any,
  settings: dict[str, Any],
  folder: pathlib.Path,
  ignore: Sequence[str],
) -> Any:
  """The configuration, without settings that are to be ignored."""
  if isinstance(ignore, str):
    raise ValueError(f"ignore takes names; write ({ignore!r},).")
  path = folder / "config.json"
  try:
    try:
      return family.config_from_hub(settings)
    except reading.UnknownSettings as error:
      if not error.names <= set(ignore):
        raise
      known = {k: v for k, v in settings.items() if k not in error.names}
      return family.config_from_hub(known)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  except (
    ArithmeticError, AttributeError, IndexError, KeyError, TypeError,
  ) as error:  # fmt: skip
    # Of a value in a form that no reader foresaw.
    raise ValueError(
      f"{path} has a setting of a form that no {settings['model_type']} has: "
      f"{error!r}."
    ) from error


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """The same numbers, as far as `dtype` can tell them apart.

  Raises:
    weights.Unfit: numbers that are not finite, or that it cannot hold.
  """
  low, high = float(array.min()), float(array.max())
  if not math.isfinite(low) or not math.isfinite(high):
    raise weights.Unfit("holds NaN or infinity")
  most = float(jnp.finfo(dtype).max)
  if max(-low, high) > most:
    raise weights.Unfit(
      f"holds {low if -low > high else high:.6g}, beyond the range of {dtype} "
      f"(up to {most:.6g}): choose bfloat16 or float32"
    )
  return array.astype(dtype, copy=False)


def local(path: str | pathlib.Path) -> pathlib.Path:
  """The directory of a checkpoint; a hub name is fetched first.

  Raises:
    FileNotFoundError: neither a directory nor a hub name, or one that the hub
      does not give.
    ImportError: a hub name, without `huggingface_hub`.
  """
  folder = pathlib.Path(path).expanduser()
  if folder.is_dir():
    return folder
  name = str(path)
  if isinstance(path, pathlib.Path) or not _HUB_NAME.fullmatch(name):
    raise FileNotFoundError(
      f"{name!r} is neither a directory nor a hub name like 'owner/model' or "
      "'gpt2'."
    )
  try:
    import huggingface_hub
  except ImportError:
    raise ImportError(
      f"{name!r} is no directory here. To fetch it from the Hugging Face hub, "
      "install huggingface_hub (pip install huggingface_hub)."
    ) from None
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES))
    )
  except Exception as error:  # Of its own, of its HTTP client, of the system.
    raise FileNotFoundError(
      f"{name!r} is no directory here, and the Hugging Face hub did not give "
      f"it: {type(error).__name__}: {error}"
    ) from error


def class_names(path: str | pathlib.Path, num_labels: int) -> tuple[str, ...]:
  """What a checkpoint calls its classes; their numbers where it does not.

  Raises:
    FileNotFoundError: no such directory, or no `config.json` in it.
    ValueError: names that are not distinct, or not `num_labels`; labels that
      do not exclude each other, so that none is "the" class.
  """
  settings = reading.json_object(local(path) / "config.json")
  kind = settings.get("problem_type")
  if kind == "multi_label_classification":
    raise ValueError(
      f"{path}: its labels do not exclude each other (problem_type={kind!r}). "
      "Read one of them from Python, by readouts.logit(label)."
    )
  named = settings.get("id2label")
  if named is None:
    return tuple(str(number) for number in range(num_labels))
  if not isinstance(named, dict) or not all(map(str.isdecimal, named)):
    raise ValueError(f"{path}: id2label={named!r} is no object of numbers.")
  numbers = sorted(int(number) for number in named)
  names = tuple(str(named[str(number)]) for number in numbers)
  if numbers != list(range(num_labels)) or len(set(names)) != len(names):
    raise ValueError(
      f"config.json names the classes {named}; need {num_labels} different "
      f"names for 0..{num_labels - 1}."
    )
  return names


def parameter_shapes(network: sites.Network) -> dict[str, tuple[int, ...]]:
  """Path, joined by "/", to the shape of every parameter."""
  tree = jax.eval_shape(network.init, jax.random.key(0))
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    "/".join(str(part.key) for part in path): leaf.shape
    for path, leaf in leaves
  }


def partition(
  name: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh
) -> jax.sharding.PartitionSpec:
  """How the parameter at path `name` is split over a mesh."""
  for pattern, axis in PARTITIONS:
    if _MODEL_AXIS in mesh.shape and fnmatch.fnmatch(name, pattern):
      if shape[axis] % mesh.shape[_MODEL_AXIS]:
        break  # Such as fewer key-value heads than devices.
      return jax.P(*[None] * axis, _MODEL_AXIS)
  return jax.P()


def _check_dtype(dtype: Any) -> np.dtype:
  try:
    dtype = jnp.dtype(dtype)
  except TypeError:
    raise ValueError(
      f"dtype={dtype!r} is none; give float32, bfloat16 or float16."
    ) from None
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"dtype must be floating; got {dtype}.")
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise ValueError(f"dtype {dtype} needs the JAX setting jax_enable_x64.")
  return dtype


def _family(settings: Mapping[str, Any], folder: pathlib.Path) -> Any:
  kind = settings.get("model_type")
  if not isinstance(kind, str) or kind not in FAMILIES:
    raise ValueError(
      f"{folder}: models of type {kind!r} are not supported; supported are "
      f"{', '.join(sorted(FAMILIES))}."
    )
  module, known = FAMILIES[kind]
  named = settings.get("architectures") or [known[0]]
  if not isinstance(named, list):
    raise ValueError(
      f"{folder / 'config.json'} sets architectures={named!r}; it must be a "
      "list of one name."
    )
  if len(named) != 1 or named[0] not in known:
    raise ValueError(
      f"{folder}: the architecture {' and '.join(map(str, named))} is not "
      f"supported; of type {kind!r} there is {', '.join(known)}."
    )
  return importlib.import_module(f"spex_jax.models.{module}")


def _check_pooling(folder: pathlib.Path) -> None:
  """Refuses an embedding model of sentence-transformers that is no mean.

  It is one of the modules that follow the network; others, such as a dense
  layer, would change the embedding.
  """
  modules = folder / "modules.json"
  if modules.is_file():
    try:
      found = json.loads(modules.read_text())
      kinds = [str(module["type"]).rpartition(".")[2] for module in found]
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(
        f"{modules} is no list of modules of sentence-transformers: {error!r}."
      ) from None
    other = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if other:
      raise ValueError(
        f"{modules} names {', '.join(other)}; only Transformer, Pooling and "
        "Normalize are implemented."
      )
  path = folder / "1_Pooling" / "config.json"
  if path.is_file():
    modes = {
      name: value
      for name, value in reading.json_object(path).items()
      if name.startswith("pooling_mode") and value
    }
    if modes not in (
      {"pooling_mode_mean_tokens": True},
      {"pooling_mode": "mean"},
    ):
      raise ValueError(
        f"{path} asks for {modes}; only the mean over tokens is implemented."
      )


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree
