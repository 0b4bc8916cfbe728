"""First calls are counted: what compiles once compiles no more."""

import subprocess

import pytest

from experiments import bench_first


@pytest.mark.slow
def test_calls_after_the_first_compile_nothing():
  first, again, another = bench_first.calls(budget=200)
  assert first["r2"] == again["r2"] and another["n"] == 37
  assert again["programs"] == another["programs"] == 0
  assert again["compiler_s"] == another["traced_s"] == 0


def test_a_fresh_process_says_what_it_printed_or_that_it_failed(tmp_path):
  run_it = ["-c", "from spex_jax import cli; cli.run()"]
  printed, took = bench_first.fresh([*run_it, "--help"], tmp_path)
  assert "explain" in printed and set(took) == {"clock_s", "processor_s"}
  with pytest.raises(subprocess.CalledProcessError):
    bench_first.fresh([*run_it, "explian"], tmp_path)
