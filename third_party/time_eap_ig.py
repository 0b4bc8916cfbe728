"""Times EAP-IG on a random network of GPT-2's kind; prints one JSON line.

  python third_party/time_eap_ig.py CHECKOUT '{"task": "eap-ig", ...}'

CHECKOUT and Python are those of `record_eap_ig.py`, from which the changes of
the copy are (the CPU, token ids); weights are float32 and those that the peer
initialises. `experiments/bench_circuits.py` runs it.

Tasks: "eap-ig" (`attribute`, EAP-IG-inputs), "circuits" (`evaluate_graph` of
random circuits, one after the other), "exact" (`evaluate_graph` with one edge
removed, of some edges: its own `exact` does the same, and forgets to restore
what it prunes) and "patching" (TransformerLens's `generic_activation_patch` of
heads' outputs, at some layers, positions and heads).
"""

import importlib
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
import record_eap_ig

_BATCH = 8
_PATCHES = 16


def main(checkout: str, settings: str) -> None:
  """Prints the row of one task."""
  record_eap_ig.stub()
  import torch

  given = json.loads(settings)
  torch.set_num_threads(given["threads"])
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(checkout) / "src" / "eap"
    record_eap_ig.copy(source, pathlib.Path(folder) / "eap")
    sys.path.insert(0, folder)
    attribute, evaluate, graph_lib = (
      importlib.import_module(f"eap.{name}")
      for name in ("attribute", "evaluate", "graph")
    )
    print(json.dumps(_measured(torch, attribute, evaluate, graph_lib, given)))


def _measured(torch, attribute, evaluate, graph_lib, given):
  from transformer_lens import HookedTransformer, HookedTransformerConfig

  config = HookedTransformerConfig(
    n_layers=given["layers"], d_model=given["width"], n_heads=given["heads"],
    d_head=given["width"] // given["heads"], d_mlp=4 * given["width"],
    n_ctx=max(128, given["length"]), d_vocab=given["vocabulary"],
    act_fn="gelu_new", normalization_type="LN", device="cpu", seed=0,
  )  # fmt: skip
  config.use_attn_result = True
  config.use_split_qkv_input = True
  config.use_hook_mlp_in = True
  model = HookedTransformer(config)
  rng = np.random.default_rng(0)
  shape = given["pairs"], given["length"]
  clean = rng.integers(0, given["vocabulary"], shape)
  corrupted = clean.copy()
  corrupted[:, shape[1] // 2] = (clean[:, shape[1] // 2] + 1) % config.d_vocab

  def tokenize(model, rows, max_length=None):
    ids = torch.tensor(np.asarray(rows))
    lengths = torch.full((len(ids),), ids.shape[1])
    return ids, torch.ones_like(ids), lengths, ids.shape[1]

  attribute.tokenize_plus = evaluate.tokenize_plus = tokenize
  metric = lambda logits, *_: (logits[:, -1, 0] - logits[:, -1, 1]).mean()
  loader = [
    (clean[i : i + _BATCH], corrupted[i : i + _BATCH], None)
    for i in range(0, len(clean), _BATCH)
  ]

  def scored():
    graph = graph_lib.Graph.from_model(model)
    attribute.attribute(
      model, graph, loader, metric, "EAP-IG-inputs", ig_steps=given["steps"],
      quiet=True,
    )  # fmt: skip

  def judged(keep):
    graph = graph_lib.Graph.from_model(model)
    graph.in_graph |= graph.real_edge_mask
    graph.nodes_in_graph[:] = True
    keep(graph)
    evaluate.evaluate_graph(model, graph, loader, metric, quiet=True)

  def half(graph):
    graph.in_graph &= torch.rand(graph.in_graph.shape) < 0.5

  def one(graph):
    graph.in_graph[0, 0] = False

  def patched():
    import pandas
    import transformer_lens.patching as lens

    places = np.indices((given["layers"], shape[1], given["heads"]))
    some = places.reshape(3, -1).T[:: max(1, places[0].size // _PATCHES)]
    frame = pandas.DataFrame(some, columns=["layer", "pos", "head"])
    _, cache = model.run_with_cache(torch.tensor(clean))
    with torch.inference_mode():
      lens.generic_activation_patch(
        model, torch.tensor(corrupted), cache, metric,
        lens.layer_pos_head_vector_patch_setter, "z", index_df=frame,
      )  # fmt: skip
    return len(some)

  task, count = given["task"], given["circuits"]
  run, done, what = {
    "eap-ig": (scored, given["pairs"], "pairs_per_s"),
    "circuits": (lambda: [judged(half) for _ in range(count)], count,
                 "circuits_per_s"),
    "exact": (lambda: [judged(one) for _ in range(count)], count,
              "edges_per_s"),
    "patching": (patched, None, "patches_per_s"),
  }[task]  # fmt: skip
  seconds, found = [], None
  for _ in range(1 + given["repeats"]):
    begin = time.perf_counter()
    found = run()
    seconds.append(time.perf_counter() - begin)
  best = min(seconds[1:] or seconds)
  if done is None and isinstance(found, int):
    done = found
  return {
    "pairs": given["pairs"], "positions": given["length"],
    "threads": torch.get_num_threads(), "torch": torch.__version__,
    "best_s": round(best, 3), what: round((done or 0) / best, 5),
  }  # fmt: skip


if __name__ == "__main__":
  main(*sys.argv[1:])
