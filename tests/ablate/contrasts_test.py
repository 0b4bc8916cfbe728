"""Contrasts of two runs against NumPy in float64, pair by pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from spex_jax.ablate import contrasts, evaluate, readouts
from spex_jax.models import sites
from tests.models import checkpoints

_ALL = [*contrasts.DIVERGENCES, *contrasts.DIFFERENCES]
_IDS = np.array([[3, 1, 4, 2], [5, 4, 2, 0], [0, 2, 1, 1], [2, 1, 1, 0]])
_SEEN = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0]])
# The places of the logits that predict the last two tokens seen.
_BEFORE = [[1, 2], [0, 1], [0, 2], [0, 1]]


def _oracle(measure, a, b, token):
  """One pair of logits `[V]`, by the definition."""
  p, q = special.softmax(a), special.softmax(b)
  divergence = lambda x, y: special.rel_entr(x, y).sum()
  middle = (p + q) / 2
  return {
    "kl": lambda: divergence(p, q),
    "kl_reverse": lambda: divergence(q, p),
    "jensen_shannon": lambda: (
      (divergence(p, middle) + divergence(q, middle)) / 2
    ),
    "total_variation": lambda: np.abs(p - q).sum() / 2,
    "entropy": lambda: special.entr(p).sum() - special.entr(q).sum(),
    "logit": lambda: a[token] - b[token],
    "log_probability": lambda: (
      special.log_softmax(a)[token] - special.log_softmax(b)[token]
    ),
    "probability": lambda: p[token] - q[token],
  }[measure]()


def _texts(scale=3.0):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(scale * rng.normal(size=(4, 4, 6)), jnp.float32)
  output = sites.Output(logits=logits, hidden=(), activations={})
  return output, {"input_ids": _IDS, "attention_mask": _SEEN}


def _check(read, case, expected, scale):
  output, inputs = case
  got = jax.jit(read)(output, inputs)
  assert got.shape == np.shape(expected) and got.dtype == jnp.float32
  # Differences of log-probabilities near 4 `scale`, each rounded some 6 times.
  atol = 6 * 4 * scale * np.finfo(np.float32).eps
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=atol)


# At 20 tokens of probability 1e-30 are common.
@pytest.mark.parametrize("scale", [3.0, 20.0])
@pytest.mark.parametrize("measure", _ALL)
def test_tokens_of_a_continuation(measure, scale):
  case = _texts(scale)
  logits = np.asarray(case[0].logits, np.float64)
  words = [[4, 2], [1, 1]]
  expected = [
    [
      _oracle(
        measure,
        logits[2 * pair, _BEFORE[2 * pair][at]],
        logits[2 * pair + 1, _BEFORE[2 * pair + 1][at]],
        words[pair][at],
      )
      for at in range(2)
    ]
    for pair in range(2)
  ]
  _check(contrasts.continuation(2, measure), case, expected, scale)


@pytest.mark.parametrize("measure", _ALL)
def test_labels_of_a_decoder_and_classes(measure):
  case = _texts()
  logits = np.asarray(case[0].logits, np.float64)
  labels = [1, 5, 0, 2]
  expected = [
    [
      _oracle(measure, logits[row, at], logits[row + 1, at], labels[at])
      for at in range(4)
    ]
    for row in (0, 2)
  ]
  _check(contrasts.sequence(labels, measure), case, expected, 3)
  classes = sites.Output(case[0].logits[:, 0], (), {}), {}
  targets = None if measure in contrasts.DIVERGENCES else 1
  expected = [
    _oracle(measure, logits[row, 0], logits[row + 1, 0], 1) for row in (0, 2)
  ]
  _check(contrasts.prediction(measure, targets), classes, expected, 3)


def test_next_tokens_and_all_targets():
  case = _texts()
  logits = np.asarray(case[0].logits, np.float64)
  last = logits[np.arange(4), [3, 2, 3, 2]]
  expected = last[::2] - last[1::2]
  _check(contrasts.prediction("logit"), case, expected, 3)
  _check(contrasts.prediction("logit", [4, 1]), case, expected[:, [4, 1]], 3)
  expected = special.softmax(last, axis=1)
  expected = expected[::2] - expected[1::2]
  _check(contrasts.prediction("probability"), case, expected, 3)


def test_extreme_logits():
  a = np.array([1e4, 0, -1e4, 3], np.float32)
  b = np.array([-1e4, 1e4, 0, 3], np.float32)
  read = lambda measure, *rows: contrasts.prediction(
    measure, None if measure in contrasts.DIVERGENCES else 0
  )(sites.Output(jnp.stack(rows), (), {}), {})[0]
  wide = (a.astype(np.float64), b.astype(np.float64))
  for measure in _ALL:
    expected = _oracle(measure, *wide, 0)
    if measure in ("kl", "kl_reverse"):  # SciPy's q underflows to 0.
      log_p, log_q = map(special.log_softmax, wide)
      if measure == "kl_reverse":
        log_p, log_q = log_q, log_p
      expected = (np.exp(log_p) * (log_p - log_q)).sum()
    np.testing.assert_allclose(read(measure, a, b), expected, rtol=1e-6)
    assert read(measure, a, a) == 0
  # What cannot be, cannot be said.
  never = np.array([0, -np.inf, 0, 0], np.float32)
  assert read("kl", b, never) == np.inf
  # The other way nothing is infinite: three tokens of 1/3 against `b`.
  expected = (-np.log(3) - special.log_softmax(wide[1])[[0, 2, 3]]).mean()
  np.testing.assert_allclose(read("kl", never, b), expected, rtol=1e-6)
  half = read("jensen_shannon", b, never)
  np.testing.assert_allclose(half, np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: contrasts.prediction("kls"), "'kls': choose from kl, kl_rev"),
    (lambda: contrasts.prediction("kl", 1), "leave out targets"),
    (lambda: contrasts.continuation([1, 1], "kl"), r"one number; got \[1, 1\]"),
    (lambda: contrasts.sequence([1], ""), "measure='': choose"),
    (
      lambda: contrasts.prediction("kl")(
        sites.Output(jnp.zeros((3, 2)), (), {}), {}
      ),
      "3 rows are no pairs",
    ),
    (
      lambda: contrasts.beside(lambda m: {}, input_ids=np.zeros(3)),
      r"one row \[1, P\]; got \(3,\)",
    ),
  ],
)
def test_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.slow
def test_what_is_no_number():
  output, inputs = _texts()
  ids = _IDS.copy()
  ids[1, 1] = 0  # The first pair's texts end with different tokens.
  got = contrasts.continuation(2, "kl")(output, inputs | {"input_ids": ids})
  np.testing.assert_array_equal(np.isnan(got), [[True, False], [False] * 2])
  few = inputs | {"attention_mask": np.eye(4, dtype=int)}
  got = contrasts.continuation(1, "probability")(output, few)
  assert np.isnan(got).all()


def test_a_context_is_ablated_beside_the_run_without_it():
  net, _ = checkpoints.compiled(checkpoints.GPT2)
  context, text = np.array([3, 1, 4]), np.array([7, 5, 9, 2])
  alone = text[None]
  whole = np.concatenate([context, text])[None]

  def see(mask):
    seen = jnp.concatenate([mask, jnp.ones(4, bool)])[None]
    # Positions are those of the tokens that are left.
    places = jnp.maximum(jnp.cumsum(seen, axis=1) - 1, 0)
    return {
      "input_ids": jnp.asarray(whole),
      "attention_mask": seen.astype(jnp.int32),
      "position_ids": places,
    }

  pair = contrasts.beside(
    see,
    input_ids=alone,
    attention_mask=np.ones_like(alone),
    position_ids=np.arange(4)[None],
  )
  read = contrasts.continuation(3, "log_probability")
  f = evaluate.compiled(
    readouts.value(net.net, pair, read), 3, batch_size=4, shared=net.params
  )
  values = f(np.array([[1, 1, 1], [0, 0, 0]], bool))
  logs = [
    jax.nn.log_softmax(net.apply(net.params, input_ids=np.pad(
      ids, ((0, 0), (0, 7 - ids.shape[1])))).logits[0])
    for ids in (whole, alone)
  ]  # fmt: skip
  expected = [
    logs[0][3 + at, text[at + 1]] - logs[1][at, text[at + 1]] for at in range(3)
  ]
  np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-5)
  # Without any of its context a text is the text alone.
  np.testing.assert_allclose(values[1], 0, rtol=0, atol=1e-5)
