"""The benchmark of Shapley values runs; its summary is that of the rows."""

import dataclasses

import numpy as np
import pytest

from experiments import bench_singles, shapley, singles_report
from third_party import process, shapiq_peer

_SMALL = bench_singles.Config(
  ("planted14",), (64,), num_seeds=1, num_permutations=8
)


class _Peer:
  """Stands for shapiq: the truth, a crash, NaN, and the truth twice."""

  alive = True

  def shapley(self, value_fn, n, budget, *, method, seed):
    truth = shapley.by_all_masks(value_fn, n)
    if method == "leverageshap":
      raise process.PeerError("The peer ended")
    if method == "oddshap":
      truth = truth * np.nan
    if method == "polyshap":
      truth = 2 * truth
    return shapiq_peer.Singles(truth, 0.5, budget)

  def close(self):
    pass


@pytest.mark.slow
def test_rows_of_both_sides(monkeypatch):
  monkeypatch.setattr(singles_report, "OURS", "lasso")  # Quicker than auto.
  rows = list(bench_singles.run(_SMALL, peer=_Peer))
  found = {row["method"]: row for row in rows}
  assert list(found) == ["lasso", *shapiq_peer.ESTIMATORS]
  ours = found["lasso"]
  assert ours["asked"] <= 64 and ours["seconds"] > 0 and ours["mse"] >= 0
  assert ours["truth"] == "exact" and ours["truth_mse"] == 0
  # Ours is not exact with 64 of 16,384 masks; the stand-in is.
  assert found["kernelshap"]["mse"] < 1e-25
  assert found["kernelshap"]["top5"] == 1
  # Twice the truth: an error as large as the truth itself.
  assert found["polyshap"]["mse"] == pytest.approx(1, rel=1e-3)
  assert found["leverageshap"]["error"] == "PeerError: The peer ended"
  assert "not finite" in found["oddshap"]["error"]


def test_ours_is_exact_where_all_masks_fit():
  config = dataclasses.replace(_SMALL, budgets=(1 << 14,))
  (row,) = bench_singles.run(config, peer=None)
  # Sums of 16,384 float64 values.
  assert row["mse"] < 1e-20 and row["top5"] == 1 and row["asked"] == 1 << 14


@pytest.mark.slow_where("pixels64")
@pytest.mark.parametrize("name", sorted(bench_singles.GAMES))
def test_every_game_has_the_players_of_its_name(name):
  game = bench_singles.GAMES[name](1)
  assert name.endswith(str(game.n))
  assert game.value_fn(np.ones((2, game.n), bool)).shape == (2,)


def _row(game, method, mse, seed=0, **more):
  row = {"game": game, "budget": 512, "seed": seed, "method": method}
  return (
    row | {"mse": mse, "top5": 1.0, "truth": "exact", "truth_mse": 0} | more
  )


_ROWS = [
  _row("a", "auto", 0.1),
  _row("a", "auto", 0.3, seed=1),
  _row("a", "auto", 0.5, seed=2),
  _row("a", "oddshap", 0.2),
  {k: v for k, v in _row("a", "oddshap", 0, 1).items() if k != "mse"}
  | {"error": "crash"},
  _row("b", "auto", 1e-15),
  _row("b", "oddshap", 1e-16),
]


def test_medians_leave_failures_out_but_count_them():
  found = singles_report.medians(_ROWS)
  assert found["a", 512] == {"auto": (0.3, 1.0, 0), "oddshap": (0.2, 1.0, 1)}


def test_table_and_verdict():
  lines = singles_report.table(_ROWS).splitlines()
  assert lines[2] == (
    "| a | 512 | 3.0e-01, 1.00 | **2.0e-01, 1.00** (1 failed) | exact |"
  )
  # Below 1e-12 both are exact.
  assert singles_report.verdict(_ROWS) == (
    "auto has the smallest error in 1 of 2 cells; not in a at 512 masks "
    "(oddshap). Its error over the best other's: 1.22, geometric mean."
  )


def test_the_figure_is_drawn(tmp_path):
  singles_report.draw(_ROWS, tmp_path / "singles.png")
  content = (tmp_path / "singles.png").read_bytes()
  assert content.startswith(b"\x89PNG") and len(content) > 10_000
