"""The benchmark of retraining runs, and measures what it says."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import bench_retrain
from spex_jax.influence import examples


@pytest.mark.slow
def test_rows_of_the_solved_learners():
  config = bench_retrain.CONFIGS["quick"]
  found = list(bench_retrain.run(config, ["logistic"]))
  (logistic,) = found
  assert (logistic["row"], logistic["subsets"]) == ("logistic", 16)
  # What is promised of margins beside scikit-learn's.
  assert logistic["largest_difference"] < 1e-4
  assert logistic["diverged"] == 0
  assert logistic["seconds"] > 0 and logistic["scikit_learn_s"] > 0


class _Peer:
  """Trains three models a second on two processors, by one thread alone."""

  versions = {"torch": "9.9"}

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    pass

  def trainings(self, models, epochs, *, threads, repeats):
    assert epochs == 1
    spent = models / 3 * threads
    return (spent,) * repeats, (2 * spent,) * repeats


@pytest.mark.slow
def test_loops_beside_pytorch(monkeypatch):
  monkeypatch.setattr(bench_retrain.torch_peer, "Torch", _Peer)
  config = dataclasses.replace(bench_retrain.CONFIGS["quick"], torch=True)
  vmapped, looped, torch = bench_retrain.run(config, ["loops"])
  assert (vmapped["who"], looped["who"]) == ("vmapped", "jitted loop")
  assert torch["who"] == "PyTorch 9.9 loop"
  assert (torch["models_per_s"], torch["models_per_cpu_s"]) == (3.0, 1.5)
  assert torch["threads"] == 1
  assert torch["vmapped_over_it"] == pytest.approx(
    vmapped["models_per_s"] / 3, rel=0.02
  )


@pytest.mark.slow
@pytest.mark.parametrize("tests", [40, 2000])
def test_memory_is_what_the_formula_says(tests):
  """Where training takes the most, and where reading many test points does."""
  # Loops of one turn would be unrolled, and keep fewer copies.
  recipe = bench_retrain.loop.Recipe(2, 50, 0.01)
  rng = np.random.default_rng(0)
  data, test = (
    {"x": rng.normal(size=(count, 64)), "y": np.arange(count) % 10}
    for count in (300, tests)
  )
  made = examples.Retrainer(
    bench_retrain.network(64, 100, 10, recipe, "relu"),
    data, test, key=jax.random.key(0), seeds="common",
  )  # fmt: skip
  parameters = 64 * 100 + 100 + 100 * 10 + 10
  said = examples.replica_formula(
    parameters, 50 * (100 + 10), num_examples=300, num_read=tests * 100
  )
  assert 0.75 < said / made.replica_bytes() < 1.25
