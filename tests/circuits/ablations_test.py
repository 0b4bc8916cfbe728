"""What cut edges carry: means by hand, constants that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import ablations, metrics, runs, scores
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites
from tests.circuits import interpreter, networks

pytestmark = pytest.mark.usefixtures("float64")


def _pairs():
  """The pairs, the first one shorter."""
  two = networks.pairs()
  return pairs_lib.Pairs(two.clean, two.corrupted, [3, 5], two.right, two.wrong)


def _wrote():
  """What is written on both clean prompts, each `[length, W, d]`."""
  net, params = networks.load("gpt2")
  slow, pairs = interpreter.Interpreter(net, params), _pairs()
  found = []
  for ids, length in zip(pairs.clean, pairs.lengths):
    wrote, _ = slow.run(ids[:length])
    found.append(np.stack([wrote[name] for name in net.writers], axis=1))
  return found


def test_means_leave_out_padding():
  net, params = networks.load("gpt2")
  wrote, take = _wrote(), lambda kind: ablations.stand_ins(
    net, params, _pairs(), kind
  )  # fmt: skip
  mean = np.concatenate(wrote).mean(0)
  np.testing.assert_allclose(take("mean")[0, 0], mean, rtol=0, atol=1e-12)
  by_position = np.stack(
    [
      np.mean([one[at] for one in wrote if at < len(one)], axis=0)
      for at in range(5)
    ]
  )
  np.testing.assert_allclose(
    take("mean-position")[0], by_position, rtol=0, atol=1e-12
  )
  assert take("resample") is None
  zero = take("zero")
  assert zero.shape == (1, 1, len(net.writers), 12) and not zero.any()
  with pytest.raises(ValueError, match="Unknown ablation 'men'"):
    take("men")


@pytest.mark.slow
def test_scores_under_zeros_are_the_interpreters():
  net, params = networks.load("gpt2")
  pairs = networks.pairs()
  found = scores.score(
    net, params, pairs, metrics.logit_difference, method="eap",
    ablation="zero", check=0,
  )  # fmt: skip
  slow = interpreter.Interpreter(net, params)
  none = {name: np.zeros((5, 12)) for name in net.writers}

  def value(cut):
    _, logits = slow.run(pairs.clean[0], cut, none)
    return logits[pairs.right[0, 0]] - logits[pairs.wrong[0, 0]]

  step = 1e-5
  for i in range(0, len(found.graph), 7):
    edge = found.graph.edge(i)
    want = (value({edge: step}) - value({edge: -step})) / (2 * step)
    np.testing.assert_allclose(found.values[0, i], want, rtol=0, atol=2e-9)


@pytest.mark.slow
def test_learned_constants_keep_the_answer_better_than_means():
  net, params = networks.load("gpt2")
  pairs = networks.pairs()
  take = lambda kind: ablations.stand_ins(
    net, params, pairs, kind, size=2, steps=60
  )
  (batch,) = runs.batches(pairs, 2)

  @jax.jit
  def kept(params, values):
    clean = runs.logits(net, params, batch)
    # Of draws that were not learned from.
    drawn = jax.random.bernoulli(
      jax.random.key(7), 0.5, (40, 2, len(net.writers))
    )

    def one(where):
      edits = sites.Edits(replace=ablations.held(net, where, values))
      return runs.measured(net, params, metrics.kl, batch, clean, edits).mean()

    return jax.lax.map(one, drawn).mean()

  mean, learned = (float(kept(params, take(k))) for k in ("mean", "optimal"))
  assert mean < learned < 0


@pytest.mark.slow
def test_held_writers_are_nodes_whose_edges_are_all_cut():
  net, params = networks.load("gemma2")
  pairs = networks.pairs()
  (batch,) = runs.batches(pairs, 2)

  @jax.jit
  def both(params):
    ref = runs.written(net, params, batch, corrupted=True)
    where = np.zeros((1, len(net.writers)), bool)
    where[0, [0, 2, 5, 9]] = True
    held = sites.Edits(replace=ablations.held(net, where, ref))
    cut = {
      name: jnp.broadcast_to(
        jnp.asarray(where[:, None, None, :before], float), (1, 1, rows, before)
      )
      for name, (rows, before) in net.readers.items()
    }
    return [
      runs.logits(net, params, batch, edits)
      for edits in (held, sites.Edits(cut=cut, ref=ref), None)
    ]

  held, cut, plain = both(params)
  np.testing.assert_allclose(held, cut, rtol=0, atol=1e-12)
  assert np.abs(held - plain).max() > 0.01
