"""The SPEX benchmark runs, and its figures are those of the decoder."""

import pytest

from experiments import bench_spex


@pytest.mark.slow
def test_quick_rows_without_the_peer():
  rows = list(bench_spex.run(bench_spex.CONFIGS["quick"], None))
  assert [row["who"] for row in rows] == ["ours, own plan"]
  (row,) = rows
  # 10 sets at 20 dB: least squares on the true support has R^2 above .999.
  assert row["r2"] > 0.99
  assert 0.5 <= row["recall"] <= 1 and row["best_s"] > 0
  table = bench_spex.table(rows)
  assert "| 60 | 10 | 20 | ours, own plan |" in table


def test_sizes_are_what_the_package_promises():
  speed = bench_spex.CONFIGS["speed"]
  assert [(c.n, c.num_terms, c.b) for c in speed] == [
    (1000, 100, 6),
    (1000, 300, 8),
  ]
  noise = {
    (c.n, c.decibels)
    for name in ("noise", "noise1000")
    for c in bench_spex.CONFIGS[name]
  }
  assert noise == {(n, d) for n in (100, 1000) for d in (20.0, 10.0, 5.0)}
