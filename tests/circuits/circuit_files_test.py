"""Files of circuits: ours there and back, EAP-IG's, circuit-tracer's."""

import json

import numpy as np
import pytest

from spex_jax.circuits import circuit_files, draw, selection
from spex_jax.circuits import graph as graph_lib
from tests.circuits.graph_test import network

_GRAPH = graph_lib.Graph.of(network())
_ALONE = graph_lib.Graph.of(network(), ungrouped=True)
_RNG = np.random.default_rng(0)
_CIRCUIT = _GRAPH.circuit(_RNG.random(len(_GRAPH)) < 0.3)
_SCORES = _RNG.normal(size=len(_GRAPH))


def test_ours(tmp_path):
  path = tmp_path / "circuit.json"
  circuit_files.save(_CIRCUIT, path, _SCORES, {"task": "ioi"})
  found = circuit_files.load(path, _GRAPH)
  assert found.circuit == _CIRCUIT
  assert found.about == {"task": "ioi"}
  np.testing.assert_array_equal(
    found.scores, np.where(_CIRCUIT.kept, _SCORES, 0)
  )
  with pytest.raises(ValueError, match="taken: .'edges'"):
    circuit_files.save(_CIRCUIT, path, about={"edges": 3})


@pytest.mark.parametrize("level", graph_lib.LEVELS)
def test_other_levels(level, tmp_path):
  size = _GRAPH.size(level)
  shape = (3, size) if level == "position" else (size,)
  rng = np.random.default_rng(1)
  scores = rng.normal(size=shape)
  circuit = selection.top(_GRAPH, scores, 5, level=level)
  least = np.sort(np.abs(scores), axis=None)[-5]
  assert circuit == selection.threshold(_GRAPH, scores, least, level=level)
  path = tmp_path / "circuit.json"
  circuit_files.save(circuit, path, scores)
  found = circuit_files.load(path, _GRAPH)
  assert found.circuit == circuit and len(circuit) == 5
  assert not found.about
  np.testing.assert_array_equal(found.scores, np.where(circuit.kept, scores, 0))


@pytest.mark.parametrize(
  "body,said",
  [
    ({"level": "layer", "edges": []}, "level='layer'; known are edge"),
    ({"level": "node", "nodes": ["blocks.9.mlp"]}, "node 0: No node 'blocks.9"),
    ({"level": "node", "edges": []}, "holds no circuit"),
    (
      {"level": "neuron", "neurons": [["blocks.0.mlp.neurons", 999]]},
      "has 0..[0-9]+; got 999",
    ),
    ({"level": "neuron", "neurons": [3]}, "neuron 0:"),
    ({"level": "position", "edges": []}, "positions=None"),
    (
      {"level": "position", "positions": 2,
       "edges": [["embed", "blocks.0.mlp.read", 0, 2]]},
      "Positions are 0..1; got 2",
    ),
    (
      {"edges": [["embed", "blocks.0.mlp.read", 0]], "scores": ["a"]},
      "scores must be 1 numbers",
    ),
    ({"edges": {"a": 1}, "cfg": 3}, "no graph of EAP-IG"),
  ],
)  # fmt: skip
def test_bad_levels(body, said, tmp_path):
  path = tmp_path / "circuit.json"
  path.write_text(json.dumps(body))
  with pytest.raises(ValueError, match=said):
    circuit_files.load(path, _GRAPH)


def test_edges_are_enough(tmp_path):
  path = tmp_path / "circuit.json"
  path.write_text(json.dumps({"edges": [list(e) for e in _CIRCUIT.edges]}))
  found = circuit_files.load(path, _GRAPH)
  assert found.circuit == _CIRCUIT
  assert found.scores is None


def test_eap_ig_there_and_back():
  circuit = _ALONE.circuit(_RNG.random(len(_ALONE)) < 0.3)
  scores = _RNG.normal(size=len(_ALONE))
  body = json.loads(json.dumps(circuit_files.to_eap_ig(circuit, scores)))
  assert body["cfg"] == {
    "n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 8,
  }  # fmt: skip
  assert len(body["edges"]) == len(_ALONE)
  number = _ALONE.index(("blocks.0.heads.3", "blocks.1.attn.k_in", 2))
  edge = body["edges"]["a0.h3->a1.h2<k>"]
  assert edge == {"score": -scores[number], "in_graph": circuit.kept[number]}
  assert {"input->m0", "m1->logits", "input->a0.h0<q>"} <= {*body["edges"]}
  assert {*body["nodes"]} >= {"input", "a1.h3", "m1", "logits"}
  found = circuit_files.from_eap_ig(body, _ALONE)
  name = next(iter(body["edges"]))
  some = {key: edge for key, edge in body["edges"].items() if key != name}
  with pytest.raises(ValueError, match="1 edges are missing, input->"):
    circuit_files.from_eap_ig(body | {"edges": some}, _ALONE)
  bad = {name: body["edges"][name] | {"score": float("nan")}}
  with pytest.raises(ValueError, match="the score of embed.* is no finite"):
    circuit_files.from_eap_ig(body | {"edges": some | bad}, _ALONE)
  assert found.circuit == circuit
  np.testing.assert_array_equal(found.scores, scores)


