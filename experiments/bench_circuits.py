"""How fast circuits are found and judged, and how good they are.

  python -m experiments.bench_circuits --config=quick
  python -m experiments.bench_circuits --config=full --output=circuits.jsonl
  python -m experiments.bench_circuits --rows=known
  python -m experiments.bench_circuits --rows=table --model=DIR

Rows, each with compile (`first_s`) and steady time (`best_s`) apart:

  eap-ig     EAP-IG scores of all edges, 5 steps, of a random network of GPT-2
             small's shape; and the temporary memory of that program at 128
             positions, from the compiler
  circuits   circuits judged in one call, and one by one as a loop does it, the
             corrupted prompts run again for each
  exact      exact effects of all edges of a small network
  patching   a sweep of heads by positions, and one run for each patch
  known      whether scores find circuits that are known: see `known_circuits`;
             asked for alone
  interactions, table
             how good circuits are: see `circuit_quality`; the table is asked
             for alone

With `--peer=PYTHON`, the interpreter of an environment that has PyTorch and
transformer-lens 2.16.1, and `--checkout=DIR`, EAP-IG at commit 795f560, all of
these are run there, too, on weights of the same shape, with all cores, by
`third_party/time_eap_ig.py`; else their rows are absent, and one row says so.
The peer runs some of the pairs, circuits, edges and patches alone: its time for
each is the same. `ours_over_this` is our steady rate over its.

Expect 7.4 times EAP-IG's scores, 23 times its circuits and 72 times its exact
effects (`full`, one row a run on 2 idle CPU cores); of `known`, in two minutes,
AUROC 1 but for EAP's .93 on induction; of `table --config=brief`, 9 minutes a
task with SmolLM2-135M-Instruct, faithfulness .82 by EAP-IG and .70 by EAP at
1 % of agreement's edges.

Shapes: E edges, N pairs, P positions.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

from experiments import circuit_quality, command, known_circuits, rows
from spex_jax.circuits import (
  ablations,
  judges,
  metrics,
  patching,
  path_gradients,
  runs,
  scores,
  taps,
  tasks,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites, transformer

Row = rows.Row
_METRIC = metrics.logit_difference
_REFINING = ("optimum", "refined")
STEPS = 5


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    large: layers, width, heads of the network that is scored and judged.
    small: the same of the one with exact effects.
    vocabulary: tokens of both.
    pairs: of the scores.
    peer_pairs: of them, that the peer scores, a batch of its own.
    length: positions.
    judged_pairs: of circuits.
    circuits: judged at once.
    looped: of them, in the loop and by the peer.
    exact_pairs: of exact effects.
    patches: layers, width, heads of the network that is patched.
    long: positions at which temporary memory is asked for.
    repeats: of each, behind the first.
    quality: see `circuit_quality`.
  """

  large: tuple[int, int, int] = (12, 768, 12)
  small: tuple[int, int, int] = (4, 64, 4)
  vocabulary: int = 50_257
  pairs: int = 32
  peer_pairs: int = 4
  length: int = 32
  judged_pairs: int = 4
  circuits: int = 100
  looped: int = 3
  exact_pairs: int = 16
  patches: tuple[int, int, int] = (6, 256, 8)
  long: int = 128
  repeats: int = 1
  quality: circuit_quality.Config = circuit_quality.FULL


