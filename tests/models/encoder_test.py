"""Encoders and vision transformers without recorded outputs: by identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import bert, encoder, hub, sites, vit, weights
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


@pytest.mark.slow
def test_every_site_of_a_post_norm_block_feeds_the_next():
  net, params = _embedding()
  plain = net.apply(params, input_ids=_IDS, capture=("*",))
  assert set(plain.activations) == set(net.sites)
  same = {
    name: (np.ones([1] * x.ndim, bool), x)
    for name, x in plain.activations.items()
  }
  out = net.apply(params, sites.Edits(replace=same), input_ids=_IDS)
  assert checkpoints.difference(out.logits, plain.logits) < 1e-6
  # One entry of one position or head, in one program for all sites.
  for name in net.sites:
    add = {
      site: np.zeros((1, *x.shape[1:]), np.float32)
      for site, x in plain.activations.items()
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
    ({"order": "pre"}, "norms behind the sums"),
    ({"pool": "mean"}, "Unknown pool 'mean'"),
    ({"activation": "mish"}, "Unknown activation 'mish'"),
    ({"num_kv_heads": 2}, "cannot share 2 key-value"),
  ],
)
def test_settings_that_make_no_sense(change, message):
  config = bert.config_from_hub(_BERT)
  assert isinstance(config, encoder.Config)
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **change)
