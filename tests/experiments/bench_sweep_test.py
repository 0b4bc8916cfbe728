"""The benchmark of sweeps, at its quick size."""

from experiments import bench_sweep


def test_quick_rows(tmp_path):
  found = {
    row["row"]: row
    for row in bench_sweep.bench(bench_sweep.CONFIGS["quick"], tmp_path)
  }
  assert found["rows"]["rows"] == 20_000 and found["rows"]["rows_per_s"] > 0
  # 125 bytes of random bits, a value, and little else.
  assert 125 < found["rows"]["bytes_per_row"] < 145
  assert found["resume"]["shards"] == 20 and found["resume"]["made_again"] == 0
  assert set(found) == {"rows", "parts", "resume"}
