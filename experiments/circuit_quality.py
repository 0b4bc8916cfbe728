"""How good circuits are, and which edges matter together, measured.

  python -m experiments.bench_circuits --rows=interactions --config=full
  python -m experiments.bench_circuits --rows=table --config=full --model=DIR

interactions  on an induction network that is trained first: all pairs of the
              strongest edges by exact double removals, beside what the
              curvature along the path, at the clean end, and random masks say
              of them; which gates they are; and circuits of one size by scores,
              by an integer programme, by elimination, and by the optimum of an
              expansion, judged on other pairs of prompts
table         a trained model's tasks: faithfulness on held-out pairs, by share
              of edges, of circuits of random edges, of several scores, of an
              expansion's optimum, and of EAP-IG's refined by training; and, at
              one share, of that one of ours
              which comes nearest to the model on the pairs that it was found
              on, beside the better of EAP-IG's two (greedy and top).
              With the score "exact edges" (the exact effects of those edges
              that any other score puts first), also how much of its circuits
              the others share, beside their faithfulness: does the one with
              more in common come nearer to the model? (EAP-IG's paper says
              that overlap does not tell.) Expect it not to: of SmolLM2-135M's
              353 edges of gender EAP shares .67 and keeps .81, EAP-IG .64 and
              .94; a task takes 20 minutes and more on two busy cores, and
              --workdir lets it go on

Shapes: E edges, N pairs.
"""

import dataclasses
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments import rows
from spex_jax import api
from spex_jax.ablate import edges, evaluate
from spex_jax.circuits import (
  edge_interactions,
  exact_effects,
  judges,
  metrics,
  scores,
  search,
  selection,
  taps,
  tasks,
  trained,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.jobs import circuits_toy, subjects
from spex_jax.models import hub

Row = rows.Row
_METRIC = metrics.logit_difference
TASKS = (
  "ioi", "greater-than", "agreement", "gender", "capital", "docstring",
  "retrieval",
)  # fmt: skip
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)
_PIECE = 128  # Edges whose exact effects are kept together.
_CLAIMED = 0.01  # Of edges, where ours are compared with EAP-IG.
OURS = ("relp", "gim", "second order", "exact nodes", "optimum", "refined")


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    fitted: pairs of prompts that scores come from.
    held: and on which circuits are judged.
    scores: of the table, besides random edges; and ways to choose circuits by
      them, "optimum" and "refined", which start from EAP-IG.
    nodes: of the fitted pairs, those of nodes' exact effects.
    edges: and those of edges'.
    candidates: the share of edges, first by each score, that these are of.
    others: edges drawn from the rest, to see what is missed so.
    lengths: what the table's prompts are padded to, the first that holds them,
      so that programs of one task serve others.
    budget: masks of an expansion.
    expanded: shares of edges at which one is asked, and EAP-IG's greedy circuit
      is refined.
    toy: the network that does induction.
    training: how it is trained.
    players: edges whose pairs are asked about.
    size: edges of the circuits that are compared there.
  """

  fitted: int = 16
  held: int = 16
  scores: tuple[str, ...] = (
    "eap", "eap-ig", "relp", "gim", "second order", "exact nodes", "optimum",
    "refined",
  )  # fmt: skip
  nodes: int = 16
  edges: int = 4
  candidates: float = 0.01
  others: int = 256
  lengths: tuple[int, ...] = (13, 18, 37)
  budget: int = 200
  expanded: tuple[float, ...] = SHARES
  toy: circuits_toy.Toy = circuits_toy.TOY
  training: subjects.Training = circuits_toy.TRAINING
  players: int = 24
  size: int = 8


QUICK = Config(
  fitted=2, held=2, budget=80, expanded=(0.1,), players=4, edges=2,
  candidates=0.1, others=8,
  toy=circuits_toy.Toy(
    width=4, num_heads=2, num_tokens=12, length=8, num_sequences=64
  ),
  training=dataclasses.replace(circuits_toy.TRAINING, num_epochs=1),
)  # fmt: skip
FULL = Config()
BRIEF = Config(
  fitted=16, held=16, budget=40, expanded=(0.01,),
  # The others take minutes each.
  scores=("eap", "eap-ig", "relp", "gim", "optimum", "refined"),
)  # fmt: skip


def right_log_probability(logits, clean, right, wrong):
  """The log-probability of the first right answer: it saturates at 0."""
  del clean, wrong
  return jax.nn.log_softmax(logits)[right[0]]


def together(config: Config) -> Iterator[Row]:
  """Yields what pairs of edges do in an induction network."""
  with tempfile.TemporaryDirectory() as folder:
    net, origin = circuits_toy.trained(
      config.toy, config.training, 0, pathlib.Path(folder)
    )
  pairs = circuits_toy.pairs(config.toy, config.fitted, 1)
  held = circuits_toy.pairs(config.toy, config.held, 2)
  metric = right_log_probability
  graph = graph_lib.Graph.of(net)
  given = net, net.params, pairs
  found = scores.score(*given, metric, method="ig-edges", steps=10, check=0)
  order = np.argsort(-np.abs(found.mean()), kind="stable")[: config.players]
  players = edges.chosen(net, [graph.name(i) for i in np.sort(order)])
  made = edge_interactions.game(*given, players, metric)
  ask = evaluate.compiled(made, batch_size=64)
  first, second = np.triu_indices(players.n, 1)
  both = np.stack([first, second], axis=1)
  gates = edge_interactions.gates(ask, players.n, both, names=players.names)
  exact = np.array([gate.interaction for gate in gates])
  said = {
    "path": edge_interactions.screen(made).between[first, second],
    "clean end": edge_interactions.screen(made, points=(1.0,)).between[
      first, second
    ],
  }
  told = api.explain(
    ask, players.n, key=jax.random.key(0), budget=config.budget,
    names=players.names,
  )  # fmt: skip
  masks = np.zeros((players.n, players.n))
  index = told.interactions("FBII", order=2)
  for some, value in zip(index.players.tolist(), index.values):
    if some[-1] < players.n and len(some) == 2:
      masks[some[0], some[1]] = value
  said["random masks"] = masks[first, second]
  best = np.argsort(-np.abs(exact), kind="stable")
  kinds = [gate.kind for gate in gates]
  yield {
    "who": "interactions", "origin": origin, "pairs of edges": len(exact),
    "metric": [round(float(ask(np.full((1, players.n), kept))[0]), 3)
               for kept in (True, False)],
    "pearson": {k: _pearson(v, exact) for k, v in said.items()},
    "top 10": {
      k: len({*np.argsort(-np.abs(v), kind="stable")[:10]} & {*best[:10]})
      for k, v in said.items()
    },
    "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    "r2": round(float(told.faithfulness), 3), "masks": told.num_evaluations,
    "strongest": [str(gates[k]) for k in best[:3]],
  }  # fmt: skip
  yield from _sized(config, net, pairs, held, found.mean(), graph, metric)


def _sized(config, net, pairs, held, mean, graph, metric) -> Iterator[Row]:
  """Circuits of one size, judged on other pairs."""
  size = config.size
  chosen = edge_interactions.optimum(
    net, net.params, pairs, metric, mean, size,
    key=jax.random.key(1), budget=config.budget, groups=16,
    sure=selection.greedy(graph, mean, size // 2),
    pool=selection.top(graph, mean, min(len(graph), 2 * size)),
  )  # fmt: skip
  searched = search.greedy(net, net.params, pairs, metric, size)
  circuits = {
    "top": selection.top(graph, mean, size),
    "greedy": selection.greedy(graph, mean, size),
    "programme": selection.programme(graph, mean, size),
    "optimum": chosen.circuit,
    "elimination": searched.circuit,
  }
  judged = judges.faithfulness(net, net.params, held, circuits, metric)
  yield {
    "who": "interactions, circuits", "edges": size,
    "of": len(graph),
    "faithfulness": dict(
      zip(circuits, np.round(judged.faithfulness(), 3).tolist())
    ),
    "runs": {"optimum": chosen.runs, "elimination": searched.runs},
  }  # fmt: skip


def _pearson(a, b) -> float:
  flat = np.ptp(a) == 0 or np.ptp(b) == 0
  return 0.0 if flat else round(float(np.corrcoef(a, b)[0, 1]), 3)


def table(
  config: Config,
  folder: str,
  names: tuple[str, ...] = TASKS,
  workdir: str | None = None,
) -> Iterator[Row]:
  """Yields how close circuits come to a trained model, task by task.

  Args:
    config: sizes.
    folder: of the model.
    names: of the tasks.
    workdir: where scores are kept, so that a run that was stopped goes on;
      those of other settings lie in other folders. None keeps none.
  """
  net = hub.load(folder)
  for task in names:
    made = tasks.make(
      task, net.tokenizer, config.fitted + config.held, jax.random.key(0),
      start="<|endoftext|>",
    )  # fmt: skip
    longest = int(made.pairs.lengths.max())
    length = next((n for n in config.lengths if n >= longest), longest)
    fitted = made.pairs[: config.fitted].padded(length)
    held = made.pairs[config.fitted :].padded(length)
    kept = rows.Kept(workdir, task, config, folder)
    for row in _closeness(net, fitted, held, config, kept):
      yield {"who": "table", "task": task} | row


_SCORES: dict[str, dict[str, Any]] = {
  "eap": {"method": "eap"},
  "eap-ig": {"method": "eap-ig"},
  "relp": {"method": "eap", "backward": "relp"},
  "gim": {"method": "eap", "backward": "gim"},
  "second order": {"method": "second-order"},
}
# All that a table may be asked for.
SCORES = (*_SCORES, "exact nodes", "exact edges", "optimum", "refined")


def _closeness(net, fitted, held, config, keep) -> Iterator[Row]:
  graph = graph_lib.Graph.of(net)
  sizes = [max(1, round(share * len(graph))) for share in SHARES]
  values, seconds = {}, {}
  for name, settings in _SCORES.items():
    if name not in config.scores:
      continue
    values[name], seconds[name] = keep(
      name,
      lambda settings=settings: scores.score(
        net, net.params, fitted, _METRIC, check=0, **settings
      ).mean(),
    )
  facts = {}
  if "exact nodes" in config.scores:
    values["exact nodes"], seconds["exact nodes"] = keep(
      "exact nodes", lambda: _of_nodes(net, fitted, config, graph)
    )
  if "exact edges" in config.scores:
    values["exact edges"], seconds["exact edges"], facts = _of_edges(
      net, fitted, config, graph, values, keep
    )
  circuits = {
    (name, "greedy", size): selection.greedy(graph, found, size)
    for name, found in values.items()
    for size in sizes
  }
  drawn = np.random.default_rng(0).permutation(len(graph)).astype(float)
  for size in sizes:
    if "eap-ig" in values:
      circuits["eap-ig", "top", size] = selection.top(
        graph, values["eap-ig"], size
      )
    circuits["random", "top", size] = selection.top(graph, drawn, size)
  expanded = [n for n, x in zip(sizes, SHARES) if x in config.expanded]
  for name, how in (("optimum", "groups"), ("refined", "trained")):
    if name not in config.scores:
      continue
    begin = time.perf_counter()
    for size in expanded:
      circuits[name, how, size] = _chosen(
        name, net, fitted, config, graph, values["eap-ig"], size
      )
    seconds[name] = time.perf_counter() - begin
  judged = judges.faithfulness(
    net, net.params, held, {str(k): c for k, c in circuits.items()}, _METRIC
  )
  kept = dict(zip(circuits, judged.faithfulness()))
  connected = dict(zip(circuits, judged.connected.tolist()))
  for name, how in dict.fromkeys((n, h) for n, h, _ in circuits):
    own = expanded if how in ("groups", "trained") else sizes
    yield {
      "scores": name, "chosen": how, "edges": own,
      "metric": [round(judged.clean.mean(), 3),
                 round(judged.corrupted.mean(), 3)],
      "faithfulness": [round(kept[name, how, n], 3) for n in own],
      "connected": [connected[name, how, n] for n in own],
      "seconds": round(seconds.get(name, 0.0), 1),
      "identities": [judged.identities.full, judged.identities.empty],
    }  # fmt: skip
  if facts:
    yield from _overlaps(circuits, kept, sizes, facts)
  if "eap-ig" in values and "refined" in config.scores:
    size = sizes[SHARES.index(_CLAIMED)]
    yield _claim(net, fitted, circuits, kept, size)


def _chosen(name, net, fitted, config, graph, best, size):
  """A circuit of a size, from EAP-IG's greedy one."""
  if name == "refined":
    return trained.refine(
      net, net.params, fitted, _METRIC, selection.greedy(graph, best, size),
      best,
    ).circuit  # fmt: skip
  return edge_interactions.optimum(
    net, net.params, fitted, _METRIC, best, size,
    key=jax.random.key(1), budget=config.budget,
    sure=selection.greedy(graph, best, size // 2),
    pool=selection.greedy(graph, best, min(len(graph), size * 3 // 2)),
  ).circuit  # fmt: skip


def _of_nodes(net, fitted, config, graph) -> np.ndarray:
  """Scores of edges from nodes: the lesser of the two that an edge joins."""
  some = fitted[: config.nodes].padded(fitted.clean.shape[1])
  nodes = scores.score(
    net, net.params, some, _METRIC, method="exact", level="node"
  ).mean()
  read = np.where(graph.fed, np.abs(nodes), 0).max(axis=1)
  read[-1] = np.inf  # The output.
  return np.minimum(np.abs(nodes)[graph.writer], read[graph.slot])


def _of_edges(net, fitted, config, graph, values, keep):
  """Exact effects of the edges that any score puts first, 0 of all others.

  Beside them the seconds they took; how many they are; and how many of the
  others, of some drawn, have an effect as large as the last of as many edges as
  one score put first.
  """
  size = max(1, round(config.candidates * len(graph)))
  first = np.zeros(len(graph), bool)
  for found in values.values():
    first |= selection.top(graph, found, size).kept
  rest = np.random.default_rng(0).permutation(np.flatnonzero(~first))
  which = np.flatnonzero(first)
  asked = np.concatenate([which, rest[: config.others]])
  some = fitted[: config.edges]
  level = taps.Level.of(net, "edge")
  parts = [
    keep(
      f"exact edges {start}",
      lambda start=start: exact_effects.of_pairs(
        net, net.params, _METRIC, level, some, None,
        asked[start : start + _PIECE], len(some),
      ).mean(0),
    )
    for start in range(0, len(asked), _PIECE)
  ]  # fmt: skip
  effects = np.concatenate([part for part, _ in parts])
  out = np.zeros(len(graph))
  out[which], others = effects[: len(which)], effects[len(which) :]
  least = np.sort(np.abs(out))[-size]
  return (
    out,
    sum(seconds for _, seconds in parts),
    {
      "pairs": len(some),
      "first": size,
      "candidates": len(which),
      "others": len(others),
      "missed": int((np.abs(others) >= least).sum()),
    },
  )


def _overlaps(circuits, kept, sizes, facts) -> Iterator[Row]:
  """What circuits share with the exact one, and how near to the model they are.

  Of sizes for which each score's first edges were candidates. Of each two
  scores, "agree" counts those of which the one that shares more edges is also
  the nearer one to the model.
  """
  names = [
    name
    for name, how, n in circuits
    if how == "greedy" and n == sizes[0] and name[:5] != "exact"
  ]
  for size in (n for n in sizes if n <= facts["first"]):
    truth = circuits["exact edges", "greedy", size]
    if not truth:  # So few edges make no path.
      continue
    told = set(truth.nodes)
    edges, nodes, near = {}, {}, {}
    for name in names:
      mine = circuits[name, "greedy", size]
      edges[name] = round(len(mine & truth) / len(truth), 3)
      nodes[name] = round(len(told & {*mine.nodes}) / len(told), 3)
      near[name] = round(kept[name, "greedy", size], 3)
    both = [
      (edges[a] - edges[b]) * (abs(1 - near[b]) - abs(1 - near[a]))
      for a, b in itertools.combinations(names, 2)
    ]
    yield {
      "scores": "overlap", "edges": size, **facts, "shared edges": edges,
      "shared nodes": nodes, "faithfulness": near,
      "exact": round(kept["exact edges", "greedy", size], 3),
      "agree": [int(np.sum(np.array(both) > 0)), len(both)],
    }  # fmt: skip


def _claim(net, fitted, circuits, kept, size) -> Row:
  """Ours of a size, chosen on the fitted pairs, beside the better EAP-IG.

  Of EAP-IG the better of greedy and top is that on the held pairs: a choice
  that favours it.
  """
  ours = {k: c for k, c in circuits.items() if k[0] in OURS and k[2] == size}
  judged = judges.faithfulness(
    net, net.params, fitted, {str(k): c for k, c in ours.items()}, _METRIC
  )
  before = dict(zip(ours, judged.faithfulness()))
  name = min(ours, key=lambda k: abs(1 - before[k]))
  theirs = [kept["eap-ig", how, size] for how in ("greedy", "top")]
  other = min(theirs, key=lambda f: abs(1 - f))
  return {
    "scores": "ours, chosen on fitted pairs", "chosen": name[0],
    "edges": size, "faithfulness": round(kept[name], 3),
    "eap-ig": round(other, 3),
    "nearer": bool(abs(1 - kept[name]) < abs(1 - other)),
    "fitted": {k[0]: round(f, 3) for k, f in before.items()},
  }  # fmt: skip
