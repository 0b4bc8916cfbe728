"""A network whose circuit is known: writers and readers of chosen subspaces.

No norms, and attention that looks everywhere alike. The stream has four parts
A, B, C, D of four entries. embed writes A; head 0.0 takes A to B, the MLP of
block 0 B to C, head 1.0 C to D, which the logits read. Head 0.1 takes A to a
part that nobody reads, and so do the others, in vain.
"""

import jax
import numpy as np
import pytest

from spex_jax.circuits import metrics, scores
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import transformer

_CIRCUIT = {
  ("embed", "blocks.0.attn.v_in", 0),
  ("blocks.0.heads.0", "blocks.0.mlp.read", 0),
  ("blocks.0.mlp", "blocks.1.attn.v_in", 0),
  ("blocks.1.heads.0", "final_norm.in", 0),
}


def _network():
  config = transformer.Config(
    width=24, num_blocks=2, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=6, norm="none", activation="relu", qkv_bias=False,
    out_bias=False, mlp_bias=False, vocab_size=4, max_positions=3, tied=False,
  )  # fmt: skip
  net = transformer.network(config)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
  rng = np.random.default_rng(0)
  part = {name: slice(4 * i, 4 * i + 4) for i, name in enumerate("ABCDEF")}
  draw = lambda *shape: rng.uniform(0.5, 1.5, shape)
  params["tokens"]["table"][:, part["A"]] = draw(4, 4)
  params["head"]["kernel"][part["D"]] = rng.normal(size=(4, 4))

  def head(block, number, source, target):
    attn = params[f"blocks_{block}"]["attn"]
    attn["v"]["kernel"][part[source], number] = draw(4, 4)
    attn["out"]["kernel"][number, :, part[target]] = draw(4, 4)
    for kind in "qk":  # What nobody writes.
      attn[kind]["kernel"][part["F"], number] = draw(4, 4)

  head(0, 0, "A", "B")
  head(0, 1, "A", "E")
  head(1, 0, "C", "D")
  head(1, 1, "B", "E")
  mlps = [params[f"blocks_{i}"]["mlp"] for i in (0, 1)]
  for mlp, source, target in zip(mlps, "BD", "CE"):
    mlp["up"]["kernel"][part[source]] = draw(4, 6)
    mlp["down"]["kernel"][:, part[target]] = draw(6, 4)
  return net, params


@pytest.mark.parametrize(
  "settings",
  [
    {"method": "exact"},
    {"method": "eap"},
    {"method": "eap-ig", "steps": 3},
    {"method": "second-order"},
  ],
  ids=lambda settings: settings["method"],
)
def test_edges_off_the_circuit_score_nothing(settings):
  with jax.enable_x64(True):
    net, params = _network()
    pairs = pairs_lib.Pairs(
      [[0, 1, 2], [3, 3, 1]], [[1, 1, 3], [2, 0, 0]], [3, 3], [[0], [1]],
      [[3], [2]],
    )  # fmt: skip
    found = scores.score(
      net, params, pairs, metrics.logit_difference, check=0, **settings
    )
  inside = found.graph.circuit(list(_CIRCUIT)).kept
  np.testing.assert_array_equal(found.values[:, ~inside], 0)
  assert np.abs(found.values[:, inside]).min() > 0.01
