"""Second-order scores against differences of the interpreter, and AtP*."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.circuits import metrics, runs, scores, second, taps
from spex_jax.models import sites
from tests.circuits import interpreter, networks, tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference


def _score(**settings):
  net, params = networks.load("gpt2")
  settings = {"check": 0} | settings
  return scores.score(net, params, networks.pairs(), _METRIC, **settings)


def _slow(pair):
  """The interpreter's value under cuts of one pair."""
  net, params = networks.load("gpt2")
  slow, pairs = interpreter.Interpreter(net, params), networks.pairs()
  other, _ = slow.run(pairs.corrupted[pair])

  def value(cut):
    _, logits = slow.run(pairs.clean[pair], cut, other)
    return logits[pairs.right[pair, 0]] - logits[pairs.wrong[pair, 0]]

  return value


def _hessian():
  """All second derivatives of both pairs, a row at a time: `[N, E, E]`."""
  net, params = networks.load("gpt2")
  (batch,) = runs.batches(networks.pairs(), 2)
  level, model = taps.Level.of(net, "edge"), sites.Model(net)
  found = []
  for i in range(level.size):
    # v (H v) for v of e_i and e_i + 2 e_j of all j gives the row: here the
    # product is divided by v again, on a v without zeros.
    v = np.full(level.size, 1e-3)
    v[i] = 1
    every = second._program(
      model, level, _METRIC, params, batch, None, np.full(level.size, 1e-3)
    )[1]
    one = second._program(model, level, _METRIC, params, batch, None, v)[1]
    found.append((np.asarray(one) / v - np.asarray(every) / 1e-3) / (1 - 1e-3))
  return np.stack(found, axis=1)


@pytest.mark.slow
def test_products_are_second_derivatives():
  hessian = _hessian()
  assert np.abs(hessian).max() > 0.1
  np.testing.assert_allclose(
    hessian, hessian.swapaxes(1, 2), rtol=0, atol=1e-10
  )
  path = _score(method="second-order")
  first = _score(method="eap").values
  np.testing.assert_allclose(
    2 * (path.values - first), hessian.sum(2), rtol=0, atol=1e-9
  )
  draws = 3
  own = _score(method="second-order", direction="own", draws=draws).values
  rng = np.random.default_rng(0)
  signs = [rng.choice([-1.0, 1.0], len(path.graph)) for _ in range(draws)]
  want = np.mean([v * (hessian @ v) for v in signs], axis=0)
  np.testing.assert_allclose(2 * (own - first), want, rtol=0, atol=1e-9)
  writer = _score(method="second-order", direction="writer").values
  same = path.graph.writer[:, None] == path.graph.writer
  np.testing.assert_allclose(
    2 * (writer - first), (hessian * same).sum(2), rtol=0, atol=1e-9
  )
  # And these are the interpreter's, by differences.
  value, graph, rng = _slow(1), path.graph, np.random.default_rng(2)
  step = 1e-3
  large = np.argsort(-np.abs(hessian[1]).ravel())[:10]
  for i, j in zip(*np.unravel_index(large, hessian[1].shape)):
    a, b = graph.edge(i), graph.edge(j)
    at = lambda s, t, a=a, b=b: value({a: s * step} | {b: t * step})
    if i == j:
      want = (at(1, 1) + at(-1, -1) - 2 * value({})) / step**2
    else:
      want = at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)
      want /= 4 * step**2
    np.testing.assert_allclose(hessian[1, i, j], want, rtol=1e-3, atol=1e-4)


def test_what_is_flagged_is_fixed():
  net, params = tiny.network(num_blocks=1)
  score = lambda **more: scores.score(
    net, params, tiny.pairs(2), _METRIC, check=0, **more
  )
  exact = score(method="exact").values
  plain = score(method="second-order")
  fixed = score(method="second-order", exact_runs=5)
  assert fixed.checked.sum() == 5
  np.testing.assert_allclose(
    fixed.values[:, fixed.checked], exact[:, fixed.checked], atol=1e-12
  )
  rest = ~fixed.checked
  np.testing.assert_array_equal(fixed.values[:, rest], plain.values[:, rest])
  # Those whose correction was the largest.
  half = np.abs(plain.values - score(method="eap").values).mean(0)
  assert half[fixed.checked].min() >= half[rest].max() - 1e-12
  assert ((plain.ratio >= 0) & (plain.ratio <= 1)).all()


