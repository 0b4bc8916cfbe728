"""From a tiny sweep to its table."""

import pytest

from experiments import sweep_table
from experiments.configs import sweep_digits
from spex_jax.jobs import sweeping
from spex_jax.sweeps import grid, run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  config = sweep_digits.get_config("quick")
  config.model.kind = "ridge"
  sweep = grid.freeze(config, sweep_digits.sweep("quick"))
  path = tmp_path_factory.mktemp("sweep") / "run"
  run.Run(path, sweep, sweeping.build).run()
  return path


@pytest.mark.slow
def test_rows_and_tables(workdir):
  found = list(sweep_table.table(str(workdir), show=3))
  first = found[0]
  assert (first["seeds"], first["subsets"], first["examples"]) == (2, 48, 40)
  assert first["test_points"] == 8 and first["shards"] == 12
  lds = {row["fitted_to"]: row for row in found if row["row"] == "lds"}
  # Ridge regressions do not depend on a seed.
  assert lds["one seed"]["lds"] == lds["another"]["lds"]
  assert lds["all seeds"]["ceiling"] == 1.0
  strong = [row for row in found if row["row"] == "strong"]
  assert len(strong) == 3
  assert all(row["helps"] + row["harms"] == 8 for row in strong)
  shares = [row["share_of_points"] for row in strong]
  assert shares == sorted(shares, reverse=True) and shares[0] <= 1
  text = sweep_table._markdown(found)
  assert text.count("\n| ") == 9 and f"| {strong[0]['example']} |" in text


def test_items_with_other_subsets_are_refused(tmp_path):
  config = sweep_digits.get_config("quick")
  config.model.kind = "ridge"
  sweep = grid.freeze(config, [{"seed": 0}, {"seed": 1}])
  run.Run(tmp_path, sweep, sweeping.build).run()
  with pytest.raises(ValueError, match="did not ask for the same subsets"):
    list(sweep_table.table(str(tmp_path)))
