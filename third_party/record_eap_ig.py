"""Records what EAP-IG computes on small random networks, as numbers alone.

  python third_party/record_eap_ig.py CHECKOUT OUT.npz

CHECKOUT is the repository hannamw/EAP-IG at commit 795f560, and Python one with
PyTorch and transformer-lens 2.16.1. The tests of `spex_jax.circuits` draw the
same weights from the same seeds and compare.

Of the peer's code copies are changed in four places: it runs on the CPU, takes
token ids for texts, keeps scores in float64, and in EAP-IG-activations the
interpolated activation needs a gradient, without which block 0 misses a part of
its scores in networks with rotary positions. Every pair runs alone, and so does
every edge that is removed, from a fresh graph. The metric is the logit of a
right answer less that of a wrong one, of which the scores here are changes:
negative where corrupting an edge lowers it.

Shapes: N pairs, P positions, W writers, S rows of readers, C circuits.
"""

import importlib
import importlib.machinery
import pathlib
import sys
import tempfile
import types
import zlib
from typing import Any

import numpy as np

SEED = 0
# What transformer-lens and the peer import and nothing here needs.
_UNUSED = (
  "wandb", "transformers_stream_generator", "datasets",
  "datasets.arrow_dataset", "datasets.load", "matplotlib", "matplotlib.cm",
)  # fmt: skip
STEPS = 3
CIRCUITS = 12
_SHARED = {
  "n_layers": 2, "d_model": 12, "n_ctx": 8, "d_head": 4, "d_mlp": 10,
  "d_vocab": 17, "dtype": "float64", "init_weights": False,
}  # fmt: skip
NETWORKS = {
  "gpt2": _SHARED | {
    "n_heads": 3, "act_fn": "gelu_new", "normalization_type": "LN",
    "positional_embedding_type": "standard", "eps": 1e-5,
  },
  "gpt_neox": _SHARED | {
    "n_heads": 3, "act_fn": "gelu_new", "normalization_type": "LN",
    "positional_embedding_type": "rotary", "rotary_dim": 2, "eps": 1e-5,
    "rotary_base": 100, "parallel_attn_mlp": True,
  },
  "llama": _SHARED | {
    "n_heads": 4, "n_key_value_heads": 2, "act_fn": "silu",
    "normalization_type": "RMS", "positional_embedding_type": "rotary",
    "rotary_dim": 4, "rotary_base": 100, "gated_mlp": True, "eps": 1e-5,
    "final_rms": True, "ungroup_grouped_query_attention": True,
  },
}  # fmt: skip


def pairs(seed: int) -> dict[str, np.ndarray]:
  """Two pairs of five tokens with one right and one wrong answer each."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.integers(0, _SHARED["d_vocab"], shape)
  clean = draw(2, 5)
  corrupted = (clean + rng.integers(1, 17, clean.shape)) % 17
  right = draw(2, 1)
  return {
    "clean": clean,
    "corrupted": corrupted,
    "right": right,
    "wrong": (right + 1 + draw(2, 1) % 16) % 17,
  }


def weights(shapes: dict[str, tuple[int, ...]], seed: int):
  """Float64 weights by TransformerLens's names, each of its own seed.

  Biases of the output and of gated MLPs are zero: theirs have no counterpart.
  """
  found, gated = {}, any(name.endswith("W_gate") for name in shapes)
  for name, shape in shapes.items():
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    start = float(name.endswith(".w"))  # Of a norm.
    found[name] = start + 0.3 * rng.normal(size=shape)
    if name.endswith("b_U") or (gated and ".mlp.b_" in name):
      found[name] = np.zeros(shape)
  return found


def circuits(num_writers: int, num_rows: int, seed: int) -> np.ndarray:
  """Random circuits: bool `[C, W, S]`, of edges that there are and others."""
  rng = np.random.default_rng(seed)
  share = rng.uniform(0.3, 0.9, (CIRCUITS, 1, 1))
  return rng.random((CIRCUITS, num_writers, num_rows)) < share


class _Stub(types.ModuleType):
  """A module in which every name is a class."""

  def __init__(self, name):
    super().__init__(name)
    self.__path__ = []
    self.__spec__ = importlib.machinery.ModuleSpec(name, None)

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return type(name, (), {})


def stub() -> None:
  """Puts empty modules in the place of what is imported and not needed."""
  for name in _UNUSED:
    sys.modules[name] = _Stub(name)


def main(checkout: str, out: str) -> None:
  """Writes the numbers of all networks to `out`."""
  stub()
  import torch

  torch.set_default_dtype(torch.float64)
  torch.set_num_threads(1)
  with tempfile.TemporaryDirectory() as folder:
    copy(pathlib.Path(checkout) / "src" / "eap", pathlib.Path(folder) / "eap")
    sys.path.insert(0, folder)
    attribute, evaluate, graph_lib = (
      importlib.import_module(f"eap.{name}")
      for name in ("attribute", "evaluate", "graph")
    )
    found: dict[str, Any] = {}
    for name, settings in NETWORKS.items():
      values = _record(torch, attribute, evaluate, graph_lib, settings)
      for key, value in values.items():
        found[f"{name}_{key}"] = value
  np.savez_compressed(out, **found)


def copy(source, target):
  """A checkout's package, changed as the head of this file says."""
  target.mkdir()
  for path in source.glob("*.py"):
    text = path.read_text().replace("'cuda'", "'cpu'")
    line = "new_output = alpha * clean + (1 - alpha) * corrupted\n"
    text = text.replace(
      line, line + " " * 16 + "new_output.requires_grad_(True)\n"
    )
    (target / path.name).write_text(text)


