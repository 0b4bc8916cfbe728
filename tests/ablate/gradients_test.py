"""Gradients against weights, central differences and completeness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import base
from spex_jax.ablate import (
  absent,
  embeddings,
  evaluate,
  features,
  gradients,
  readouts,
)
from spex_jax.ablate import text as text_lib
from spex_jax.models import encoder, mlp, transformer
from tests import tokenizers_small
from tests.models import checkpoints


def _soft(model):
  """The value at any strengths, jitted."""
  return jax.jit(model)


def _central(model, at, step=1e-2):
  """df/ds by differences; the error is of order step^2 and eps / step."""
  f, n = _soft(model), model.n
  out = []
  for i in range(n):
    away = step * (np.arange(n) == i).astype(np.float32)
    out.append((f(at + away) - f(at - away)) / (2 * step))
  return np.asarray(out, np.float64)


def _linear(targets=1):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(6, targets)).astype(np.float32)
  # Column 5 is nobody's; two stand-ins.
  players = features.Players(("a", "b", "c"), np.array([0, 0, 1, 2, 1, 3]))
  x, baseline = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
  x = x[0].astype(np.float32)

  def read(rows, params):
    answers = rows @ params + 4.0
    return answers[:, 0] if targets == 1 else answers

  model = features.game(
    read, players, x, baseline.astype(np.float32), weights, absent="two rows"
  )
  each = (x - baseline.mean(axis=0))[:, None] * weights  # [6, T]
  owned = np.stack([each[[0, 1]].sum(0), each[[2, 4]].sum(0), each[3]])
  return model, owned.T, (x @ weights + 4.0)


@pytest.mark.parametrize("method", gradients.METHODS)
@pytest.mark.parametrize("targets", [1, 3])
def test_a_linear_model_gives_weight_times_difference(method, targets):
  model, expected, kept = _linear(targets)
  found = gradients.BY_NAME[method](model)
  if targets == 1:
    expected, kept = expected[0], kept[0]
  # Six products of size 1 in float32, 64 of them averaged.
  np.testing.assert_allclose(found.values, expected, rtol=0, atol=5e-6)
  np.testing.assert_allclose(found.kept, kept, rtol=0, atol=5e-6)
  np.testing.assert_allclose(
    found.absent, kept - expected.sum(axis=-1), rtol=0, atol=5e-6
  )
  np.testing.assert_allclose(found.gap, 0, atol=1e-5)
  assert found.num_gradients == (1 if method == "gradient_x_input" else 64)


@pytest.fixture(scope="module")
def small_mlp():
  """A network with a smooth activation, twelve pixels in four players."""
  net = mlp.network(mlp.Config(12, 2, widths=(16,), activation="gelu"))
  params = net.init(jax.random.key(0))
  rng = np.random.default_rng(1)
  x, baseline = rng.normal(size=(2, 1, 3, 4)).astype(np.float32)
  players = features.grid((1, 3, 4), 2, 2)

  def read(pixels, params):
    flat = pixels.reshape(-1, 12)
    return net.apply(params, features=flat).logits[:, 1]

  model = features.game(read, players, x, baseline, params, absent="noise")
  return model, players, x, baseline, read, params


def test_ends_are_the_value_function(small_mlp):
  model, players, x, baseline, read, params = small_mlp
  masks = np.random.default_rng(0).random((6, 4)) < 0.5
  found = evaluate.compiled(model, batch_size=8)(masks)
  f = _soft(model)
  for mask, value in zip(masks, found):
    expected = read(players.apply(mask, x, baseline)[None], params)[0]
    np.testing.assert_allclose(f(mask.astype(np.float32)), expected, atol=1e-6)
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.slow
def test_central_differences(small_mlp):
  model, *_ = small_mlp
  found = gradients.gradient_x_input(model)
  expected = _central(model, np.ones(4, np.float32))
  np.testing.assert_allclose(found.values, expected, rtol=0, atol=2e-3)
  steps = (np.arange(4, dtype=np.float32) + 0.5) / 4
  path = [_central(model, np.full(4, s, np.float32)) for s in steps]
  found = gradients.integrated_gradients(model, steps=4, batch_size=2)
  np.testing.assert_allclose(
    found.values, np.mean(path, axis=0), rtol=0, atol=2e-3
  )


@pytest.mark.slow
def test_integrated_gradients_are_complete(small_mlp):
  model, *_ = small_mlp
  found = gradients.integrated_gradients(model)
  change = found.kept - found.absent
  assert abs(change) > 0.05
  assert abs(found.gap) < 1e-3 * abs(change)
  assert found.gap == pytest.approx(found.values.sum() - change, abs=1e-12)
  one = gradients.integrated_gradients(model, steps=1)
  assert abs(one.gap) > abs(found.gap)  # More steps, less of a gap.
  assert abs(gradients.gradient_x_input(model).gap) > abs(found.gap)


def test_kernels_are_pure(small_mlp):
  """Under `jit`, and batches of gradients equal one by one."""
  model, *_ = small_mlp
  at = np.array([0.2, 0.5, 0.9], np.float32)
  points = np.tile(at[:, None], (1, 4))
  whole = gradients.mean_gradient(model, points, model.shared, batch_size=3)
  single = jax.jit(
    lambda shared: gradients.mean_gradient(model, points, shared)
  )(model.shared)
  np.testing.assert_allclose(whole, single, rtol=0, atol=1e-6)


_SIZES = dict(
  width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=4,
  num_neurons=6, vocab_size=300,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny_encoder():
  """A random encoder, a prompt of four players, and what reads it."""
  tokenizer = tokenizers_small.bert_like()
  config = encoder.Config(
    order="post", num_positions=40, num_labels=2, **_SIZES
  )
  net = encoder.network(config)
  prompt = text_lib.prompt("the film is fun", tokenizer)
  params = checkpoints.random_params(net)
  return net, params, prompt, tokenizer, readouts.margin(1, 0)


def _values_at(net, params, prompt, tokenizer, read, token, masks):
  see = absent.inputs(prompt, tokenizer, token=token)
  f = readouts.value(net, see, read)
  return evaluate.compiled(f, prompt.n, batch_size=8, shared=params)(masks)


@pytest.mark.slow
def test_text_of_an_encoder(tiny_encoder):
  net, params, *rest = tiny_encoder
  model = embeddings.game(net, *rest, params=params)
  masks = np.random.default_rng(0).random((8, 4)) < 0.5
  soft = jax.jit(jax.vmap(model))
  expected = _values_at(*tiny_encoder, None, masks)
  np.testing.assert_allclose(
    soft(masks.astype(np.float32)), expected, rtol=1e-5, atol=1e-5
  )
  found = gradients.integrated_gradients(model)
  change = found.kept - found.absent
  assert abs(change) > 0.05 and abs(found.gap) < 1e-3 * abs(change)
  assert model.absent == "the embedding of '[MASK]' for each token"


@pytest.mark.slow
def test_text_of_a_decoder():
  tokenizer = tokenizers_small.gpt_like()
  net = transformer.network(transformer.Config(max_positions=40, **_SIZES))
  prompt = text_lib.prompt("the film is fun", tokenizer, bos="yes")
  given = (net, checkpoints.random_params(net), prompt, tokenizer)
  read = readouts.logit(7)
  model = embeddings.game(
    net, prompt, tokenizer, read, token=" film", params=given[1]
  )
  found = gradients.integrated_gradients(model, steps=128)
  ends = np.stack([np.ones(4, bool), np.zeros(4, bool)])
  expected = _values_at(*given, read, " film", ends)
  np.testing.assert_allclose(
    [found.kept, found.absent], expected, rtol=1e-5, atol=1e-5
  )
  change = found.kept - found.absent
  assert abs(change) > 0.05 and abs(found.gap) < 1e-3 * abs(change)
  assert found.values[1] == pytest.approx(0, abs=1e-6)  # It is "film" already.


def test_what_has_no_gradient(tiny_encoder):
  net, params, prompt, tokenizer, read = tiny_encoder
  for way in ("hide", "remove", "one"):
    with pytest.raises(ValueError, match=f"way='{way}': gradients need absent"):
      embeddings.game(net, prompt, tokenizer, read, way=way, params=params)
  flat = mlp.network(mlp.Config(3, 1))
  with pytest.raises(ValueError, match=r"no site 'embed\.tokens'"):
    embeddings.game(flat, prompt, tokenizer, read)


def _bad(read):
  return base.Game(read, ("a", "b"), absent="zero")


@pytest.mark.parametrize(
  "run, error, message",
  [
    (
      lambda: gradients.gradient_x_input(_bad(lambda s, _: jnp.log(s - 2)[0])),
      ValueError,
      r"NaN or infinity at its own .* the baseline \(zero\)",
    ),
    (
      lambda: gradients.gradient_x_input(_bad(lambda s, _: s[:, None])),
      ValueError,
      r"a scalar or \[T\]; got \(2, 1\)",
    ),
    (
      lambda: gradients.integrated_gradients(_linear()[0], steps=0),
      ValueError,
      "must be at least 1; got 0, 8",
    ),
    (
      lambda: gradients.integrated_gradients(_linear()[0], steps=2.5),
      TypeError,
      "steps must be an integer",
    ),
    (
      lambda: features.game(
        None,
        features.columns(["a", "b"]),
        np.ones(2, int),
        np.ones(2),
        None,
        absent="ones",
      ),
      TypeError,
      "floating to be mixed; got int32",
    ),
    (
      lambda: features.game(
        None,
        features.columns(["a", "b"]),
        np.ones(2, np.float32),
        np.ones(3),
        None,
        absent="ones",
      ),
      ValueError,
      r"an input \(2,\) and a baseline \(3,\)",
    ),
  ],
)
def test_bad_requests(run, error, message):
  with pytest.raises(error, match=message):
    run()
