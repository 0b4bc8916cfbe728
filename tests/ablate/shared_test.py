"""What no player touches is run once: the same values as running all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import (
  absent,
  components,
  evaluate,
  likelihoods,
  parts,
  prefix,
  readouts,
  text,
)
from spex_jax.models import encoder, gpt2, hub, llama, mlp, sites
from tests import tokenizers_small
from tests.models import checkpoints

_TOKENIZER = tokenizers_small.gpt_like()
_PROMPT = text.prompt(
  "the film is never boring and fun",
  _TOKENIZER,
  {"never": [(12, 17)], "boring": [(18, 24)], "fun": [(29, 32)]},
  bos="yes",
)
_MASKS = np.array([[m >> i & 1 for i in range(3)] for m in range(8)], bool)
_SLIDING = checkpoints.relative(
  "gemma2",
  query_pre_attn_scalar=6,
  tie_word_embeddings=True,
  sliding_window=4,
  vocab_size=_TOKENIZER.vocab_size,
)
_GPT2 = checkpoints.GPT2 | {"vocab_size": _TOKENIZER.vocab_size}
# Some hundred float32 roundings in another order, of log-probabilities of
# size 5.
_ATOL = 1e-5


@functools.cache
def _net(family):
  settings, module = {"gpt2": (_GPT2, gpt2), "gemma2": (_SLIDING, llama)}[
    family
  ]
  net = module.network(module.config_from_hub(settings))
  return net, checkpoints.random_params(net)


def _compiled(f, n, shared, **settings):
  return evaluate.compiled(
    f,
    n,
    shared=shared,
    batch_size=4,
    devices=jax.devices()[:1],
    **settings,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "family, way, token, length",
  [
    ("gpt2", "remove", None, None),
    ("gpt2", "one", "fun", 2),
    ("gemma2", "hide", None, None),
  ],
)
def test_a_shared_prefix_gives_what_the_whole_text_gives(
  family, way, token, length
):
  net, params = _net(family)
  prompt, read = _PROMPT, readouts.log_probability(1)
  if way != "one":
    prompt, count = text.continued(_PROMPT, " film is", _TOKENIZER)
    read = likelihoods.continuation(count)
  see = absent.inputs(prompt, _TOKENIZER, way, token=token)
  edits = None
  if way == "one":  # Under an intervention, by position.
    by_token = np.linspace(0, 2, prompt.num_tokens).reshape(1, -1, 1, 1)
    edits = sites.Edits(scale={"blocks.0.attn.z": by_token})
  # All logits and all blocks, and only then what is read.
  plain = lambda mask, params: read.whole(
    net.apply(params, edits, **see(mask)), see(mask)
  )[0]
  few = readouts.value(net, see, read, edits=edits)
  both = lambda mask, params: jnp.stack(
    [plain(mask, params), few(mask, params)]
  )
  expected, by_few = np.moveaxis(_compiled(both, 3, params)(_MASKS), 1, 0)
  np.testing.assert_allclose(by_few, expected, rtol=0, atol=_ATOL)
  value_fn = prefix.evaluator(
    net, prompt, read, way, token=token, length=length, params=params,
    tokenizer=_TOKENIZER, edits=edits, batch_size=4,
    devices=jax.devices()[:1],
  )  # fmt: skip
  np.testing.assert_allclose(value_fn(_MASKS), expected, rtol=0, atol=_ATOL)
  assert np.ptp(expected, axis=0).min() > 0.01
  assert value_fn.prepare().head_seconds > 0


def test_only_the_logits_that_are_read_are_computed():
  net, params = _net("gpt2")
  see = absent.inputs(_PROMPT, _TOKENIZER, "hide")
  given = see(np.array([True, False, False]))
  kept = []

  def run(**inputs):
    kept.append(inputs.get("logits_to_keep"))
    return jax.eval_shape(lambda: net.apply(params, **inputs))

  def ask(read, **more):
    with pytest.raises((TypeError, AttributeError)):  # Shapes are not read.
      readouts.forward(net, read, given, run, **more)
    return kept.pop()

  assert ask(readouts.logit(3)).tolist() == [[22]]
  assert ask(readouts.margin(3, position=-2)).tolist() == [[22]]
  assert ask(likelihoods.continuation(5)).tolist() == [[10, 11, 19, 20, 21]]
  assert ask(likelihoods.log_perplexity()) is None
  assert ask(readouts.logit(3), capture=("embed",)) is None
  with pytest.raises(ValueError, match="position=24 lies outside the"):
    readouts.value(net, see, readouts.logit(3, position=24))(_MASKS[0], params)


@pytest.mark.slow
def test_players_in_late_layers_run_early_ones_once():
  net, params = _net("gpt2")
  inputs = {"input_ids": np.array([[3, 1, 4, 1, 5]]) % 7}
  at = components.shapes(net, params, **inputs)
  late = {site: shape for site, shape in at.items() if "blocks.1" in site}
  read = readouts.log_probability([1, 2])
  settings = {"batch_size": 4, "devices": jax.devices()[:1], "params": params}
  heads = components.heads(late)
  masks = _MASKS
  assert components.first_block(net, heads) == 1
  value_fn = components.evaluator(net, heads, inputs, read, **settings)
  assert value_fn.prepare().head_seconds > 0
  plain = lambda mask, params: read.whole(
    net.apply(params, heads.edits(mask), **inputs), inputs
  )[0]
  expected = _compiled(plain, 3, params)(masks)
  np.testing.assert_allclose(value_fn(masks), expected, rtol=0, atol=_ATOL)
  assert np.ptp(expected) > 0.01
  # Stand-ins for absent units, and a player of the first layer: nothing early.
  everyone = components.blocks(at)
  absent_ = {site: np.full((1, 1, 1), 0.3) for site in everyone.owner}
  assert components.first_block(net, everyone) == 0
  whole = components.evaluator(
    net, everyone, inputs, read, absent=absent_, **settings
  )
  plain = lambda mask, params: read.whole(
    net.apply(params, everyone.edits(mask, absent_), **inputs), inputs
  )[0]
  expected = _compiled(plain, 2, params)(masks[:4, :2])
  np.testing.assert_allclose(whole(masks[:4, :2]), expected, rtol=0, atol=_ATOL)
  assert whole.stats.head_seconds == 0


def test_first_blocks():
  net, _ = _net("gpt2")
  at = lambda *names: parts.Players(
    ("all",), {name: np.zeros((1, 1, 1), np.int32) for name in names}
  )
  for names, first in (
    (("embed",), None),
    (("blocks.0.resid_pre",), 0),
    (("blocks.1.resid_pre", "logits"), 1),
    (("blocks.1.mlp.out", "blocks.0.mlp.out"), 0),
    (("final_norm",), 1),
  ):
    assert components.first_block(net, at(*names)) == first
  with pytest.raises(ValueError, match=r"no sites \['blocks.7.mlp.out'\]"):
    components.first_block(net, at("blocks.7.mlp.out"))


def test_networks_without_blocks_and_several_examples():
  net = mlp.network(mlp.Config(num_features=3, widths=(4,), num_outputs=2))
  params = checkpoints.random_params(net)
  (name,) = net.example
  x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
  neurons = components.neurons(components.shapes(net, params, **{name: x}))
  assert components.first_block(net, neurons) is None
  build = lambda read: components.evaluator(
    net, neurons, {name: x}, read, params=params, batch_size=4
  )
  masks = np.array([[1, 1, 1, 1], [0, 1, 0, 1]], bool)
  expected = [
    net.apply(params, neurons.edits(mask), **{name: x}).logits[:, 1]
    for mask in masks
  ]
  got = build(readouts.logit(1))(masks)
  np.testing.assert_allclose(got, expected, rtol=0, atol=_ATOL)
  with pytest.raises(ValueError, match="no parameters"):
    components.evaluator(net, neurons, {name: x}, readouts.logit(1))


def test_prefixes_that_cannot_be_shared():
  net, params = _net("gpt2")
  settings = {"params": params, "tokenizer": _TOKENIZER}
  last = readouts.logit(3)
  ask = lambda prompt=_PROMPT, read=last, net=net, **more: prefix.evaluator(
    net, prompt, read, "hide", **settings | more
  )
  with pytest.raises(ValueError, match="'never' has token 6, within the fir"):
    ask(length=7)
  early = text.prompt("the film", _TOKENIZER, bos="yes")
  with pytest.raises(ValueError, match="'the' has token 1, .* Use readouts.v"):
    ask(early)
  with pytest.raises(ValueError, match="at token 1, within the 5 tokens"):
    ask(read=readouts.logit(3, position=1))
  with pytest.raises(TypeError, match="readout of a few predictions"):
    ask(read=likelihoods.log_perplexity())
  with pytest.raises(ValueError, match="params and tokenizer"):
    ask(tokenizer=None)
  with pytest.raises(ValueError, match="tokens; the model has 32 positions"):
    long = text.prompt("the film" * 9, _TOKENIZER, [(20, 23)], max_length=99)
    ask(long)
  config = encoder.Config(
    width=4, num_blocks=1, num_heads=1, num_kv_heads=1, head_width=4,
    num_neurons=4, order="post", vocab_size=30, num_positions=20,
  )  # fmt: skip
  with pytest.raises(TypeError, match="Encoder is no causal language model"):
    ask(net=encoder.network(config))


@pytest.mark.slow
def test_heads_of_a_trained_model():
  folder = checkpoints.shared("stories260k")
  net = hub.load(folder)
  recorded, expected = checkpoints.recorded(folder)
  length = int(recorded["attention_mask"][0].sum())
  inputs = {"input_ids": recorded["input_ids"][:1, :length]}
  heads = components.heads(components.shapes(net, net.params, **inputs))
  value_fn = components.evaluator(
    net,
    heads,
    inputs,
    readouts.log_probability(int(expected["head_target"])),
    batch_size=32,
    microbatch=4,
  )
  got = value_fn(expected["head_masks"])
  np.testing.assert_allclose(got, expected["head_values"], rtol=0, atol=1e-5)
