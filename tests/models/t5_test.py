"""T5 against NumPy in float64, against recorded outputs, and by its parts."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from spex_jax.ablate import absent, text
from spex_jax.models import hub, seq2seq_blocks, sites, t5
from tests import tokenizers_small
from tests.models import checkpoints

_RELU = t5.config(
  vocab_size=11,
  width=6,
  num_heads=2,
  head_width=4,
  num_neurons=7,
  num_blocks=2,
  num_decoder_blocks=1,
  num_buckets=8,
  max_distance=10,
)
_GATED = dataclasses.replace(
  _RELU,
  activation="gelu_new",
  gated=True,
  tied=False,
  output_scale=1.0,
  num_decoder_blocks=2,
)
_CONFIGS = {"relu": _RELU, "gated": _GATED}
# Sums of up to 11 products, some ten layers deep, in float32.
_RTOL = 1e-5


@functools.cache
def _network(config):
  net = t5.network(config)
  return checkpoints.Compiled(net), checkpoints.random_params(net)


def _setup(config=_RELU):
  net, params = _network(config)
  rng = np.random.default_rng(1)
  inputs = {
    "input_ids": rng.integers(0, 11, (2, 9)),
    "decoder_input_ids": rng.integers(0, 11, (2, 5)),
    "attention_mask": np.array([[1] * 9, [1] * 5 + [0, 1, 0, 0]]),
    "decoder_attention_mask": np.array([[1] * 5, [1] * 4 + [0]]),
  }
  return net, params, inputs


def _bucket(ahead, config, both):
  """By the definition, one distance at a time."""
  number, first = config.num_buckets, 0
  if both:
    number //= 2
    first = number if ahead > 0 else 0
    ahead = -abs(ahead)
  distance = max(-ahead, 0)
  exact = number // 2
  if distance < exact:
    return first + distance
  share = math.log(distance / exact) / math.log(config.max_distance / exact)
  return first + min(exact + int(share * (number - exact) + 1e-6), number - 1)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("number, reach", [(8, 10), (32, 128), (4, 3)])
def test_buckets_of_distances(both, number, reach):
  config = dataclasses.replace(_RELU, num_buckets=number, max_distance=reach)
  ahead = np.arange(190)[None] - np.arange(200)[:, None]
  got = seq2seq_blocks.buckets(ahead, config, both=both)
  expected = [
    [_bucket(key - query, config, both) for key in range(190)]
    for query in range(200)
  ]
  np.testing.assert_array_equal(got, expected)
  assert got.max() == number - 1


def _norm(p, x):
  square = (x**2).mean(axis=-1, keepdims=True)
  return x / np.sqrt(square + 1e-6) * p["scale"]


def _attend(p, x, memory, mask, bias):
  q = np.einsum("bpd,dnh->bnph", x, p["q"]["kernel"])
  k = np.einsum("bpd,dnh->bnph", memory, p["k"]["kernel"])
  v = np.einsum("bpd,dnh->bnph", memory, p["v"]["kernel"])
  scores = q @ k.transpose(0, 1, 3, 2) + bias
  scores = np.where(mask, scores, -np.inf)
  z = special.softmax(scores, axis=-1) @ v
  return np.einsum("bnph,nhd->bpd", z, p["out"]["kernel"])


def _stack(p, config, name, x, mask, memory=None, memory_mask=None):
  length = x.shape[1]
  at = [
    [_bucket(k - q, config, name == "encoder") for k in range(length)]
    for q in range(length)
  ]
  bias = p["distance"][np.array(at)].transpose(2, 0, 1)[None]
  hidden = [x]
  for number in range(sum(key.startswith("blocks") for key in p)):
    b = p[f"blocks_{number}"]
    near = _norm(b["norm1"], x)
    x = x + _attend(b["attn"], near, near, mask, bias)
    if memory is not None:
      near = _norm(b["norm_cross"], x)
      x = x + _attend(b["cross"], near, memory, memory_mask, 0)
    near = _norm(b["norm2"], x)
    up = near @ b["mlp"]["up"]["kernel"]
    if config.gated:
      gate = near @ b["mlp"]["gate"]["kernel"]
      inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
      neurons = 0.5 * gate * (1 + np.tanh(inner)) * up
    else:
      neurons = np.maximum(up, 0)
    x = x + neurons @ b["mlp"]["down"]["kernel"]
    hidden.append(x)
  hidden[-1] = _norm(p["final_norm"], x)
  return hidden


def _reference(config, params, inputs):
  """The forward pass, written out, in float64."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  seen = inputs["attention_mask"][:, None, None] == 1
  table = p["tokens"]["table"]
  x = table[inputs["input_ids"]]
  memory = _stack(p["encoder"], config, "encoder", x, seen)[-1]
  x = table[inputs["decoder_input_ids"]]
  mask = inputs["decoder_attention_mask"][:, None, None] == 1
  mask = mask & np.tril(np.ones((5, 5), bool))
  hidden = _stack(p["decoder"], config, "decoder", x, mask, memory, seen)
  x = hidden[-1] / (math.sqrt(config.width) if config.tied else 1)
  head = table.T if config.tied else p["head"]["kernel"]
  return x @ head, hidden, memory


