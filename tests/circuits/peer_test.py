"""Parity with peers on the same random weights; `recorded` is what they say.

The numbers were made by `third_party/record_eap_ig.py` and
`third_party/record_direct_paths.py` in float64.
"""

import pathlib

import jax
import numpy as np
import pytest

from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import metrics, paths, runs, scores, ungrouped, walks
from spex_jax.models import sites
from tests.circuits import networks
from third_party import record_eap_ig

pytestmark = pytest.mark.usefixtures("float64")

_FILE = pathlib.Path(__file__).parent / "recorded" / "eap_ig.npz"
_PATHS = _FILE.with_name("direct_paths.npz")
_CLOSE = 1e-11
_METHODS = {
  "eap": dict(method="eap"),
  "eap_ig": dict(method="eap-ig", steps=record_eap_ig.STEPS, rule="left"),
  "clean_corrupted": dict(method="clean-corrupted"),
  # Theirs has a step at the clean end, and none at the corrupted.
  "ig_activations": dict(
    method="ig-activations", steps=record_eap_ig.STEPS, rule="right"
  ),
  "exact": dict(method="exact"),
}  # fmt: skip


def _recorded(name, key):
  with np.load(_FILE) as file:
    return file[f"{name}_{key}"]


@pytest.mark.parametrize(
  "name, key",
  [
    pytest.param(
      name,
      key,
      marks=()
      if name == "gpt2" and key != "ig_activations"
      else pytest.mark.slow,
    )
    for name in record_eap_ig.NETWORKS
    for key in _METHODS
  ],
)
def test_scores_are_the_peers(name, key):
  net, params = networks.load(name)
  found = scores.score(
    net, params, networks.pairs(), metrics.logit_difference, check=0,
    grouped=False, **_METHODS[key],
  )  # fmt: skip
  # [N, W, S]; the peer ungroups heads.
  theirs = _recorded(name, key)
  graph = found.graph
  want = theirs[:, graph.writer, graph.slot]
  np.testing.assert_allclose(found.values, want, rtol=0, atol=_CLOSE)
  assert np.abs(want).max() > 0.1
  gone = np.ones(theirs.shape[1:], bool)
  gone[graph.writer, graph.slot] = False
  assert not theirs[:, gone].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_circuits_have_the_peers_values(name):
  net, params = networks.load(name)
  params, net = ungrouped.params(net, params), ungrouped.network(net)
  graph, (batch,) = graph_lib.Graph.of(net), runs.batches(networks.pairs(), 2)
  slots = int(graph.slot.max()) + 1
  kept = record_eap_ig.circuits(len(graph.writers), slots, record_eap_ig.SEED)

  @jax.jit
  def values(params, kept):
    clean = runs.logits(net, params, batch)
    ref = runs.written(net, params, batch, corrupted=True)

    def value(one):
      edits = sites.Edits(cut=graph.cut(one), ref=ref)
      return runs.measured(
        net, params, metrics.logit_difference, batch, clean, edits
      )

    return jax.lax.map(value, kept)

  found = values(params, kept[:, graph.writer, graph.slot])
  want = _recorded(name, "circuits").T
  np.testing.assert_allclose(found, want, rtol=0, atol=_CLOSE)


@pytest.mark.parametrize(
  "name, port",
  [
    pytest.param(name, port, marks=pytest.mark.slow if port != "q" else ())
    for name, ports in (("gpt2", "qkv"), ("gpt_neox", "v"), ("llama", "q"))
    for port in ports
  ],
)
def test_direct_paths_are_the_peers(name, port):
  net, params = networks.load(name)
  with np.load(_PATHS) as file:
    want = file[name][:, "qkv".index(port)]  # [N, from, to].
  senders = [w for w in net.writers if w.startswith("blocks.0.heads")]
  for to in range(net.config.num_heads):
    got = paths.patch(
      net, params, networks.pairs(),
      walks.into(net, [f"blocks.1.heads.{to}"], port),
      metrics.logit_difference, senders=senders, direction="denoise",
      **paths.CONVENTIONS["direct"],
    )  # fmt: skip
    np.testing.assert_allclose(
      got.values[:, 0].T, want[..., to], rtol=0, atol=_CLOSE
    )
  assert np.ptp(want) > 0.01
