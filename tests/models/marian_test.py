"""Marian against NumPy in float64, and generation of encoder-decoders."""

import functools
import math
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
import pytest

from spex_jax.models import generate, hub, marian, seq2seq_blocks, sites
from tests import tokenizers_small
from tests.models import checkpoints, reference

HUB: dict[str, Any] = {
  "model_type": "marian",
  "architectures": ["MarianMTModel"],
  "is_encoder_decoder": True,
  "vocab_size": 11,
  "d_model": 6,
  "encoder_layers": 2,
  "decoder_layers": 1,
  "encoder_attention_heads": 2,
  "decoder_attention_heads": 2,
  "encoder_ffn_dim": 7,
  "decoder_ffn_dim": 7,
  "activation_function": "swish",
  "max_position_embeddings": 16,
  "scale_embedding": True,
  "pad_token_id": 10,
  "eos_token_id": 0,
  "decoder_start_token_id": 10,
  # Written by the conversion, and never read.
  "num_hidden_layers": 2,
  "normalize_before": False,
  "static_position_embeddings": True,
}
# Sums of up to 11 products, some ten layers deep, in float32.
_RTOL = 1e-5


def tensors(settings=HUB, seed=0):
  """A random checkpoint, by transformers' keys."""
  d, f, v = (settings[k] for k in ("d_model", "encoder_ffn_dim", "vocab_size"))
  shapes = {"model.shared.weight": (v, d), "final_logits_bias": (1, v)}
  for stack, parts in (
    ("encoder", ("self_attn",)),
    ("decoder", ("self_attn", "encoder_attn")),
  ):
    for number in range(settings[f"{stack}_layers"]):
      at = f"model.{stack}.layers.{number}."
      sizes = {"fc1": (f, d), "fc2": (d, f), "final_layer_norm": (d,)}
      for part in parts:
        sizes |= {f"{part}.{x}_proj": (d, d) for x in ("q", "k", "v", "out")}
        sizes[f"{part}_layer_norm"] = (d,)
      for name, shape in sizes.items():
        shapes |= {
          f"{at}{name}.weight": shape,
          f"{at}{name}.bias": shape[:1],
        }
  return checkpoints.random_tensors(shapes, seed)


def save(path):
  """A random checkpoint with a tokenizer; returns its tensors."""
  made = tensors()
  checkpoints.save(path, HUB, made)
  names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
  tokenizers_small.save(tokenizers_small.unigram(), path, names, **HUB)
  told = '{"bad_words_ids": [[10]], "num_beams": 4}'
  (path / "generation_config.json").write_text(told)
  return made


@functools.cache
def compiled():
  """The network of a random checkpoint, and its tensors."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model"
    made = save(path)
    return checkpoints.Compiled(hub.load(path)), made


def _attend(t, key, x, memory, mask, heads):
  """One query and one head at a time: `[P, d]` and `[S, d]` to `[P, d]`."""
  project = lambda name, y: (
    y @ t[f"{key}.{name}.weight"].T + t[f"{key}.{name}.bias"]
  )
  q, k, v = (
    project(f"{name}_proj", y) for name, y in zip("qkv", (x, memory, memory))
  )
  width = x.shape[1] // heads
  out = np.zeros_like(x)
  for head in range(heads):
    own = slice(head * width, (head + 1) * width)
    for place in range(len(x)):
      keys = np.flatnonzero(mask[place])
      scores = k[keys, own] @ q[place, own] / math.sqrt(width)
      weights = np.exp(scores - scores.max())
      out[place, own] = weights / weights.sum() @ v[keys, own]
  return project("out_proj", out)


def _norm(t, at, name, x):
  weight, bias = (t[f"{at}{name}.{kind}"] for kind in ("weight", "bias"))
  return reference.layer_norm(x, weight, bias, 1e-5)


def _stack(t, stack, ids, mask, memory=None, seen=()):
  """Hidden states of one text: ids `[P]`, masks `[P, P]` and `[S]`."""
  d, heads = HUB["d_model"], HUB["encoder_attention_heads"]
  x = t["model.shared.weight"][ids] * math.sqrt(d)
  for place in range(len(ids)):
    for i in range(d // 2):
      angle = place / 10000 ** (2 * i / d)
      x[place, i] += math.sin(angle)
      x[place, d // 2 + i] += math.cos(angle)
  hidden = [x]
  for number in range(HUB[f"{stack}_layers"]):
    at = f"model.{stack}.layers.{number}."
    norm = functools.partial(_norm, t, at)
    key = at + "self_attn"
    x = norm("self_attn_layer_norm", x + _attend(t, key, x, x, mask, heads))
    if memory is not None:
      look = np.tile(seen, (len(ids), 1))
      added = _attend(t, at + "encoder_attn", x, memory, look, heads)
      x = norm("encoder_attn_layer_norm", x + added)
    up = x @ t[at + "fc1.weight"].T + t[at + "fc1.bias"]
    down = up / (1 + np.exp(-up)) @ t[at + "fc2.weight"].T
    x = norm("final_layer_norm", x + down + t[at + "fc2.bias"])
    hidden.append(x)
  return hidden


def _reference(made, ids, seen, decoder_ids):
  """Logits of one row and the decoder's hidden states, in float64."""
  t = {key: np.asarray(x, np.float64) for key, x in made.items()}
  both = np.tile(seen, (len(ids), 1))
  memory = _stack(t, "encoder", ids, both)[-1]
  length = len(decoder_ids)
  mask = np.tril(np.ones((length, length)))
  hidden = _stack(t, "decoder", decoder_ids, mask, memory, seen)
  logits = hidden[-1] @ t["model.shared.weight"].T + t["final_logits_bias"][0]
  return logits, hidden