@pytest.mark.slow_where("relu")
@pytest.mark.parametrize("name", _CONFIGS)
def test_matches_numpy(name):
  net, params, inputs = _setup(_CONFIGS[name])
  out = net.apply(params, capture=("*.final_norm",), **inputs)
  logits, hidden, memory = _reference(net.config, params, inputs)
  assert checkpoints.difference(out.logits, logits) < _RTOL
  assert len(out.hidden) == len(hidden)
  for actual, expected in zip(out.hidden, hidden):
    assert checkpoints.difference(actual, expected) < _RTOL
  encoded = out.activations["encoder.final_norm"]
  assert checkpoints.difference(encoded, memory) < _RTOL


def test_recorded_outputs():
  folder = checkpoints.shared("tiny", "t5")
  net = checkpoints.Compiled(hub.load(folder))
  inputs, reference = checkpoints.recorded(folder)
  out = net.apply(net.params, capture=("encoder.final_norm",), **inputs)
  assert checkpoints.difference(out.logits, reference["out_logits"]) < 1e-5
  seen = inputs["attention_mask"] == 1
  encoded = out.activations["encoder.final_norm"]
  expected = reference["out_encoder"]
  assert checkpoints.difference(encoded[seen], expected[seen]) < 1e-5


@pytest.mark.slow_where("relu")
@pytest.mark.parametrize("name", _CONFIGS)
def test_every_site_is_called_in_order_and_takes_edits(name):
  net, params, inputs = _setup(_CONFIGS[name])
  tap = sites.Tap(None, frozenset(net.sites))
  jax.eval_shape(lambda: net.module.apply({"params": params}, tap, **inputs))
  assert tuple(tap.activations) == net.sites
  rng = np.random.default_rng(3)
  found = tap.activations
  scale = {site: np.ones((1,) * x.ndim) for site, x in found.items()}
  nothing = {site: np.zeros(x.shape) for site, x in found.items()}
  # One compilation for the edits of all sites.
  edited = jax.jit(
    lambda add: net.apply(params, sites.Edits({}, scale, add), **inputs).logits
  )
  plain = net.apply(params, **inputs).logits
  assert checkpoints.difference(edited(nothing), plain) < _RTOL
  for site, x in found.items():
    other = edited(nothing | {site: 3 * rng.normal(size=x.shape)})
    assert checkpoints.difference(other, plain) > 1e-4, site


@pytest.mark.slow
def test_heads_add_up_and_can_be_cut():
  net, params, inputs = _setup()
  names = ("encoder.blocks.1.attn", "decoder.blocks.0.cross")
  capture = tuple(f"{n}.{s}" for n in names for s in ("heads", "out"))
  found = net.apply(params, capture=capture, **inputs).activations
  for name in names:
    total = found[f"{name}.heads"].sum(axis=2)
    assert checkpoints.difference(total, found[f"{name}.out"]) < _RTOL
    keep = np.array([0.0, 1.0])
    cut = [
      sites.Edits(scale={f"{name}.{at}": keep[None, None, :, None]})
      for at in ("heads", "z")
    ]
    by_heads, by_z = (net.apply(params, e, **inputs).logits for e in cut)
    assert checkpoints.difference(by_heads, by_z) < _RTOL


def test_what_is_not_seen_does_not_matter():
  net, params, inputs = _setup()
  logits = net.apply(params, **inputs).logits
  other = dict(inputs)
  hidden = inputs["attention_mask"] == 0
  other["input_ids"] = np.where(hidden, 3, inputs["input_ids"])
  np.testing.assert_array_equal(net.apply(params, **other).logits, logits)
  # Later tokens of the decoder neither.
  other["decoder_input_ids"] = inputs["decoder_input_ids"].copy()
  other["decoder_input_ids"][:, 3:] = 1
  got = net.apply(params, **other).logits
  np.testing.assert_array_equal(got[:, :3], logits[:, :3])
  # Masks may be left out where nothing is hidden.
  bare = {k: inputs[k][:1] for k in ("input_ids", "decoder_input_ids")}
  got = net.apply(params, **bare).logits
  assert checkpoints.difference(got, logits[:1]) < _RTOL


