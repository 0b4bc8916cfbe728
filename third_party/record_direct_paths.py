"""Records TransformerLens's direct path patching, as numbers alone.

  python -m third_party.record_direct_paths CHECKOUT OUT.npz

CHECKOUT is the repository TransformerLensOrg/TransformerLens at commit
4cd36aa, of which one file runs on transformer-lens 2.16.1 (without its bridge
to other models). Networks and pairs are those of `record_eap_ig`, with norms
folded into the weights, as that file wants them: it runs the corrupted prompt
and adds to queries, keys or values of a head what another one writes on the
clean prompt, less what it writes there, over the size of the norm.

Shapes: N pairs, H heads.
"""

import pathlib
import sys
import tempfile
import types
from typing import Any

import numpy as np

from third_party import record_eap_ig as shared

FILE = "transformer_lens/tools/analysis/direct_path_patching.py"
NETWORKS = ("gpt2", "gpt_neox", "llama")
_BRIDGE = "transformer_lens.model_bridge"


def main(checkout: str, out: str) -> None:
  """Writes values `[N, 3, H, H]`: into q, k, v; from head, to head."""
  shared.stub()
  import torch

  torch.set_default_dtype(torch.float64)
  for name in (_BRIDGE, f"{_BRIDGE}.bridge"):
    sys.modules[name] = types.ModuleType(name)
  bridge: Any = sys.modules[f"{_BRIDGE}.bridge"]
  bridge.TransformerBridge = type("None", (), {})
  source = pathlib.Path(checkout) / FILE
  with tempfile.TemporaryDirectory() as folder:
    (pathlib.Path(folder) / source.name).write_text(source.read_text())
    sys.path.insert(0, folder)
    peer = __import__(source.stem)
    found = {name: _record(torch, peer, name) for name in NETWORKS}
  save: Any = np.savez_compressed
  save(out, **found)


def _record(torch, peer, name):
  model, _ = shared.built(torch, shared.NETWORKS[name])
  model.set_use_split_qkv_input(False)
  model.process_weights_()
  model.setup()  # Its norms are others now.
  data, values = shared.pairs(shared.SEED), []
  for row in range(2):
    right, wrong = (int(data[key][row, 0]) for key in ("right", "wrong"))
    clean, corrupted = (
      torch.tensor(data[key][row : row + 1]) for key in ("clean", "corrupted")
    )
    with torch.no_grad():
      caches = [model.run_with_cache(ids)[1] for ids in (clean, corrupted)]
      metric = lambda logits, right=right, wrong=wrong: (
        logits[0, -1, right] - logits[0, -1, wrong]
      )
      values.append(
        [
          peer.get_act_patch_direct_path_all_sources(
            model, corrupted, *caches, metric, component=part, verbose=False
          )[0, :, 1].numpy()
          # Of grouped keys and values the peer changes one head alone.
          for part in ("q" if name == "llama" else "qkv")
        ]
      )
  return np.array(values)


if __name__ == "__main__":
  main(*sys.argv[1:])