def _inputs():
  rng = np.random.default_rng(1)
  return {
    "input_ids": rng.integers(0, 10, (2, 7)),
    "decoder_input_ids": rng.integers(0, 10, (2, 5)),
    "attention_mask": np.array([[1] * 7, [1] * 4 + [0] * 3]),
  }


def test_matches_numpy():
  net, made = compiled()
  inputs = _inputs()
  out = net.apply(net.params, **inputs)
  for row in range(2):
    logits, hidden = _reference(
      made, *(inputs[k][row] for k in (
        "input_ids", "attention_mask", "decoder_input_ids"))
    )  # fmt: skip
    assert checkpoints.difference(out.logits[row], logits) < _RTOL
    assert len(out.hidden) == len(hidden) == 2
    for got, expected in zip(out.hidden, hidden):
      assert checkpoints.difference(got[row], expected) < _RTOL


def test_every_site_is_called_in_order_and_takes_edits():
  net, _ = compiled()
  inputs, names = _inputs(), net.sites
  tap = sites.Tap(None, frozenset(names))
  params = {"params": net.params}
  jax.eval_shape(lambda: net.module.apply(params, tap, **inputs))
  assert tuple(tap.activations) == names
  found = tap.activations
  nothing = {site: np.zeros(x.shape) for site, x in found.items()}
  edited = jax.jit(
    lambda add: net.net.apply(net.params, sites.Edits(add=add), **inputs).logits
  )
  plain = edited(nothing)
  rng = np.random.default_rng(3)
  for site, x in found.items():
    other = edited(nothing | {site: 3 * rng.normal(size=x.shape)})
    assert checkpoints.difference(other, plain) > 1e-4, site


def test_settings_of_a_checkpoint():
  net, _ = compiled()
  assert net.config.suppressed == (10,) and net.config.start_id == 10
  assert net.config == seq2seq_blocks.Config(
    order="post", width=6, num_blocks=2, num_decoder_blocks=1, num_heads=2,
    num_kv_heads=2, head_width=3, num_neurons=7, activation="swish",
    score_scale=3**-0.5, vocab_size=11, max_positions=16,
    embed_scale=6**0.5, logits_bias=True, start_id=10, suppressed=(10,),
  )  # fmt: skip


@pytest.mark.parametrize(
  "change, message",
  [
    ({"normalize_before": True}, "normalize_before=True, which is not"),
    ({"static_position_embeddings": False}, "static_position_embeddings=F"),
    ({"share_encoder_decoder_embeddings": False}, "decoder_embeddings=False"),
    ({"decoder_attention_heads": 3}, "decoder_attention_heads=3"),
    ({"decoder_vocab_size": 12}, "decoder_vocab_size=12"),
    ({"bad_words_ids": [[1, 2]]}, "single tokens can be suppressed"),
    ({"bad_words_ids": [[11]]}, "Token 11 lies outside the vocabulary of 11"),
    ({"max_position_embeddings": 0}, "max_position_embeddings=0; it must be"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder=False"),
    ({"rotary": 3}, "not known here .*: rotary=3"),
  ],
)
def test_settings_that_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    marian.config_from_hub(HUB | change)


def test_older_files_hold_the_table_and_the_sinusoids_again(tmp_path):
  net, made = compiled()
  old = dict(made)
  table = seq2seq_blocks.sinusoids(16, 6).astype(np.float16)
  for stack in ("encoder", "decoder"):
    old[f"model.{stack}.embed_tokens.weight"] = made["model.shared.weight"]
    old[f"model.{stack}.embed_positions.weight"] = table
  old["lm_head.weight"] = made["model.shared.weight"]
  got = hub.load(checkpoints.save(tmp_path, HUB, old))
  jax.tree.map(np.testing.assert_array_equal, got.params, net.params)
  # Of other sinusoids (in turn, as in the paper; of one number; of a longer
  # text) the network would be another one: transformers uses what is stored.
  key = "model.decoder.embed_positions.weight"
  swapped = table[:, [0, 3, 1, 4, 2, 5]]
  one = table.astype(np.float32)
  one[3, 2] += 1e-4
  longer = seq2seq_blocks.sinusoids(17, 6).astype(np.float32)
  for other, words in ((swapped, "of 96 numbers"), (one, "96 numbers"),
                       (longer, r"shape is \(17, 6\), not")):  # fmt: skip
    folder = checkpoints.save(tmp_path, HUB, old | {key: other})
    with pytest.raises(ValueError, match=rf"'{key}' would be .*{words}"):
      hub.load(folder)
  checkpoints.save(tmp_path, HUB, old)
  (tmp_path / "source.spm").write_bytes(b"")
  with pytest.raises(ValueError, match="source.spm and no tokenizer.json"):
    hub.load(tmp_path)


def test_the_tokenizer_comes_along():
  net, _ = compiled()
  tokenizer = net.tokenizer
  assert tokenizer.special == {"eos": 0, "unk": 1, "pad": 10}
  assert tokenizer.max_length == 16
  text = "the film is fun"
  encoding = tokenizer.encode(text)
  assert encoding.ids.tolist() == [2, 3, 4, 5, 0]
  assert tokenizer.decode(encoding.ids) == text
  words = [text[start:end].strip() for start, end in encoding.offsets[:-1]]
  assert words == text.split() and encoding.special.tolist()[-1]


def test_texts_end_where_positions_do():
  net, _ = compiled()
  ids = np.zeros((1, 17), np.int32)
  with pytest.raises(ValueError, match="17 tokens; the model has 16 positions"):
    generate.generate(net.net, net.params, ids, 2)
  with pytest.raises(ValueError, match="1 tokens and 16 new ones .* most 16"):
    generate.generate(net.net, net.params, ids[:, :3], 16)
