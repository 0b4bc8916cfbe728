"""Experts: their weights, their tensors, and what an absent one changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import components, readouts
from spex_jax.models import experts, generate, hub, llama, sites
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5]], np.int32)
_EACH = "blocks.0.mlp.experts"


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_weights_of_the_best(k, normalised):
  scores = np.random.default_rng(k).normal(size=(3, 5, 4)).astype(np.float32)
  got = np.asarray(experts.weights(jnp.asarray(scores), k, normalised))
  for row, gates in zip(scores.reshape(-1, 4), got.reshape(-1, 4)):
    shares = np.exp(row.astype(np.float64))
    shares /= shares.sum()
    best = set(np.argsort(row)[-k:])
    want = [x if e in best else 0 for e, x in enumerate(shares)]
    want = np.array(want) / (sum(want) if normalised else 1)
    # A few roundings each.
    np.testing.assert_allclose(gates, want, rtol=1e-6)


def test_weights_of_equal_scores_are_those_of_k_experts():
  got = experts.weights(jnp.zeros((2, 3, 5)), 2, True)
  np.testing.assert_array_equal((got > 0).sum(-1), np.full((2, 3), 2))
  np.testing.assert_array_equal(got.sum(-1), np.ones((2, 3)))
  narrow = experts.weights(jnp.zeros((1, 5), jnp.bfloat16), 2, True)
  assert narrow.dtype == jnp.bfloat16


def test_what_experts_add_adds_up_and_captures_change_nothing():
  net, _ = checkpoints.compiled(checkpoints.MIXTRAL)
  out = net.apply(net.params, input_ids=_IDS, capture=("*mlp*",))
  each, gates = out.activations[_EACH], out.activations["blocks.0.mlp.gates"]
  total = out.activations["blocks.0.mlp.out"]
  assert each.shape == (1, 5, 3, 12)
  assert checkpoints.difference(each.sum(2), total) < 1e-6
  # Two of three experts speak at every position.
  spoke = np.abs(np.asarray(each)).max(-1) > 0
  np.testing.assert_array_equal(spoke, np.asarray(gates) > 0)
  assert (spoke.sum(-1) == 2).all() and spoke.any((0, 1)).all()
  plain = net.apply(net.params, input_ids=_IDS)
  np.testing.assert_array_equal(plain.logits, out.logits)


def test_an_absent_expert_is_one_whose_matrix_is_zero(tmp_path):
  net, tensors = checkpoints.compiled(checkpoints.MIXTRAL)
  at = components.shapes(net.net, net.params, input_ids=_IDS)
  players = components.KINDS["experts"](at)
  assert players.n == 6 and players.names[4] == "blocks.1.mlp.expert 1"
  assert players.names == components.chosen(at, ("*mlp.experts",)).names
  value = components.evaluator(
    net.net, players, {"input_ids": _IDS}, readouts.logit(3), batch_size=2
  )
  masks = np.ones((2, 6), bool)
  masks[1, [0, 4]] = False
  plain, without = value(masks)
  change = {
    f"model.layers.{block}.block_sparse_moe.experts.{expert}.w2.weight"
    for block, expert in ((0, 0), (1, 1))
  }
  other = {k: x * (k not in change) for k, x in tensors.items()}
  assert sum(not x.any() for x in other.values()) == 2
  folder = checkpoints.save(tmp_path / "zero", checkpoints.MIXTRAL, other)
  for params, got in (
    (net.params, plain), (hub.load(folder).params, without),
  ):  # fmt: skip
    want = net.apply(params, input_ids=_IDS).logits[0, -1, 3]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
  assert abs(plain - without) > 1e-3


def test_a_router_that_is_edited_sends_tokens_elsewhere():
  net, _ = checkpoints.compiled(checkpoints.MIXTRAL)
  shut = np.float32([-1e9, 0, 0])[None, None]
  out = net.apply(
    net.params,
    sites.Edits(add={"blocks.0.mlp.router": shut}),
    input_ids=_IDS,
    capture=("blocks.0.mlp.gates",),
  )
  gates = np.asarray(out.activations["blocks.0.mlp.gates"])
  assert not gates[..., 0].any() and (gates[..., 1:] > 0).all()
  np.testing.assert_allclose(gates.sum(-1), 1, rtol=1e-6)


@pytest.mark.slow
def test_a_cache_gives_what_the_whole_forward_gives():
  net, _ = checkpoints.compiled(checkpoints.QWEN3_MOE)
  made = generate.generate(net.net, net.params, _IDS, 3)
  text = np.concatenate([_IDS, np.asarray(made.tokens)], axis=1)
  logits = np.asarray(net.apply(net.params, input_ids=text).logits)
  np.testing.assert_array_equal(made.tokens[0], logits[0, 4:7].argmax(-1))


def _fused(tensors, number, at, names):
  """The experts of a block as transformers 5 holds them."""
  own = f"model.layers.{number}.{at}experts."
  stacked = lambda name: np.stack(
    [
      tensors[f"{own}{e}.{name}.weight"]
      for e in range(100)
      if f"{own}{e}.{name}.weight" in tensors
    ]
  )
  gate, up, down = map(stacked, names)
  to = f"model.layers.{number}.mlp."
  return {
    to + "experts.gate_up_proj": np.concatenate([gate, up], axis=1),
    to + "experts.down_proj": down,
    to + "gate.weight": tensors[f"model.layers.{number}.{at}gate.weight"],
  }


@pytest.mark.parametrize(
  "settings", [checkpoints.MIXTRAL, checkpoints.QWEN3_MOE]
)
def test_experts_that_are_saved_fused(settings, tmp_path):
  net, tensors = checkpoints.compiled(settings)
  found = [checkpoints.expert_names(settings, number) for number in range(2)]
  fused = {
    key: x
    for key, x in tensors.items()
    if "experts." not in key and "moe.gate" not in key
  }
  for number, one in enumerate(found):
    if one is not None:
      fused |= _fused(tensors, number, one[0], one[3])
  loaded = hub.load(checkpoints.save(tmp_path / "fused", settings, fused))
  same = jax.tree.map(np.array_equal, net.params, loaded.params)
  assert all(jax.tree.leaves(same))


def test_tensors_of_experts_that_do_not_fit(tmp_path):
  _, tensors = checkpoints.compiled(checkpoints.MIXTRAL)
  at = "model.layers.1.block_sparse_moe.experts."
  less = {k: x for k, x in tensors.items() if k != f"{at}2.w1.weight"}
  none = {k: x for k, x in tensors.items() if at not in k}
  matrix = tensors[f"{at}0.w1.weight"]
  holed = matrix.copy()
  holed[0, 0] = np.nan
  for wrong, message in (
    (less, r"fills 'blocks_1/mlp/experts_gate/kernel' .*of which 2 are there"),
    (
      tensors | {f"{at}3.w1.weight": matrix},
      r"3.w1.weight' has no place: the model has no '.*experts_gate/kernel\[3",
    ),
    (
      tensors | {f"{at}1.w1.weight": matrix[:4]},
      r"1.w1.weight' of shape \(4, 12\) gives .*it must be \(12, 10\)",
    ),
    (
      tensors | {f"{at}1.gate_proj.weight": matrix},
      r"kernel\[1\]' a second time",
    ),
    (
      none | {"model.layers.1.mlp.experts.gate_up_proj": matrix},
      r"gate_up_proj' has shape \(10, 12\): it must have 20 fused rows",
    ),
    (
      tensors | {f"{at}0.w1.weight": holed},
      r"experts.\d.w1.weight' or one beside it holds NaN",
    ),
  ):
    folder = checkpoints.save(tmp_path / "bad", checkpoints.MIXTRAL, wrong)
    with pytest.raises(ValueError, match=message):
      hub.load(folder)


@pytest.mark.parametrize(
  "settings, change, message",
  [
    (checkpoints.MIXTRAL, {"num_experts": 4}, "'num_experts': 4}, which disa"),
    (checkpoints.MIXTRAL, {"num_experts_per_tok": 4}, "tok=4; it must be .* 3"),
    (
      checkpoints.QWEN3_MOE,
      {"mlp_only_layers": ["0"]},
      r"mlp_only_layers=\['0'\]; it must be a list of the numbers",
    ),
    (
      checkpoints.QWEN3_MOE,
      {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
      "max_window_layers=1, which is not implemented",
    ),
    (
      checkpoints.QWEN3_MOE,
      {"decoder_sparse_step": 0},
      "decoder_sparse_step=0; it must be a whole number",
    ),
  ],
)
def test_settings_of_experts_that_are_refused(settings, change, message):
  with pytest.raises(ValueError, match=message):
    llama.config_from_hub(settings | change)


def test_which_blocks_have_experts():
  read = lambda **kw: llama.config_from_hub(checkpoints.QWEN3_MOE | kw).mixture
  assert read().blocks == (1,)
  assert read(mlp_only_layers=[]).blocks == (0, 1)
  assert read(mlp_only_layers=[], decoder_sparse_step=2).blocks == (1,)
  assert read(mlp_only_layers=[0, 1]) is None
  window = {"use_sliding_window": True, "sliding_window": 3}
  config = llama.config_from_hub(checkpoints.QWEN3_MOE | window)
  assert config.windows == (3, 3)


def test_experts_are_split_over_a_mesh():
  mesh = jax.make_mesh(
    (8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  name = "blocks_0/mlp/experts_down/kernel"
  assert hub.partition(name, (16, 5, 12), mesh) == jax.P("model")
  assert hub.partition(name, (12, 5, 12), mesh) == jax.P()
