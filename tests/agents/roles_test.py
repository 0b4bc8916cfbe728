"""Roles of heads and edges: who describes them, and what judges them."""

import json

import jax
import numpy as np
import pytest

from spex_jax.agents import llm
from spex_jax.agents.roles import annotated, claims, describers
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import metrics
from tests.circuits import tiny

pytestmark = pytest.mark.usefixtures("float64")

_METRIC = metrics.logit_difference
_HEADS = [f"blocks.{layer}.heads.{head}" for layer in (0, 1) for head in (0, 1)]


def _twins():
  """A network whose heads of the last block are copies."""
  net, params = tiny.network()
  params = jax.tree.map(np.array, params)
  for kind in ("q", "k", "v"):
    for leaf in params["blocks_1"]["attn"][kind].values():
      leaf[..., 1, :] = leaf[..., 0, :]
  return net, params


def test_a_role_of_copies_stands_and_others_are_told():
  net, params = _twins()
  pairs = tiny.pairs(12)
  twins = claims.Role("copies", tuple(_HEADS[2:]))
  edges = claims.Role(
    "their edges", tuple((head, "final_norm.in", 0) for head in _HEADS[2:])
  )
  odd = claims.Role("not alike", (_HEADS[0], _HEADS[2]))
  alone = claims.Role("alone", (_HEADS[0],), "TAG")
  mlp = claims.Role("an MLP", ("blocks.0.mlp", _HEADS[0]))
  mixed = claims.Role("both", (*edges.parts, _HEADS[0]))
  found = claims.judge(
    net, params, pairs[:8], pairs[8:], [twins, edges, odd, alone, mlp, mixed],
    _METRIC, random=2, ridge=1e-12, size=4,
  )  # fmt: skip
  for verdict in found[:2]:
    np.testing.assert_allclose(verdict.kept, 1, atol=1e-6)
    assert verdict.rank == 1 and len(verdict.swaps) == 2
    assert "2 heads keep 1.00 of each other" in str(verdict)
  assert abs(found[2].kept - 1) > 1e-3 and found[2].rank < 1
  assert np.isnan(found[3].kept) and "TAG alone: of one head" in str(found[3])
  assert "'blocks.0.mlp' is no head" in found[4].error
  assert "not of both" in str(found[5])


def _scores(graph):
  """Both heads of the last block read and write the same; the others do not."""
  scores = np.zeros(graph.num_edges)
  for edge, value in (
    ((_HEADS[2], "final_norm.in", 0), 3.0),
    ((_HEADS[3], "final_norm.in", 0), 1.5),
    ((_HEADS[0], "blocks.1.attn.k_in", 0), 2.0),
    ((_HEADS[0], "blocks.1.attn.k_in", 1), 1.0),
    ((_HEADS[1], "blocks.0.mlp.read", 0), -1.0),
  ):
    scores[graph.index(edge)] = value
  return scores


def test_the_script_finds_heads_with_the_same_edges():
  graph = graph_lib.Graph.of(tiny.network()[0])
  scores = _scores(graph)
  own = describers.profiles(scores, graph, _HEADS)
  # Of each half its length; the first two read nothing.
  np.testing.assert_allclose((own**2).sum(1), [0.5, 0.5, 1, 1])
  np.testing.assert_allclose(own[2], own[3])
  assert own[0] @ own[1] == own[0] @ own[2] == 0
  roles = describers.scripted(scores, graph, _HEADS)
  assert [role.parts for role in roles] == [
    (_HEADS[0],), (_HEADS[1],), tuple(_HEADS[2:])
  ]  # fmt: skip
  assert roles[2].note == "reads blocks.0.heads.0 by k, writes final_norm.in"
  assert describers.scripted(scores, graph, _HEADS[:1])[0].parts == (_HEADS[0],)
  for some, heads, message in (
    (scores[1:], _HEADS, "edges, not"),
    (scores, ["blocks.0.mlp"], "No head 'blocks.0.mlp'"),
    (scores, ["blocks.7.heads.0"], "No head"),
  ):
    with pytest.raises(ValueError, match=message):
      describers.scripted(some, graph, heads)


