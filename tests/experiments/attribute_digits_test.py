"""The study of digits runs, at its quick size, and says what it measured."""

import pytest

from experiments import attribute_digits


@pytest.mark.slow
def test_rows_of_the_quick_study():
  methods = ["metagradients", "5-NN Shapley"]
  found = list(attribute_digits.run(attribute_digits.CONFIGS["quick"], methods))
  by_row = {}
  for row in found:
    by_row.setdefault(row["row"], []).append(row)
  assert len(by_row["lds"]) == 4
  exact = by_row["lds"][0]
  assert (exact["method"], exact["keep"]) == ("metagradients", 0.98)
  # The derivative is exact, and two of a hundred examples are few.
  assert exact["lds"] > 0.95
  # Two seeds hardly agree on so few, and no score could say more.
  assert exact["reliability"] < exact["ceiling"] < 1
  methods = [row["method"] for row in by_row["half"]]
  assert methods[-1] == "decoder lasso" and len(methods) == 4
  assert "gain_over_least_squares_rank" in by_row["half"][-1]
  assert all(-1 <= row.get("lds", 0) <= 1 for row in found)
  assert by_row["survive"][0]["claims"] <= 1
