"""shapiq answers through its adapter; needs `make peers-shapiq` if marked."""

import math
import sys

import numpy as np
import pytest

from third_party import process, shapiq_peer

# Stands for the worker: it fits nothing, asks for two values, or dies.
_FAKE = """#!{python}
import json, os, sys
import numpy as np
for line in iter(sys.stdin.readline, ""):
  request = json.loads(line)
  answer = {{"shapiq": "0", "limit": os.environ.get("OMP_THREAD_LIMIT")}}
  if request["task"] == "decode" and request["method"] == "lasso1":
    with np.load(request["samples"]) as file:
      np.savez(request["out"], supports=file["masks"], coefs=file["values"])
    answer = {{"seconds": [0.5] * request["repeats"]}}
  elif request["task"] == "decode":
    print("[LightGBM] last words", file=sys.stderr, flush=True)
    sys.exit(3)
  elif request["task"] == "shapley" and request["budget"] < 2:
    answer = {{"error": "ValueError: budget"}}
  elif request["task"] == "shapley":
    path = request["folder"] + "/q.npz"
    np.savez(path, masks=np.eye(request["n"], dtype=bool))
    print(json.dumps({{"evaluate": path}}), flush=True)
    with np.load(json.loads(sys.stdin.readline())["values"]) as file:
      np.savez(request["out"], values=2 * file["values"])
    answer = {{"seconds": 0.5, "asked": request["n"]}}
  print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def python(tmp_path):
  path = tmp_path / "python"
  path.write_text(_FAKE.format(python=sys.executable))
  path.chmod(0o755)
  return path


@pytest.fixture
def fake(python):
  with shapiq_peer.Shapiq(python) as peer:
    yield peer


@pytest.fixture(scope="module")
def peer():
  with shapiq_peer.Shapiq() as peer:
    yield peer


def test_a_missing_environment_names_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setenv("SPEX_SHAPIQ_PYTHON", str(tmp_path / "none"))
  with pytest.raises(process.PeerError, match="run `make peers-shapiq`"):
    shapiq_peer.Shapiq()


@pytest.mark.parametrize(("threads", "limit"), [(None, "7"), (2, "2")])
def test_threads_are_limited_if_asked(python, monkeypatch, threads, limit):
  monkeypatch.setenv("OMP_THREAD_LIMIT", "7")
  with shapiq_peer.Shapiq(python, threads=threads) as peer:
    assert peer.versions["limit"] == limit


def test_samples_travel_both_ways(fake):
  masks = np.array([[True, False], [True, True], [False, False]])
  found = fake.decode(
    masks, np.arange(3.0), masks, method="lasso1", seed=0, repeats=2
  )
  np.testing.assert_array_equal(found.supports, masks)
  np.testing.assert_array_equal(found.coefs, [0, 1, 2])
  assert found.seconds == (0.5, 0.5) and found.trees is None


def test_the_game_is_evaluated_on_this_side(fake):
  weights = np.array([1.0, 2.0, 4.0])
  found = fake.shapley(
    lambda masks: masks @ weights, 3, 100, method="oddshap", seed=0
  )
  np.testing.assert_array_equal(found.values, 2 * weights)
  assert found.asked == 3


def test_a_crash_is_an_error_and_the_process_is_gone(fake):
  masks, values = np.zeros((2, 2), bool), np.zeros(2)
  assert fake.alive
  with pytest.raises(process.PeerError, match="(?s)ended during.*last words"):
    fake.decode(masks, values, masks, method="proxyspex", seed=0)
  assert fake._process.wait(5) == 3 and not fake.alive


def test_the_peers_error_leaves_it_alive(fake):
  with pytest.raises(process.PeerError, match="raised ValueError: budget"):
    fake.shapley(len, 3, 1, method="oddshap", seed=0)
  assert fake.alive


def test_a_game_that_fails_ends_the_peer(fake):
  def game(masks):
    raise KeyError("no such mask")

  with pytest.raises(KeyError, match="no such mask"):
    fake.shapley(game, 3, 100, method="oddshap", seed=0)
  assert fake._process.wait(5) != 0


def test_bad_input_is_refused_before_the_peer_sees_it(fake):
  masks = np.zeros((8, 3), bool)
  with pytest.raises(ValueError, match=r"one value per mask, shape \(8,\)"):
    fake.decode(masks, np.zeros(7), masks, method="lasso1", seed=0)
  with pytest.raises(ValueError, match="method='ridge': choose from proxyspex"):
    fake.decode(masks, np.zeros(8), masks, method="ridge", seed=0)
  with pytest.raises(ValueError, match="method='shap': choose from kernelshap"):
    fake.shapley(len, 3, 10, method="shap", seed=0)


@pytest.mark.peers
def test_versions_are_the_pinned_ones(peer):
  assert peer.versions["shapiq"] == "1.8.0"


@pytest.mark.peers
@pytest.mark.parametrize("method", shapiq_peer.DECODERS)
def test_decoders_fit_a_planted_function(peer, method):
  rng = np.random.default_rng(0)
  masks = rng.random((600, 12)) < 0.5
  signs = 1.0 - 2.0 * masks
  function = lambda signs: 5 + signs[:, :4] @ [4.0, 3.0, 2.0, 1.0]
  test = rng.random((200, 12)) < 0.5
  values, truth = function(signs), function(1.0 - 2.0 * test)
  found = peer.decode(masks, values, test, method=method, seed=0)
  guess = ((1.0 - 2.0 * test[:, None]) ** found.supports).prod(2) @ found.coefs
  # A sparse linear function without noise is easy for each of them.
  assert 1 - ((truth - guess) ** 2).mean() / truth.var() > 0.9
  if method == "proxyspex":
    assert 1 - ((truth - found.trees) ** 2).mean() / truth.var() > 0.95


@pytest.mark.peers
@pytest.mark.parametrize("method", shapiq_peer.ESTIMATORS)
def test_estimators_are_exact_with_all_masks(peer, method):
  n = 6
  table = np.random.default_rng(1).normal(size=2**n)
  game = lambda masks: table[masks @ (1 << np.arange(n))]
  found = peer.shapley(game, n, 2**n, method=method, seed=0)
  expected = np.zeros(n)
  for player in range(n):
    for code in range(2**n):
      if not code >> player & 1:
        size = code.bit_count()
        weight = math.factorial(size) * math.factorial(n - size - 1)
        gain = table[code | 1 << player] - table[code]
        expected[player] += weight / math.factorial(n) * gain
  # KernelSHAP weighs the full and the empty mask by 1e6, not infinity.
  np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5)
  assert found.asked <= 2**n + 2


def test_a_kept_peer_is_started_anew_only_when_dead():
  class Mortal:
    alive = True

    def close(self):
      self.alive = False

  with process.Kept(Mortal) as peer:
    first = peer()
    assert peer() is first
    first.alive = False
    second = peer()
    assert second is not first and peer() is second
  assert not second.alive
