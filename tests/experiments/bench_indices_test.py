"""The benchmark of the indices runs, and its peers agree with ours."""

import pytest

from experiments import bench_indices


@pytest.mark.slow
def test_quick_rows():
  rows = list(bench_indices.run(bench_indices.CONFIGS["quick"]))
  ours = [row for row in rows if row["who"] == "spex_jax"]
  assert [row["index"] for row in ours] == ["FBII", "STII"]
  for row in rows:
    assert row["best_s"] > 0
    assert row.get("same", True)
  # 100 sets of 3 players of 50, and most of their subsets.
  assert ours[0]["sets"] > 300


def test_full_size_is_what_the_package_promises():
  full = bench_indices.CONFIGS["full"]
  assert (full.n, full.num_terms, full.order) == (1000, 10_000, 5)
