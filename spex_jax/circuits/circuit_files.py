"""Circuits in files: ours, EAP-IG's and MIB's, and for circuit-tracer's page.

Ours is JSON, and its edges alone are needed to read it:

  {"edges": [["embed", "blocks.0.mlp.read", 0], ...], "scores": [-1.2, ...],
   "fingerprint": "dc170ff859cf935b", "num_edges": 70651, ...}

EAP-IG names nodes `input`, `a3.h2`, `m3`, `logits`, and edges
`a0.h1->a3.h2<q>`; its scores are positive where corrupting an edge lowers the
metric, ours negative. It has an edge for each query head at k and v. Into our
graphs with grouped keys and values its members are joined: kept if any is, and
the scores added up. Out of them, each member is kept, and its score is the
group's share.

A circuit of another level than edges has "level", and "nodes", "neurons" (site
and number), or "edges" with the position behind the row and "positions", P.

Shapes: E edges, P positions, W writers, F neurons.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import selection

_THEIRS = re.compile(
  r"(input|m\d+|a\d+\.h\d+)->(logits|m\d+|a\d+\.h\d+<[qkv]>)"
)
_NODE = re.compile(r"(?:(?:m(\d+))|(?:a(\d+)\.h(\d+)(?:<([qkv])>)?))")
_OURS = re.compile(r"blocks\.(\d+)\.(?:heads\.(\d+)|attn\.([qkv])_in|mlp.*)")


# Level to the name of what a file lists.
_LISTS = {"edge": "edges", "position": "edges", "node": "nodes",
          "neuron": "neurons"}  # fmt: skip


_POSITIONS = 1 << 20  # At most, of a circuit.


class Saved(NamedTuple):
  """What a file holds.

  Attributes:
    circuit: the circuit of the file's edges.
    scores: float64 `[E]`, or as the circuit's `kept` is; 0 where the file has
      none; or None.
    about: what else the file says, by name.
  """

  circuit: graph_lib.Circuit
  scores: np.ndarray | None
  about: dict[str, Any]


def save(
  circuit: graph_lib.Circuit,
  path: str | pathlib.Path,
  scores: base.Array | None = None,
  about: Mapping[str, Any] | None = None,
) -> None:
  """Writes a circuit as JSON, whole or not at all.

  Args:
    circuit: a circuit, of any level.
    path: the path of the file.
    scores: `[E]`, or as `circuit.kept` is, of which those of its edges are
      kept; or None.
    about: what else the file is to say: JSON by names of its own.

  Raises:
    ValueError: scores that are NaN, or a name that is taken.
    OSError: no room, no permission.
  """
  graph = circuit.graph
  body: dict[str, Any] = {
    _LISTS[circuit.level]: circuit.members,
    "fingerprint": graph.fingerprint,
    "num_edges": graph.num_edges,
    "connected": circuit.connected,
  }
  if circuit.level != "edge":
    body["level"] = circuit.level
  if circuit.level == "position":
    body["positions"] = len(circuit.kept)
  if scores is not None:
    given = selection.check(graph, scores, circuit.level)
    body["scores"] = given[circuit.kept].tolist()
  if taken := {*body} & {*(about or {})}:
    raise ValueError(f"These names are taken: {sorted(taken)}.")
  base.write_json(path, body | dict(about or {}))


def load(path: str | pathlib.Path, graph: graph_lib.Graph) -> Saved:
  """Reads a circuit of a graph, ours or EAP-IG's.

  Args:
    path: the path of a JSON file.
    graph: of the model that it is to be run in.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no circuit, one of another model (by its fingerprint, or an
      edge that there is not), or a damaged file.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"There is no file {path}.")
  try:
    body = json.loads(path.read_text(encoding="utf-8-sig"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is no JSON: {error}.") from error
  if isinstance(body, dict) and "sha256" in body:
    body = base.read_json(path)  # Which compares the digest.
  # Whose file it is: EAP-IG's has edges by name, ours a list of them.
  level = body.get("level", "edge") if isinstance(body, dict) else "edge"
  if level not in graph_lib.LEVELS:
    raise ValueError(
      f"{path}: level={level!r}; known are {', '.join(graph_lib.LEVELS)}."
    )
  edges = body.get(_LISTS[level]) if isinstance(body, dict) else None
  if isinstance(edges, dict) and level == "edge":
    try:
      return from_eap_ig(body, graph)
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(f"{path} is no graph of EAP-IG: {error}") from error
  if not isinstance(edges, list):
    raise ValueError(
      f'{path} holds no circuit: {{"edges": [[writer, reader, row], ...]}}.'
    )
  told = body.get("fingerprint", graph.fingerprint)
  if told != graph.fingerprint:
    raise ValueError(
      f"{path} is a circuit of another model: its graph is {told} with "
      f"{body.get('num_edges')} edges, this one {graph.fingerprint} with "
      f"{graph.num_edges}."
    )
  # Edges, checked one by one, as places in `kept`.
  shape: tuple[int, ...] = (graph.size(level),)
  if level == "position":
    positions = body.get("positions")
    whole = isinstance(positions, int) and not isinstance(positions, bool)
    if not whole or not 1 <= positions <= _POSITIONS:
      raise ValueError(
        f"{path}: positions={positions!r} is no number of them, 1 to "
        f"{_POSITIONS:,}."
      )
    shape = (positions, *shape)
  read, numbers = _reader(graph, level, shape), []
  for number, one in enumerate(edges):
    try:
      numbers.append(read(one))
    except (ValueError, TypeError) as error:
      raise ValueError(f"{path}: {level} {number}: {error}") from error
  first: dict[int, int] = {}
  for number, place in enumerate(numbers):
    if first.setdefault(place, number) != number:
      raise ValueError(
        f"{path}: {level} {number} is {level} {first[place]} again: "
        f"{edges[number]}."
      )
  kept = np.zeros(shape, bool)
  kept.flat[numbers] = True
  # Scores of these edges, if there are any; all else is `about`.
  scores = None
  if "scores" in body:
    try:
      given = np.asarray(body["scores"], np.float64)
    except (ValueError, TypeError):
      given = np.full(len(numbers) + 1, np.nan)
    if given.shape != (len(numbers),) or not np.isfinite(given).all():
      raise ValueError(
        f"{path}: its scores must be {len(numbers)} numbers, one for each "
        f"{level}."
      )
    scores = np.zeros(shape)
    scores.flat[numbers] = given
  own = {*_LISTS.values(), "fingerprint", "num_edges", "connected", "scores",
         "level", "positions"}  # fmt: skip
  about = {name: value for name, value in body.items() if name not in own}
  return Saved(graph_lib.Circuit(graph, kept, level), scores, about)


def _reader(
  graph: graph_lib.Graph, level: str, shape: tuple[int, ...]
) -> Callable[[Any], int]:
  """From an entry of a file to its place in `kept`."""

  def place(one, names, counts, what):
    if not isinstance(one, list | tuple) or len(one) != 2:
      raise ValueError(f"A {what} is [name, number]; got {one!r}.")
    name, number = one
    if name not in names:
      raise ValueError(f"No {what} {name!r} here; they begin {names[0]!r}.")
    at = names.index(name)
    number = base.check_integer(number, f"The number of {name!r}")
    if not 0 <= number < counts[at]:
      raise ValueError(f"{name!r} has 0..{counts[at] - 1}; got {number}.")
    return sum(counts[:at]) + number

  def position(one):
    *edge, at = one
    at = base.check_integer(at, "The position")
    if not 0 <= at < shape[0]:
      raise ValueError(f"Positions are 0..{shape[0] - 1}; got {at}.")
    return at * graph.num_edges + graph.index(edge)

  return {
    "edge": graph.index,
    "node": lambda one: place(
      (one, 0), graph.writers, (1,) * len(graph.writers), "node"
    ),
    "neuron": lambda one: place(
      one, graph.neuron_sites, graph.neurons, "site of neurons"
    ),
    "position": position,
  }[level]


def from_eap_ig(body: Mapping[str, Any], graph: graph_lib.Graph) -> Saved:
  """The circuit and scores of a graph that EAP-IG or MIB wrote as JSON.

  Args:
    body: of the file, with `cfg` and `edges`.
    graph: of the model, grouped or not.

  Raises:
    ValueError: a graph of another model, an edge that there is not, or one
      that is missing.
  """
  layers, heads, parallel = _shape(graph)
  config = body.get("cfg", {})
  if not isinstance(config, Mapping):
    raise ValueError(f"its cfg is no object but {config!r}.")
  config = dict(config)
  told = [config.get(name) for name in ("n_layers", "n_heads", "d_model")]
  if told != [layers, heads, graph.width] or (
    bool(config.get("parallel_attn_mlp", parallel)) != parallel
  ):
    raise ValueError(
      f"a circuit of another model: its cfg is {config}, this model has "
      f"{layers} layers of {heads} heads, width {graph.width}, and "
      f"{'' if parallel else 'no '}parallel blocks."
    )
  kept = np.zeros(graph.num_edges, bool)
  scores = np.zeros(graph.num_edges)
  for name, edge in body["edges"].items():
    number = graph.index(_ours(name, graph, heads))
    kept[number] |= bool(edge["in_graph"])
    scores[number] -= float(edge.get("score") or 0.0)
  if not np.isfinite(scores).all():
    bad = graph.name(int(np.flatnonzero(~np.isfinite(scores))[0]))
    raise ValueError(f"the score of {bad} is no finite number.")
  if lost := [
    n for n in to_eap_ig(graph.full)["edges"] if n not in body["edges"]
  ]:
    raise ValueError(f"{len(lost)} edges are missing, {lost[0]} first.")
  return Saved(graph.circuit(kept), scores, {"cfg": config})


def to_eap_ig(
  circuit: graph_lib.Circuit, scores: base.Array | None = None
) -> dict[str, Any]:
  """The JSON object that EAP-IG and MIB read: `cfg`, `nodes`, `edges`.

  Args:
    circuit: any of a transformer.
    scores: float `[E]`; None for zeros.
  """
  graph = circuit.graph
  circuit.check(graph)
  given = np.zeros(graph.num_edges) if scores is None else scores
  given = selection.check(graph, given)
  layers, heads, parallel = _shape(graph)
  edges: dict[str, dict[str, Any]] = {}
  for number in range(graph.num_edges):
    writer, name, row = graph.edge(number)
    reader = graph.readers[graph.reader[number]]
    inside = _OURS.fullmatch(name)
    source = _their_writer(writer)
    kind = inside[3] if inside else None
    if inside and kind:
      share = heads // reader.rows
      ends = [
        f"a{inside[1]}.h{head}<{kind}>"
        for head in range(row * share, (row + 1) * share)
      ]
    else:
      ends = [f"m{inside[1]}" if inside else "logits"]
    for end in ends:
      edges[f"{source}->{end}"] = {
        "score": 0.0 - float(given[number]) / len(ends),
        "in_graph": bool(circuit.kept[number]),
      }
  used = {*circuit.prune().nodes}
  nodes = {
    _their_writer(writer): {"in_graph": writer in used}
    for writer in graph.writers
  }
  return {
    "cfg": {
      "n_layers": layers,
      "n_heads": heads,
      "parallel_attn_mlp": parallel,
      "d_model": graph.width,
    },
    "nodes": nodes | {"logits": {"in_graph": True}},
    "edges": edges,
  }


def to_circuit_tracer(
  circuit: graph_lib.Circuit,
  scores: base.Array,
  tokens: Sequence[str],
  *,
  name: str = "circuit",
  model: str = "",
) -> dict[str, Any]:
  """A graph for circuit-tracer's page and Neuronpedia: their schema, version 1.

  Nodes stand at the last token, where the answer is read: a circuit here is of
  all positions. Weights are minus our scores, so that what helps is positive.
  A node's influence is the share of the size of all scores that leave it.

  Args:
    circuit: the circuit that is drawn, of edges.
    scores: float `[E]`, one for each edge of the graph.
    tokens: of a prompt, for the page's columns.
    name: of the graph, for its address.
    model: its name there, such as "gemma-2-2b".
  """
  graph = circuit.graph
  circuit.check(graph)
  scores = selection.check(graph, scores)
  layers, _, _ = _shape(graph)
  last = len(tokens) - 1
  total = np.abs(scores[circuit.kept]).sum() or 1.0
  names = [*graph.writers, graph.readers[-1].name]
  used = {*circuit.nodes}
  # Nodes, each at the last token.
  nodes, ids = [], {}
  for number, writer in enumerate(names):
    if writer not in used and number < len(graph.writers):
      continue
    inside = _OURS.fullmatch(writer)
    layer = "E" if number == 0 else inside[1] if inside else str(layers)
    ids[number] = f"{layer}_{number}_{last}"
    out = circuit.kept & (graph.writer == number)
    kind = "embedding" if number == 0 else "cross layer transcoder"
    nodes.append(
      {
        "node_id": ids[number],
        "jsNodeId": f"{layer}_{number}-0",
        "feature": number,
        "layer": layer,
        "ctx_idx": last,
        "feature_type": kind if number < len(graph.writers) else "logit",
        "token_prob": 0.0,
        "is_target_logit": number == len(graph.writers),
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "clerp": writer,
        "influence": float(np.abs(scores[out]).sum() / total),
        "activation": None,
      }
    )
  # Links; an edge into a row that heads share is split among them.
  weights: dict[tuple[str, str], float] = {}
  for number in circuit.numbers.tolist():
    source = ids[int(graph.writer[number])]
    into = np.flatnonzero(graph.fed[graph.slot[number]])
    ends = [int(i) for i in into] or [len(graph.writers)]
    for end in ends:
      if end in ids:  # A row may be read by heads that write nothing here.
        pair = source, ids[end]
        weights[pair] = weights.get(pair, 0.0) - scores[number] / len(ends)
  return {
    "metadata": {
      "slug": name,
      "scan": model,
      "transcoder_list": [],
      "prompt_tokens": list(tokens),
      "prompt": "".join(tokens),
      "node_threshold": None,
      "schema_version": 1,
    },
    "qParams": {
      "pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "",
      "sg_pos": "",
    },
    "nodes": nodes,
    "links": [
      {"source": a, "target": b, "weight": float(weight)}
      for (a, b), weight in weights.items()
    ],
  }  # fmt: skip


def _shape(graph: graph_lib.Graph) -> tuple[int, int, bool]:
  """Layers, heads of each, and whether MLPs read beside attention."""
  counts: dict[str, int] = {}
  for writer in graph.writers:
    inside = _OURS.fullmatch(writer)
    if inside and inside[2] is not None:
      counts[inside[1]] = counts.get(inside[1], 0) + 1
  before = {r.name: r.before for r in graph.readers}
  parallel = before.get("blocks.0.mlp.read") == before.get("blocks.0.attn.q_in")
  return len(counts), max(counts.values(), default=0), parallel


def _their_writer(name: str) -> str:
  inside = _OURS.fullmatch(name)
  if inside is None:
    return "input"
  return f"a{inside[1]}.h{inside[2]}" if inside[2] else f"m{inside[1]}"


def _ours(name: str, graph: graph_lib.Graph, heads: int) -> graph_lib.Edge:
  """Our edge of a name of EAP-IG's."""
  both = _THEIRS.fullmatch(name)
  if both is None:
    raise ValueError(f"{name!r} is no name of an edge of EAP-IG.")
  source, target = (_NODE.fullmatch(part) for part in both.groups())
  if source is None:
    writer = graph.writers[0]
  elif source[1] is not None:
    writer = f"blocks.{source[1]}.mlp"
  else:
    writer = f"blocks.{source[2]}.heads.{source[3]}"
  if target is None:
    return writer, graph.readers[-1].name, 0
  if target[1] is not None:
    return writer, f"blocks.{target[1]}.mlp.read", 0
  reader = f"blocks.{target[2]}.attn.{target[4]}_in"
  rows = next((r.rows for r in graph.readers if r.name == reader), heads)
  return writer, reader, int(target[3]) // (heads // rows)