def test_a_model_is_asked_until_its_roles_can_be_read():
  graph = graph_lib.Graph.of(tiny.network()[0])
  scores = _scores(graph)
  good = (
    f"Well.\n[ROLE] early | {_HEADS[0]}, {_HEADS[1]}\n"
    f"[ROLE] late | {_HEADS[2]} {_HEADS[3]}"
  )
  chat = llm.Scripted(["Heads.", good])
  told = describers.asked(chat, scores, graph, _HEADS)
  assert [role.note for role in told.roles] == ["early", "late"]
  assert told.roles[1].parts == tuple(_HEADS[2:]) and told.error == ""
  task = chat.seen[0][0]["content"]
  assert "blocks.1.heads.0: in blocks.0.heads.0 by k +2" in task
  assert "no line [ROLE]" in chat.seen[1][-1]["content"]
  for reply, message in (
    ("[ROLE] all of them", "no | and heads"),
    (f"[ROLE] one | {_HEADS[0]}", "blocks.0.heads.1, .* in no role"),
    (f"[ROLE] a | {', '.join([*_HEADS, _HEADS[0]])}", "heads.0 twice"),
    ("[ROLE] a | 0.1", "'0.1' was not asked about"),
  ):
    with pytest.raises(ValueError, match=message):
      describers.read(reply, _HEADS)
  for number, chat in enumerate(
    (llm.Scripted([]), llm.Scripted(["no"] * 3), llm.Scripted([TimeoutError()]))
  ):
    told = describers.asked(chat, scores, graph, _HEADS)
    assert not told.roles and told.error
    assert len(told.transcript) == (1, 7, 1)[number]


def _part(name, hook, tag, **more):
  return {"id": name, "hook": hook, "role": {"tag": tag, "note": name}} | more


def test_annotated_circuits_are_read(tmp_path):
  parts = [
    _part("A", "blocks.0.mlp.hook_post", "INDICATOR", labels=["x_3"]),
    _part("B", "blocks.1.attn.hook_result[2]", "AGGREGATOR"),
    _part("C", "blocks.1.attn.hook_z[0]", "AGGREGATOR"),
    _part("D", "hook_embed", "OTHER"),
  ]
  path = tmp_path / "case_3.json"
  task = {"summary": "s", "examples": [{"input": ["a", 1], "output": [0.5]}]}
  for body in (parts, {"task": task, "circuit": {"parts": parts}}):
    path.write_text(json.dumps(body))
    case = annotated.read(path)
    assert case.name == "case_3"
    assert [c.writer for c in case.components] == [
      "blocks.0.mlp", "blocks.1.heads.2", "blocks.1.heads.0", "",
    ]  # fmt: skip
    assert case.components[0].labels == ("x_3",)
  assert case.rest["task"] == task
  roles = {role.tag: role for role in case.roles}
  assert roles["AGGREGATOR"].parts == ("blocks.1.heads.2", "blocks.1.heads.0")
  assert roles["AGGREGATOR"].note == "B; C"
  assert [*roles["AGGREGATOR"].heads] == [(1, 2), (1, 0)]
  with pytest.raises(ValueError, match="'hook_embed' is no head"):
    _ = roles["OTHER"].heads
  assert case.accuracy({"A": "INDICATOR", "B": "OTHER"}) == 0.25
  with pytest.raises(ValueError, match="no 'Z'"):
    case.accuracy({"Z": "OTHER"})
  for body, message in (
    ("{", "case_3.json: "),
    (json.dumps({"task": task}), "0 lists of parts"),
    (json.dumps([parts, parts]), "2 lists of parts"),
    (json.dumps(parts[:1] * 2), "two parts have one id"),
    (json.dumps([{"id": "A", "hook": "h", "role": "x"}]), "'A' needs"),
  ):
    path.write_text(body)
    with pytest.raises(ValueError, match=message):
      annotated.read(path)
  with pytest.raises(FileNotFoundError):
    annotated.read(tmp_path / "none.json")
