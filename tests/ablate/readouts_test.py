"""Readouts against NumPy in float64, row by row."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import (
  absent,
  embeddings,
  evaluate,
  likelihoods,
  readouts,
  text,
)
from spex_jax.models import sites
from tests import tokenizers_small

_SEEN = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 0, 0]])
_IDS = np.array([[3, 1, 0, 2, 5], [4, 4, 1, 0, 2], [5, 0, 3, 1, 1]])


def _texts(seed=0):
  """An output and inputs of a language model: B = 3, P = 5, V = 6, d = 4."""
  rng = np.random.default_rng(seed)
  output = sites.Output(
    logits=jnp.asarray(3 * rng.normal(size=(3, 5, 6)), jnp.float32),
    hidden=(jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32),),
    activations={"pooled": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
  )
  return output, {"input_ids": _IDS, "attention_mask": _SEEN}


def _classes(seed=0):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(3 * rng.normal(size=(3, 4)), jnp.float32)
  return sites.Output(logits=logits, hidden=(logits,), activations={}), {}


def _logs(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _check(read, case, expected, atol=5e-6):
  # Logits of size 10 and sums of up to 6 of them, in float32.
  output, inputs = case
  got = jax.jit(read)(output, inputs)
  assert got.shape == np.shape(expected)
  np.testing.assert_allclose(got, expected, rtol=0, atol=atol)
  np.testing.assert_allclose(read(output, inputs), got, rtol=0, atol=atol)


_LAST = [4, 4, 2]  # The last position that attention sees.


@pytest.mark.slow
def test_logits():
  output, inputs = _classes()
  logits = np.asarray(output.logits)
  _check(readouts.logit(2), (output, inputs), logits[:, 2])
  _check(readouts.logit([3, 0]), (output, inputs), logits[:, [3, 0]])
  output, inputs = _texts()
  logits = np.asarray(output.logits)
  last = logits[np.arange(3), _LAST]
  _check(readouts.logit(5), (output, inputs), last[:, 5])
  _check(readouts.logit(5, position=1), (output, inputs), logits[:, 1, 5])
  _check(readouts.logit(5, position=-2), (output, inputs), logits[:, 3, 5])
  del inputs["attention_mask"]
  _check(readouts.logit(5), (output, inputs), logits[:, 4, 5])
  # An encoder-decoder predicts at the end of its decoder's input.
  inputs |= {"decoder_input_ids": _IDS, "attention_mask": _SEEN[:, :2]}
  _check(readouts.logit(5), (output, inputs), logits[:, 4, 5])


def test_log_probabilities():
  case = _classes()
  logs = _logs(case[0].logits)
  _check(readouts.log_probability(1), case, logs[:, 1])
  _check(readouts.log_probability([1, 3]), case, logs[:, [1, 3]])
  case = _texts()
  logs = _logs(case[0].logits)[np.arange(3), _LAST]
  _check(readouts.log_probability(0), case, logs[:, 0])


def test_margins():
  case = _classes()
  logits = np.asarray(case[0].logits, np.float64)
  _check(readouts.margin(1, 3), case, logits[:, 1] - logits[:, 3])
  rest = logits[:, [0, 2, 3]]
  _check(readouts.margin(1), case, logits[:, 1] - rest.max(axis=1))
  pair = logits[:, [0, 2]]
  _check(readouts.margin(1, [0, 2]), case, logits[:, 1] - pair.max(axis=1))


def _likelihoods(output, row):
  """Log-probability of each seen token but the first, by a loop."""
  logs, out, before = _logs(output.logits), [], None
  for place in range(5):
    if _SEEN[row, place]:
      if before is not None:
        out.append(logs[row, before, _IDS[row, place]])
      before = place
  return np.array(out)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("log", [True, False])
def test_continuations(count, reduce, log):
  case = _texts()
  ends = np.stack([_likelihoods(case[0], row)[-count:] for row in range(3)])
  expected = getattr(ends, reduce)(axis=1)
  expected = expected if log else np.exp(expected)
  read = likelihoods.continuation(count, reduce=reduce, log=log)
  _check(read, case, expected)


@pytest.mark.parametrize("log", [True, False])
def test_every_token_of_a_continuation(log):
  case = _texts()
  each = np.stack([_likelihoods(case[0], row)[-2:] for row in range(3)])
  read = likelihoods.continuation(2, reduce=None, log=log)
  _check(read, case, each if log else np.exp(each))


def test_whole_distributions():
  case = _texts()
  logs = _logs(case[0].logits)[np.arange(3), _LAST]
  _check(readouts.log_probability(None), case, logs)
  _check(readouts.probability(None), case, np.exp(logs))
  case = _classes()
  _check(readouts.logit(None), case, case[0].logits)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_continuations_of_different_lengths(reduce):
  case = _texts()
  counts = [3, 1, 2]
  expected = [
    getattr(_likelihoods(case[0], row)[-count:], reduce)()
    for row, count in enumerate(counts)
  ]
  _check(likelihoods.continuation(counts, reduce=reduce), case, expected)


@pytest.mark.slow
def test_choices():
  """Two questions with two answers each; the fourth row repeats the first."""
  output, inputs = _texts()
  four = [0, 1, 2, 0]
  output = output.replace(logits=jnp.asarray(output.logits)[jnp.array(four)])
  inputs = {name: value[four] for name, value in inputs.items()}
  counts = [2, 1, 1, 2]
  scores = [
    _likelihoods(_texts()[0], row)[-count:].sum()
    for row, count in zip(four, counts)
  ]
  margin = np.array([scores[0] - scores[1], scores[2] - scores[3]])
  case = output, inputs
  _check(likelihoods.choice(counts, 2), case, margin)
  accuracy = likelihoods.choice(counts, 2, value="accuracy")
  _check(accuracy, case, (margin > 0).astype(float))
  three = likelihoods.choice([2, 1, 1], 3)
  _check(three, _texts(), [scores[0] - max(scores[1:3])])
  # No answer is right where all are the same.
  same = {name: value[[0, 0]] for name, value in _texts()[1].items()}
  twice = output.replace(logits=output.logits[jnp.array([0, 0])])
  assert likelihoods.choice(1, 2, value="accuracy")(twice, same)[0] == 0


def test_a_continuation_of_which_too_little_is_seen_is_no_number():
  read = likelihoods.continuation(3)
  got = np.asarray(read(*_texts()))
  assert np.isfinite(got[0]) and np.isnan(got[1:]).all()


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_sequences(reduce):
  output, inputs = _texts()
  labels = [1, 5, 0, 0, 2]
  each = _logs(output.logits)[:, np.arange(5), labels]
  read = likelihoods.sequence(labels, reduce=reduce)
  _check(read, (output, inputs), getattr(each, reduce)(axis=1))
  read = likelihoods.sequence(labels, reduce=None)
  _check(read, (output, inputs), each)
  read = likelihoods.sequence(labels, reduce=reduce, log=False)
  expected = np.exp(getattr(each, reduce)(axis=1))
  _check(read, (output, inputs), expected)


def test_log_perplexity():
  case = _texts()
  expected = [-_likelihoods(case[0], row).mean() for row in range(3)]
  _check(likelihoods.log_perplexity(), case, expected)
  inputs = case[1] | {"attention_mask": np.eye(3, 5, dtype=int)}
  assert np.isnan(likelihoods.log_perplexity()(case[0], inputs)).all()


def test_embeddings():
  case = _texts()
  states = np.asarray(case[0].hidden[-1], np.float64)
  mean = np.stack([s[m == 1].mean(axis=0) for s, m in zip(states, _SEEN)])
  _check(embeddings.embedding(), case, mean)
  _check(embeddings.embedding("last"), case, states[np.arange(3), _LAST])
  _check(embeddings.embedding("first"), case, states[:, 0])
  _check(embeddings.embedding("pooled"), case, case[0].activations["pooled"])
  reference = np.array([1.0, -2.0, 0.5, 3.0])
  lengths = np.linalg.norm(mean, axis=1) * np.linalg.norm(reference)
  read = embeddings.similarity(reference)
  _check(read, case, mean @ reference / lengths)
  own = embeddings.similarity(mean[0])(*case)[0]
  np.testing.assert_allclose(own, 1, rtol=0, atol=1e-6)


def test_bfloat16_is_read_in_float32():
  output, inputs = _texts()
  narrow = output.replace(logits=output.logits.astype(jnp.bfloat16))
  for read in (readouts.log_probability(1), likelihoods.continuation(1)):
    got = read(narrow, inputs)
    assert got.dtype == jnp.float32
    # Rounding the logits alone changes them by 2 ** -8 of their size.
    expected = read(output, inputs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(
  "make, error, message",
  [
    (lambda: readouts.logit([]), ValueError, "Need one target"),
    (lambda: readouts.logit([[1]]), ValueError, "Need one target"),
    (lambda: readouts.logit(1.0), TypeError, "must be integers; got 1.0"),
    (lambda: readouts.logit(True), TypeError, "must be integers; got True"),
    (lambda: readouts.log_probability(-1), ValueError, "-1 is below 0"),
    (lambda: readouts.margin(1, [0, 1]), ValueError, r"rivals \[0, 1\]"),
    (lambda: likelihoods.continuation(0), ValueError, "at least 1; got 0"),
    (lambda: likelihoods.continuation(1, reduce="max"), ValueError, "'max'"),
    (lambda: likelihoods.continuation([1, 0]), ValueError, "at least 1; got 0"),
    (lambda: likelihoods.continuation([1.0]), TypeError, "must be integers"),
    (
      lambda: likelihoods.continuation([1, 2], reduce=None),
      ValueError,
      "no targets in common",
    ),
    (lambda: likelihoods.choice(1, 2, reduce=None), ValueError, "compared who"),
    (lambda: likelihoods.choice(1, 1), ValueError, "at least 2; got 1"),
    (lambda: likelihoods.choice(1, 2, value="x"), ValueError, "'x'"),
    (lambda: likelihoods.sequence([1], reduce="max"), ValueError, "'max'"),
    (lambda: embeddings.similarity(np.zeros(3)), ValueError, "not zero"),
    (lambda: embeddings.similarity(np.ones((1, 3))), ValueError, r"\(1, 3\)"),
    (lambda: readouts.logit(2**32 + 1), ValueError, "beyond every vocabulary"),
    (
      lambda: readouts.margins(np.ma.masked_array([0, 1], mask=[0, 1])),
      ValueError,
      "masked array with 1 of 2",
    ),
  ],
)
def test_readouts_that_make_no_sense(make, error, message):
  with pytest.raises(error, match=message):
    make()


@pytest.mark.parametrize(
  "read, case, message",
  [
    (readouts.logit(4), _classes, r"Target 4 lies outside the 4 .* 0\.\.3"),
    (readouts.log_probability([0, 6]), _texts, "Target 6 lies outside the 6"),
    (readouts.margin(9), _texts, "Target 9 lies outside"),
    (readouts.margin(0, 9), _texts, "Target 9 lies outside"),
    (likelihoods.sequence([0, 1, 2, 3, 6]), _texts, "Target 6 lies outside"),
    (likelihoods.sequence([0, 1]), _texts, r"2 labels need logits \[B, 2, V\]"),
    (readouts.logit(0, position=5), _texts, "position=5 lies outside the 5"),
    (readouts.logit(0, position=0), _classes, "have no positions"),
    (likelihoods.continuation(5), _texts, "no continuation of 5"),
    (likelihoods.continuation([1, 2]), _texts, "2 continuations, 3 rows"),
    (likelihoods.choice(1, 2), _texts, "3 rows are no groups of 2"),
    (likelihoods.continuation(1), _classes, "from a language model"),
    (likelihoods.log_perplexity(), _classes, "from a language model"),
    (embeddings.embedding(), _classes, r"needs hidden states \[B, P, d\]"),
    (
      embeddings.embedding("cls"),
      _texts,
      "capture that site; captured is pool",
    ),
    (embeddings.similarity(np.ones(3)), _texts, "has 3 entries.* have 4"),
  ],
)
def test_outputs_that_do_not_fit(read, case, message):
  with pytest.raises(ValueError, match=message):
    read(*case())


def test_a_mask_of_another_text():
  output, inputs = _texts()
  inputs["attention_mask"] = _SEEN[:, :4]
  with pytest.raises(ValueError, match=r"\(3, 4\) does not fit the \(3, 5\)"):
    embeddings.embedding()(output, inputs)


def test_a_single_class_has_no_margin():
  one = sites.Output(logits=jnp.zeros((2, 1)), hidden=(), activations={})
  with pytest.raises(ValueError, match="needs a second class"):
    readouts.margin(0)(one, {})


class _Bigrams(nn.Module):
  """Predicts each next token from the one before it alone."""

  vocab: int

  @nn.compact
  def __call__(self, tap, input_ids, attention_mask):
    init = nn.initializers.normal(1.0)
    table = self.param("table", init, (self.vocab, self.vocab))
    return tap("logits", table[input_ids]), (attention_mask,)


def test_from_a_text_to_a_value_function():
  tokenizer = tokenizers_small.gpt_like()
  prompt = text.prompt("the film is fun", tokenizer, bos="yes")
  longer, count = text.continued(prompt, " is", tokenizer)
  shape = jax.ShapeDtypeStruct((1, longer.num_tokens), jnp.int32)
  net = sites.Network(
    module=_Bigrams(tokenizer.vocab_size),
    config=None,
    sites=("logits",),
    example={"input_ids": shape, "attention_mask": shape},
    no_edges="bigrams have none.",
  )
  params = net.init(jax.random.key(0))
  see = absent.inputs(longer, tokenizer, "remove")
  f = readouts.value(net, see, likelihoods.continuation(count))
  masks = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
  values = evaluate.compiled(f, prompt.n, batch_size=8, shared=params)(masks)
  logs = _logs(params["table"])
  (word,) = tokenizer.encode(" is").ids
  lasts = [tokenizer.encode(piece).ids[-1] for piece in (" fun", " film")]
  expected = [logs[last, word] for last in (*lasts, tokenizer.id_of("bos"))]
  np.testing.assert_allclose(values, expected, rtol=0, atol=5e-6)


def test_a_head_on_an_embedding_is_an_affine_map():
  rng = np.random.default_rng(0)
  vectors, kernel, bias = (rng.normal(size=s) for s in ((2, 4), (4, 3), (3,)))
  output = sites.Output(np.float32(vectors), (), {})
  got = embeddings.head(kernel, bias, readouts.logit([0, 2]))(output, {})
  expected = (vectors @ kernel + bias)[:, [0, 2]]
  # Four products of numbers near 1, in float32.
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
  with pytest.raises(
    ValueError, match=r"kernel \[d, K\] and a bias \[K\]; got"
  ):
    embeddings.head(kernel, bias[:2], readouts.logit(0))
  with pytest.raises(
    ValueError, match=r"takes embeddings \[B, 3\]; got \(2, 4"
  ):
    embeddings.head(kernel[:3], bias, readouts.logit(0))(output, {})


def _margin(logits, right):
  others = np.delete(np.asarray(logits, np.float64), right)
  return float(logits[right]) - others.max()


def test_each_row_has_its_own_margin():
  output, inputs = _classes()
  labels = np.array([2, 0, 3])
  logits = np.asarray(output.logits)
  expected = [_margin(row, label) for row, label in zip(logits, labels)]
  _check(readouts.margins(labels), (output, inputs), expected)
  output, inputs = _texts()
  last = np.asarray(output.logits)[np.arange(3), _LAST]
  expected = [_margin(row, label) for row, label in zip(last, labels)]
  _check(readouts.margins(labels), (output, inputs), expected)
  for wrong, message in (
    ([1, 2], "2 labels for 3 rows"),
    ([1, 2, 6], "Target 6 lies outside the 6"),
  ):
    with pytest.raises(ValueError, match=message):
      readouts.margins(np.array(wrong))(output, inputs)
  one = sites.Output(logits=jnp.zeros((1, 1)), hidden=(), activations={})
  with pytest.raises(ValueError, match="needs a second class"):
    readouts.margins(np.array([0]))(one, {})