def test_removed_players_equal_the_kept_tokens_alone():
  tokenizer = tokenizers_small.bert_like()
  config = dataclasses.replace(
    _RELU, vocab_size=tokenizer.vocab_size, num_blocks=1
  )
  net, params = _network(config)
  start = np.zeros((1, 1), np.int32)
  prompt = text.prompt("Tacky film, never boring fun", tokenizer)
  see = absent.inputs(prompt, tokenizer, "remove")
  run = jax.jit(
    lambda m: net.apply(params, decoder_input_ids=start, **see(m)).logits
  )
  plain = jax.jit(
    lambda ids: net.apply(params, input_ids=ids, decoder_input_ids=start)
  )
  for mask in ([1, 0, 1, 1, 0], [0] * 5, [1] * 5):
    mask = np.array(mask, bool)
    ids = prompt.encoding.ids[np.append(mask, True)[prompt.players.owner]]
    alone = plain(ids[None])
    assert checkpoints.difference(run(mask), alone.logits) < _RTOL


def test_one_compilation_serves_every_mask_and_vmap_equals_a_loop():
  net, params, inputs = _setup()
  masks = np.random.default_rng(2).random((4, 2)) < 0.5

  def ablated(mask):
    scale = {"encoder.blocks.0.attn.z": mask[None, None, :, None]}
    return net.apply(params, sites.Edits(scale=scale), **inputs).logits

  chex.clear_trace_counter()
  one = jax.jit(chex.assert_max_traces(ablated, n=1))
  looped = np.stack([one(mask) for mask in masks])
  batched = jax.jit(jax.vmap(ablated))(jnp.asarray(masks))
  assert checkpoints.difference(batched, looped) < _RTOL


def test_encoder_and_decoder_run_alone():
  net, params, inputs = _setup()

  def apart(module):
    tap = sites.Tap(None, frozenset())
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    memory = module.encode(tap, ids, mask)
    return module.decode(
      tap,
      memory,
      inputs["decoder_input_ids"],
      inputs["decoder_attention_mask"],
    )[0]

  got = jax.jit(lambda: net.module.apply({"params": params}, method=apart))()
  expected = net.apply(params, **inputs).logits
  assert checkpoints.difference(got, expected) < _RTOL


def test_bfloat16_keeps_its_dtype():
  net, params, inputs = _setup()
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  out = net.apply(narrow, **inputs)
  assert out.logits.dtype == jnp.bfloat16
  # 8 bits of mantissa, some 10 roundings deep.
  wide = net.apply(params, **inputs).logits
  assert checkpoints.difference(out.logits, wide) < 10 * 2**-8


@pytest.mark.parametrize(
  "change, error, message",
  [
    ({"input_ids": np.zeros(3, int)}, ValueError, r"\[B, P\], not empty; got"),
    ({"input_ids": np.zeros((1, 0), int)}, ValueError, r"got \(1, 0\)"),
    ({"input_ids": np.ones((2, 9))}, TypeError, "integers; got float"),
    ({"input_ids": np.full((2, 9), 11)}, ValueError, r"in 0\.\.10; got 11"),
    ({"decoder_input_ids": -np.ones((2, 5), int)}, ValueError, "got -1"),
    ({"attention_mask": np.ones((2, 8))}, ValueError, r"\(2, 9\), like its"),
    ({"decoder_attention_mask": np.ones((2, 9))}, ValueError, "decoder_att"),
    ({"token_type_ids": 1}, TypeError, r"may have \['attention_mask'"),
  ],
)
def test_bad_inputs(change, error, message):
  net, params, inputs = _setup()
  with pytest.raises(error, match=message):
    net.net.apply(params, **{**inputs, **change})


def test_an_id_outside_the_vocabulary_shows_under_jit():
  net, params, inputs = _setup()
  inputs["input_ids"] = np.full((2, 9), 11)
  run = jax.jit(lambda ids: net.apply(params, **{**inputs, "input_ids": ids}))
  assert np.isnan(run(inputs["input_ids"]).logits).all()


