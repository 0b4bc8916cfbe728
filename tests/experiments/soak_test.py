"""A minute of the soak; and that it sees what was lost."""

import numpy as np
import pytest

from experiments import soak


@pytest.mark.slow
@pytest.mark.faults
def test_a_short_soak_loses_nothing(tmp_path, record_property):
  (row,) = soak.soak(soak.CONFIGS["quick"], tmp_path)
  assert row["rounds"] >= 1 and sum(row["faults"].values()) > 0
  assert row["shards_under_faults"] == row["rounds"] * 24
  assert row["shards_steady"] >= 24
  record_property("fault", f"a soak: {row['faults']}, nothing lost")


@pytest.mark.parametrize("name", ["flip", "cut", "gone"])
def test_damage_is_seen(tmp_path, name):
  folder = tmp_path / "shards"
  folder.mkdir()
  for index in range(3):
    (folder / f"{index:08d}.parquet").write_bytes(bytes(range(100)))
  whole = soak.published(tmp_path)
  soak.compare(tmp_path, whole)
  assert soak.damage(folder, name, np.random.default_rng(0))
  with pytest.raises(RuntimeError, match="1 files of 3 are lost or others"):
    soak.compare(tmp_path, whole)


@pytest.mark.parametrize("name", ["flip", "cut"])
def test_what_is_not_there_cannot_be_damaged(tmp_path, name):
  folder, rng = tmp_path / "shards", np.random.default_rng(0)
  assert not soak.damage(folder, name, rng)
  folder.mkdir()
  (folder / "00000000.parquet").write_bytes(b"")
  assert not soak.damage(folder, name, rng)
