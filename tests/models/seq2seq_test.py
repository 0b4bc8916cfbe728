"""Encoder-decoders generate as their forwards without caches predict."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import generate, hub, seq2seq, sites, t5
from tests.models import checkpoints, marian_test, t5_test

_T5 = t5.config(
  vocab_size=11, width=6, num_heads=2, head_width=4, num_neurons=7,
  num_blocks=1, num_decoder_blocks=2, num_buckets=8, max_distance=10,
  suppressed=(5,),
)  # fmt: skip
# As Flan-T5: gated, with a head of its own.
_GATED = t5.config(
  vocab_size=11, width=6, num_heads=2, head_width=4, num_neurons=7,
  num_blocks=1, num_decoder_blocks=1, num_buckets=8, max_distance=10,
  activation="gelu_new", gated=True, tied=False, output_scale=1.0, start_id=2,
)  # fmt: skip
_IDS = np.array([[3, 1, 4, 1, 5], [2, 7, 1, 6, 6]], np.int32)
_MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1]], np.int32)  # With holes.
_N = 5
_RTOL = 1e-5  # As in t5_test, for the same networks.


@functools.cache
def _network(name):
  if name == "marian":
    net, _ = marian_test.compiled()
    return net, net.params
  net = seq2seq.network({"t5": _T5, "gated": _GATED}[name])
  return checkpoints.Compiled(net), checkpoints.random_params(net)


def _generate(net, params, edits=None, num=_N, **settings):
  run = lambda params, edits: generate.generate(
    net.net, params, _IDS, num, attention_mask=_MASK, edits=edits, **settings
  )
  return jax.jit(run)(params, edits)


def _edits():
  """In the encoder, at positions; in cross-attention; in the decoder."""
  rng = np.random.default_rng(0)
  heads = lambda *kept: np.array(kept, np.float32)[None, None, :, None]
  return sites.Edits(
    replace={
      "encoder.embed.tokens": (
        np.arange(5)[None, :, None] == 2,
        rng.normal(size=(1, 1, 6)).astype(np.float32),
      )
    },
    scale={
      "decoder.blocks.0.cross.v": heads(0.5, 1),
      "decoder.blocks.0.attn.z": heads(1, 0),
    },
    add={"decoder.blocks.0.mlp.out": rng.normal(size=(1, 1, 6))},
  )


@pytest.mark.slow_where("t5", "gated")
@pytest.mark.parametrize(
  "name, edited", [("t5", True), ("gated", False), ("marian", True)]
)
def test_greedy_tokens_equal_forwards_without_a_cache(name, edited):
  net, params = _network(name)
  edits = _edits() if edited else None
  at_steps = (
    "decoder.embed",
    "decoder.blocks.0.attn.z",
    "decoder.blocks.0.attn.pattern",
    "decoder.blocks.0.cross.pattern",
  )
  once = ("encoder.embed.tokens", "encoder.blocks.0.resid_post")
  once += ("decoder.blocks.0.cross.k",)
  capture = at_steps + once
  out = _generate(net, params, edits, capture=capture, logits=True)
  start = np.full((2, 1), net.config.start_id)
  text = np.concatenate([start, out.tokens[:, :-1]], axis=1)
  whole = net.apply(
    params, edits, capture=capture, input_ids=_IDS, attention_mask=_MASK,
    decoder_input_ids=text,
  )  # fmt: skip
  assert checkpoints.difference(out.logits, whole.logits) < _RTOL
  # Token by token: each is the likeliest that the forward on those before it
  # gives, of those that may be made.
  allowed = np.array(whole.logits)
  allowed[..., list(net.config.suppressed)] = -np.inf
  np.testing.assert_array_equal(out.tokens, allowed.argmax(-1))
  logs = np.asarray(jax.nn.log_softmax(whole.logits))
  expected = np.take_along_axis(logs, out.tokens[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(out.logprobs, expected, rtol=0, atol=_RTOL)
  assert set(out.activations) == set(capture)
  for site in capture:
    got, expected = out.activations[site], whole.activations[site]
    if site.endswith("pattern"):
      got = jnp.swapaxes(got, 1, 2)[..., : expected.shape[-1]]
    assert checkpoints.difference(got, expected) < _RTOL, site
  if edits is not None:  # Both have seen the edits.
    assert not np.asarray(whole.activations[at_steps[1]])[:, :, 1].any()
    value = edits.replace["encoder.embed.tokens"][1]
    got = out.activations["encoder.embed.tokens"][:, 2:3]
    assert checkpoints.difference(got, np.tile(value, (2, 1, 1))) < _RTOL


@pytest.mark.slow
def test_a_decoder_continues_prefixes_of_different_lengths():
  net, params = _network("t5")
  prefix = np.array([[0, 3, 7], [0, 4, 0]], np.int32)
  seen = np.array([[1, 1, 1], [1, 1, 0]])
  rng = np.random.default_rng(1)
  # At each of the 3 + 2 positions of prefix and text its own.
  edits = sites.Edits(
    add={"decoder.embed": rng.normal(size=(1, 5, 6)).astype(np.float32)}
  )
  out = _generate(
    net, params, edits, num=2, decoder_input_ids=prefix,
    decoder_attention_mask=seen,
  )  # fmt: skip
  for row, length in enumerate((3, 2)):
    text = np.zeros((1, 5), np.int32)  # Zeros behind it change nothing.
    text[0, :length] = prefix[row, :length]
    text[0, length : length + 2] = out.tokens[row]
    whole = net.apply(
      params, edits, input_ids=_IDS[[row]], attention_mask=_MASK[[row]],
      decoder_input_ids=text,
    )  # fmt: skip
    logits = np.array(whole.logits[0, length - 1 : length + 1])
    logits[:, 5] = -np.inf  # Suppressed.
    assert out.tokens[row].tolist() == logits.argmax(-1).tolist()


def test_what_is_masked_in_the_encoder_does_not_matter():
  net, params = _network("marian")
  short = np.array([[2, 7, 1, 6]], np.int32)
  run = jax.jit(
    lambda ids, mask: generate.generate(
      net.net, params, ids, 4, attention_mask=mask, logits=True
    )
  )
  one = run(short, np.ones_like(short))
  padded = np.pad(short, ((0, 0), (0, 2)), constant_values=10)
  two = run(padded, (padded != 10).astype(int))
  np.testing.assert_array_equal(one.tokens, two.tokens)
  assert checkpoints.difference(one.logits, two.logits) < _RTOL


@pytest.mark.slow
def test_vmapped_edits_equal_a_loop_and_compile_once():
  net, params = _network("t5")
  masks = (np.random.default_rng(2).random((3, 2)) < 0.5).astype(np.float32)

  def made(mask):
    scale = {"decoder.blocks.1.cross.z": mask[None, None, :, None]}
    out = generate.generate(
      net.net, params, _IDS, 3, attention_mask=_MASK, logits=True,
      edits=sites.Edits(scale=scale),
    )  # fmt: skip
    return out.logits

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(made, n=1))
  looped = np.stack([one(mask) for mask in masks])
  batched = jax.jit(jax.vmap(made))(jnp.asarray(masks))
  assert checkpoints.difference(batched, looped) < _RTOL


@pytest.mark.slow
def test_drawn_tokens_are_of_the_k_likeliest():
  net, params = _network("t5")
  settings = {"temperature": 0.7, "top_k": 2, "key": jax.random.key(1)}
  out = _generate(net, params, logits=True, **settings)
  logits = np.array(out.logits)
  logits[..., 5] = -np.inf  # Suppressed.
  own = np.take_along_axis(logits, np.asarray(out.tokens)[..., None], -1)
  assert (np.greater(logits, own).sum(axis=-1) < 2).all()
  other = _generate(net, params, **settings | {"key": jax.random.key(7)})
  assert (np.asarray(other.tokens) != np.asarray(out.tokens)).any()


def test_refused():
  net, params = _network("t5")
  with pytest.raises(ValueError, match="decoder_attention_mask is ones, then"):
    _ = generate.generate(
      net.net, params, _IDS, 2, decoder_input_ids=_IDS,
      decoder_attention_mask=_MASK,
    )  # fmt: skip
  with pytest.raises(
    ValueError, match=r"decoder_input_ids must lie in 0\.\.10"
  ):
    generate.generate(net.net, params, _IDS, 2, decoder_input_ids=_IDS + 9)
  with pytest.raises(ValueError, match="No edge can be cut here"):
    cut = sites.Edits(cut={"decoder.blocks.0.mlp.read": np.ones((1, 1, 1, 2))})
    generate.generate(net.net, params, _IDS, 2, edits=cut)


_HUB = {
  "model_type": "t5", "architectures": ["T5EncoderModel"], "vocab_size": 11,
  "d_model": 6, "num_heads": 2, "d_kv": 4, "d_ff": 7, "num_layers": 1,
  "num_decoder_layers": 2, "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 10,
}  # fmt: skip


@pytest.mark.parametrize("said", [False, True])
def test_an_encoder_alone_is_that_of_the_whole(said, tmp_path):
  net, params = _network("t5")
  tensors = {
    key: x
    for key, x in t5_test.tensors_of(net.config, params).items()
    if key.startswith(("shared", "encoder"))
  }
  settings = _HUB | {"is_encoder_decoder": said}
  alone = hub.load(checkpoints.save(tmp_path, settings, tensors))
  scale = {"encoder.blocks.0.attn.z": np.array([0.0, 1])[None, None, :, None]}
  edits = sites.Edits(scale=scale)
  encoder = {"input_ids": _IDS, "attention_mask": _MASK}
  out = jax.jit(alone.apply)(alone.params, edits, **encoder)
  capture = ("encoder.embed", "encoder.blocks.0.resid_post", "*r.final_norm")
  whole = net.apply(
    params, edits, capture=capture, decoder_input_ids=_IDS[:, :1], **encoder
  ).activations
  assert len(out.hidden) == 2
  assert checkpoints.difference(out.hidden[0], whole["encoder.embed"]) == 0
  last = np.asarray(whole["encoder.final_norm"], np.float64)
  assert checkpoints.difference(out.hidden[1], last) < _RTOL
  mean = np.stack([x[seen > 0].mean(axis=0) for x, seen in zip(last, _MASK)])
  unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
  assert checkpoints.difference(out.logits, unit) < _RTOL
  assert not any(site.startswith("decoder.") for site in alone.sites)
  with pytest.raises(TypeError, match="Encoder is no causal language model"):
    generate.generate(alone, alone.params, _IDS, 2)
