"""What comes with scores: intervals, agreement, files; and what is refused."""

import csv
import dataclasses

import jax
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import metrics, scored, scores
from spex_jax.circuits import pairs as pairs_lib
from tests.circuits import networks

pytestmark = pytest.mark.usefixtures("float64")


def _score(**settings):
  net, params = networks.load("gpt2")
  settings = {"check": 0, "method": "eap"} | settings
  metric = settings.pop("metric", metrics.logit_difference)
  return scores.score(net, params, networks.pairs(), metric, **settings)


@pytest.mark.parametrize("num", [75, pytest.param(12, marks=pytest.mark.slow)])
def test_agreement_is_with_exact_effects(num):
  found = _score(method="clean-corrupted", check=num)
  exact = _score(method="exact")
  beside = found.agreement
  assert len(beside.which) == num and beside.num_pairs == 2
  np.testing.assert_allclose(
    beside.exact, exact.mean()[beside.which], rtol=0, atol=1e-12
  )
  np.testing.assert_array_equal(beside.estimate, found.mean()[beside.which])
  order = np.argsort(-np.abs(found.values).mean(0), kind="stable")
  top = order[: num // 2]
  assert {*top} <= {*beside.which}
  want = np.corrcoef(beside.exact, beside.estimate)[0, 1]
  assert beside.pearson == pytest.approx(want)
  # Pairs of edges in the same order, less those in the other.
  a, b = (np.sign(x[:, None] - x) for x in (beside.exact, beside.estimate))
  assert beside.kendall == pytest.approx((a * b).sum() / (num * (num - 1)))
  assert exact.agreement is None
  assert "Kendall" in str(beside)
  assert found.cost == {"forward": 4, "backward": 2}
  assert found.units == "logit" and found.method == "clean-corrupted, resample"


@pytest.mark.slow
def test_agreement_by_position_is_as_long_as_all_pairs():
  net, params = networks.load("gpt2")
  two = networks.pairs()
  rows = [0] * 8 + [1]
  pairs = pairs_lib.Pairs(
    two.clean[rows], two.corrupted[rows], [3] * 8 + [5], two.right[rows],
    two.wrong[rows],
  )  # fmt: skip
  found = scores.score(
    net, params, pairs, metrics.logit_difference, method="eap", check=6,
    ablation="mean-position", size=2,
  )  # fmt: skip
  assert found.agreement.num_pairs == 8
  assert found.agreement.pearson > 0.5


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_progress_ends_with_all_of_it(method):
  told = []
  found = _score(
    method=method, size=1, progress=lambda done, of: told.append((done, of))
  )
  of = found.values.size if method == "exact" else 2
  assert {one[1] for one in told} == {of}
  done = [one[0] for one in told]
  assert done == sorted({*done}) and len(done) >= 2 and done[-1] == of


def _made(values):
  net, _ = networks.load("gpt2")
  graph = graph_lib.Graph.of(net)
  full = np.zeros((len(values), len(graph)))
  full[:, : values.shape[1]] = values
  names = tuple(graph.name(i) for i in range(len(graph)))
  return scored.Scores(graph, full, "edge", names, "made", "logit", {})


def test_intervals_are_those_of_drawn_means():
  # Of two pairs the means are a, b and their middle, 1/4, 1/4 and 1/2.
  found = _made(np.array([[1.0, 5.0], [3.0, 5.0]]))
  low, high = found.interval(0.9)
  assert (low[0], high[0]) == (1, 3) and (low[1], high[1]) == (5, 5)
  low, high = found.interval(0.4)
  assert (low[0], high[0]) == (2, 2)
  # Of many, the mean's standard error.
  rng = np.random.default_rng(0)
  values = rng.normal(size=(400, 1))
  low, high = _made(values).interval(resamples=4000, which=np.array([0]))
  want = 2 * 1.96 * values.std() / 20
  assert high[0] - low[0] == pytest.approx(want, rel=0.06)
  some = found.interval(0.4, which=np.array([1, 0]))
  np.testing.assert_array_equal(some, [[5, 2], [5, 2]])
  with pytest.raises(ValueError, match="a level in"):
    found.interval(1.0)


def test_files_hold_all_of_it(tmp_path):
  found = _score(method="clean-corrupted", check=75)
  found.save(tmp_path / "scores.npz")
  back = scored.load(tmp_path / "scores.npz", found.graph)
  for field in dataclasses.fields(scored.Scores):
    a, b = (getattr(x, field.name) for x in (found, back))
    if field.name == "values":
      np.testing.assert_array_equal(a, b)
    elif field.name == "agreement":
      np.testing.assert_array_equal(a.exact, b.exact)
      assert (a.num_pairs, a.kendall) == (b.num_pairs, b.kendall)
    else:
      assert a == b
  other = graph_lib.Graph.of(networks.load("llama")[0])
  with pytest.raises(ValueError, match="not of this one"):
    scored.load(tmp_path / "scores.npz", other)
  found.write_csv(tmp_path / "scores.csv")
  with open(tmp_path / "scores.csv") as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ["writer", "reader", "row", "score"]
  edge = tuple(rows[7][name] for name in ("writer", "reader"))
  number = found.graph.index((*edge, int(rows[7]["row"])))
  assert number == 7 and float(rows[7]["score"]) == found.mean()[7]


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"method": "eap_ig"}, "Unknown method 'eap_ig'; known are"),
    ({"backward": "lrp"}, "Unknown backward 'lrp'"),
    ({"level": "head"}, "Unknown level 'head'"),
    ({"ablation": "noise"}, "Unknown ablation 'noise'"),
    ({"method": "eap-ig", "rule": "simpson"}, "Unknown rule 'simpson'"),
    ({"method": "eap-ig", "steps": 0}, "steps must be at least 1"),
    (
      {"method": "ig-nodes", "level": "neuron"},
      r"scores levels \['edge', 'pos",
    ),
    ({"method": "exact", "backward": "gim"}, "take backward='gradient'"),
    ({"method": "eap-ig", "backward": "atp*"}, "take method='eap'"),
    ({"level": "neuron", "ablation": "mean"}, "or zero; got ablation='mean'"),
    ({"exact_runs": 3}, "take method='second-order'"),
    ({"metric": metrics.kl}, "kl is flat .* Take method='eap-ig'"),
    ({"metric": metrics.kl, "backward": "atp*"}, "kl is flat"),
    (
      {"metric": metrics.kl, "method": "eap-ig", "steps": 1, "rule": "right"},
      "kl is flat",
    ),
  ],
)
def test_what_does_not_go_together_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    _score(**settings)


def test_models_and_metrics_that_cannot_be_scored_are_named():
  net, params = networks.load("gpt2")
  pairs = networks.pairs()
  broken = jax.tree.map(lambda x: x * np.nan, params)
  with pytest.raises(ValueError, match="scores are NaN or infinite"):
    scores.score(
      net, broken, pairs, metrics.logit_difference,
      method="clean-corrupted", check=0,
    )  # fmt: skip
  mean = lambda logits, clean, right, wrong: logits
  with pytest.raises(ValueError, match="must return one floating number"):
    scores.score(net, params, pairs, mean)
