"""Rows no longer than what is kept: the values of rows of full length."""

import functools

import jax
import numpy as np
import pytest

from spex_jax.ablate import (
  absent,
  evaluate,
  features,
  likelihoods,
  prefix,
  readouts,
  text,
)
from spex_jax.models import encoder, gpt2, llama, t5
from tests import tokenizers_small
from tests.models import checkpoints

_GPT, _BERT = tokenizers_small.gpt_like(), tokenizers_small.bert_like()
_MASKS = np.array([[m >> i & 1 for i in range(4)] for m in range(16)], bool)
_SPANS = {
  "film": [(4, 8)],
  "is": [(9, 11)],
  "nev": [(12, 15)],
  "fun": [(29, 32)],
}
_PROMPT = text.prompt(
  "the film is never boring and fun", _GPT, _SPANS, bos="yes"
)
_CONTINUED, _COUNT = text.continued(_PROMPT, " film is", _GPT)
# Some hundred float32 roundings in another order, of numbers of size 5.
_ATOL = 1e-5


def _encoder(**settings):
  return encoder.network(
    encoder.Config(
      width=8, num_blocks=2, num_heads=2, num_kv_heads=2, head_width=4,
      num_neurons=8, order="post", vocab_size=_BERT.vocab_size,
      num_positions=40, **settings,
    )
  )  # fmt: skip


@functools.cache
def _net(kind):
  """A network, random parameters, a prompt and the tokenizer of it."""
  v = _GPT.vocab_size
  if kind == "gpt2":
    settings, module = checkpoints.GPT2 | {"vocab_size": v}, gpt2
    net = module.network(module.config_from_hub(settings))
  elif kind in ("llama", "gemma2"):
    more = {}
    if kind == "gemma2":
      more = {
        "query_pre_attn_scalar": 6,
        "tie_word_embeddings": True,
        "sliding_window": 4,
      }
    settings = checkpoints.relative(kind, vocab_size=v, **more)
    net = llama.network(llama.config_from_hub(settings))
  elif kind == "t5":
    net = t5.network(
      t5.config(
        vocab_size=_BERT.vocab_size, width=8, num_heads=2, head_width=4,
        num_neurons=8, num_blocks=1, num_decoder_blocks=1,
      )
    )  # fmt: skip
  else:
    net = {
      "bert": lambda: _encoder(num_types=2, num_labels=3),
      "roberta": lambda: _encoder(pad_id=1),
    }[kind]()
  params = checkpoints.random_params(net)
  if kind in ("gpt2", "llama", "gemma2"):
    return net, params, _CONTINUED, _GPT
  return net, params, text.prompt("tacky film, never boring", _BERT), _BERT


def _evaluated(f, n, params):
  value_fn = evaluate.compiled(
    f, n, shared=params, batch_size=4, devices=jax.devices()[:1]
  )
  return value_fn(_MASKS[: 2**n, :n]), value_fn.stats


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind, way, packs",
  [
    ("gpt2", "hide", True),
    ("llama", "hide", True),
    ("llama", "remove", True),
    ("gemma2", "remove", True),
    ("gemma2", "hide", False),
    ("bert", "hide", True),
    ("bert", "one", True),
    ("roberta", "hide", True),
    ("roberta", "remove", True),
    ("t5", "remove", True),
    ("t5", "hide", False),
  ],
)
def test_values_are_those_of_full_rows(kind, way, packs):
  net, params, prompt, tokenizer = _net(kind)
  fixed, read = {}, lambda output, inputs: output.logits[:, :2]
  if tokenizer is _GPT:
    read = likelihoods.continuation(_COUNT)
  if kind == "t5":
    fixed = {"decoder_input_ids": np.array([[0, 5]])}
    read = likelihoods.sequence([5, 6])
  found = []
  token = 4 if way == "one" else None
  middle = prompt.num_tokens - 2
  for lengths in ((), (middle - 2, middle)):
    see = absent.inputs(prompt, tokenizer, way, token=token, lengths=lengths)
    f = readouts.value(net, see, read, **fixed)
    found.append(_evaluated(f, prompt.n, params))
  (whole, _), (kept, stats) = found
  np.testing.assert_allclose(kept, whole, rtol=0, atol=_ATOL)
  assert np.ptp(whole, axis=0).min() > 1e-3
  assert bool(stats.sizes) == packs
  if packs:
    assert sum(stats.sizes.values()) == 2**prompt.n
    assert stats.sizes[prompt.num_tokens] < 2**prompt.n


