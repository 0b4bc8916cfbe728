"""Hugging Face checkpoints to networks: `load`.

A directory or hub name with `config.json` and safetensors, as `transformers`
writes them. Tensors are read one at a time from memory-mapped files, cast,
and placed on their devices. Anything that is left over, unknown or
not implemented is an error that names it.
"""

import contextlib
import dataclasses
import fnmatch
import importlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models import reading, sites, tokens, weights

# model_type to the module of its family, and the architectures of it that are
# implemented.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
  "gpt2": ("gpt2", ("GPT2LMHeadModel",)),
  "llama": ("llama", ("LlamaForCausalLM",)),
  "mistral": ("llama", ("MistralForCausalLM",)),
  "qwen2": ("llama", ("Qwen2ForCausalLM",)),
  "qwen3": ("llama", ("Qwen3ForCausalLM",)),
  "phi3": ("llama", ("Phi3ForCausalLM",)),
  "gemma2": ("llama", ("Gemma2ForCausalLM",)),
  "gpt_neox": ("gpt_neox", ("GPTNeoXForCausalLM",)),
  "bert": ("bert", ("BertForSequenceClassification", "BertModel")),
  "roberta": ("bert", ("RobertaForSequenceClassification", "RobertaModel")),
  "distilbert": (
    "bert",
    ("DistilBertForSequenceClassification", "DistilBertModel"),
  ),
  "vit": ("vit", ("ViTForImageClassification",)),
  "resnet": ("resnet", ("ResNetForImageClassification", "ResNetModel")),
  "t5": ("t5", ("T5ForConditionalGeneration", "T5EncoderModel")),
  "marian": ("marian", ("MarianMTModel",)),
}

# What of an encoder-decoder's `generation_config.json` is followed; it comes
# before `config.json`.
_GENERATION = ("decoder_start_token_id", "bad_words_ids")

# Which axis of a parameter is split over the mesh axis "model": heads or
# neurons, where they enter and where they leave. All else is replicated.
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
)

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_FILES = (
  "*.json",
  "1_Pooling/config.json",
  "*.safetensors",
  "tokenizer.model",
  "*.txt",
)

_Tensors = Iterator[tuple[str, Callable[[], np.ndarray]]]


def load(
  path: str | pathlib.Path,
  dtype: Any = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
) -> sites.Network:
  """A network with the parameters of a checkpoint.

  Args:
    path: a directory, or a name on the Hugging Face hub (needs
      `huggingface_hub`).
    dtype: floating; of the parameters, and so of the computation.
    mesh: where parameters are placed: split along `PARTITIONS` if the mesh
      has an axis "model" whose size divides them, else replicated. The
      default device without one.

  Returns:
    The network, with `params`, `config`, and `tokenizer` where there is one.

  Raises:
    FileNotFoundError: no such directory, or a file of it that is missing.
    ImportError: a hub name, or a tokenizer, without the library for it.
    ValueError: a family, architecture or setting that is not implemented; a
      pickle instead of safetensors; a file that is truncated; tensors
      missing, left over or of the wrong shape; a dtype that is not floating.
  """
  dtype = _check_dtype(dtype)
  folder = local(path)
  settings = reading.json_object(folder / "config.json")
  if settings.get("is_encoder_decoder"):
    told = reading.json_object(folder / "generation_config.json", optional=True)
    settings |= {name: told[name] for name in _GENERATION if name in told}
  family = _family(settings, folder)
  config = family.config_from_hub(settings)
  _check_pooling(folder)
  network = family.network(config)
  shapes = parameter_shapes(network)

  def place(name: str, array: np.ndarray) -> jax.Array:
    array = np.ascontiguousarray(array.astype(dtype))
    if mesh is None:
      return jnp.asarray(array)
    spec = partition(name, array.shape, mesh)
    return jax.device_put(array, jax.NamedSharding(mesh, spec))

  with _tensors(folder) as tensors:
    try:
      flat = weights.assign(
        family.rules(config), tensors, shapes, config, place
      )
    except ValueError as error:
      raise ValueError(f"{folder}: {error}") from None
  return dataclasses.replace(
    network, params=_nest(flat), tokenizer=tokens.load(folder)
  )


