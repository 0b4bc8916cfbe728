"""The benchmark of contexts runs at its quick size, without the peers."""

import pytest

from experiments import bench_context


@pytest.mark.slow
def test_the_quick_size():
  config = bench_context.CONFIGS["quick"]
  net = bench_context.random_network(config)
  found = list(bench_context.run(config, net, "nowhere"))
  made = {row["who"]: row for row in found}
  assert made["pecore, ours"]["cues"] == 3
  assert made["pecore, peer"] == made["pecore, peer"] | {"skipped": "no --peer"}
  for name in ("cite, ours, shared", "reuse, one left out"):
    assert made[name]["forwards_per_s"] > 0
    assert made[name]["memory_mib"] >= 0


def test_texts_have_the_words_that_a_random_network_is_given():
  some = bench_context.texts(60, 5)
  known = bench_context.words()
  assert len(some) == 5
  assert {
    word for text in some for word in text.replace(".", " .").split()
  } <= {*known}
