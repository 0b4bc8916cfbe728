"""What is asked of a run and would come to nothing is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import generate, rope, sites, transformer
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5, 9]], np.int32)
_ONE = np.ones((1, 1, 1, 1), np.float32)


def _net():
  return checkpoints.compiled(checkpoints.LLAMA)[0].net


def test_a_capture_that_nothing_passes_is_refused():
  net = _net()
  edits = sites.Edits(scale={"blocks.0.attn.q_in": _ONE})
  for name in ("blocks.0.attn.in", "blocks.*.attn.in"):
    with pytest.raises(ValueError, match=r"captured sites \['blocks\.0\.attn"):
      net.apply(net.params, edits, capture=(name,), input_ids=_IDS)
  x = net.enter(net.params, 1, input_ids=_IDS)
  with pytest.raises(ValueError, match=r"captured sites \['blocks\.0\.attn\.z"):
    net.resume(net.params, 1, x, capture=("blocks.0.attn.z",), input_ids=_IDS)
  # A pattern of many stands for those that are still to come.
  rest = net.resume(net.params, 1, x, capture=("*.attn.z",), input_ids=_IDS)
  assert list(rest.activations) == ["blocks.1.attn.z"]


def test_where_is_bool():
  net = _net()
  where = {"blocks.1.attn.z": (0.5 * _ONE, 0 * _ONE)}
  with pytest.raises(ValueError, match="must be bool; got float32"):
    net.apply(net.params, sites.Edits(replace=where), input_ids=_IDS)


def test_a_mask_that_is_added_to_scores_is_refused():
  net = _net()
  added = np.where(np.arange(6) < 4, 0.0, -np.inf)[None]
  run = lambda mask: (
    net.apply(net.params, input_ids=_IDS, attention_mask=mask).logits
  )
  with pytest.raises(ValueError, match="added to scores; got -inf"):
    run(added)
  with pytest.raises(ValueError, match="integers or bool under jit"):
    jax.jit(run)(added)
  ones = run(np.isfinite(added))
  np.testing.assert_array_equal(run(np.isfinite(added).astype(float)), ones)


@pytest.mark.slow
def test_padding_on_the_left_is_moved_under_jit():
  net = _net()
  made = jax.jit(
    lambda ids, mask: generate.generate(
      net, net.params, ids, 3, attention_mask=mask
    )
  )
  ids = np.array([[0, 0, 3, 1, 4], [0, 0, 0, 0, 0]], np.int32)
  left = np.array([[0, 0, 1, 1, 1], [0] * 5])
  right = np.array([[3, 1, 4, 0, 0], [0] * 5], np.int32)
  got, want = made(ids, left), made(right, left[:, ::-1])
  np.testing.assert_array_equal(got.tokens, want.tokens)
  plain = generate.generate(net, net.params, ids[:1, 2:], 3)
  np.testing.assert_array_equal(got.tokens[0], plain.tokens[0])
  assert (got.tokens[1] == -1).all() and jnp.isnan(got.logprobs[1]).all()


@pytest.mark.slow
def test_edges_of_blocks_without_a_norm_before():
  config = transformer.Config(
    width=8, num_blocks=2, num_heads=2, num_kv_heads=1, head_width=4,
    num_neurons=6, order="sandwich", out_bias=False, vocab_size=11,
    max_positions=8, rotary=rope.Rope(100.0, 4), norm="rms", pre_norm="none",
    qk_norm="all",
  )  # fmt: skip
  net = transformer.network(config)
  params = checkpoints.random_params(net)
  out = net.apply(params, capture=("final_norm.in",), input_ids=_IDS)
  parts = net.contributions(params, input_ids=_IDS)
  total = out.activations["final_norm.in"]
  np.testing.assert_allclose(parts.sum(axis=2), total, rtol=0, atol=2e-5)
  # Every edge cut, and what went through it put back.
  cut = {
    reader: np.ones((1, 1, *shape), np.float32)
    for reader, shape in net.readers.items()
  }
  again = net.apply(params, sites.Edits(cut=cut, ref=parts), input_ids=_IDS)
  assert checkpoints.difference(again.logits, out.logits) < 2e-5


def test_longer_texts_turn_by_other_angles():
  short, long = (1.0, 2.0), (3.0, 5.0)
  longrope = rope.Rope(
    100.0, 4, "longrope", original_positions=4, short_factor=short,
    long_factor=long,
  )  # fmt: skip
  base = 100.0 ** -np.array([0, 0.5])
  for length, factor in ((4, short), (5, long)):
    np.testing.assert_allclose(
      rope.frequencies(longrope, length), base / np.array(factor), rtol=1e-15
    )
  dynamic = rope.Rope(100.0, 4, "dynamic", factor=2.0, original_positions=4)
  np.testing.assert_allclose(rope.frequencies(dynamic, 3), base, rtol=1e-15)
  # At twice the length, 100 becomes 100 * (2 * 2 - 1)^(4 / 2).
  want = 900.0 ** -np.array([0, 0.5])
  np.testing.assert_allclose(rope.frequencies(dynamic, 8), want, rtol=1e-15)


def test_a_cache_cannot_hold_what_turns_by_length():
  config = transformer.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=6, vocab_size=11, max_positions=16,
    rotary=rope.Rope(
      100.0, 4, "dynamic", factor=2.0, original_positions=6
    ),
  )  # fmt: skip
  net = transformer.network(config)
  params = checkpoints.random_params(net)
  generate.generate(net, params, _IDS[:, :3], 3)
  with pytest.raises(ValueError, match="cannot be kept in a cache of 7"):
    generate.generate(net, params, _IDS[:, :4], 3)
