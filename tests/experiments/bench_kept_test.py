"""The benchmark of absent words runs, and compares one function's values."""

import pathlib

import pytest

from experiments import bench_kept


@pytest.mark.slow
def test_quick_rows_are_whole():
  found = list(
    bench_kept.run(
      bench_kept.CONFIGS["quick"],
      {"bench": "evaluate"},
      games=pathlib.Path("nowhere"),
      minilm=None,
      causal=None,
    )
  )
  assert found[0]["skipped"] == "no checkpoint at hand"
  names = ["kept, random, hide", "kept, random, remove"]
  assert [row["who"] for row in found[1:]] == names
  for row in found[1:]:
    assert len(row["lengths"]) > 1 and row["lengths"][-1] == 96
    # Log-probabilities of 20 tokens, of size 3, and their sums in any order.
    assert row["difference"] < 1e-5 < row["range"]
    assert min(*row["masks_per_s"], row["times"]) > 0


def test_the_novel_is_long_enough():
  assert len(bench_kept._NOVEL.split()) >= bench_kept.Config.words
