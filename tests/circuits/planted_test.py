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
    pytest.param({"method": "exact"}, marks=pytest.mark.slow),
    {"method": "eap"},
    {"method": "eap-ig", "steps": 3},
    pytest.param({"method": "second-order"}, marks=pytest.mark.slow),
  ],
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
  # Differences of two programs' values are rounded; derivatives are zero.
  size = np.abs(found.values).max()
  rounding = 1e-12 * size if settings["method"] == "exact" else 0
  assert np.abs(found.values[:, ~inside]).max() <= rounding
  if settings["method"] != "second-order":  # Whose two terms may cancel.
    assert np.abs(found.values[:, inside]).min() > 0.01
  assert size > 1


def _gate(second):
  """Two heads write a and b; an MLP adds relu(a + b) and the second neuron.

  Token 1 has a = b = 1, token 0 neither. The second neuron is
  `relu(a + b - 1)`, times `second`.
  """
  config = transformer.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=1,
    num_neurons=2, norm="none", activation="relu", qkv_bias=False,
    out_bias=False, mlp_bias=True, vocab_size=2, max_positions=2, tied=False,
  )  # fmt: skip
  net = transformer.network(config)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
  params["tokens"]["table"][1, :2] = 1
  attn, mlp = (params["blocks_0"][name] for name in ("attn", "mlp"))
  for head in range(2):
    attn["v"]["kernel"][head, head, 0] = 1
    attn["out"]["kernel"][head, 0, 2 + head] = 1
  mlp["up"]["kernel"][2:4] = 1
  mlp["up"]["bias"][:] = [0, -1]
  mlp["down"]["kernel"][:, 4] = [second == -1, second]
  params["head"]["kernel"][4, 0] = 1
  pairs = pairs_lib.Pairs([[1, 1]], [[0, 0]], [2], [[0]], [[1]])

  def score(**settings):
    found = scores.score(
      net, params, pairs, metrics.logit_difference, check=0, **settings
    )
    names = [f"blocks.0.heads.{i} -> blocks.0.mlp.read" for i in range(2)]
    named = [found.graph.name(i) for i in range(len(found.graph))]
    both = [found.values[0, named.index(name)] for name in names]
    assert both[0] == both[1]
    return both[0]

  return score


@pytest.mark.slow
def test_gates():
  with jax.enable_x64(True):
    # Either of two is enough: no edge alone does anything, and no gradient at
    # the clean run; half of the line between the runs has a slope.
    either = _gate(-1)
    assert either(method="exact") == 0
    assert either(method="eap") == 0
    assert either(method="eap-ig", steps=10) == -0.5
    # Both are needed: each alone takes it all, so that scores sum to twice.
    both = _gate(1)
    assert both(method="exact") == -1
    assert both(method="eap") == -1
    assert both(method="eap-ig", steps=10) == -0.5