@pytest.mark.slow
@pytest.mark.parametrize("way", ["remove", "hide"])
def test_behind_a_shared_prefix(way):
  net, params, prompt, tokenizer = _net("llama")
  read = likelihoods.continuation(_COUNT)
  see = absent.inputs(prompt, tokenizer, way)
  whole, _ = _evaluated(readouts.value(net, see, read), prompt.n, params)
  # Of the first, nothing would be left behind the prefix.
  value_fn = prefix.evaluator(
    net, prompt, read, way, params=params, tokenizer=tokenizer,
    lengths=(1, prompt.num_tokens - 3), batch_size=4,
    devices=jax.devices()[:1],
  )  # fmt: skip
  kept = value_fn(_MASKS)
  np.testing.assert_allclose(kept, whole, rtol=0, atol=_ATOL)
  sizes = value_fn.stats.sizes
  first = int((prompt.players.owner < prompt.n).argmax())
  assert [*sizes] == [first, prompt.num_tokens - 3, prompt.num_tokens]
  assert sizes[prompt.num_tokens - 3] > 0


def test_readouts_and_inputs_that_keep_one_length():
  net, *_ = _net("gpt2")
  see = absent.inputs(_PROMPT, _GPT, "remove", lengths=(15, 20))
  ask = lambda read, **more: readouts.value(net, see, read, **more)
  sizes = (15, 20, _PROMPT.num_tokens)
  assert ask(readouts.logit(1)).sizes == sizes
  assert ask(readouts.logit(1), decoder_input_ids=0).sizes == sizes
  for f in (
    ask(readouts.logit(1, position=3)),
    ask(readouts.margin(1, position=-1)),
    ask(readouts.logit(1), capture=("embed",)),
    ask(readouts.logit(1), position_ids=np.zeros((1, 24), int)),
    readouts.value(net, lambda mask: see(mask), readouts.logit(1)),
  ):
    assert not hasattr(f, "sizes")


def test_networks_that_see_hidden_tokens_keep_one_length():
  owned = text.prompt("the film is", _BERT, [(0, 3)])
  first = text.Prompt(
    owned.text,
    owned.encoding,
    features.Players(("a",), np.array([0, 1, 1, 1, 1])),
    owned.spans,
  )
  fit = lambda prompt, net: absent.inputs(
    prompt, _BERT, "hide", lengths=(prompt.num_tokens - 1,)
  ).fit(net)
  assert fit(owned, _net("bert")[0]) == (4, 5)
  assert fit(first, _net("bert")[0]) == (5,)  # A classifier reads it.
  assert fit(first, _net("gpt2")[0]) == (4, 5)
  assert fit(owned, _net("t5")[0]) == (5,)
  sliding = _net("gemma2")[0]
  assert fit(text.prompt("the", _BERT), sliding) == (2, 3)
  assert fit(owned, sliding) == (5,)  # Longer than the window of 4.
  removed = absent.inputs(_CONTINUED, _GPT, "remove", lengths=(9,))
  assert removed.fit(sliding) == (9, _CONTINUED.num_tokens)


def test_lengths_follow_from_the_players_and_the_budget():
  words = " ".join(["tacky film"] * 8)
  prompt = text.prompt(words, _BERT)
  size = prompt.num_tokens
  found = absent.lengths(prompt, "hide", 4000)
  assert found == absent.lengths(prompt, "remove", 10**6)
  # Half of 24 tokens and two special ones, at the middle of those below P.
  assert len(found) > 2 and found[0] < 2 + 12 < found[-2] < found[-1] == size
  assert absent.lengths(prompt, "one", 4000)[0] > found[0]
  assert absent.lengths(prompt, "mask", 4000) == (size,)
  assert absent.lengths(prompt, "hide", 2000) == (size,)
  few = text.prompt("tacky film", _BERT)  # Of which there are four masks.
  assert absent.lengths(few, "hide", 4000) == (few.num_tokens,)
  # A continuation has a token before it at any length.
  bare = text.prompt(" ".join(["film fun"] * 6), _GPT)
  longer, count = text.continued(bare, " is", _GPT)
  assert min(absent.lengths(longer, "remove", 4000)) > count


def test_lengths_that_are_refused():
  for wrong in (0, 99):
    with pytest.raises(ValueError, match=rf"lie in 1..\d+; got \[{wrong}\]"):
      absent.inputs(_PROMPT, _GPT, "hide", lengths=[wrong])
