"""Generation with a cache against full forwards, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import models
from spex_jax.models import bert, generate, sites
from tests.models import checkpoints

_IDS = np.array([[3, 1, 4, 1, 5], [2, 7, 1, 16, 16]], np.int32)
_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
_TOLERANCE = 5e-6  # As in transformer_test, for the same networks.
_SLIDING = checkpoints.relative(
  "gemma2",
  hidden_act="gelu_pytorch_tanh",
  query_pre_attn_scalar=4,
  tie_word_embeddings=True,
  sliding_window=3,
)


def _generate(net, *args, edits=None, **settings):
  """Compiled, with the edits traced."""
  run = lambda params, edits: generate.generate(
    net, params, *args, edits=edits, **settings
  )
  return jax.jit(run)(net.params, edits)


def _greedy(net, ids, num, edits=None):
  """One text, one full forward per token: tokens and log-probabilities."""
  # Zeros behind the text, which a causal model does not see: one program.
  text = np.zeros((1, len(ids) + num), np.int32)
  text[0, : len(ids)] = ids
  logprobs = []
  for at in range(len(ids), len(ids) + num):
    row = net.apply(net.params, edits, input_ids=text).logits[0, at - 1]
    text[0, at] = row.argmax()
    logprobs.append(np.asarray(jax.nn.log_softmax(row))[text[0, at]])
  return text[0, len(ids) :].tolist(), np.array(logprobs)


@pytest.mark.slow_where("gpt2")
@pytest.mark.parametrize(
  "settings", [checkpoints.GPT2, _SLIDING], ids=["gpt2", "gemma2 sliding"]
)
def test_greedy_tokens_equal_full_forwards(settings):
  net, _ = checkpoints.compiled(settings)
  out = _generate(net, _IDS, 4, attention_mask=_MASK)
  assert out.tokens.shape == (2, 4)
  for row in range(2):
    prompt = _IDS[row][_MASK[row] > 0]
    tokens, logprobs = _greedy(net, prompt, 4)
    assert out.tokens[row].tolist() == tokens
    np.testing.assert_allclose(out.logprobs[row], logprobs, rtol=0, atol=1e-5)
  assert out.lengths.tolist() == [4, 4]


def test_extending_in_pieces_equals_one_forward():
  net, _ = checkpoints.compiled(_SLIDING)
  ids = np.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]], np.int32)
  full = net.apply(net.params, input_ids=ids).logits
  caches = generate.empty_caches(net.config, 2, 9, jnp.float32)
  parts, start = [], 0
  for size in (3, 1, 3):
    out = jax.jit(generate.extend, static_argnums=0)(
      net,
      net.params,
      jnp.asarray(ids[:, start : start + size]),
      jnp.full(2, start),
      caches,
    )
    parts.append(out.logits)
    caches, start = out.caches, start + size
  got = jnp.concatenate(parts, axis=1)
  assert checkpoints.difference(got, full) < _TOLERANCE


def test_edits_hold_at_every_step():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  mask = np.array([0.0, 1, 1, 0]).reshape(1, 1, 4, 1)
  edits = sites.Edits(scale={"blocks.0.attn.z": mask})
  out = _generate(net, _IDS[:1], 4, edits=edits)
  tokens, logprobs = _greedy(net, _IDS[0], 4, edits)
  assert out.tokens[0].tolist() == tokens
  np.testing.assert_allclose(out.logprobs[0], logprobs, rtol=0, atol=1e-5)
  plain = _generate(net, _IDS[:1], 4)
  assert np.abs(plain.logprobs - out.logprobs).max() > 1e-3


@pytest.mark.slow
def test_edges_are_cut_at_every_step():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  # By position of prompt and text, of which a step takes its own.
  rng = np.random.default_rng(0)
  cut = {
    reader: rng.uniform(size=(1, 8, *net.readers[reader]))
    for reader in ("blocks.1.attn.k_in", "final_norm.in")
  }
  ref = rng.normal(size=(1, 8, len(net.writers), net.config.width)) / 10
  edits = sites.Edits(cut=cut, ref=ref)
  prompts = np.array([[3, 1, 4, 1, 5], [2, 7, 0, 0, 0]], np.int32)
  out = _generate(net, prompts, 3, attention_mask=prompts > 0, edits=edits)
  for row, length in enumerate((5, 2)):
    text = np.zeros((1, 8), np.int32)  # Zeros behind it change nothing.
    text[0, :length] = prompts[row, :length]
    text[0, length : length + 3] = out.tokens[row]
    logits = net.apply(net.params, edits, input_ids=text).logits[0]
    logprobs = jax.nn.log_softmax(logits)[np.arange(3) + length - 1]
    assert out.tokens[row].tolist() == logprobs.argmax(-1).tolist()
    np.testing.assert_allclose(
      out.logprobs[row], logprobs.max(-1), rtol=0, atol=1e-5
    )


def test_logits_and_captures_by_step_are_those_of_the_whole_text():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  names = ("embed", "blocks.1.attn.z", "blocks.0.attn.pattern", "final_norm")
  edits = sites.Edits(scale={"blocks.0.mlp.out": np.full((1, 1, 1), 0.5)})
  out = _generate(
    net, _IDS, 4, attention_mask=_MASK, edits=edits, capture=names, logits=True
  )
  assert sorted(out.activations) == sorted(names)
  for row in range(2):
    prompt = _IDS[row][_MASK[row] > 0]
    text = np.zeros((1, 9), np.int32)
    text[0, : len(prompt)] = prompt
    text[0, len(prompt) : len(prompt) + 4] = out.tokens[row]
    whole = net.apply(net.params, edits, capture=names, input_ids=text)
    at = len(prompt) - 1 + np.arange(4)
    expected = whole.logits[0, at]
    assert checkpoints.difference(out.logits[row], expected) < _TOLERANCE
    assert out.tokens[row].tolist() == expected.argmax(-1).tolist()
    for name in names:
      axis = 1 if name.endswith("pattern") else 0
      expected = whole.activations[name][0].take(at, axis)
      got = jnp.moveaxis(out.activations[name][row], 0, axis)
      assert checkpoints.difference(got, expected) < _TOLERANCE, name


def test_suppressed_tokens_are_never_made():
  net, _ = checkpoints.compiled(checkpoints.GPT2)
  free = _generate(net, _IDS, 5, attention_mask=_MASK)
  never = tuple(int(token) for token in np.unique(free.tokens))
  out = _generate(net, _IDS, 5, attention_mask=_MASK, suppress=never)
  assert not np.isin(out.tokens, never).any()


def test_rows_end_at_the_end_token():
  net, _ = checkpoints.compiled(checkpoints.GPT2)
  free = _generate(net, _IDS, 5, attention_mask=_MASK)
  end = int(free.tokens[0, 1])
  out = _generate(net, _IDS, 5, attention_mask=_MASK, end=end)
  for row in range(2):
    tokens = free.tokens[row].tolist()
    length = tokens.index(end) + 1 if end in tokens else 5
    assert int(out.lengths[row]) == length
    want = tokens[:length] + [end] * (5 - length)
    assert out.tokens[row].tolist() == want
    assert not np.asarray(out.logprobs[row, length:]).any()


@pytest.mark.slow
def test_drawn_tokens_follow_the_distribution():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  ids = np.tile(_IDS[:1], (4000, 1))
  draw = jax.jit(
    lambda key, **kw: generate.generate(
      net, net.params, ids, 1, key=key, **kw
    ).tokens[:, 0],
    static_argnames=("temperature", "top_k"),
  )
  logits = net.apply(net.params, input_ids=_IDS[:1]).logits[0, -1]
  for top_k in (0, 3):
    got = draw(jax.random.key(1), temperature=0.7, top_k=top_k)
    weights = np.exp(np.asarray(logits, np.float64) / 0.7)
    if top_k:
      weights[np.argsort(weights)[:-top_k]] = 0
    expected = weights / weights.sum()
    share = np.bincount(got, minlength=17) / 4000
    # Five standard deviations of a share of 4,000 draws.
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected / 4000)).all()
    if top_k:
      assert np.count_nonzero(share) == top_k
  again = draw(jax.random.key(1), temperature=0.7, top_k=3)
  np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"max_new_tokens": 28}, "5 tokens and 28 new ones .* most 32"),
    ({"max_new_tokens": 0}, "at least 1 new"),
    ({"temperature": -1.0}, "temperature >= 0"),
    ({"temperature": 1.0}, "needs a key"),
    ({"top_k": 18}, "top_k in 0..17"),
    ({"suppress": (0, 17)}, r"suppress must lie in 0..16; got \[0, 17\]"),
    ({"suppress": range(17)}, "one must be left"),
    ({"capture": ("blocks.9.*",)}, "names no site"),
    ({"end": 17}, "end token must lie in 0..16; got 17"),
    ({"attention_mask": 1 - _MASK}, "padded on the right"),
    ({"attention_mask": _MASK[:, ::-1]}, "padded on the right"),
    (
      {"edits": sites.Edits(scale={"blocks.9.attn.z": np.ones((1, 1, 1, 1))})},
      "No such site: .'blocks.9.attn.z'",
    ),
  ],
)
def test_bad_settings_are_refused(kwargs, message):
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  with pytest.raises(ValueError, match=message):
    generate.generate(
      net, net.params, **({"input_ids": _IDS, "max_new_tokens": 2} | kwargs)
    )


def test_only_causal_models_generate():
  net = bert.network(
    bert.config_from_hub(
      {
        "model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 17,
        "max_position_embeddings": 9,
      }
    )
  )  # fmt: skip
  with pytest.raises(TypeError, match="Encoder is no causal language model"):
    generate.generate(net, {}, _IDS, 2)
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  with pytest.raises(TypeError, match="has no decoder_input_ids"):
    generate.generate(net, net.params, _IDS, 2, decoder_input_ids=_IDS)
  with pytest.raises(TypeError, match="Decoder is no encoder-decoder"):
    generate.begin(net, net.params, 3, input_ids=_IDS)


@pytest.mark.slow
def test_a_trained_model_writes_english():
  net = checkpoints.Compiled(models.load(checkpoints.shared("stories260k")))
  prompt = net.tokenizer.encode("Once upon a time, there was a little").ids
  ids = np.array([prompt], np.int32)
  out = _generate(net, ids, 12)
  text = net.tokenizer.decode(out.tokens[0].tolist())
  assert text.strip().startswith("girl named"), text
  assert out.tokens[0].tolist() == _greedy(net, prompt, 12)[0]
