"""The benchmark of retraining runs, and measures what it says."""

import jax
import numpy as np
import pytest

from experiments import bench_retrain
from spex_jax.ablate import examples


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


@pytest.mark.slow
def test_memory_is_what_the_formula_says():
  # Loops of one turn would be unrolled, and keep fewer copies.
  recipe = bench_retrain.loop.Recipe(2, 50, 0.01)
  rng = np.random.default_rng(0)
  data = {"x": rng.normal(size=(300, 64)), "y": np.arange(300) % 10}
  made = examples.Retrainer(
    bench_retrain.network(64, 100, 10, recipe, "relu"),
    data, data, key=jax.random.key(0), seeds="common",
  )  # fmt: skip
  parameters = 64 * 100 + 100 + 100 * 10 + 10
  said = examples.replica_formula(parameters, 50 * (100 + 10))
  assert 0.75 < said / made.replica_bytes() < 1.25
