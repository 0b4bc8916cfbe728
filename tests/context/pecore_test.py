"""PECoRe by its parts against NumPy in float64, and on ids that are broken."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from spex_jax import context
from spex_jax.context import (
  attributions,
  cues,
  games,
  inseq,
  methods,
  sensitivity,
)
from spex_jax.models import sites, t5, tokens
from tests import tokenizers_small
from tests.context import games as scorers
from tests.models import checkpoints

_CONTEXT = [3, 1, 4, 15]
_QUESTION = [9, 2, 6]
_ANSWER = [5, 3, 5, 8]
_TOLERANCE = dict(rtol=2e-5, atol=2e-6)  # Two blocks in float32.


@functools.cache
def _net():
  return checkpoints.compiled(checkpoints.GPT2)[0].net


@functools.cache
def _runs():
  tail = _QUESTION + _ANSWER
  return context.Runs.of_ids(
    _net(), [16, *_CONTEXT, *tail], [16, *tail], _ANSWER, (1, 5)
  )


@functools.cache
def _predictions():
  return sensitivity.logits(_net(), _runs())


def _alone(ids):
  """Log-probabilities that predict the answer, from one run by itself."""
  net = _net()
  out = net.apply(net.params, input_ids=np.array([ids], np.int32)).logits
  logits = np.asarray(out, np.float64)[0, -1 - len(_ANSWER) : -1]
  return logits - special.logsumexp(logits, axis=-1, keepdims=True)


def test_sensitivities_of_two_runs_by_themselves():
  p, q = (_alone(x) for x in (_runs().with_context, _runs().without_context))
  steps = np.arange(len(_ANSWER))
  py, qy = p[steps, _ANSWER], q[steps, _ANSWER]
  want = {
    "kl_divergence": (np.exp(q) * (q - p)).sum(-1),
    "kl_paper": (np.exp(p) * (p - q)).sum(-1),
    "likelihood_ratio": np.exp(py) / (np.exp(py) + np.exp(qy)),
    "pcxmi": (py - qy) / np.log(2),
    "in_context_pvi": py - qy,
    "contrast_prob_diff": np.exp(qy) - np.exp(py),
    "contrast_prob": np.exp(py),
  }
  for name, expected in want.items():
    got = sensitivity.scores(_net(), _runs(), name, predictions=_predictions())
    np.testing.assert_allclose(got, expected, **_TOLERANCE, err_msg=name)


def _probability(embedding, ids, step):
  """p of the answer's token, of one run whose embeddings are given."""
  net = _net()
  whole = jnp.ones(embedding.shape, bool)
  edits = sites.Edits(replace={"embed.tokens": (whole, embedding)})
  out = net.apply(net.params, edits, input_ids=ids).logits
  place = ids.shape[1] - len(_ANSWER) - 1 + step
  return jax.nn.softmax(out[0, place])[_ANSWER[step]]


def test_relative_saliency_joins_tokens_of_both_runs():
  runs, net = _runs(), _net()
  slope = jax.jit(jax.grad(_probability), static_argnums=2)
  found = []
  for step in range(2):
    grads = []
    for ids in (runs.with_context, runs.without_context):
      ids = ids[None]
      at = net.params["tokens"]["table"][ids]
      grads.append(np.asarray(slope(at, ids, step), np.float64)[0])
    # Token 0 and those behind the context stand in both.
    joined = grads[0].copy()
    joined[0] -= grads[1][0]
    joined[5:] -= grads[1][1:]
    size = np.linalg.norm(joined, axis=-1)
    found.append(size[1:5].sum() / size.sum())
  got = sensitivity.scores(net, runs, "relative_saliency")
  np.testing.assert_allclose(got[:2], found, rtol=1e-4)


def test_integrated_gradients_of_one_step_on_the_same_nodes():
  net, runs, step = _net(), _runs(), 1
  found = cues.impute(
    net, runs, [step], _predictions(), method="integrated_gradients",
    target="probability", unknown=7,
  )  # fmt: skip
  ids = runs.with_context[None]
  table = net.params["tokens"]["table"]
  at, blank = table[ids], table[jnp.full_like(ids, 7)]
  slope = jax.jit(jax.grad(_probability), static_argnums=2)
  total = np.zeros(at.shape)
  for node, weight in zip(*np.polynomial.legendre.leggauss(attributions.NODES)):
    mixed = blank + (node + 1) / 2 * (at - blank)
    total += weight / 2 * np.asarray(slope(mixed, ids, step), np.float64)
  want = np.linalg.norm(total * np.asarray(at - blank), axis=-1)[0, 1:5]
  np.testing.assert_allclose(found.scores[0], want, rtol=2e-4)