def built(torch, settings):
  """A model of TransformerLens with our weights, and these."""
  from transformer_lens import HookedTransformer, HookedTransformerConfig

  config = HookedTransformerConfig(
    **(settings | {"dtype": torch.float64}), device="cpu", seed=0
  )
  config.use_attn_result = True
  config.use_split_qkv_input = True
  config.use_hook_mlp_in = True
  model = HookedTransformer(config)
  held = model.state_dict()
  names = {
    name: tuple(x.shape)
    for name, x in held.items()
    if not name.endswith(("mask", "IGNORE", "rotary_sin", "rotary_cos"))
  }
  drawn = weights(names, SEED)
  for name in drawn:
    held[name] = torch.tensor(drawn[name])
  model.load_state_dict(held)
  return model, drawn


def _record(torch, attribute, evaluate, graph_lib, settings):
  """Of one network: scores `[N, W, S]` by method, and values of circuits."""
  model, drawn = built(torch, settings)
  data = pairs(SEED)

  def tokenize(model, rows, max_length=None):
    ids = torch.tensor(np.asarray(rows))
    lengths = torch.full((len(ids),), ids.shape[1])
    return ids, torch.ones_like(ids), lengths, ids.shape[1]

  attribute.tokenize_plus = evaluate.tokenize_plus = tokenize

  def metric(logits, clean_logits, lengths, labels):
    right, wrong = labels
    return (logits[:, -1, right] - logits[:, -1, wrong]).sum()

  def fresh():
    graph = graph_lib.Graph.from_model(model)
    graph.scores = graph.scores.double()
    return graph

  total = sum(float(x.sum()) for x in drawn.values())
  found = {"fingerprint": np.array(total)}
  rows = {
    "eap": [], "eap_ig": [], "clean_corrupted": [], "ig_activations": [],
    "exact": [], "circuits": [],
  }  # fmt: skip
  methods = {
    "eap": ("EAP", None), "eap_ig": ("EAP-IG-inputs", STEPS),
    "clean_corrupted": ("clean-corrupted", None),
    "ig_activations": ("EAP-IG-activations", STEPS),
  }  # fmt: skip
  for i in range(2):
    label = (int(data["right"][i, 0]), int(data["wrong"][i, 0]))
    loader = [(data["clean"][i : i + 1], data["corrupted"][i : i + 1], label)]
    for key, (method, steps) in methods.items():
      graph = fresh()
      attribute.attribute(
        model, graph, loader, metric, method, ig_steps=steps, quiet=True
      )
      rows[key].append(graph.scores.numpy().copy())

    def value(change, loader=loader):
      graph = fresh()
      graph.in_graph |= graph.real_edge_mask
      graph.nodes_in_graph[:] = True
      change(graph)
      out = evaluate.evaluate_graph(model, graph, loader, metric, quiet=True)
      return float(out.sum())

    whole = value(lambda graph: None)
    real = fresh().real_edge_mask.numpy()
    effect = np.zeros(real.shape)
    for writer, row in np.argwhere(real):

      def remove(graph, writer=writer, row=row):
        graph.in_graph[writer, row] = False

      effect[writer, row] = value(remove) - whole
    rows["exact"].append(effect)
    values = []
    for kept in circuits(len(real), real.shape[1], SEED):

      def keep(graph, kept=kept):
        graph.in_graph &= torch.tensor(kept)

      values.append(value(keep))
    rows["circuits"].append(np.array(values))
  return found | {key: np.stack(value) for key, value in rows.items()}


if __name__ == "__main__":
  main(*sys.argv[1:])
