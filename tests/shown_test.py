"""What results of every room show of themselves: frames, and pages."""

import numpy as np
import pytest

from spex_jax.circuits import (
  completeness,
  curves,
  identities,
  judged,
  patching,
  scored,
  tracing,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.components import comparing as ablations
from spex_jax.components import edit
from spex_jax.context import citation_quality as cited
from spex_jax.context import reliance, response_runs
from spex_jax.context import token_scores as generated
from spex_jax.fourier import sparse
from spex_jax.indices import judging
from spex_jax.influence import corners
from spex_jax.models import transformer

_NET = transformer.network(
  transformer.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=1, head_width=4,
    num_neurons=6, vocab_size=11, max_positions=16,
  )
)  # fmt: skip
_GRAPH = graph_lib.Graph.of(_NET)
_EDGES = _GRAPH.circuit([0, 3])


def _judged():
  clean = np.array([2.0, 4.0])
  return judged.Judged(
    ("<a>", "b"), np.array([[1.0, 2.0], [2.0, 4.0]]), clean, np.zeros(2),
    np.zeros(2), np.array([2, 3]), np.array([1, 3]),
    identities.Identities(0.0, 1e-9, "resample"),
  )  # fmt: skip


def _curve():
  shares = np.array([0.1, 1.0])
  f = _judged().faithfulness()
  return curves.Curve(
    _judged(), shares, f, np.array([[0.0, 1.0]]), curves.areas(shares, f)
  )


def _scores():
  values = np.zeros((2, len(_GRAPH)))
  values[:, 1] = [-1.0, -3.0]
  names = tuple(_GRAPH.name(i) for i in range(len(_GRAPH)))
  return scored.Scores(_GRAPH, values, "edge", names, "eap", "logit", {})


def _pecore():
  cue = reliance.Cue(
    0, "Mary", 2.0, 3, "John", "J.", (0.1, 0.9), None, (1,), 1.5
  )
  told = response_runs.Runs(
    np.array([1, 5, 6, 7]), np.array([1, 7]), np.array([7]), (1, 3)
  )  # fmt: skip
  return reliance.Pecore(
    told, "kl", "saliency", "prob", np.array([2.0]), (0,), (cue,), {},
    {"context": ("<i>", "Mary"), "output_context": (), "response": ("Mary",)},
  )  # fmt: skip


def _patched():
  values = np.array([[[0.0, 0.0]], [[2.0, 4.0]]])
  ends = np.zeros(2), np.array([2.0, 4.0])
  labels = (("0", "1"), ("end",))
  return patching.Patched("resid_pre", ("layer", "at"), labels, values, *ends)


_EDIT = edit.Edit(
  ("blocks.0.attn 1",), {"blocks.0.attn": np.array([[False, True]])}, {},
  {"network": "transformer"},
)  # fmt: skip


_FOURIER = sparse.SparseFourier.from_terms(3, {(0, 2): 1.0, (): 2.0})
_KNOCKED = completeness.Completeness(
  ("<i>a", "b"), (_EDGES, _EDGES), np.array([1.0, 2.0]), np.array([1.0, 5.0])
)
_NEEDED = completeness.Minimality(
  ("a", "b"), np.array([0.0, 1.0]), np.array([0.5, 1.0]), (("b",), ())
)
_TRACED = tracing.Traced(
  "mlp", ("first", "last"), np.array([[[1.0], [3.0]]]), np.zeros(1),
  np.array([4.0]), np.array([0]), 0.5,
)  # fmt: skip
_FRESH = ablations.Report(
  {0.9: {"coar": judging.Correlation(np.array([0.4, 0.6]), 20)}}, 0.9
)
_CORNERS = corners.Report(
  (
    corners.Row(
      corners.Reported((0, 2), 1.5), -1.0, -2.0, -0.5, 0.01, "contradicted",
      0.0, 1.0, np.ones(2),
    ),
  ),
  0.95, 4, 2, 16, ("<a>", "b", "c"),
)  # fmt: skip


_CITED = cited.Judged(
  0.25, 0.5, {1: 1.5}, np.array([2.0, 0.5]), np.array([0.0, 2.0]), 4
)


def _generated():
  """Two steps behind a source of one token; the second sees the first."""
  return generated.Attribution(
    "saliency", "probability", ("<i>",), (5,), (" so", " it"), (6, 7),
    (" so", " it"), (6, 7), (0, 1), np.array([[1.0], [-3.0]]),
    np.array([[0.0, 0.0], [2.0, 0.0]]), {}, False,
  )  # fmt: skip


@pytest.mark.parametrize(
  ("found", "column", "expected"),
  [
    (_EDGES, "writer", ["embed", "embed"]),
    (_GRAPH.of_nodes(["embed"]), "node", ["embed"]),
    (_judged(), "faithfulness", [0.5, 1.0]),
    (_curve(), "random_high", [0.0, 1.0]),
    (_scores(), "std", [1.0] + [0.0] * (len(_GRAPH) - 1)),
    (_pecore(), "text", ["Mary", "<i>"]),
    (_patched(), "moved", [1.0, 0.0]),
    (_EDIT, "removed", [1]),
    (_FOURIER, "players", [(), (0, 2)]),
    (sparse.SparseFourier.stack([_FOURIER] * 2), "target", [0, 0, 1, 1]),
    (_KNOCKED, "gap", [3.0, 0.0]),
    (_NEEDED, "without", ["", "b"]),
    (_TRACED, "effect", [3.0, 1.0]),
    (_FRESH, "correlation", [0.5]),
    (_CORNERS, "set", ["<a> + c"]),
    (_generated(), "score", [-3.0, 2.0, 1.0]),
    (_CITED, "kept", [0.0, 2.0]),
  ],
)
def test_frames_and_pages(found, column, expected):
  pytest.importorskip("pandas")
  frame = found.to_pandas()
  assert frame[column].tolist() == expected
  assert list(frame) == list(found.sheet().columns)
  assert "iframe" in found._repr_html_()
  assert "<h1>Why?</h1>" in found.page("Why?")
  assert "<a>" not in found.page() and "<i>" not in found.page()


def test_a_circuit_without_scores_invents_none():
  (view,) = _EDGES.sheet().views
  assert [edge["score"] for edge in view["edges"]] == [None, None]


def test_what_cannot_be_told_is_said():
  flat = _judged()
  flat.clean[:] = 0.0
  sheet = flat.sheet()
  assert np.isnan(sheet.columns["faithfulness"]).all()
  assert [bad for _, _, bad in sheet.trust] == [False, True]


def test_members_are_those_of_files():
  neurons = graph_lib.Circuit(_GRAPH, np.arange(6) == 4, "neuron")
  assert neurons.members == [[_GRAPH.neuron_sites[0], 4]]
  at = np.zeros((2, len(_GRAPH)), bool)
  at[1, 0] = True
  place = graph_lib.Circuit(_GRAPH, at, "position")
  assert place.members == [[*_GRAPH.edge(0), 1]]
  assert place.sheet().columns["position"] == [1]