@pytest.mark.slow
def test_steps_do_not_see_what_stands_behind_them():
  runs = _runs()
  spans = (("input_ids", 0, len(runs.with_context)),)
  _, q = _predictions()
  given = (jnp.asarray(runs.response), q.argmax(-1), q)
  game = games.Game(
    _net(), _net().params, {"input_ids": runs.with_context[None]},
    runs.places()[0], cues.TARGETS["kl_divergence"], given, spans,
  )  # fmt: skip
  for name in ("saliency", "attention", "integrated_gradients"):
    scores = methods.METHODS[name](game)
    for step, place in enumerate(game.places):
      assert not scores[step, place + 1 :].any()
      assert scores[step, : place + 1].all()
  weights = attributions.attention(game).sum(axis=1)
  np.testing.assert_allclose(weights, 1, rtol=1e-5)


def test_sets_sum_to_what_the_context_gives():
  found = context.pecore(
    _net(), _runs(), method="spex", target="shift", targets="all",
    budget=16, key=jax.random.key(0),
  )  # fmt: skip
  assert found.sets is not None
  ends = np.array([[True] * 4, [False] * 4])
  whole, nothing = np.asarray(found.sets.fourier(ends))
  shift = [cue.shift for cue in found.cues]
  np.testing.assert_allclose(nothing, 0, atol=2e-5)
  np.testing.assert_allclose(whole, shift, atol=2e-5)
  for step in range(len(_ANSWER)):
    sets = found.sets.interactions("Moebius", None, target=step)
    np.testing.assert_allclose(sets.values.sum(), shift[step], atol=5e-5)
  assert {len(cue.scores) for cue in found.cues} == {4}


def test_lime_occlusion_and_masked_sets_see_the_unknown_token():
  sets = cues.impute(
    _net(), _runs(), [0, 2], _predictions(), method="spex", way="mask",
    target="log_probability", budget=16, key=jax.random.key(1), unknown=0,
  ).sets  # fmt: skip
  assert sets is not None
  of_one_less = np.asarray(sets.fourier(~np.eye(4, dtype=bool)))
  found = {
    method: cues.impute(
      _net(), _runs(), [0, 2], _predictions(), method=method,
      target="log_probability", budget=16, key=jax.random.key(1), unknown=0,
    ).scores
    for method in ("occlusion", "lime")
  }  # fmt: skip
  ids = _runs().with_context
  at = len(ids) - len(_ANSWER) - 1
  for token in range(4):
    rows = np.stack([ids, np.where(np.arange(len(ids)) == 1 + token, 0, ids)])
    net = _net()
    logits = net.apply(net.params, input_ids=rows).logits
    own = jax.nn.log_softmax(logits)[:, at, _ANSWER[0]]
    want = abs(float(own[0] - own[1]))
    np.testing.assert_allclose(found["occlusion"][0, token], want, atol=5e-6)
    np.testing.assert_allclose(of_one_less[token, 0], own[1], atol=2e-5)
  assert np.isfinite(found["lime"]).all() and found["lime"].shape == (2, 4)


def test_ratios_are_of_the_rival_in_the_same_run():
  p, q = (np.asarray(x, np.float64) for x in _predictions())
  y, steps = np.array(_ANSWER), np.arange(len(_ANSWER))
  rival = q.argmax(-1)
  rival[0] = y[0]  # As where the run without context says the same.
  given = (jnp.asarray(y), jnp.asarray(rival), _predictions()[1])
  log = lambda x: x - special.logsumexp(x, axis=-1, keepdims=True)
  own, same = log(p)[steps, y], log(q)[steps, y]
  want = own - np.where(rival == y, same, log(p)[steps, rival])
  for name, expected in (
    ("in_context_pvi", want), ("pcxmi", want / np.log(2)),
    ("shift", own - same), ("shift_bits", (own - same) / np.log(2)),
  ):  # fmt: skip
    got = cues.TARGETS[name](_predictions()[0], given)
    np.testing.assert_allclose(got, expected, **_TOLERANCE, err_msg=name)


def test_the_end_token_is_never_occluded():
  net, found = _net(), []
  end = tokens.Tokenizer(tokenizers_small.byte_level(), {"eos": _CONTEXT[2]})
  for tokenizer in (None, end):
    net = dataclasses.replace(net, tokenizer=tokenizer)
    found.append(
      cues.impute(
        net, _runs(), [0, 2], _predictions(), method="occlusion",
        target="log_probability", unknown=0,
      ).scores
    )  # fmt: skip
  assert found[0][:, 2].all() and not found[1][:, 2].any()
  np.testing.assert_array_equal(*np.delete(found, 2, axis=-1))


def test_output_context_and_nothing_selected():
  tail = _QUESTION + _ANSWER
  runs = context.Runs.of_ids(
    _net(), [16, *_CONTEXT, *tail], [16, *_QUESTION, *_ANSWER[2:]],
    _ANSWER[2:], (1, 5), output_context=(8, 10),
  )  # fmt: skip
  found = context.pecore(_net(), runs, selector_settings={"k": 1.0})
  assert found.selected == ()  # Of two tokens, never (ddof = 1).
  assert found.cues == () and "No token" in str(found)
  assert found.to_inseq()["cci_scores"] == []
  found = context.pecore(_net(), runs, targets=[1])
  assert len(found.cues[0].output_scores or ()) == 2
  assert found.to_inseq()["output_context_tokens"] is not None


