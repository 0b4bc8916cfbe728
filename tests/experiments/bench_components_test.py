"""The benchmark of component attribution runs, and says what it should."""

import numpy as np
import pytest

from experiments import bench_components, component_quality, digits_networks
from spex_jax.ablate import components, readouts
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.circuits import tasks as circuits_tasks
from tests.jobs import small
from third_party import torch_peer

_QUICK = bench_components.CONFIGS["quick"]


def _rows(*names):
  return list(
    bench_components.run(_QUICK, list(names), stories=None, with_peer=False)
  )


def test_regression_agrees_with_scikit_learn():
  found = _rows("regression", "neurons")
  assert [row["row"] for row in found] == ["regression"] * 2 + ["neurons"]
  assert [row.get("peer") for row in found[:2]] == [
    "LinearRegression", "Ridge(cholesky)",
  ]  # fmt: skip
  # float32 values near 5, 200 of them.
  assert max(row["largest_difference"] for row in found[:2]) < 1e-4
  assert "no --stories" in found[2]["skipped"]


@pytest.mark.slow
def test_quick_rows_are_whole():
  filters, *correlations = _rows("filters", "correlation", "vit")
  assert filters["who"] == "ours" and filters["players"] == 6
  assert filters["masks_per_s"] > 0
  shares = list(_QUICK.quality.shares)
  assert [row["kept"] for row in correlations] == 2 * shares
  for row in correlations:
    number = 9 if row["row"] == "correlation" else 6
    assert len(row["correlations"]) == number
    coar = row["correlations"]["COAR"][0]
    assert coar > row["correlations"]["random"][0] and coar > 0.5


@pytest.mark.slow
def test_heads_of_a_language_model(tmp_path, monkeypatch):
  model = small.gpt2(tmp_path / "lm")
  pairs = pairs_lib.Pairs(
    clean=[[1, 2, 3, 4], [5, 6, 7, 0]], corrupted=[[1, 2, 3, 5], [5, 9, 7, 0]],
    lengths=[4, 3], right=[[8], [3]], wrong=[[2], [1]],
  )  # fmt: skip
  made = circuits_tasks.Made("gender", pairs, {})
  monkeypatch.setattr(circuits_tasks, "make", lambda *_, **__: made)
  ask = lambda: [
    {k: v for k, v in row.items() if k != "cpu_s"}
    for row in component_quality.language(
      _QUICK.language, model, str(tmp_path / "kept")
    )
  ]
  found = ask()
  assert [row["kept"] for row in found] == [0.85, 0.9, 0.95, 0.5]
  for row in found:
    assert (row["task"], row["prompts"], row["players"]) == ("gender", 2, 6)
    assert row["correlations"]["COAR"][0] > 0.8
    assert "COAR with pairs" not in row["correlations"]

  def called(*args, **words):
    raise AssertionError("asked anew")

  monkeypatch.setattr(
    components, "evaluator", lambda *args, **words: called
  )  # fmt: skip
  assert ask() == found


def _layer(network, number, x, side):
  """A convolution, batch norm, ReLU and pool by these arrays, in NumPy."""
  get = lambda name: network[f"{name}{number}"].astype(np.float64)
  wide = lambda name: get(name)[:, None, None]
  padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
  window = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
  x = np.einsum("bchwij,ocij->bohw", window, get("kernel"))
  x = (x - wide("running_mean")) / np.sqrt(wide("running_var") + 1e-5)
  x = np.maximum(x * wide("weight") + wide("bias"), 0)
  height, width = x.shape[2] // side, x.shape[3] // side
  return x.reshape(*x.shape[:2], height, side, width, side).max(axis=(3, 5))


@pytest.mark.slow
def test_what_the_peer_is_given():
  made = digits_networks.cnn(_QUICK.width, _QUICK.epochs)
  network = bench_components.for_torch(made)
  assert network["kernel1"].shape == (4, 2, 3, 3)
  assert network["running_var1"].shape == (4,) and "kernel2" not in network
  x = _layer(network, 0, made.test.pixels[:3].astype(np.float64), 2)
  x = _layer(network, 1, x, 4)
  expected = x[..., 0, 0] @ network["head"]
  got = made.net.apply(made.net.params, pixel_values=made.test.pixels[:3])
  np.testing.assert_allclose(got.logits, expected, rtol=0, atol=1e-4)


@pytest.mark.peers
def test_pytorch_gives_the_same_margins():
  made = digits_networks.cnn(_QUICK.width, _QUICK.epochs)
  x, y = made.test.pixels[:20], made.test.labels[:20]
  at = components.shapes(made.net, made.net.params, pixel_values=x)
  players = components.filters(at)
  masks = np.random.default_rng(0).random((6, players.n)) < 0.7
  ours = components.evaluator(
    made.net, players, {"pixel_values": x}, readouts.margins(y), batch_size=8
  )(masks)
  network = bench_components.for_torch(made)
  with torch_peer.Torch() as peer:
    theirs, _ = peer.filters(network, x, y, masks, threads=1)
  assert peer.cpu_seconds[0] > 0
  # Sums of 36 products of numbers near 1, twice.
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
