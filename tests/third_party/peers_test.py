"""The peers answer through their adapter; needs `make peers` where marked."""

import json
import sys

import numpy as np
import pytest

from third_party import peers

# Stands for the worker: answers some tasks, and fails in each way there is.
_FAKE = """#!{python}
import json, sys, time
for line in sys.stdin:
  task = json.loads(line)["task"]
  if task == "plan":
    print(json.dumps({{"error": "ValueError: no such plan"}}), flush=True)
  elif task == "transform":
    print("last words", file=sys.stderr, flush=True)
    sys.exit(3)
  elif task == "interactions":
    time.sleep(60)
  else:
    print(json.dumps({{"spectralexplain": "0"}}), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
  path = tmp_path / "python"
  path.write_text(_FAKE.format(python=sys.executable))
  path.chmod(0o755)
  return path


@pytest.fixture(scope="module")
def peer():
  with peers.SpectralExplain() as peer:
    yield peer


def _planted(n, num_terms, seed):
  rng = np.random.default_rng(seed)
  supports = np.zeros((num_terms, n), bool)
  for row in supports:
    row[rng.choice(n, rng.integers(1, 5), replace=False)] = True
  return supports, rng.uniform(1, 2, num_terms)


def _values(supports, coefs, masks):
  parity = (masks.astype(int) @ supports.T.astype(int)) % 2
  return (1.0 - 2 * parity) @ coefs


def test_a_missing_environment_names_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setenv("SPEX_PEER_PYTHON", str(tmp_path / "none"))
  with pytest.raises(peers.PeerError, match="No peer environment.*make peers"):
    peers.SpectralExplain()


def test_the_peers_own_error_is_raised(fake):
  with (
    peers.SpectralExplain(fake) as peer,
    pytest.raises(peers.PeerError, match="raised ValueError: no such plan"),
  ):
    peer.plan(5, 2, seed=0)


def test_a_dead_peer_is_reported_with_its_last_words(fake):
  with peers.SpectralExplain(fake) as peer:
    for _ in range(2):  # Dead already at the second call.
      with pytest.raises(peers.PeerError, match="(?s)ended.*last words"):
        peer.transform(np.zeros(4))


def test_a_peer_that_hangs_is_ended(fake):
  with peers.SpectralExplain(fake) as peer:
    peer._timeout = 0.5  # It may take longer to start.
    with pytest.raises(peers.PeerError, match=r"ended .*limit 0\.5 s"):
      peer.interactions(np.ones((1, 2), bool), np.ones(1), "FBII", 1)
    assert peer._process.wait(60) != 0


def test_bad_values_are_refused_before_the_peer_sees_them(fake):
  masks = np.zeros((8, 3), bool)
  plan = peers.PeerPlan(
    masks, masks[None], masks, masks, b=1, t=1, seed=0, seconds=0.0
  )
  with peers.SpectralExplain(fake) as peer:
    with pytest.raises(ValueError, match=r"one value per mask, shape \(8,\)"):
      peer.decode(plan, np.zeros(7))
    with pytest.raises(ValueError, match="must be 'soft' or 'hard'; got 'x'"):
      peer.decode(plan, np.zeros(8), decoding="x")


@pytest.mark.peers
def test_versions_are_the_pinned_ones(peer):
  assert peer.versions["spectralexplain"] == "0.0.4", json.dumps(peer.versions)


@pytest.mark.peers
def test_the_plan_is_what_its_parts_say(peer):
  plan = peer.plan(20, 3, 2, seed=1)
  again = peer.plan(20, 3, 2, seed=1)
  np.testing.assert_array_equal(plan.masks, again.masks)
  points = plan.subsampling.astype(int) @ plan.points.astype(int)  # [C, n, N]
  masks = points[:, None] + plan.delays[None, :, :, None]
  expected = (masks % 2).transpose(0, 1, 3, 2).reshape(-1, 20)
  np.testing.assert_array_equal(plan.masks, expected.astype(bool))
  assert not plan.delays[0].any()
  assert plan.n == 20


@pytest.mark.peers
@pytest.mark.parametrize("decoding", ["hard", "soft"])
def test_the_peer_recovers_a_planted_function(peer, decoding):
  supports, coefs = _planted(40, 6, seed=2)
  found = peer.explain(
    lambda masks: _values(supports, coefs, masks),
    n=40,
    b=4,
    seed=3,
    decoding=decoding,
  )
  expected = {s.tobytes(): c for s, c in zip(supports, coefs)}
  actual = {s.tobytes(): c for s, c in zip(found.supports, found.coefs)}
  assert actual.keys() == expected.keys()
  # It stops at bins whose energy is below 1e-9, and averages unequal bins.
  for support, coef in expected.items():
    assert abs(actual[support] - coef) < 1e-3


@pytest.mark.peers
def test_interactions_and_transform(peer):
  supports = np.array([[0, 0], [1, 0], [1, 1]], bool)
  found = peer.interactions(supports, np.array([1.0, 2.0, 3.0]), "Fourier", 2)
  order = np.lexsort(found.supports.T)
  np.testing.assert_array_equal(found.supports[order], supports)
  np.testing.assert_array_equal(found.coefs[order], [1, 2, 3])
  fourier, seconds = peer.transform(np.array([1.0, 2.0, 3.0, 6.0]), repeats=2)
  np.testing.assert_allclose(fourier, [3, -1, -1.5, 0.5], atol=1e-12)
  assert len(seconds) == 2