def test_tokens_of_a_decoders_output_context_are_spelt():
  net = t5.network(
    t5.config(
      vocab_size=300, width=6, num_heads=2, head_width=4, num_neurons=7,
      num_blocks=1, num_decoder_blocks=1, num_buckets=8, max_distance=10,
    )
  )  # fmt: skip
  given = {
    "encoder_with": [70, 71, 72], "encoder_without": [72],
    "decoder": [70, 71, 73], "context_span": [0, 2],
    "output_context_span": [0, 2],
  }  # fmt: skip
  known = scorers.tokenizer()
  runs = context.Runs.of_dict(dataclasses.replace(net, tokenizer=known), given)
  want = [known.token(70), known.token(71)]
  assert inseq.vocabulary(runs)["output_context"] == want
  bare = context.Runs.of_dict(net, given)
  assert inseq.vocabulary(bare)["output_context"] == ["<70>", "<71>"]
  with pytest.raises(ValueError, match="output_context: a span is"):
    context.Runs.of_dict(net, given | {"output_context_span": 3})


@pytest.mark.slow
def test_encoder_decoder_with_an_output_context():
  net = t5.network(
    t5.config(
      vocab_size=11, width=6, num_heads=2, head_width=4, num_neurons=7,
      num_blocks=1, num_decoder_blocks=1, num_buckets=8, max_distance=10,
    )
  )  # fmt: skip
  params = checkpoints.random_params(net)
  runs = context.Runs.of_dict(
    net,
    {
      "encoder_with": [3, 4, 5, 6, 1],
      "encoder_without": [5, 6, 1],
      "decoder": [0, 7, 2, 8, 9],
      "context_span": [0, 2],
      "output_context_span": [1, 3],
    },
  )
  assert runs.response.tolist() == [8, 9]
  p, q = sensitivity.logits(net, runs, params)
  for row, encoder, decoder in (
    (p, runs.with_context, [0, 7, 2, 8]), (q, runs.without_context, [0, 8]),
  ):  # fmt: skip
    want = net.apply(
      params, input_ids=encoder[None], decoder_input_ids=np.array([decoder])
    ).logits[0, -2:]
    np.testing.assert_allclose(row, want, rtol=2e-5, atol=2e-5)
  for method in ("saliency", "attention", "occlusion"):
    found = context.pecore(net, runs, params=params, method=method, targets=[0])
    outer = found.cues[0].output_scores
    assert len(found.cues[0].scores) == 2
    assert outer is None if method == "occlusion" else len(outer) == 2
  sets = context.pecore(
    net, runs, params=params, method="exact", target="log_probability",
    targets="all", budget=4, key=jax.random.key(2),
  ).sets  # fmt: skip
  alone = net.apply(
    params,
    input_ids=np.array([[5, 6, 1]]),
    decoder_input_ids=np.array([[0, 7, 2, 8]]),
  ).logits[0, 2:]
  want = np.diag(np.asarray(jax.nn.log_softmax(alone))[:, [8, 9]])
  nothing = np.asarray(sets.fourier(np.zeros((1, 2), bool)))[0]
  np.testing.assert_allclose(nothing, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"response_ids": []}, "at least one token"),
    ({"response_ids": [5, 3, 5, 7]}, "must end with the response"),
    ({"context_span": [1, 1]}, "is empty or outside"),
    ({"context_span": [1, 13]}, "is empty or outside"),
    ({"context_span": [1, 8, 9]}, "(start, end)"),
    ({"without_context": _ANSWER}, "a token must stand before"),
    ({"without_context": [99, *_ANSWER]}, "outside the vocabulary"),
    ({"with_context": [16] * 40 + _ANSWER}, "the model takes 32"),
    ({"with_context": [-1, 3, *_ANSWER]}, "below 0"),
    ({"spans": 3}, "not known ['spans']"),
  ],
)
def test_bad_ids(change, words):
  given = {
    "with_context": [16, *_CONTEXT, *_QUESTION, *_ANSWER],
    "without_context": [16, *_QUESTION, *_ANSWER],
    "response_ids": _ANSWER,
    "context_span": [1, 5],
  }
  with pytest.raises(ValueError) as error:
    context.Runs.of_dict(_net(), {**given, **change})
  assert words in str(error.value)


def test_other_bad_input():
  net, runs = _net(), _runs()
  for settings, words in (
    ({"metric": "kl"}, "choose from kl_divergence"),
    ({"method": "lrp"}, "choose from saliency"),
    ({"target": "loss"}, "choose from contrast_prob_diff"),
    ({"way": "one"}, "choose from remove, mask"),
    ({"targets": "some"}, "choose selected or all"),
    ({"unknown": 10**6}, "outside the vocabulary"),
    ({"targets": [4]}, "outside the response of 4"),
    ({"method": "lime", "targets": "all"}, "give a key"),
    ({"method": "spex", "targets": "all"}, "give a key"),
  ):
    with pytest.raises(ValueError, match=words):
      context.pecore(net, runs, **settings)
  with pytest.raises(ValueError, match="has no tokenizer"):
    context.Runs.of_text(net, context="a", current="b")
