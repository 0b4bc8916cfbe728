"""Small random networks in float64, and pairs of prompts, for these tests.

Those that the peer was recorded on are drawn as `third_party.record_eap_ig`
draws them; in `llama` heads share keys and values, and `gemma2` has norms
behind what is added.

Call within `jax.enable_x64`.
"""

import functools

import jax
import numpy as np

from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import rope, transformer
from tests.models import checkpoints
from third_party import record_eap_ig

_SHARED = dict(
  width=12, num_blocks=2, num_heads=3, num_kv_heads=3, head_width=4,
  num_neurons=10, vocab_size=17, max_positions=8, tied=False, score_scale=0.5,
)  # fmt: skip
_LLAMA = _SHARED | dict(
  num_heads=4, num_kv_heads=2, norm="rms", activation="silu", gated=True,
  mlp_bias=False, rotary=rope.Rope(100.0, 4),
)  # fmt: skip
CONFIGS = {
  "gpt2": _SHARED | dict(activation="gelu_new"),
  "gpt_neox": _SHARED | dict(
    activation="gelu_new", order="parallel", rotary=rope.Rope(100.0, 2)
  ),
  "llama": _LLAMA,
  "gemma2": _LLAMA | dict(
    qkv_bias=False, out_bias=False, norm="rms_one", order="sandwich",
    embed_scale=1.5, activation="gelu_pytorch_tanh", score_cap=5.0,
    logit_cap=3.0, tied=True, windows=(3, None),
  ),
}  # fmt: skip


@functools.cache
def load(name):
  """A network and its parameters."""
  net = transformer.network(transformer.Config(**CONFIGS[name]))
  if name in record_eap_ig.NETWORKS:
    return net, recorded_params(net)
  # Tamer, so that paths are smooth.
  tame = lambda x: np.asarray(x, np.float64) * (0.5 if x.ndim > 1 else 1)
  return net, jax.tree.map(tame, checkpoints.random_params(net))


def recorded_params(net):
  """Parameters as the peer has them, by the names of TransformerLens."""
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  names, grouped = {}, net.config.num_kv_heads < net.config.num_heads

  def visit(path, leaf):
    name = _theirs(path, grouped)
    names[name] = tuple(leaf.shape[i] for i in _axes(path, leaf))

  jax.tree_util.tree_map_with_path(visit, shapes)
  drawn = record_eap_ig.weights(names, record_eap_ig.SEED)

  def take(path, leaf):
    axes = _axes(path, leaf)
    return drawn[_theirs(path, grouped)].transpose(np.argsort(axes))

  return jax.tree_util.tree_map_with_path(take, shapes)


def pairs():
  """Two pairs of five tokens."""
  drawn = record_eap_ig.pairs(record_eap_ig.SEED)
  return pairs_lib.Pairs(
    drawn["clean"], drawn["corrupted"], np.array([5, 5]), drawn["right"],
    drawn["wrong"],
  )  # fmt: skip


_NAMES = {
  "tokens/table": "embed.W_E", "positions/table": "pos_embed.W_pos",
  "head/kernel": "unembed.W_U",
}  # fmt: skip
_INNER = {
  "norm1": "ln1", "norm2": "ln2", "attn": "attn", "mlp": "mlp",
  "final_norm": "ln_final", "scale": "w", "bias": "b",
}  # fmt: skip
_PARTS = {
  "q": "Q", "k": "K", "v": "V", "out": "O", "up": "in", "down": "out",
  "gate": "gate",
}  # fmt: skip


def _theirs(path, grouped):
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  if name in _NAMES:
    return _NAMES[name]
  parts = name.split("/")
  lead = ""
  if parts[0].startswith("blocks_"):
    lead = f"blocks.{parts[0][7:]}."
    parts = parts[1:]
  if len(parts) == 2:  # A norm.
    return f"{lead}{_INNER[parts[0]]}.{_INNER[parts[1]]}"
  kind = "W" if parts[2] == "kernel" else "b"
  shared = "_" if grouped and parts[1] in "kv" else ""
  return f"{lead}{parts[0]}.{shared}{kind}_{_PARTS[parts[1]]}"


def _axes(path, leaf):
  """Of ours in the order of theirs: heads first."""
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  if leaf.ndim == 3 and "/out/" not in name:
    return (1, 0, 2)
  return tuple(range(leaf.ndim))