HUB = {
  "model_type": "t5",
  "architectures": ["T5ForConditionalGeneration"],
  "vocab_size": 11,
  "d_model": 6,
  "num_heads": 2,
  "d_kv": 4,
  "d_ff": 7,
  "num_layers": 2,
  "num_decoder_layers": 1,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 10,
  "n_positions": 512,
  "dropout_rate": 0.1,
}


CHANGES = {
  "relu": {},
  "gated": {
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "tie_word_embeddings": False,
    "num_decoder_layers": None,
  },
}


def test_settings_of_a_checkpoint():
  assert t5.config_from_hub(HUB) == _RELU
  gated = CHANGES["gated"]
  assert t5.config_from_hub(HUB | gated) == _GATED
  # As later versions of transformers write the same model.
  gated = gated | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
  assert t5.config_from_hub(HUB | gated) == _GATED


@pytest.mark.parametrize(
  "change, message",
  [
    ({"is_encoder_decoder": False}, "is_encoder_decoder=False, which is not"),
    ({"attention_bias": True}, "not known here .*: attention_bias=True"),
    ({"feed_forward_proj": "split-relu"}, "'split-relu'; it must be an"),
    ({"feed_forward_proj": "mish"}, "'mish'; it must be an activation"),
    ({"dense_act_fn": "gelu"}, "dense_act_fn='gelu' contradicts"),
    ({"is_gated_act": True}, "is_gated_act=True contradicts"),
    ({"relative_attention_num_buckets": 6}, "a multiple of 4; got 6"),
    ({"relative_attention_max_distance": 4}, "max_distance=4 must exceed"),
    ({"d_ff": 0}, "must be a whole number from 1"),
  ],
)
def test_settings_that_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    t5.config_from_hub(HUB | change)


def test_settings_that_are_missing():
  bare = {k: v for k, v in HUB.items() if k not in ("d_ff", "d_kv")}
  with pytest.raises(ValueError, match="t5 must set d_kv"):
    t5.config_from_hub(bare)


def tensors_of(config, params):
  """The parameters by transformers' keys, in its layout."""
  tensors, ours = {}, jax.tree.map(np.asarray, params)
  for stack, last in (("encoder", 1), ("decoder", 2)):
    p, root = ours[stack], f"{stack}.block.0.layer.0.SelfAttention"
    distance = f"{root}.relative_attention_bias.weight"
    tensors[distance] = p["distance"]
    tensors[f"{stack}.final_layer_norm.weight"] = p["final_norm"]["scale"]
    tensors[f"{stack}.embed_tokens.weight"] = ours["tokens"]["table"]
    for number in range(sum(key.startswith("blocks") for key in p)):
      b, key = p[f"blocks_{number}"], f"{stack}.block.{number}.layer"
      layers = [("attn", "SelfAttention", "norm1")]
      if stack == "decoder":
        layers.append(("cross", "EncDecAttention", "norm_cross"))
      for layer, (part, kind, norm) in enumerate(layers):
        tensors[f"{key}.{layer}.layer_norm.weight"] = b[norm]["scale"]
        for x in "qkv":
          kernel = b[part][x]["kernel"]
          tensors[f"{key}.{layer}.{kind}.{x}.weight"] = kernel.reshape(6, 8).T
        out = b[part]["out"]["kernel"].reshape(8, 6).T
        tensors[f"{key}.{layer}.{kind}.o.weight"] = out
      tensors[f"{key}.{last}.layer_norm.weight"] = b["norm2"]["scale"]
      parts = {"wi": "up", "wo": "down"}
      if config.gated:
        parts = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
      for theirs, part in parts.items():
        kernel = b["mlp"][part]["kernel"]
        tensors[f"{key}.{last}.DenseReluDense.{theirs}.weight"] = kernel.T
  tensors["shared.weight"] = ours["tokens"]["table"]
  head = ours["tokens"]["table"] if config.tied else ours["head"]["kernel"].T
  tensors["lm_head.weight"] = head
  return tensors


@pytest.mark.parametrize("name", _CONFIGS)
def test_rules_take_every_key_and_fill_every_parameter(name, tmp_path):
  net, params, _ = _setup(_CONFIGS[name])
  tensors = tensors_of(net.config, params)
  got = hub.load(checkpoints.save(tmp_path, HUB | CHANGES[name], tensors))
  assert got.config == net.config
  jax.tree.map(
    np.testing.assert_array_equal, got.params, jax.tree.map(np.asarray, params)
  )
