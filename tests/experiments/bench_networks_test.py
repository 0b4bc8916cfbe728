"""The benchmark of whole networks runs, and compares what it says."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments import bench_networks
from spex_jax.models import gpt2

_QUICK = bench_networks.CONFIGS["quick"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """Rows of the networks with random weights; the trained are not at hand."""
  games = tmp_path_factory.mktemp("games")
  cards = {"heads40": {"model": "none"}}
  (games / "cards.json").write_text(json.dumps(cards))
  rows = bench_networks.run(
    _QUICK,
    {"bench": "x"},
    games=games,
    minilm=None,
    causal=None,
    with_peer=False,
  )
  return {row["who"]: row for row in rows}


@pytest.mark.slow
def test_quick_rows_are_whole(found):
  assert list(found) == [
    "prompt, whole", "prompt, shared", "layers, whole", "layers, shared",
    "device", "heads", "minilm", "causal",
  ]  # fmt: skip
  assert all(row["bench"] == "x" for row in found.values())
  for who in ("prompt", "layers"):
    shared = found[f"{who}, shared"]
    assert shared["difference"] < 1e-5 and shared["head_s"] > 0
    ratio = shared["masks_per_s"] / found[f"{who}, whole"]["masks_per_s"]
    assert shared["times"] == pytest.approx(ratio, rel=0.1, abs=0.01)
  for who in ("heads", "minilm", "causal"):
    assert "no checkpoint" in found[who]["skipped"]


@pytest.mark.slow
def test_an_accelerator_is_measured_where_there_is_one(found):
  if jax.devices()[0].platform == "cpu":
    assert "accelerator" in found["device"]["skipped"]
  else:
    assert found["device"]["share"] > 0


def test_the_players_of_the_prompt_are_its_last_quarter():
  prompt = bench_networks.random_prompt(_QUICK)
  owner = prompt.players.owner.tolist()
  assert owner == [2] * 12 + [0, 0, 1, 1]
  full = bench_networks.random_prompt(bench_networks.CONFIGS["full"])
  assert (full.players.owner < full.n).sum() * 4 == full.num_tokens == 512


def test_work_is_what_the_compiler_counts():
  """All but norms, softmax and activations, which are few beside products."""
  config = bench_networks.shape(3, 256, 4, 64, 3)
  net = gpt2.network(config)
  ids = jnp.zeros((1, 64), jnp.int32)
  params = jax.eval_shape(net.init, jax.random.key(0))
  for keep in (0, 1):
    run = jax.jit(
      lambda params, keep=keep: (
        net.apply(params, input_ids=ids, logits_to_keep=keep).logits
      )
    )
    counted = run.lower(params).cost_analysis()["flops"]
    work = bench_networks.flops(config, 64, last_only=keep > 0)
    assert 0.94 * counted < work < 1.001 * counted


def test_two_sides_in_turns():
  order = []

  def side(name, slow):
    def ask(masks):
      order.append((name, slow, len(masks)))
      values = masks.sum(axis=1) + (0.25 if name == "torch" else 0)
      # As a peer does: its own seconds come along.
      return values, (slow * len(masks),)

    return ask

  ours = {size: side("ours", 1 / size) for size in (1, 4)}
  theirs = {(2, 1): side("torch", 0.5), (4, 1): side("torch", 1.0)}
  masks = bench_networks._masks(6, 5)
  assert masks.shape == (6, 5) and len({bytes(mask) for mask in masks}) == 6
  rows = list(
    bench_networks._duel(
      "x", ours, theirs, masks, 2, 3, lambda per_s: {"share": per_s}
    )
  )
  assert [row["who"] for row in rows] == ["x, ours", "x, torch"]
  assert [row["best"] for row in rows] == [4, (2, 1)]
  assert [row["masks_per_s"] for row in rows] == [4, 2]
  assert rows[1]["difference"] == 0.25 and rows[1]["ours_over_theirs"] == 2
  assert rows[0]["share"] == 4
  # The chosen sizes take turns on chunks of three.
  assert order[-4:] == [("ours", 0.25, 3), ("torch", 0.5, 3)] * 2
