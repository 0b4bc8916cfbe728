"""Recorded outputs of transformers, reproduced from the same checkpoints."""

import jax
import numpy as np
import pytest

from spex_jax import models
from spex_jax.models import sites
from tests.models import checkpoints

_FAMILIES = (
  "gpt2", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gpt_neox",
  "bert", "distilbert", "roberta", "vit", "t5", "resnet_basic",
  "resnet_bottleneck",
)  # fmt: skip


@pytest.mark.slow_where(
  "vit", "distilbert", "roberta", "qwen3", "resnet_bottleneck", "phi3"
)
@pytest.mark.parametrize("name", ["stories260k", *_FAMILIES])
def test_logits_and_hidden_states(name):
  parts = (name,) if name == "stories260k" else ("tiny", name)
  folder = checkpoints.shared(*parts)
  net = models.load(folder)
  inputs, expected = checkpoints.recorded(folder)
  out = jax.jit(net.apply)(net.params, **inputs)
  mask = inputs.get("attention_mask")
  per_token = None
  if mask is not None and out.logits.shape[:2] == mask.shape:
    per_token = mask
  difference = checkpoints.difference
  assert difference(out.logits, expected["out_logits"], per_token) < 1e-5
  hidden = [key for key in expected if key.startswith("out_hidden_")]
  assert len(hidden) in (0, len(out.hidden))
  for number in range(len(hidden)):
    want = expected[f"out_hidden_{number}"]
    assert difference(out.hidden[number], want, mask) < 1e-5
  if not hidden or name.startswith("resnet"):
    return
  # Captures are what the hidden states are, and change nothing.
  seen = net.apply(net.params, **inputs, capture=("*.resid_pre",))
  for number in range(net.config.num_blocks):
    got = seen.activations[f"blocks.{number}.resid_pre"]
    assert difference(got, expected[f"out_hidden_{number}"], mask) < 1e-5


@pytest.mark.slow
def test_head_masks_of_a_trained_model():
  folder = checkpoints.shared("stories260k")
  net = models.load(folder)
  inputs, expected = checkpoints.recorded(folder)
  length = int(inputs["attention_mask"][0].sum())
  ids = inputs["input_ids"][:1, :length]
  target = int(expected["head_target"])
  plain = net.apply(net.params, input_ids=ids, logits_to_keep=1)
  assert int(plain.logits[0, 0].argmax()) == target

  def value(mask):
    kept = mask.reshape(net.config.num_blocks, 1, 1, net.config.num_heads, 1)
    scale = {f"blocks.{i}.attn.z": kept[i] for i in range(len(kept))}
    out = net.apply(
      net.params, sites.Edits(scale=scale), input_ids=ids, logits_to_keep=1
    )
    return jax.nn.log_softmax(out.logits[0, 0])[target]

  got = jax.jit(jax.vmap(value))(expected["head_masks"])
  np.testing.assert_allclose(got, expected["head_values"], rtol=0, atol=1e-5)


def test_minilm():
  recorded = checkpoints.shared("minilm_reference.npz")
  net = models.load(checkpoints.minilm())
  with np.load(recorded) as expected:
    inputs = {
      name[3:]: expected[name].astype(np.int32)
      for name in expected
      if name.startswith("in_")
    }
    mask = inputs["attention_mask"]
    out = jax.jit(net.apply)(net.params, **inputs)
    last, want = out.hidden[-1], expected["out_last_hidden"]
    assert checkpoints.difference(last, want, mask) < 1e-5
    assert checkpoints.difference(out.logits, expected["out_embedding"]) < 1e-5
    for row, text in enumerate(expected["texts"]):
      ids = net.tokenizer.encode(str(text)).ids.tolist()
      known = inputs["input_ids"][row][mask[row] > 0].tolist()
      assert ids[: len(known)] == known


def test_the_tokenizer_comes_along():
  folder = checkpoints.shared("stories260k")
  net = models.load(folder)
  inputs, expected = checkpoints.recorded(folder)
  for row, text in enumerate(expected["texts"]):
    mask = inputs["attention_mask"][row] > 0
    ids = net.tokenizer.encode(str(text)).ids.tolist()
    assert ids == inputs["input_ids"][row][mask].tolist()
