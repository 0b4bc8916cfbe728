"""Encoders and vision transformers without recorded outputs: by identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import (
  bert,
  encoder,
  hub,
  modernbert,
  sites,
  vit,
  weights,
)
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]], np.int32)
_MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], np.int32)
_BERT = {
  "architectures": ["BertModel"],
  "model_type": "bert",
  "hidden_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 10,
  "vocab_size": 17,
  "max_position_embeddings": 9,
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
  "hidden_act": "gelu",
}


def _embedding(**settings):
  net = bert.network(bert.config_from_hub(_BERT | settings))
  return checkpoints.Compiled(net), checkpoints.random_params(net)


def test_an_embedding_is_the_normalised_mean_of_kept_positions():
  net, params = _embedding()
  out = net.apply(
    params, input_ids=_IDS, attention_mask=_MASK, capture=("pooled",)
  )
  last = np.asarray(out.hidden[-1], np.float64)
  for row, mask in enumerate(_MASK):
    mean = last[row][mask > 0].mean(0)
    pooled = out.activations["pooled"][row]
    assert checkpoints.difference(pooled, mean) < 1e-6
    unit = mean / np.sqrt((mean**2).sum())
    assert checkpoints.difference(out.logits[row], unit) < 1e-6


@pytest.mark.slow
def test_padding_and_types():
  net, params = _embedding()
  full = net.apply(params, input_ids=_IDS, attention_mask=_MASK)
  short = net.apply(params, input_ids=_IDS[1:, :4])
  assert checkpoints.difference(full.logits[1:], short.logits) < 1e-6
  zero = net.apply(
    params,
    input_ids=_IDS,
    attention_mask=_MASK,
    token_type_ids=np.zeros_like(_IDS),
  )
  np.testing.assert_array_equal(zero.logits, full.logits)
  ones = net.apply(params, input_ids=_IDS, token_type_ids=np.ones_like(_IDS))
  assert checkpoints.difference(ones.logits, full.logits) > 1e-3
  with pytest.raises(ValueError, match=r"\(2, 6\) or \(1, 6\); got \(2, 5\)"):
    net.apply(params, input_ids=_IDS, token_type_ids=_IDS[:, :5])
  with pytest.raises(
    ValueError, match="token_type_ids must lie in 0..1; got 3"
  ):
    net.net.apply(params, input_ids=_IDS, token_type_ids=_IDS)


def test_roberta_counts_positions_of_tokens_that_are_no_padding():
  net, params = _embedding(
    model_type="roberta", architectures=["RobertaModel"], pad_token_id=1
  )
  ids = np.array([[3, 4, 5, 1, 1]], np.int32)
  mask = (ids != 1).astype(np.int32)
  padded = net.apply(params, input_ids=ids, attention_mask=mask)
  short = net.apply(params, input_ids=ids[:, :3])
  assert checkpoints.difference(padded.logits, short.logits) < 1e-6
  left = net.apply(params, input_ids=ids[:, ::-1], attention_mask=mask[:, ::-1])
  turned = net.apply(params, input_ids=ids[:, 2::-1])
  assert checkpoints.difference(left.logits, turned.logits) < 1e-6
  assert net.config.max_positions == 7
  with pytest.raises(ValueError, match="8 tokens; the model has 7 positions"):
    net.apply(params, input_ids=np.full((1, 8), 3))


@pytest.mark.slow_where("None")
@pytest.mark.parametrize("pad_id", [None, 1])
def test_the_order_of_tokens_is_that_of_their_positions(pad_id):
  net, params = _embedding()
  config = dataclasses.replace(net.config, pad_id=pad_id)
  net = checkpoints.Compiled(encoder.network(config))
  ids = _IDS[:1] + 2  # None of them is padding.
  plain = net.apply(params, input_ids=ids)
  order = np.array([4, 0, 5, 1, 3, 2])
  moved = net.apply(params, input_ids=ids[:, order], position_ids=order[None])
  # Attention and the mean have no order of their own.
  assert checkpoints.difference(moved.logits, plain.logits) < 1e-6
  other = net.apply(params, input_ids=ids[:, order])
  assert checkpoints.difference(other.logits, plain.logits) > 1e-3
  with pytest.raises(ValueError, match="position_ids must lie in 0"):
    net.net.apply(params, input_ids=ids, position_ids=order[None] + 9)


def _modernbert(**settings):
  own = {
    "model_type": "modernbert", "architectures": ["ModernBertModel"],
    "norm_eps": 1e-5, "local_attention": 2, "hidden_activation": "gelu",
    "layer_types": ["full_attention", "sliding_attention"],
  }  # fmt: skip
  kept = ("hidden_size", "num_hidden_layers", "num_attention_heads")
  kept += ("intermediate_size", "vocab_size", "max_position_embeddings")
  plain = {name: _BERT[name] for name in kept}
  config = modernbert.config_from_hub(plain | own | settings)
  net = modernbert.network(config)
  return checkpoints.Compiled(net), checkpoints.random_params(net)


def test_windows_and_positions_of_modernbert():
  net, params = _modernbert()

  def run(first):
    return net.apply(
      params,
      input_ids=_IDS,
      attention_mask=_MASK,
      position_ids=np.arange(6)[None] + first,
      capture=("blocks.*.attn.pattern",),
    )

  full = run(0)
  distance = np.abs(np.arange(6)[:, None] - np.arange(6))
  for number, near in ((0, distance < 9), (1, distance <= 1)):
    pattern = full.activations[f"blocks.{number}.attn.pattern"]
    for found, mask in zip(np.asarray(pattern), _MASK):
      real = mask > 0
      seen = near & real
      some = real & seen.any(axis=1)  # Of padding nothing is asked.
      want = np.broadcast_to(seen, found.shape)[:, some]
      np.testing.assert_array_equal((found > 0)[:, some], want)
  # Rotation tells distances alone.
  assert checkpoints.difference(run(3).logits, full.logits) < 1e-5
  short = net.apply(params, input_ids=_IDS[1:, :4]).logits
  assert checkpoints.difference(full.logits[1:], short) < 1e-6
  with pytest.raises(ValueError, match="position_ids must lie in 0..8; got 9"):
    net.net.apply(params, input_ids=_IDS, position_ids=np.arange(6)[None] + 5)


def test_what_stands_before_the_blocks_is_resumed():
  net, params = _modernbert()
  given = {"input_ids": _IDS, "attention_mask": _MASK}
  whole = net.apply(params, **given)
  for number in range(3):
    x = net.net.enter(params, number, **given)
    rest = net.net.resume(params, number, x, **given)
    assert checkpoints.difference(rest.logits, whole.logits) < 1e-6
    assert len(rest.hidden) == 3 - number
    last = rest.hidden[-1], whole.hidden[-1]
    assert checkpoints.difference(*last) < 1e-6


@pytest.mark.parametrize(
  "change, message",
  [
    ({"classifier_pooling": "max"}, "classifier_pooling='max', which is not"),
    ({"layer_norm_eps": 1e-3}, "layer_norm_eps=0.001, which is not impl"),
    (
      {"global_attn_every_n_layers": 1},
      "layer_types=.* and global_attn_every_n_layers=1, which disagree",
    ),
    ({"layer_types": ["full_attention"]}, "for each of 2 layers; got"),
    ({"rope_parameters": {"rope_theta": 5.0}}, "full_attention and sliding"),
    (
      {
        "rope_parameters": {"full_attention": {"rope_theta": 5.0}},
        "global_rope_theta": 7.0,
      },
      "full_attention.rope_theta=5.0 and global_rope_theta=7.0, which disag",
    ),
    (
      {"rope_scaling": {"rope_theta": 5.0}, "local_rope_theta": 7.0},
      r"rope_scaling.rope_theta=5.0 and local_rope_theta=7.0, which disagree",
    ),
    ({"hidden_activation": "x"}, "hidden_activation='x'; it must be one"),
  ],
)
def test_a_modernbert_that_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    _modernbert(**change)


def test_both_names_of_the_bases_of_rotation():
  old, _ = _modernbert(global_rope_theta=7.0)
  new, _ = _modernbert(
    rope_parameters={
      "full_attention": {"rope_theta": 7.0, "rope_type": "default"},
      "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    }
  )
  assert old.config == new.config
  assert (new.config.rotary.theta, new.config.local_rotary.theta) == (7, 1e4)
  plain, _ = _modernbert(layer_types=["full_attention"] * 2)
  assert plain.config.windows == () and plain.config.local_rotary is None


@pytest.mark.slow
@pytest.mark.parametrize("make", [_embedding, _modernbert])
def test_every_site_of_a_block_feeds_the_next(make):
  net, params = make()
  plain = net.apply(params, input_ids=_IDS, capture=("*",))
  assert set(plain.activations) == set(net.sites)
  # A block either splits what its heads read or has one attn.in.
  split = [n for n in net.sites if n.endswith((".q_in", ".k_in", ".v_in"))]
  whole = [n for n in net.sites if n not in split]
  for group in filter(None, (whole, split)):
    same = {
      name: (np.ones([1] * x.ndim, bool), x)
      for name in group
      for x in [plain.activations[name]]
    }
    out = net.apply(params, sites.Edits(replace=same), input_ids=_IDS)
    assert checkpoints.difference(out.logits, plain.logits) < 1e-6
    # One entry of one position or head, in one program for a group's sites.
    for name in group:
      add = {
        site: np.zeros((1, *plain.activations[site].shape[1:]), np.float32)
        for site in group
      }
      add[name].reshape(-1)[:1] = 1
      moved = net.apply(params, sites.Edits(add=add), input_ids=_IDS)
      assert checkpoints.difference(moved.logits, plain.logits) > 1e-5, name


def test_edges_are_refused_by_name():
  net, params = _embedding()
  with pytest.raises(ValueError, match="norms of this encoder stand behind"):
    net.apply(params, sites.Edits(ref=np.zeros(1)), input_ids=_IDS)
  with pytest.raises(ValueError, match="No writers here: the norms"):
    net.contributions(params, input_ids=_IDS)


def test_old_names_of_norms_and_missing_prefixes_load(tmp_path):
  net, params = _embedding()
  flat = {
    "/".join(part.key for part in path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  inverse = {
    "heads_in": lambda x: (
      x.reshape(-1)
      if x.ndim == 2
      else (x.transpose(1, 2, 0).reshape(-1, x.shape[0]))
    ),
    "heads_out": lambda x: x.reshape(-1, x.shape[-1]).T,
    "transpose": lambda x: x.T,
    "": lambda x: x,
  }
  tensors = {"embeddings.position_ids": np.arange(9)[None]}
  for rule in bert.rules(net.config):
    for number in "01" if r"\1" in rule.path else "0":
      path = rule.path.replace(r"\1", number)
      if path:
        key = rule.pattern.replace("(?:bert\\.)?", "").replace(r"(\d+)", number)
        key = key.replace("(?:weight|gamma)", "gamma").replace(
          "(?:bias|beta)", "beta"
        )
        transform = inverse[rule.transform.partition(":")[0]]
        tensors[key.replace("\\", "")] = transform(flat[path])
  tensors["pooler.dense.weight"] = np.zeros((12, 12), np.float32)
  loaded = hub.load(checkpoints.save(tmp_path / "old", _BERT, tensors))
  for got, want in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_patches_are_read_row_by_row_channel_first():
  config = vit.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=6, image_size=4, patch_size=2, num_channels=3, num_labels=3,
  )  # fmt: skip
  net = vit.network(config)
  params = checkpoints.random_params(net)
  images = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
  # The convolution of a checkpoint, written out.
  conv = np.random.default_rng(2).normal(size=(8, 3, 2, 2))
  kernel = weights.TRANSFORMS["patches"](conv, config, "")
  params["patch"]["kernel"] = jnp.asarray(kernel, jnp.float32)
  got = net.apply(params, pixel_values=images, capture=("embed.tokens",))
  tokens = np.asarray(got.activations["embed.tokens"])
  bias = np.asarray(params["patch"]["bias"])
  for patch in range(4):
    row, column = 2 * (patch // 2), 2 * (patch % 2)
    part = images[:, :, row : row + 2, column : column + 2]
    want = np.einsum("bcij,dcij->bd", part, conv) + bias
    assert checkpoints.difference(tokens[:, 1 + patch], want) < 1e-6
  token = np.asarray(params["class_token"])[0]
  np.testing.assert_array_equal(tokens[:, 0], np.tile(token, (2, 1)))
  for bad in (images[:, :2], images[:, :, :3], images[0]):
    with pytest.raises(ValueError, match=r"\[B, 3, 4, 4\], the size that"):
      net.apply(params, pixel_values=bad)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"order": "parallel"}, "norms behind the sums"),
    ({"pool": "mean"}, "Unknown activation 'mean' of the head"),
    ({"activation": "mish"}, "Unknown activation 'mish'"),
    ({"num_kv_heads": 2}, "cannot share 2 key-value"),
  ],
)
def test_settings_that_make_no_sense(change, message):
  config = bert.config_from_hub(_BERT)
  assert isinstance(config, encoder.Config)
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **change)
