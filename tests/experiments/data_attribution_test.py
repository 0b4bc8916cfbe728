"""The study of data attribution, at toy size."""

from experiments import data_attribution as study


def test_quick_prints_both_tables_and_resumes(tmp_path):
  config = study.CONFIGS["quick"]
  measured = list(study.run(config, str(tmp_path)))
  lds = {
    (row["method"], row["dropped"]): row
    for row in measured
    if row["kind"] == "lds"
  }
  assert len(lds) == (1 + len(config.methods)) * len(study.SHARES)
  # One of 30 examples dropped, under the same order: nearly linear.
  assert lds["metagradient", 0.02]["lds"] > 0.9
  gain = lds["metagradient", 0.5]["over_datamodel"]
  both = lds["metagradient", 0.5]["lds"], lds["datamodel", 0.5]["lds"]
  assert abs(gain - (both[0] - both[1])) < 1e-12
  survival = [row for row in measured if row["kind"] == "survival"]
  assert {row["seeds"] for row in survival} == {1, 2}
  for row in survival:
    assert row["survive"] + row["contradicted"] <= row["sets"]
  text = study.table(measured)
  assert "| 50% | datamodel | 0." in text and "| random | 2 |" in text
