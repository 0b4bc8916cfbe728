"""A generation attributed step by step: oracles in float64, and bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import api, context
from spex_jax.context import attributions, inseq, methods, steps, token_scores
from spex_jax.masks import sampling
from spex_jax.models import sites
from tests.context import pecore_test
from tests.models import checkpoints

_PROMPT, _ANSWER = [16, 3, 1, 4, 15], [5, 3, 8]
_RIVAL = [5, 9, 2]


def _net():
  return pecore_test._net()


def _made(answer=_ANSWER):
  return context.Generation.of_ids(_net(), _PROMPT, answer)


def _logits(ids):
  """Of one run by itself, float64 `[P, V]`."""
  return checkpoints.compiled(checkpoints.GPT2)[0].logits(ids)


def _softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def test_step_functions_by_definition():
  at = np.arange(3) + len(_PROMPT) - 1
  x = _logits(_PROMPT + _ANSWER[:-1])[at]
  z = _logits(_PROMPT + _RIVAL[:-1])[at]
  p, q, i = _softmax(x), _softmax(z), np.arange(3)
  py, qy = p[i, _ANSWER], q[i, _RIVAL]
  order = np.sort(p, axis=-1)
  want = {
    "logit": x[i, _ANSWER],
    "probability": py,
    "log_probability": np.log(py),
    "entropy": -(p * np.log(p)).sum(-1),
    "crossentropy": -np.log(py),
    "perplexity": 2.0 ** -np.log(py),
    "top_p_size": (order.cumsum(-1) > 1 - 0.7).sum(-1),
    "contrast_logits": z[i, _RIVAL],
    "contrast_prob": qy,
    "contrast_logits_diff": x[i, _ANSWER] - z[i, _RIVAL],
    "contrast_prob_diff": py - qy,
    "pcxmi": -np.log2(py / qy),
    "in_context_pvi": -np.log(py) + np.log(qy),
  }
  found = context.attribute(
    _net(), _made(), method="attention", step_scores=tuple(want), top_p=0.7,
    contrast=_made(_RIVAL),
  )  # fmt: skip
  for name, expected in want.items():
    np.testing.assert_allclose(
      found.step_scores[name], expected, rtol=2e-5, atol=2e-6, err_msg=name
    )


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (4, 1.0), (5, 0.8)])
def test_divergence_of_the_likely_tokens(top_k, top_p):
  rng = np.random.default_rng(0)
  x, z = rng.normal(size=(2, 3, 11))
  step = steps.target("kl_divergence", True, top_k, top_p)
  given = steps.Given(jnp.zeros(3, int), jnp.zeros(3, int), jnp.asarray(z))
  got = step(jnp.asarray(x), given)
  for row in range(3):
    keep = np.ones(11, bool)
    larger = np.maximum(x[row], z[row])
    if top_p < 1:
      order = np.argsort(larger)
      keep[order[_softmax(larger[order]).cumsum() <= 1 - top_p]] = False
      keep[order[-1]] = True
    if top_k:
      keep &= larger >= np.sort(larger[keep])[-min(top_k, keep.sum())]
    p, q = _softmax(x[row][keep]), _softmax(z[row][keep])
    want = (p * np.log(p / q)).sum()
    np.testing.assert_allclose(got[row], want, rtol=1e-5)
  slope = jax.grad(lambda x: step(x, given).sum())(jnp.asarray(x))
  assert np.isfinite(slope).all()


def test_a_rival_is_read_from_this_run_unless_forced():
  at = np.arange(3) + len(_PROMPT) - 1
  p = _softmax(_logits(_PROMPT + _ANSWER[:-1])[at])
  q = _softmax(_logits(_PROMPT + _RIVAL[:-1])[at])
  i = np.arange(3)
  given = steps.Given(
    jnp.asarray(_ANSWER), jnp.asarray(_RIVAL), jnp.log(jnp.asarray(q))
  )
  for forced, rival in ((False, p), (True, q)):
    step = steps.target("contrast_prob_diff", forced)
    got = step(jnp.log(jnp.asarray(p)), given)
    np.testing.assert_allclose(
      got, p[i, _ANSWER] - rival[i, _RIVAL], rtol=1e-5, atol=1e-6
    )


def test_dropout_moves_a_probability_by_some_spread():
  found = context.attribute(
    _net(), _made(), method="attention", key=jax.random.key(0),
    step_scores=("mc_dropout_prob_avg",),
  )  # fmt: skip
  z = found.step_scores["mc_dropout_prob_avg"]
  assert z.shape == (3,) and np.isfinite(z).all() and np.ptp(z) > 0
  made = _made()
  one = lambda rate: steps.under_dropout(
    _net(), _net().params, made.inputs(), made.places(), made.response,
    jax.random.key(1), rate=rate,
  )  # fmt: skip
  at = np.arange(3) + len(_PROMPT) - 1
  p = _softmax(_logits(_PROMPT + _ANSWER[:-1])[at])[np.arange(3), _ANSWER]
  mean, spread = one(1e-6)  # Nothing is dropped.
  np.testing.assert_allclose(mean, p, rtol=1e-4)
  assert (np.asarray(spread) < 1e-6).all()
  assert (np.asarray(one(0.5)[1]) > 0).all()


def test_sequential_gradients_of_one_token_by_hand():
  net, made = _net(), _made()
  found = context.attribute(
    net, made, method="sequential_integrated_gradients", unknown=7,
    steps_of=[1],
  )  # fmt: skip
  ids = made.inputs()["input_ids"]
  table = net.params["tokens"]["table"]
  at, place = table[ids], len(_PROMPT)

  def value(x, token):
    given = at.at[0, token].set(x)
    edits = sites.Edits(
      replace={"embed.tokens": (jnp.ones(at.shape, bool), given)}
    )
    out = net.apply(net.params, edits, input_ids=ids).logits
    return jax.nn.softmax(out[0, place])[_ANSWER[1]]

  slope = jax.jit(jax.grad(value))
  for token in (0, 3):
    step = np.asarray(at[0, token] - table[7], np.float64)
    total = np.zeros_like(step)
    for node, weight in zip(*np.polynomial.legendre.leggauss(50)):
      mixed = table[7] + (node + 1) / 2 * step
      total += weight / 2 * np.asarray(slope(mixed, token), np.float64)
    np.testing.assert_allclose(
      found.scores[0, token], np.linalg.norm(total * step), rtol=2e-4
    )


@pytest.mark.slow
def test_layers_of_the_embedding_are_the_embedding():
  pairs = {
    "layer_integrated_gradients": "integrated_gradients",
    "layer_gradient_x_activation": "input_x_gradient",
  }
  for name, plain in pairs.items():
    want = context.attribute(_net(), _made(), method=plain, unknown=7)
    got = context.attribute(
      _net(), _made(), method=name, unknown=7, layer="embed.tokens"
    )
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5)


@pytest.mark.slow
def test_reagents_shares_are_of_what_a_step_sees():
  found = context.attribute(
    _net(), _made(), method="reagent", key=jax.random.key(2), steps_of=[0, 2]
  )
  np.testing.assert_allclose(
    found.scores.sum(axis=1) + found.prefix_scores.sum(axis=1), 1, rtol=1e-6
  )
  assert (found.prefix_scores[0] == 0).all()
  assert (found.scores > 0).all()


def _plain(**changes):
  given = {
    "method": "saliency",
    "target": "probability",
    "source": ("▁the", "▁ca", "t"),
    "source_ids": (1, 2, 3),
    "behind": ("▁sa", "t", "▁on"),
    "behind_ids": (4, 3, 5),
    "response": ("▁sa", "t", "▁on"),
    "response_ids": (4, 3, 5),
    "steps": (0, 1, 2),
    "scores": np.array([[1.0, 2, -3], [2, 1, 4], [5, 1, -2]]),
    "prefix_scores": np.array([[0.0, 0, 0], [6, 0, 0], [1, -1, 0]]),
    "step_scores": {"probability": np.array([0.5, 0.25, 0.1])},
    "is_encoder_decoder": False,
  }
  return token_scores.Attribution(**{**given, **changes})


def test_tokens_are_joined_to_words():
  found = _plain().words()
  assert found.source == ("▁the", "▁cat") and found.source_ids == (1, -1)
  assert found.response == ("▁sat", "▁on") and found.steps == (0, 1)
  assert found.scores.tolist() == [[3.0, 4.0], [5.0, -1.0]]
  assert found.prefix_scores.tolist() == [[6.0, 0.0], [0.0, 0.0]]
  np.testing.assert_allclose(found.step_scores["probability"], [0.125, 0.1])
  strongest = _plain().words("absmax")
  assert strongest.scores.tolist() == [[2.0, 4.0], [5.0, -2.0]]
  assert _plain().words("mean").scores[0].tolist() == [1.5, 1.0]
  assert token_scores.words_of(["un", "##able", "to"]) == [(0, 2), (2, 3)]
  assert token_scores.words_of(["<s>", "a", "Ġb"]) == [(0, 1), (1, 2), (2, 3)]


def test_merging_and_comparing():
  one, two = _plain(), _plain(method="occlusion", scores=np.ones((3, 3)))
  both = token_scores.merged([one, two])
  np.testing.assert_allclose(both.scores, (one.scores + 1) / 2)
  assert both.method == "saliency occlusion"
  other = _plain(source=("▁a", "▁ca", "t"), scores=np.ones((3, 3)))
  less = one.less(other)
  np.testing.assert_allclose(less.scores, one.scores - 1)
  assert less.source[0] == "▁a → ▁the"
  np.testing.assert_allclose(less.step_scores["probability"], 0)
  unit = one.normalised()
  total = np.abs(unit.scores).sum(1) + np.abs(unit.prefix_scores).sum(1)
  np.testing.assert_allclose(total, 1)


def test_files_of_both_forms_are_read(tmp_path):
  for form in ("own", "inseq"):
    for given in (
      _plain(),
      _plain(steps=(1, 2), scores=_plain().scores[1:],
             prefix_scores=_plain().prefix_scores[1:], step_scores={}),
      _plain(is_encoder_decoder=True, prefix_scores=None,
             behind=("<s>", "▁sa", "t", "▁on"), behind_ids=(0, 4, 3, 5)),
    ):  # fmt: skip
      path = tmp_path / "out.json"
      given.save(path, form)
      (again,) = token_scores.load(path)
      if form == "own":
        assert again.to_dict() == given.to_dict()
        continue
      whole = [again.scores, again.prefix_scores]
      if not given.is_encoder_decoder:
        whole = [np.concatenate(whole, axis=1)]
        want = np.concatenate([given.scores, given.prefix_scores], axis=1)
        np.testing.assert_allclose(whole[0], want, rtol=1e-6)
      else:
        np.testing.assert_allclose(again.scores, given.scores, rtol=1e-6)
        assert again.prefix_scores is None
      assert again.response == given.response[given.steps[0] :]
      assert {*again.step_scores} == {*given.step_scores}


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"method": "lrp"}, "choose from saliency"),
    ({"target": "loss"}, "choose from logit"),
    ({"step_scores": ("loss",)}, "choose from logit"),
    ({"target": "pcxmi"}, "contrasts two generations"),
    ({"target": "top_p_size"}, "has no slope"),
    ({"steps_of": [3]}, "outside the response of 3"),
    ({"steps_of": []}, "names no step"),
    ({"method": "lime"}, "give a key"),
    ({"method": "reagent"}, "give a key"),
    ({"target": "mc_dropout_prob_avg"}, "give a key"),
    ({"top_p": 1.5}, "lie in 0..1"),
    ({"method": "layer_integrated_gradients", "layer": "h.0"}, "is no site"),
    (
      {"method": "layer_gradient_x_activation",
       "layer": "blocks.0.attn.pattern"},
      "no axis of positions alone",
    ),
  ],
)  # fmt: skip
def test_bad_settings(settings, words):
  with pytest.raises(ValueError) as error:
    context.attribute(_net(), _made(), **settings)
  assert words in str(error.value)


def test_bad_generations_and_joins(tmp_path):
  make = context.Generation.of_ids
  for given, words in (
    ((_PROMPT, []), "at least one token"),
    (([99], _ANSWER), "outside the vocabulary"),
    (([1] * 40, _ANSWER), "the model takes 32"),
  ):
    with pytest.raises(ValueError, match=words):
      make(_net(), *given)
  with pytest.raises(TypeError, match="no decoder's prefix"):
    make(_net(), _PROMPT, _ANSWER, [0])
  with pytest.raises(ValueError, match="has no tokenizer"):
    context.attribute(_net(), "a")
  with pytest.raises(ValueError, match="aligned"):
    context.attribute(
      _net(), _made(), target="contrast_prob", contrast=_made([5, 1])
    )
  found = _plain()
  for change, words in (
    (lambda: found.joined([(2, 4)]), "outside the 3 tokens"),
    (lambda: found.joined([(0, 2), (1, 3)]), "overlaps"),
    (lambda: found.joined([(1, 1)]), "is empty"),
    (lambda: found.words("median"), "choose from sum"),
    (lambda: _plain(source=("a", "b", "c")).words(), "give spans"),
    (lambda: _plain(steps=(0, 2)).joined(response=[(0, 2)]), "only some"),
    (lambda: found.less(_plain(steps=(0, 1))), "differ in their steps"),
    (lambda: token_scores.merged([]), "Nothing is given"),
    (lambda: _plain(steps=(0, 2)).save(tmp_path / "a", "inseq"), "follow"),
    (lambda: found.save(tmp_path / "a", "csv"), "choose own or inseq"),
  ):
    with pytest.raises(ValueError, match=words):
      change()
  (tmp_path / "b.json").write_text("{}")
  with pytest.raises(ValueError, match="holds no attribution"):
    token_scores.load(tmp_path / "b.json")
  given = inseq.output([found])
  own = given["attributes"]["sequence_attributions"][0]["attributes"]
  own["target_attributions"] = "none"
  (tmp_path / "c.json").write_text(json.dumps(given))
  with pytest.raises(ValueError, match="no safetensors"):
    token_scores.load(tmp_path / "c.json")


def test_values_that_are_not_finite_are_refused():
  net = _net()
  broken = jax.tree.map(lambda x: x * jnp.nan, net.params)
  for method in ("saliency", "value_zeroing"):
    with pytest.raises(ValueError, match="not finite|NaN"):
      context.attribute(net, _made(), params=broken, method=method)
  assert {*methods.MASKING, *methods.INTERNAL} < {*methods.METHODS}


def test_a_function_that_its_mean_explains_has_scores_of_0():
  found = api.decode(sampling.enumerate_masks(3), np.ones(8))
  np.testing.assert_array_equal(attributions.firsts(found, 1), np.zeros((1, 3)))
