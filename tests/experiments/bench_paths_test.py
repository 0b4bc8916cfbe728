"""The benchmark of paths runs on any model, and says if its peer is absent."""

import pytest

from experiments import bench_paths
from spex_jax.models import hub
from tests.jobs import small
from third_party import process


@pytest.mark.slow
def test_quick_rows_are_whole(tmp_path, monkeypatch):
  def absent():
    raise process.PeerError("no PyTorch")

  monkeypatch.setattr(bench_paths.torch_peer, "Torch", absent)
  folder = small.gpt2(tmp_path / "lm")
  found = {
    row["who"]: row
    for row in bench_paths.run(
      bench_paths.CONFIGS["quick"], hub.load(folder), str(folder)
    )
  }
  assert list(found) == [
    "paths, ours", "paths, a loop of hooks", "dcm, 1 at once", "dcm, 2 at once",
  ]  # fmt: skip
  assert found["paths, a loop of hooks"].pop("skipped") == "no PyTorch"
  heads = {row["heads"] for row in found.values() if "heads" in row}
  assert len(heads) == 1 and found["dcm, 2 at once"]["in_the_time_of"] > 0
