"""Tiny checkpoints with tokenizers, for the subjects of `spex explain`."""

import json

import numpy as np

from tests import tokenizers_small
from tests.models import checkpoints

_BERT = {
  "model_type": "bert",
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 10,
  "max_position_embeddings": 24,
  "type_vocab_size": 2,
  "hidden_act": "gelu",
}
_VIT = {
  "model_type": "vit",
  "architectures": ["ViTForImageClassification"],
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 10,
  "image_size": 12,
  "patch_size": 6,
  "hidden_act": "gelu",
}
PREPARATION = {
  "image_processor_type": "ViTImageProcessor",
  "do_resize": True,
  "size": {"height": 12, "width": 12},
  "resample": 2,
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": [0.5, 0.4, 0.3],
  "image_std": [0.5, 0.25, 0.2],
}


def bert(folder, labels=("bad", "fine", "great")):
  """A text classifier, or without labels an embedding model."""
  backend = tokenizers_small.wordpiece()
  folder.mkdir(parents=True, exist_ok=True)
  names = {role + "_token": f"[{role.upper()}]" for role in ("pad", "unk")}
  names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
  tokenizers_small.save(backend, folder, names)
  own = {"architectures": ["BertModel"]}
  if labels:
    own["architectures"] = ["BertForSequenceClassification"]
    own["id2label"] = {str(i): name for i, name in enumerate(labels)}
  settings = _BERT | own | {"vocab_size": backend.get_vocab_size()}
  d, f = settings["hidden_size"], settings["intermediate_size"]
  root = "bert." if labels else ""
  shapes = {
    f"{root}embeddings.word_embeddings.weight": (settings["vocab_size"], d),
    f"{root}embeddings.position_embeddings.weight": (24, d),
    f"{root}embeddings.token_type_embeddings.weight": (2, d),
  }
  layer = f"{root}encoder.layer.0."
  linear = {
    f"{root}embeddings.LayerNorm": (d,),
    f"{layer}attention.output.dense": (d, d),
    f"{layer}attention.output.LayerNorm": (d,),
    f"{layer}intermediate.dense": (f, d),
    f"{layer}output.dense": (d, f),
    f"{layer}output.LayerNorm": (d,),
    f"{root}pooler.dense": (d, d),
  }
  linear |= {f"{layer}attention.self.{x}": (d, d) for x in _QKV}
  if labels:
    linear["classifier"] = (len(labels), d)
  return _saved(folder, settings, shapes, linear)


def gpt2(folder, **changes):
  """A causal language model whose tokens are bytes and a few words."""
  backend = tokenizers_small.byte_level()
  folder.mkdir(parents=True, exist_ok=True)
  names = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
  tokenizers_small.save(backend, folder, names)
  settings = checkpoints.GPT2 | {"n_positions": 48}
  settings |= {"vocab_size": backend.get_vocab_size()} | changes
  checkpoints.make(folder, settings)
  return folder


def vit(folder, labels=("cat", "dog", "eel"), **changes):
  """An image classifier of 12 x 12 pixels, with how it prepares images."""
  named = {str(i): name for i, name in enumerate(labels)}
  settings = _VIT | {"id2label": named}
  d, f = settings["hidden_size"], settings["intermediate_size"]
  embed, layer = "vit.embeddings.", "vit.encoder.layer.0."
  shapes = {
    f"{embed}cls_token": (1, 1, d),
    f"{embed}position_embeddings": (1, 5, d),
    f"{embed}patch_embeddings.projection.weight": (d, 3, 6, 6),
    f"{embed}patch_embeddings.projection.bias": (d,),
  }
  linear = {
    f"{layer}attention.output.dense": (d, d),
    f"{layer}layernorm_before": (d,),
    f"{layer}layernorm_after": (d,),
    f"{layer}intermediate.dense": (f, d),
    f"{layer}output.dense": (d, f),
    "vit.layernorm": (d,),
    "classifier": (len(labels), d),
  }
  linear |= {f"{layer}attention.attention.{x}": (d, d) for x in _QKV}
  _saved(folder, settings, shapes, linear)
  (folder / "preprocessor_config.json").write_text(
    json.dumps(PREPARATION | changes)
  )
  return folder


_QKV = ("query", "key", "value")


def _saved(folder, settings, shapes, linear):
  for key, shape in linear.items():
    shapes |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
  return checkpoints.save(folder, settings, checkpoints.random_tensors(shapes))


def picture(shape=(17, 23, 3), seed=0):
  """A uint8 image `[H, W, 3]`."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, shape).astype(np.uint8)


# Of prompts, for the circuits of `gpt2`.
PAIRS = [
  {
    "clean": "fun is the",
    "corrupted": "fun fun the",
    "right": " film",
    "wrong": [" is"],
  },
  {
    "clean": "the film is",
    "corrupted": "the fun is",
    "right": " fun",
    "wrong": [" the"],
  },
  {
    "clean": "fun fun is",
    "corrupted": "fun the is",
    "right": " film",
    "wrong": [" fun"],
  },
]