def test_eap_ig_of_shared_keys(tmp_path):
  path = tmp_path / "theirs.json"
  path.write_text(json.dumps(circuit_files.to_eap_ig(_CIRCUIT, _SCORES)))
  found = circuit_files.load(path, _GRAPH)
  assert found.circuit == _CIRCUIT
  # Halves added up again.
  np.testing.assert_allclose(found.scores, _SCORES, rtol=1e-15)


def test_circuit_tracer():
  body = circuit_files.to_circuit_tracer(
    _CIRCUIT, _SCORES, ["a", " b"], model="x"
  )
  json.dumps(body)
  ids = [node["node_id"] for node in body["nodes"]]
  assert len({*ids}) == len(ids) == len({*_CIRCUIT.nodes}) + 1
  assert body["metadata"]["prompt_tokens"] == ["a", " b"]
  ends = {end for link in body["links"] for end in (link["source"],
          link["target"])}  # fmt: skip
  assert ends <= {*ids}
  total = sum(link["weight"] for link in body["links"])
  shown = [
    i
    for i in _CIRCUIT.numbers
    if _GRAPH.fed[_GRAPH.slot[i]].sum() == 0
    or {*np.flatnonzero(_GRAPH.fed[_GRAPH.slot[i]])}
    <= {_GRAPH.writers.index(n) for n in _CIRCUIT.nodes}
  ]
  if len(shown) == len(_CIRCUIT):
    assert total == pytest.approx(-_SCORES[_CIRCUIT.kept].sum())


_EDGE = '["embed", "final_norm.in", 0]'


@pytest.mark.parametrize(
  ("body", "complaint"),
  [
    ("{", "is no JSON"),
    ("[]", "holds no circuit"),
    ('{"edges": 3}', "holds no circuit"),
    ('{"edges": [["a", "b"]]}', "edge 0: An edge is"),
    ('{"edges": [null]}', "edge 0: An edge is"),
    ('{"edges": [[["a"], "b", 0]]}', "edge 0: Writer and reader"),
    ('{"edges": [["blocks.7.mlp", "final_norm.in", 0]]}', "edge 0: No writer"),
    ('{"edges": [["embed", "final_norm.in", "x"]]}', "edge 0: The row"),
    ('{"edges": [], "fingerprint": "00"}', "another model: its graph is 00"),
    (f'{{"edges": [{_EDGE}, {_EDGE}]}}', "edge 1 is edge 0 again"),
    ('{"edges": [], "scores": [1]}', "scores must be 0 numbers"),
    ('{"edges": {}, "cfg": {"n_layers": 5}}', "another model: its cfg"),
  ],
)
def test_bad_files(tmp_path, body, complaint):
  path = tmp_path / "circuit.json"
  path.write_text(body)
  with pytest.raises(ValueError, match=complaint):
    circuit_files.load(path, _GRAPH)
  with pytest.raises(FileNotFoundError, match="There is no file"):
    circuit_files.load(tmp_path / "none.json", _GRAPH)


def test_a_changed_file_is_noticed(tmp_path):
  path = tmp_path / "circuit.json"
  circuit_files.save(_CIRCUIT, path)
  path.write_text(path.read_text().replace("embed", "embeb", 1))
  with pytest.raises(ValueError, match="sha256|digest|checksum"):
    circuit_files.load(path, _GRAPH)


def _places(svg):
  import xml.etree.ElementTree as tree

  root = tree.fromstring(svg)
  space = "{http://www.w3.org/2000/svg}"
  groups = root.iter(f"{space}g")
  found: dict[str, list] = {"edge": [], "node": []}
  for group in groups:
    found[group.get("class", "").split()[0]].append(group)
  return root, found, space


@pytest.mark.parametrize("num", [20, 400])
def test_pictures(num):
  graph = graph_lib.Graph.of(network(num_blocks=8))
  rng = np.random.default_rng(0)
  circuit = graph.circuit(rng.permutation(len(graph))[:num])
  scores = rng.normal(size=len(graph))
  root, found, space = _places(draw.svg(circuit, scores, "a <b> & c"))
  assert len(found["edge"]) == num
  against = [g for g in found["edge"] if "against" in g.get("class")]
  assert len(against) == (scores[circuit.kept] > 0).sum()
  tips = {g.find(f"{space}title").text.rpartition(": ")[0]
          for g in found["edge"]}  # fmt: skip
  assert tips == {graph.name(i) for i in circuit.numbers}
  for kind, dash in (("q", None), ("k", "7 4"), ("v", "1.5 4")):
    paths = [p for g in found["edge"] if f" {kind} " in g.get("class")
             for p in g.iter(f"{space}path")]  # fmt: skip
    assert paths
    assert {p.get("stroke-dasharray") for p in paths} == {dash}
  boxes = [g.find(f"{space}rect") for g in found["node"]]
  corners = np.array([[float(b.get(n)) for n in ("x", "y")] for b in boxes])
  apart = np.abs(corners[:, None] - corners[None])
  clear = (apart[..., 0] >= 46) | (apart[..., 1] >= 24)
  assert clear[~np.eye(len(boxes), dtype=bool)].all()
  width, height = (float(root.get(n)) for n in ("width", "height"))
  assert (corners >= 0).all()
  assert (corners <= [width - 44, height - 22]).all()


def test_what_cannot_be_drawn():
  with pytest.raises(ValueError, match=r"1\.\.2000 edges; .* has 0"):
    draw.svg(_GRAPH.empty)
  assert draw.svg(_CIRCUIT).startswith("<svg")
