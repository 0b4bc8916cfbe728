"""The benchmark of the transform runs, and measures what it says."""

import numpy as np
import pytest

from experiments import bench_transform


def test_quick_rows_are_whole_and_exact():
  config = bench_transform.CONFIGS["quick"]
  rows = list(bench_transform.run(config))
  assert [(r["who"], r["n"]) for r in rows] == [
    (who, n) for n in config.num_players for who in ("spex_jax", "numpy")
  ]
  for row in rows:
    assert row["first_s"] > 0
    assert row["best_s"] > 0
    # n + 32 roundings of float32 numbers, relative to the largest result.
    assert row["error"] < 100 * np.finfo(np.float32).eps


def test_sizes_reach_what_the_package_promises():
  assert max(bench_transform.CONFIGS["full"].num_players) == 24


@pytest.mark.parametrize("n", [0, 1, 3])
def test_numpy_fourier_matches_the_definition(n):
  values = np.random.default_rng(n).normal(size=2**n)
  index = np.arange(2**n)
  signs = 1 - 2.0 * (np.bitwise_count(index[:, None] & index) & 1)
  # 2^n additions in float64.
  np.testing.assert_allclose(
    bench_transform.numpy_fourier(values), signs @ values / 2**n, atol=1e-14
  )