@pytest.mark.slow
def test_atp_star_is_its_definition():
  """For one pair and some edges, by gradients of plain edits."""
  found = _score(method="eap", backward="atp*").values[0]
  net, params = networks.load("gpt2")
  (batch,) = runs.batches(networks.pairs()[:1], 1)
  graph = taps.Level.of(net, "edge").graph
  ids = {"input_ids": jnp.asarray(batch.clean)}
  patterns = [f"blocks.{i}.attn.pattern" for i in range(2)]
  outs = [[f"blocks.{i}.attn.out", f"blocks.{i}.mlp.out"] for i in range(2)]

  @jax.jit
  def parts(params):
    z = net.contributions(params, **ids)
    other = net.contributions(params, input_ids=jnp.asarray(batch.corrupted))
    capture = (*patterns, *outs[0], *outs[1])
    clean = net.apply(params, capture=capture, **ids).activations

    def slopes(layer):
      replace = {
        site: (jnp.ones((1, 1, 1), bool), clean[site]) for site in outs[layer]
      }
      add = {
        r.name: jnp.zeros((1, 5, *((r.rows,) * (".attn." in r.name)), 12))
        for r in graph.readers
      } | {site: jnp.zeros_like(clean[site]) for site in patterns}

      def value(add):
        logits = net.apply(params, sites.Edits(replace=replace, add=add), **ids)
        right, wrong = batch.right[0, 0], batch.wrong[0, 0]
        last = logits.logits[0, -1]
        return last[right] - last[wrong]

      return jax.grad(value)(add)

    return other - z, clean, [slopes(0), slopes(1)]

  change, clean, slopes = parts(params)

  @jax.jit
  def pattern(params, reader_add):
    edits = sites.Edits(add=reader_add)
    return net.apply(params, edits, capture=patterns, **ids).activations

  for name in (
    "embed -> blocks.0.attn.q_in 1", "embed -> blocks.0.attn.k_in 2",
    "blocks.0.heads.1 -> blocks.1.attn.q_in 0", "embed -> blocks.0.attn.v_in 0",
    "blocks.0.mlp -> blocks.1.attn.k_in 1", "embed -> blocks.1.mlp.read",
    "blocks.1.heads.2 -> final_norm.in",
  ):  # fmt: skip
    number = [graph.name(i) for i in range(len(graph))].index(name)
    writer, reader, row = graph.edge(number)
    moved = np.asarray(change[0, :, net.writers.index(writer)])
    each = []
    for slope in slopes:
      if reader.endswith(("q_in", "k_in")):
        site = reader.rsplit(".", 1)[0] + ".pattern"
        add = np.zeros((1, 5, 3, 12))
        add[0, :, row] = moved
        after = pattern(params, {reader: jnp.asarray(add)})[site]
        each.append(float((slope[site] * (after - clean[site])).sum()))
      else:
        here = np.asarray(slope[reader][0]).reshape(5, -1, 12)[:, row]
        each.append(float((here * moved).sum()))
    alive = 2 if reader == "final_norm.in" else 1
    want = np.sign(np.sum(each)) * np.abs(each).sum() / alive
    np.testing.assert_allclose(found[number], want, rtol=0, atol=1e-12)


@pytest.mark.slow_where("2")
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_atp_star_where_no_layer_is_dropped_is_the_gradient(num_blocks):
  """Edges into the output lie behind all layers; one layer alone stays."""
  net, params = tiny.network(num_blocks=num_blocks)
  plain, star = (
    scores.score(
      net, params, tiny.pairs(2), _METRIC, method="eap", backward=backward,
      check=0,
    )
    for backward in ("gradient", "atp*")
  )  # fmt: skip
  graph = plain.graph
  read = [graph.edge(number)[1] for number in range(len(graph))]
  fixed = np.array([name.endswith(("q_in", "k_in")) for name in read])
  same = ~fixed if num_blocks == 1 else np.array(read) == "final_norm.in"
  np.testing.assert_allclose(
    star.values[:, same], plain.values[:, same], rtol=0, atol=1e-12
  )
  assert np.abs(star.values).max(0)[fixed].max() > 1e-6