def local(path: str | pathlib.Path) -> pathlib.Path:
  """The directory of a checkpoint; a hub name is fetched first.

  Raises:
    FileNotFoundError: neither a directory nor a hub name.
    ImportError: a hub name, without `huggingface_hub`.
  """
  folder = pathlib.Path(path).expanduser()
  if folder.is_dir():
    return folder
  name = str(path)
  if isinstance(path, pathlib.Path) or name.count("/") != 1 or name[0] in "./~":
    raise FileNotFoundError(
      f"{name!r} is neither a directory nor a hub name like 'owner/model'."
    )
  try:
    import huggingface_hub
  except ImportError:
    raise ImportError(
      f"{name!r} is no directory here. To fetch it from the Hugging Face hub, "
      "install huggingface_hub (pip install huggingface_hub)."
    ) from None
  return pathlib.Path(
    huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES))
  )


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
  if kind not in FAMILIES:
    raise ValueError(
      f"{folder}: models of type {kind!r} are not supported; supported are "
      f"{', '.join(sorted(FAMILIES))}."
    )
  module, known = FAMILIES[kind]
  named = settings.get("architectures") or [known[0]]
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


@contextlib.contextmanager
def _tensors(folder: pathlib.Path) -> Iterator[_Tensors]:
  """Every tensor of a checkpoint: its key, and a function that reads it."""
  files = _files(folder)
  with contextlib.ExitStack() as stack:
    opened = {path: _open(path, stack) for path in files}
    _check_index(opened, files)

    def each() -> _Tensors:
      for path, file in opened.items():
        for key in sorted(file.keys()):
          yield key, lambda key=key, path=path: _read(opened[path], key, path)

    yield each()


def _files(folder: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """The safetensors files, each with the keys that an index promises."""
  if (folder / _INDEX).is_file():
    promised: dict[pathlib.Path, set[str] | None] = {}
    index = reading.json_object(folder / _INDEX)
    for key, name in index.get("weight_map", {}).items():
      keys = promised.setdefault(folder / name, set())
      if keys is not None:
        keys.add(key)
    if not promised:
      raise ValueError(f"{folder / _INDEX} lists no tensors.")
    missing = [path.name for path in promised if not path.is_file()]
    if missing:
      raise FileNotFoundError(
        f"{folder / _INDEX} names files that are missing: "
        f"{', '.join(sorted(missing))}."
      )
    return promised
  if (folder / _SINGLE).is_file():
    return {folder / _SINGLE: None}
  other = [path.name for kind in _PICKLES for path in folder.glob(kind)]
  if other:
    raise ValueError(
      f"{folder} holds {', '.join(sorted(other))} but no {_SINGLE}. Pickles "
      "can run code when they are read and are refused; save the model with "
      "safetensors."
    )
  raise FileNotFoundError(f"{folder} holds no {_SINGLE} and no {_INDEX}.")


def _open(path: pathlib.Path, stack: contextlib.ExitStack) -> Any:
  import safetensors

  try:
    return stack.enter_context(safetensors.safe_open(str(path), "np"))
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is truncated, damaged or no safetensors file: {error}."
    ) from None


def _check_index(opened: Mapping[pathlib.Path, Any], files: Mapping) -> None:
  faults = []
  for path, keys in files.items():
    if keys is not None:
      held = set(opened[path].keys())
      for key in sorted(keys ^ held):
        where = "not listed by" if key in held else "missing, listed by"
        faults.append(f"{path.name}: {key!r} is {where} {_INDEX}")
  if faults:
    raise ValueError("The shards do not fit their index: " + "; ".join(faults))


def _read(file: Any, key: str, path: pathlib.Path) -> np.ndarray:
  kind = file.get_slice(key).get_dtype()
  if kind not in ("F64", "F32", "F16", "BF16"):
    raise ValueError(
      f"{path.name}: the tensor {key!r} is stored as {kind}; only floating "
      "tensors of 16 bits and more can be read."
    )
  return file.get_tensor(key)


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree
