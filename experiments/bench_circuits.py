"""How fast circuits are found and judged, and how good they are.

  python -m experiments.bench_circuits --config=quick
  python -m experiments.bench_circuits --config=full --output=circuits.jsonl
  python -m experiments.bench_circuits --rows=table --model=DIR

Rows, each with compile (`first_s`) and steady time (`best_s`) apart:

  eap-ig     EAP-IG scores of all edges, 5 steps, of a random network of GPT-2
             small's shape; and the temporary memory of that program at 128
             positions, from the compiler
  circuits   circuits judged in one call, and one by one as a loop does it, the
             corrupted prompts run again for each
  exact      exact effects of all edges of a small network
  patching   a sweep of heads by positions, and one run for each patch
  interactions
             on an induction network that is trained first: all pairs of the
             strongest edges by exact double removals, beside what the curvature
             along the path, at the clean end, and random masks say of them;
             which gates they are; and circuits of one size by scores, by an
             integer programme, and by the optimum of an expansion
  table      a trained model's tasks: |1 - faithfulness| on held-out pairs, by
             share of edges, for circuits of random edges, of several scores,
             and of an expansion's optimum; asked for alone

With `--peer=PYTHON`, the interpreter of an environment that has PyTorch and
transformer-lens 2.16.1, and `--checkout=DIR`, EAP-IG at commit 795f560, all of
these are run there, too, on weights of the same shape, with all cores, by
`third_party/time_eap_ig.py`; else their rows are absent, and one row says so.

Shapes: E edges, N pairs, P positions.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

from experiments import rows
from spex_jax import api
from spex_jax.ablate import edges, evaluate
from spex_jax.circuits import (
  ablations,
  interactions,
  judging,
  metrics,
  patching,
  paths,
  runs,
  scores,
  search,
  selection,
  taps,
  tasks,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import circuits_toy, subjects
from spex_jax.models import hub, sites, transformer

Row = rows.Row
_METRIC = metrics.logit_difference
STEPS = 5
TASKS = (
  "ioi", "greater-than", "agreement", "gender", "capital", "antonym",
  "docstring",
)  # fmt: skip
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    large: layers, width, heads of the network that is scored and judged.
    small: the same of the one with exact effects.
    vocabulary: tokens of both.
    pairs: of the scores and of circuits.
    length: positions.
    circuits: judged at once.
    looped: of them, in the loop.
    exact_pairs: of exact effects.
    patches: layers, width, heads of the network that is patched.
    long: positions at which temporary memory is asked for.
    repeats: of each, behind the first.
    fitted: pairs of the table that scores come from.
    held: and on which circuits are judged.
    budget: masks of an expansion.
    expanded: shares of edges at which one is asked.
    toy: the network that does induction; with `training`.
    training: how it is trained.
    players: edges whose pairs are asked about.
    size: edges of the circuits that are compared there.
  """

  large: tuple[int, int, int] = (12, 768, 12)
  small: tuple[int, int, int] = (4, 64, 4)
  vocabulary: int = 50_257
  pairs: int = 32
  length: int = 32
  circuits: int = 100
  looped: int = 3
  exact_pairs: int = 16
  patches: tuple[int, int, int] = (6, 256, 8)
  long: int = 128
  repeats: int = 1
  fitted: int = 16
  held: int = 16
  budget: int = 200
  expanded: tuple[float, ...] = SHARES
  toy: circuits_toy.Toy = circuits_toy.TOY
  training: subjects.Training = circuits_toy.TRAINING
  players: int = 24
  size: int = 8


CONFIGS = {
  "quick": Config(
    large=(1, 8, 2), small=(1, 8, 2), vocabulary=11, pairs=2, length=4,
    circuits=2, looped=1, exact_pairs=2, patches=(1, 8, 2), long=8, repeats=1,
    fitted=2, held=2, budget=80, expanded=(0.1,), players=4,
    toy=circuits_toy.Toy(
      width=4, num_heads=2, num_tokens=12, length=8, num_sequences=64
    ),
    training=dataclasses.replace(circuits_toy.TRAINING, num_epochs=1),
  ),
  "brief": Config(
    pairs=8, circuits=20, looped=2, fitted=8, held=8, budget=64,
    expanded=(0.01,),
  ),
  "full": Config(),
}  # fmt: skip


def run(
  config: Config,
  common: Row,
  peer: tuple[str, str] | None = None,
  only: str = "",
) -> Iterator[Row]:
  """Yields the rows of speed; `peer` is its interpreter and its checkout."""
  made = {
    "eap-ig": _eap_ig,
    "circuits": _circuits,
    "exact": _exact,
    "patching": _patching,
    "interactions": _together,
  }
  for name, measure in made.items():
    if only in ("", name):
      for row in measure(config):
        yield common | row
  if peer is None:
    yield common | {
      "who": "peer",
      "skipped": "no --peer and --checkout: an environment with EAP-IG",
    }
    return
  for row in _peer(config, *peer, only):
    yield common | row


def network(
  sizes: tuple[int, int, int], vocabulary: int, length: int
) -> tuple[sites.Network, dict]:
  """A random network of GPT-2's kind, and its parameters."""
  layers, width, heads = sizes
  net = transformer.network(
    transformer.Config(
      width=width,
      num_blocks=layers,
      num_heads=heads,
      num_kv_heads=heads,
      head_width=width // heads,
      num_neurons=4 * width,
      activation="gelu_new",
      score_scale=(width // heads) ** -0.5,
      vocab_size=vocabulary,
      max_positions=max(length, 128),
    )
  )
  return net, jax.jit(net.init)(jax.random.key(0))


def random_pairs(count: int, length: int, vocabulary: int) -> pairs_lib.Pairs:
  """Pairs of random tokens that differ in one."""
  rng = np.random.default_rng(0)
  clean = rng.integers(0, vocabulary, (count, length))
  corrupted = clean.copy()
  corrupted[:, length // 2] = (clean[:, length // 2] + 1) % vocabulary
  answers = np.stack([rng.permutation(vocabulary)[:2] for _ in range(count)])
  return pairs_lib.Pairs(
    clean, corrupted, np.full(count, length), answers[:, :1], answers[:, 1:]
  )


def _eap_ig(config: Config) -> Iterator[Row]:
  net, params = network(config.large, config.vocabulary, config.length)
  pairs = random_pairs(config.pairs, config.length, config.vocabulary)

  def scored():
    return scores.score(
      net, params, pairs, _METRIC, method="eap-ig", steps=STEPS, check=0
    ).values

  first, best = rows.seconds(scored, repeats=config.repeats)
  size = runs.batch_size(pairs)
  yield {
    "who": "eap-ig, ours", "pairs": len(pairs), "positions": config.length,
    "edges": len(graph_lib.Graph.of(net)), "steps": STEPS, "batch": size,
    "first_s": round(first, 2), "best_s": round(best, 2),
    "pairs_per_s": round(len(pairs) / best, 3), "load": load(),
  }  # fmt: skip
  long = random_pairs(1, config.long, config.vocabulary)
  (batch,) = runs.batches(long, 1)
  level = taps.Level.of(net, "edge")
  at = paths.points("eap-ig", STEPS, "midpoint")
  model = runs.Model(net)
  program = jax.jit(
    lambda params, batch: paths.scores(
      model, level, _METRIC, "eap-ig", params, batch, None, at
    )
  )
  memory = program.lower(params, batch).compile().memory_analysis()
  yield {
    "who": "eap-ig, memory", "positions": config.long, "pairs": 1,
    "temporaries_mib": round(memory.temp_size_in_bytes / 2**20, 1),
    "below": 800,
  }  # fmt: skip


def _circuits(config: Config) -> Iterator[Row]:
  net, params = network(config.large, config.vocabulary, config.length)
  pairs = random_pairs(config.pairs, config.length, config.vocabulary)
  graph = graph_lib.Graph.of(net)
  rng = np.random.default_rng(1)
  kept = rng.random((config.circuits, len(graph))) < 0.5
  judge = judging.Judge(net, params, pairs, _METRIC)
  first, best = rows.seconds(judge, kept, repeats=config.repeats)
  row = {
    "who": "circuits, ours", "pairs": len(pairs), "positions": config.length,
    "circuits": len(kept), "first_s": round(first, 2),
    "best_s": round(best, 2), "circuits_per_s": round(len(kept) / best, 4),
    "load": load(),
  }  # fmt: skip
  yield row
  model = runs.Model(net)

  @jax.jit
  def one(params, batch, kept):
    ref = ablations.of_batch(net, params, batch, None)
    clean = runs.logits(net, params, batch)
    edits = sites.Edits(cut=graph.cut(kept), ref=ref)
    return runs.measured(model.net, params, _METRIC, batch, clean, edits)

  def loop():
    return [
      one(params, batch, each)
      for each in kept[: config.looped]
      for batch in runs.batches(pairs, runs.batch_size(pairs))
    ]

  first, best = rows.seconds(loop, repeats=config.repeats)
  rate = config.looped / best
  yield {
    "who": "circuits, loop", "circuits": config.looped,
    "first_s": round(first, 2), "best_s": round(best, 2),
    "circuits_per_s": round(rate, 4), "load": load(),
    "ours_over_this": round(row["circuits_per_s"] / rate, 2),
  }  # fmt: skip


def _exact(config: Config) -> Iterator[Row]:
  net, params = network(config.small, config.vocabulary, config.length)
  pairs = random_pairs(config.exact_pairs, config.length, config.vocabulary)

  def effects():
    return scores.score(net, params, pairs, _METRIC, method="exact").values

  first, best = rows.seconds(effects, repeats=config.repeats)
  edges = len(graph_lib.Graph.of(net))
  yield {
    "who": "exact, ours", "pairs": len(pairs), "positions": config.length,
    "edges": edges, "first_s": round(first, 2), "best_s": round(best, 2),
    "edges_per_s": round(edges / best, 2), "load": load(),
  }  # fmt: skip


def _patching(config: Config) -> Iterator[Row]:
  net, params = network(config.patches, config.vocabulary, config.length)
  pairs = random_pairs(config.exact_pairs, config.length, config.vocabulary)
  what = "attn_head_out_by_pos"

  def sweep():
    return patching.sweep(net, params, pairs, what, _METRIC).values

  first, best = rows.seconds(sweep, repeats=config.repeats)
  layers, _, heads = config.patches
  patches = layers * heads * config.length
  row = {
    "who": "patching, ours", "sweep": what, "pairs": len(pairs),
    "patches": patches, "first_s": round(first, 2), "best_s": round(best, 2),
    "patches_per_s": round(patches / best, 2), "load": load(),
  }  # fmt: skip
  yield row
  names = patching.every_block(net, "attn.z")
  (batch,) = runs.batches(pairs, len(pairs))
  clean = net.apply(params, capture=names, input_ids=batch.clean).activations
  logits = runs.logits(net, params, batch)

  @jax.jit
  def one(params, where):
    edits = sites.Edits(
      replace={name: (where[i], clean[name]) for i, name in enumerate(names)}
    )
    found = runs.logits(net, params, batch, edits, corrupted=True)
    return runs.read(_METRIC, found, logits, batch)

  shape = (layers, 1, config.length, heads, 1)
  some = np.eye(patches, dtype=bool)[:: max(1, patches // 16)]

  def loop():
    # One patch a run, and its value fetched, as TransformerLens does.
    return [np.asarray(one(params, w.reshape(shape))).mean() for w in some]

  first, best = rows.seconds(loop, repeats=config.repeats)
  rate = len(some) / best
  yield {
    "who": "patching, loop", "patches": len(some), "first_s": round(first, 2),
    "best_s": round(best, 2), "patches_per_s": round(rate, 2),
    "load": load(), "ours_over_this": round(row["patches_per_s"] / rate, 2),
  }  # fmt: skip


def right_log_probability(logits, clean, right, wrong):
  """The log-probability of the first right answer: it saturates at 0."""
  del clean, wrong
  return jax.nn.log_softmax(logits)[right[0]]


def _together(config: Config) -> Iterator[Row]:
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
  made = interactions.game(*given, players, metric)
  ask = evaluate.compiled(made, batch_size=64)
  first, second = np.triu_indices(players.n, 1)
  both = np.stack([first, second], axis=1)
  gates = interactions.gates(ask, players.n, both, names=players.names)
  exact = np.array([gate.interaction for gate in gates])
  said = {
    "path": interactions.screen(made).curvature[first, second],
    "clean end": interactions.screen(made, points=(1.0,)).curvature[
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
  chosen = interactions.optimum(
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
  judged = judging.faithfulness(net, net.params, held, circuits, metric)
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
  config: Config, common: Row, folder: str, names: tuple[str, ...] = TASKS
) -> Iterator[Row]:
  """Yields how close circuits come to a trained model, task by task."""
  net = hub.load(folder)
  for task in names:
    made = tasks.make(
      task, net.tokenizer, config.fitted + config.held, jax.random.key(0),
      start="<|endoftext|>",
    )  # fmt: skip
    # One length, so that programs of one task serve all.
    fitted = made.pairs[: config.fitted].padded(config.length)
    held = made.pairs[config.fitted :].padded(config.length)
    for row in _closeness(net, fitted, held, config):
      yield common | {"who": "table", "task": task} | row


_SCORES = {
  "eap": {"method": "eap"},
  "eap-ig": {"method": "eap-ig"},
  "relp": {"method": "eap", "backward": "relp"},
  "gim": {"method": "eap", "backward": "gim"},
  "second order": {"method": "second-order"},
}


def _closeness(net, fitted, held, config) -> Iterator[Row]:
  graph = graph_lib.Graph.of(net)
  sizes = [max(1, round(share * len(graph))) for share in SHARES]
  values, seconds = {}, {}
  for name, settings in _SCORES.items():
    begin = time.perf_counter()
    values[name] = scores.score(
      net, net.params, fitted, _METRIC, check=0, **settings
    ).mean()
    seconds[name] = time.perf_counter() - begin
  begin = time.perf_counter()
  nodes = scores.score(
    net, net.params, fitted, _METRIC, method="exact", level="node"
  ).mean()
  # An edge is worth the lesser of the two nodes that it joins.
  read = np.where(graph.fed, np.abs(nodes), 0).max(axis=1)
  read[-1] = np.inf  # The output.
  values["exact nodes"] = np.minimum(
    np.abs(nodes)[graph.writer], read[graph.slot]
  )
  seconds["exact nodes"] = time.perf_counter() - begin
  rng = np.random.default_rng(0)
  values["random"] = rng.permutation(len(graph)).astype(float)
  circuits = {
    (name, how, size): choose(graph, found, size)
    for name, found in values.items()
    for how, choose in (("top", selection.top), ("greedy", selection.greedy))
    for size in sizes
    if name != "random" or how == "top"
  }
  begin = time.perf_counter()
  expanded = [n for n, x in zip(sizes, SHARES) if x in config.expanded]
  for size in expanded:
    best = values["eap-ig"]
    found = interactions.optimum(
      net, net.params, fitted, _METRIC, best, size,
      key=jax.random.key(1), budget=config.budget,
      sure=selection.greedy(graph, best, size // 2),
      pool=selection.greedy(graph, best, min(len(graph), size * 3 // 2)),
    )  # fmt: skip
    circuits["optimum", "groups", size] = found.circuit
  seconds["optimum"] = time.perf_counter() - begin
  judged = judging.faithfulness(
    net, net.params, held, {str(k): c for k, c in circuits.items()}, _METRIC
  )
  kept = dict(zip(circuits, judged.faithfulness()))
  connected = dict(zip(circuits, judged.connected.tolist()))
  for name, how in dict.fromkeys((n, h) for n, h, _ in circuits):
    own = expanded if how == "groups" else sizes
    yield {
      "scores": name, "chosen": how, "edges": own,
      "metric": [round(judged.clean.mean(), 3),
                 round(judged.corrupted.mean(), 3)],
      "faithfulness": [round(kept[name, how, n], 3) for n in own],
      "connected": [connected[name, how, n] for n in own],
      "seconds": round(seconds.get(name, 0.0), 1),
      "identities": [judged.identities.full, judged.identities.empty],
    }  # fmt: skip


def _peer(config, python, checkout, only) -> Iterator[Row]:
  """The peers' times, in their environment; what fails is a row, too."""
  script = pathlib.Path(__file__).parents[1] / "third_party" / "time_eap_ig.py"
  large = config.large, config.pairs
  sizes = {
    "eap-ig": large,
    "circuits": large,
    "exact": (config.small, config.exact_pairs),
    "patching": (config.patches, config.exact_pairs),
  }
  for name, ((layers, width, heads), count) in sizes.items():
    if only not in ("", name):
      continue
    settings = {
      "task": name, "layers": layers, "width": width, "heads": heads,
      "vocabulary": config.vocabulary, "length": config.length,
      "pairs": count, "steps": STEPS,
      "circuits": config.looped, "repeats": config.repeats,
      "threads": os.cpu_count() or 1,
    }  # fmt: skip
    done = subprocess.run(
      [python, str(script), checkout, json.dumps(settings)],
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
      last = done.stderr.strip().splitlines()[-1:]
      yield {"who": f"{name}, peer", "skipped": "".join(last)}
      continue
    found = json.loads(done.stdout.splitlines()[-1])
    yield {"who": f"{name}, peer", **found, "load": load()}


def load() -> float:
  """How many processes ran of late."""
  return round(os.getloadavg()[0], 1)


_CONFIG = flags.DEFINE_enum("config", "quick", sorted(CONFIGS), "Sizes.")
_ROWS = flags.DEFINE_enum(
  "rows", "",
  ["", "eap-ig", "circuits", "exact", "patching", "interactions", "table"],
  "One kind alone; the table is asked for by its name.",
)  # fmt: skip
_MODEL = flags.DEFINE_string("model", None, "Folder of the table's model.")
_TASKS = flags.DEFINE_list("tasks", list(TASKS), "Of the table.")
_PEER = flags.DEFINE_string("peer", None, "Interpreter for EAP-IG.")
_CHECKOUT = flags.DEFINE_string("checkout", None, "EAP-IG's repository.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the lines, too.")


def main(argv):
  """Prints the rows that are asked for."""
  del argv
  config, common = CONFIGS[_CONFIG.value], rows.common("circuits")
  if _ROWS.value == "table":
    if _MODEL.value is None:
      raise app.UsageError("--rows=table needs --model, a model's folder.")
    made = table(config, common, _MODEL.value, tuple(_TASKS.value))
  else:
    peer = (_PEER.value, _CHECKOUT.value)
    made = run(config, common, None if None in peer else peer, _ROWS.value)
  rows.write(made, _OUTPUT.value)


if __name__ == "__main__":
  app.run(main)
