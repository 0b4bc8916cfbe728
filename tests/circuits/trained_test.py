"""Trained circuits, against gradients and exchanges done by hand."""

import jax
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, trained
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")


def _setting():
  net, params = tiny.network(num_blocks=1)
  pairs = tiny.pairs(2)
  return net, params, pairs, graph_lib.Graph.of(net)


def test_gates_are_hard_concrete():
  rng = np.random.default_rng(0)
  noise = rng.random(200_000)
  for logit in (-2.0, 0.5):
    gate = np.asarray(
      trained.gate(np.full(len(noise), logit), np.clip(noise, 1e-12, 1 - 1e-12))
    )
    # Louizos et al., equation 12: the chance not to be 0.
    chance = 1 / (1 + np.exp(-(logit - 2 / 3 * np.log(0.1 / 1.1))))
    np.testing.assert_allclose((gate > 0).mean(), chance, atol=5e-3)
    assert gate.min() == 0 and gate.max() == 1


@pytest.mark.slow
def test_learned_gates_find_a_circuit_that_does_the_same():
  net, params, pairs, graph = _setting()
  metric = metrics.logit_difference
  found = trained.learned(
    net, params, pairs, metric,
    key=jax.random.key(0), edges=6, steps=40, penalty=1.0, size=2,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  others = [
    graph.circuit(rng.permutation(graph.num_edges)[:6]) for _ in range(8)
  ]
  judged = judges.faithfulness(
    net, params, pairs, [found.circuit, *others], metric, size=2
  )
  off = np.abs(1 - judged.faithfulness())
  assert len(found.circuit) == 6 and off[0] < np.median(off[1:])
  assert np.isfinite(found.scores).all()
  inside = graph.circuit(np.arange(8))
  few = trained.learned(
    net, params, pairs, metric,
    key=jax.random.key(0), pool=inside, start=np.arange(graph.num_edges),
    steps=1, size=2,
  )  # fmt: skip
  assert few.circuit <= inside and np.isinf(few.scores[8:]).all()
  with pytest.raises(ValueError, match="steps >= 1"):
    trained.learned(net, params, pairs, metric, key=jax.random.key(0), steps=0)


def _loss(judge, kept):
  off = judge(np.asarray(kept)[None])[0] - judge.clean
  effect = np.square(judge.clean - judge.corrupted).mean()
  return float(np.square(off).mean() / effect)


def test_refine_exchanges_edges_and_never_ends_farther_from_the_model():
  net, params, pairs, graph = _setting()
  metric = metrics.logit_difference
  judge = judges.Judge(net, params, pairs, metric, size=2)
  rng = np.random.default_rng(2)
  values = rng.normal(size=graph.num_edges)
  begin = graph.circuit(np.argsort(-np.abs(values))[:5])
  found = trained.refine(
    net, params, pairs, metric, begin, values, steps=15, rate=1.0, size=2
  )
  before, after = _loss(judge, begin.kept), _loss(judge, found.circuit.kept)
  assert len(found.circuit) == 5 and found.circuit != begin
  assert after < 0.05 * before
  np.testing.assert_allclose(
    found.metric, judge(found.circuit.kept[None]).mean()
  )
  best = np.sort(np.argsort(-found.scores)[:5])
  np.testing.assert_array_equal(best, np.flatnonzero(found.circuit.kept))


def test_slopes_are_those_of_finite_differences_over_batches():
  net, params, pairs, graph = _setting()
  judge = judges.Judge(net, params, pairs, metrics.logit_difference, size=1)
  rng = np.random.default_rng(0)
  kept = rng.uniform(size=graph.num_edges)
  loss = lambda kept: trained._slope(judge, kept, (0, 1))[0]
  slope = trained._slope(judge, kept, (0, 1))[2]
  for edge in (0, 3, graph.num_edges - 1):
    step = np.zeros(graph.num_edges)
    step[edge] = 1e-5
    change = (loss(kept + step) - loss(kept - step)) / 2e-5
    assert slope[edge] == pytest.approx(change, rel=1e-6, abs=1e-9)


def test_refine_says_what_is_wrong():
  net, params, pairs, graph = _setting()
  metric, values = metrics.logit_difference, np.ones(graph.num_edges)
  ask = lambda circuit, values, **more: trained.refine(
    net, params, pairs, metric, circuit, values, size=2, **more
  )
  some = graph.circuit([0, 1])
  with pytest.raises(ValueError, match="steps >= 1"):
    ask(some, values, steps=0)
  with pytest.raises(ValueError, match="empty circuit"):
    ask(graph.empty, values)
  with pytest.raises(ValueError, match="none of them NaN"):
    ask(some, np.full(graph.num_edges, np.nan))
  with pytest.raises(ValueError, match="none of them NaN"):
    ask(some, values[1:])
  with pytest.raises(ValueError, match="finite"):
    ask(some, np.full(graph.num_edges, np.inf))