CONFIGS = {
  "quick": Config(
    large=(1, 8, 2), small=(1, 8, 2), vocabulary=11, pairs=2, peer_pairs=2,
    length=4, judged_pairs=2, circuits=2, looped=1, exact_pairs=2,
    patches=(1, 8, 2), long=8, quality=circuit_quality.QUICK,
  ),
  "brief": Config(
    pairs=8, circuits=20, looped=2, quality=circuit_quality.BRIEF
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
    "interactions": lambda config: circuit_quality.together(config.quality),
  }
  rates = {}
  for name, measure in made.items():
    if only in ("", name):
      for row in measure(config):
        if row["who"] == f"{name}, ours":
          rates[name] = _rate(row)
        yield common | row
  if peer is None:
    yield common | {
      "who": "peer",
      "skipped": "no --peer and --checkout: an environment with EAP-IG",
    }
    return
  for name, row in _peer(config, *peer, only):
    if "skipped" not in row:
      row["ours_over_this"] = round(rates[name] / _rate(row), 2)
    yield common | row


def _rate(row: Row) -> float:
  """The one rate of a row."""
  (found,) = (row[key] for key in row if key.endswith("_per_s"))
  return found


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

  size = runs.batch_size(pairs)

  def scored(pairs):
    return scores.score(
      net, params, pairs, _METRIC, method="eap-ig", steps=STEPS, check=0,
      size=size,
    ).values  # fmt: skip

  # One batch compiles what all take.
  first, _ = rows.seconds(scored, pairs[:size], repeats=0)
  _, best = rows.seconds(scored, pairs, repeats=config.repeats - 1)
  yield {
    "who": "eap-ig, ours", "pairs": len(pairs), "positions": config.length,
    "edges": len(graph_lib.Graph.of(net)), "steps": STEPS, "batch": size,
    "first_s": round(first, 4), "best_s": round(best, 4),
    "pairs_per_s": round(len(pairs) / best, 3), "load": load(),
  }  # fmt: skip
  long = random_pairs(1, config.long, config.vocabulary)
  (batch,) = runs.batches(long, 1)
  level = taps.Level.of(net, "edge")
  at = path_gradients.points("eap-ig", STEPS, "midpoint")
  model = sites.Model(net)
  program = jax.jit(
    lambda params, batch: path_gradients.scores(
      model, level, _METRIC, "eap-ig", params, batch, None, at
    )
  )
  memory = program.lower(params, batch).compile().memory_analysis()
  assert memory is not None
  yield {
    "who": "eap-ig, memory", "positions": config.long, "pairs": 1,
    "temporaries_mib": round(memory.temp_size_in_bytes / 2**20, 3),
    "below": 800,
  }  # fmt: skip


def _circuits(config: Config) -> Iterator[Row]:
  net, params = network(config.large, config.vocabulary, config.length)
  pairs = random_pairs(config.judged_pairs, config.length, config.vocabulary)
  graph = graph_lib.Graph.of(net)
  rng = np.random.default_rng(1)
  kept = rng.random((config.circuits, len(graph))) < 0.5
  judge = judges.Judge(net, params, pairs, _METRIC)
  first, best = rows.seconds(judge, kept, repeats=config.repeats)
  row = {
    "who": "circuits, ours", "pairs": len(pairs), "positions": config.length,
    "circuits": len(kept), "first_s": round(first, 4),
    "best_s": round(best, 4), "circuits_per_s": round(len(kept) / best, 4),
    "load": load(),
  }  # fmt: skip
  yield row
  model = sites.Model(net)

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
    "first_s": round(first, 4), "best_s": round(best, 4),
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
    "edges": edges, "first_s": round(first, 4), "best_s": round(best, 4),
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
    "patches": patches, "first_s": round(first, 4), "best_s": round(best, 4),
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
    "who": "patching, loop", "patches": len(some), "first_s": round(first, 4),
    "best_s": round(best, 4), "patches_per_s": round(rate, 2),
    "load": load(), "ours_over_this": round(row["patches_per_s"] / rate, 2),
  }  # fmt: skip


def _peer(config, python, checkout, only) -> Iterator[tuple[str, Row]]:
  """The peers' times, in their environment; what fails is a row, too."""
  script = pathlib.Path(__file__).parents[1] / "third_party" / "time_eap_ig.py"
  sizes = {
    "eap-ig": (config.large, config.peer_pairs),
    "circuits": (config.large, config.judged_pairs),
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
      "circuits": config.looped,
      # Of the large network once: it compiles nothing.
      "repeats": 0 if name == "eap-ig" else config.repeats,
      "threads": os.cpu_count() or 1,
    }  # fmt: skip
    done = subprocess.run(
      [python, str(script), checkout, json.dumps(settings)],
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
      last = done.stderr.strip().splitlines()[-1:]
      yield name, {"who": f"{name}, peer", "skipped": "".join(last)}
      continue
    found = json.loads(done.stdout.splitlines()[-1])
    yield name, {"who": f"{name}, peer", **found, "load": load()}


def load() -> float:
  """How many processes ran of late."""
  return round(os.getloadavg()[0], 1)


def main(argv):
  """Prints the rows that are asked for."""
  del argv
  given, common = flags.FLAGS, rows.common("circuits")
  config = CONFIGS[given.config]
  if given.rows == "table":
    if given.model is None:
      raise app.UsageError("--rows=table needs --model, a model's folder.")
    quality = config.quality
    if given.scores is not None:
      quality = dataclasses.replace(quality, scores=tuple(given.scores))
    if "eap-ig" not in quality.scores and {*quality.scores} & {*_REFINING}:
      raise app.UsageError(f"{' and '.join(_REFINING)} start from eap-ig.")
    made = (
      common | row
      for row in circuit_quality.table(
        quality, given.model, tuple(given.tasks), given.workdir
      )
    )
  elif given.rows == "known":
    made = (common | row for row in known_circuits.measure())
  else:
    if (given.peer is None) != (given.checkout is None):
      raise app.UsageError("--peer and --checkout go together.")
    peer = given.peer and (given.peer, given.checkout)
    made = run(config, common, peer, given.rows)
  rows.write(made, given.output)


if __name__ == "__main__":
  flags.DEFINE_enum(
    "rows", "",
    [
      "", "eap-ig", "circuits", "exact", "patching", "interactions", "known",
      "table",
    ],
    "One kind alone; known and table are asked for by name.",
  )  # fmt: skip
  flags.DEFINE_string("model", None, "Folder of the table's model.")
  command.some_of("tasks", circuit_quality.TASKS, tasks.TASKS, "Of the table")
  command.some_of(
    "scores", None, circuit_quality.SCORES,
    "Of the table, in place of those of the sizes",
  )  # fmt: skip
  flags.DEFINE_string("workdir", None, "Where the table keeps its scores.")
  flags.DEFINE_string("peer", None, "Interpreter for EAP-IG.")
  flags.DEFINE_string("checkout", None, "EAP-IG's repository.")
  command.run(main, CONFIGS, "quick")
