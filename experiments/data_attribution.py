"""Who predicts retraining best, and are the reported interactions real?

  python -m experiments.data_attribution --config=full --workdir=runs/study

All ten digits of scikit-learn, 300 training examples, an MLP 64-32-10 trained
by SGD with momentum for 180 steps, margins of 40 test points. Two questions:

  LDS        rank correlation of predicted and retrained margins over fresh
             subsets with 2 % and with 50 % of the examples dropped, under the
             same initialisation and order (common random numbers), mean and
             standard error over test points; beside it what another seed's
             retrainings would score
  survival   the sets of two that the decoder reports, strongest first, and
             pairs drawn at random: the four corners of each retrained in
             uniform contexts, under several seeds

`datamodel` (least squares) and `decoder` (a scan of all pairs) are
fitted to the same bank of half-dropped subsets. The others differentiate one
training, or (k-NN) train nothing. The bank is kept in the workdir: a second run
trains what is missing only. `quick` is a toy of the same code, for the tests.

What was seen stands in experiments/README.md. `full` trains some 20,000 small
networks.

Shapes: n training examples, T test points, B masks, S seeds.
"""

import dataclasses
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from absl import app, flags, logging

import spex_jax as spex
from experiments import rows
from spex_jax import cli
from spex_jax.influence import bank as banks
from spex_jax.influence import corners, judging
from spex_jax.jobs import retraining, subjects, valuations
from spex_jax.masks import sampling

SHARES = (0.02, 0.5)  # Of the examples dropped.
SINGLES = ("datamodel", "metagradient", "trak", "influence", "tracin", "knn")
GROUPS = ("strongest", "fifth", "twentieth", "random")
_RANKS = {"strongest": 0, "fifth": 4, "twentieth": 19}


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the study.

  Attributes:
    num_train: n.
    num_test: T.
    num_epochs: passes in batches of `batch_size`.
    batch_size: b.
    budget: half-dropped subsets to fit to.
    fresh: subsets of each share to judge by.
    num_seeds: S, of the judging.
    checked: test points whose sets are retrained, one set of each group.
    contexts: of each set.
    methods: of single examples.
  """

  num_train: int
  num_test: int
  num_epochs: int
  batch_size: int
  budget: int
  fresh: int
  num_seeds: int
  checked: int
  contexts: int
  methods: tuple[str, ...] = SINGLES


CONFIGS = {
  "quick": Config(
    30, 4, 2, 10, 150, 16, 2, 2, 6, ("datamodel", "metagradient", "knn")
  ),
  "full": Config(300, 40, 30, 50, 8000, 200, 4, 20, 24),
}


def settings(config: Config) -> ml_collections.ConfigDict:
  """The same as a configuration of `spex attribute data`."""
  out = cli.load_config("data_digits", "attribute")
  for name in ("num_train", "num_test", "budget", "fresh", "num_seeds"):
    out[name] = getattr(config, name)
  out.contexts = config.contexts
  out.classes = ""
  out.model.widths = (32,)
  out.training.update(
    num_epochs=config.num_epochs,
    batch_size=config.batch_size,
    optimizer="sgd",
    learning_rate=0.05,
  )
  return out


def run(config: Config, workdir: str) -> Iterator[rows.Row]:
  """Yields rows of LDS, one for each method and share; then of survival."""
  given = settings(config)
  problem = retraining.problem(given)
  folder = pathlib.Path(workdir) / "bank"
  bank = banks.Bank(folder, problem.retrainer, rows_per_shard=512)
  masks = retraining.masks(given, problem)
  judged = {
    0.02: _dropping(given, problem, 0.02, config.fresh),
    0.5: masks.fresh,
  }
  start = time.perf_counter()
  values = bank.ask(masks.fit, 1)[:, 0]
  fresh = {s: bank.ask(m, config.num_seeds) for s, m in judged.items()}
  seconds = time.perf_counter() - start
  start = time.perf_counter()
  found = spex.decode(masks.fit, values, method="gram", max_order=2)
  decoding = time.perf_counter() - start
  answers: dict[str, tuple[Any, float]] = {"decoder": (found.fourier, decoding)}
  for method in config.methods:
    given.method = method
    start = time.perf_counter()
    scores = valuations.score(given, problem, masks.fit, values)
    answers[method] = scores, time.perf_counter() - start
  for share, masks_of_share in judged.items():
    linear = None
    for name in ("datamodel", "decoder", *config.methods[1:]):
      answer, took = answers[name]
      row = _judge(answer, masks_of_share, fresh[share])
      if name == "datamodel":
        linear = row["per_target"]
      gain, error = _mean(row["per_target"] - linear)
      del row["per_target"]
      yield (
        rows.common("data_attribution")
        | row
        | {
          "kind": "lds",
          "method": name,
          "dropped": share,
          "over_datamodel": gain,
          "over_datamodel_error": error,
          "seconds": took,
          "bank_seconds": seconds,
          "bank_rows": len(bank),
        }
      )
  whole = judging.surrogate(found.fourier, masks.fresh, fresh[0.5][:, 0])
  yield rows.common("data_attribution") | {
    "kind": "r2",
    "r2": float(whole.r2.mean()),
    "first_order": float(whole.first_r2.mean()),
    "gain": whole.gain(),
  }
  yield from _survival(config, given, problem, bank, found, values)


def _dropping(given, problem, share: float, count: int) -> np.ndarray:
  """bool `[B, n]`: subsets that lack a share of the examples, exactly."""
  n = problem.players.n
  sizes = np.zeros(n + 1)
  sizes[n - max(1, round(share * n))] = 1
  key = subjects.key_of(given, f"dropping {share}")
  return sampling.by_size(key, count, n, sizes)


def _judge(answer, masks, values) -> rows.Row:
  """LDS under the bank's own seed, and of another seed's retrainings."""
  own = judging.lds(answer, masks, values[:, 0])
  others = [
    np.nanmean(judging.spearman_columns(values[:, 0], values[:, seed]))
    for seed in range(1, values.shape[1])
  ]
  other = judging.lds(answer, masks, values[:, 1])
  mean, error = _mean(own.per_target)
  return {
    "lds": mean,
    "error": error,
    "lds_other_seed": other.mean,
    "another_seed": float(np.mean(others)),
    "per_target": own.per_target,
  }


def _mean(values: np.ndarray) -> tuple[float, float]:
  """Mean and standard error over test points."""
  values = values[np.isfinite(values)]
  error = values.std(ddof=1) / math.sqrt(len(values))
  return float(values.mean()), float(error)


def _survival(config, given, problem, bank, found, values):
  """One claim of each group for the test points that move most."""
  moving = np.argsort(-values.std(axis=0), kind="stable")[: config.checked]
  rng = np.random.default_rng(given.seed)
  groups: dict[str, list[corners.Reported]] = {name: [] for name in GROUPS}
  for target in moving.tolist():
    listed = found.interactions("BII", 2, target=target)
    pairs = corners.reported(listed, len(listed), target=target)
    for name, rank in _RANKS.items():
      groups[name] += pairs[rank : rank + 1]
    drawn = rng.choice(problem.players.n, 2, replace=False)
    players = tuple(int(player) for player in np.sort(drawn))
    groups["random"].append(corners.Reported(players, 1.0, target))

  def under(seed):
    return lambda masks: bank.ask(masks, [seed])[:, 0]

  for name, claims in groups.items():
    if not claims:
      continue
    sets = [claim.players for claim in claims]
    contexts = retraining.contexts(given, problem, sets)
    value_fns = [under(seed) for seed in range(config.num_seeds)]
    for seeds in (1, config.num_seeds):
      report = corners.four_corners(claims, value_fns[:seeds], contexts)
      claimed = np.array([claim.estimate for claim in claims])
      measured = np.array([row.measured for row in report.rows])
      same = name != "random" and len(claims) > 1
      yield rows.common("data_attribution") | {
        "kind": "survival",
        "group": name,
        "sets": len(claims),
        "seeds": seeds,
        "survive": report.count("survives"),
        "contradicted": report.count("contradicted"),
        "covered": sum(row.covered for row in report.rows),
        "size": float(np.abs(measured).mean()),
        "correlation": (
          float(np.corrcoef(claimed, measured)[0, 1]) if same else None
        ),
      }


def table(measured: list[rows.Row]) -> str:
  """LDS by method and share, then survival by group, as markdown."""
  lds = [row for row in measured if row["kind"] == "lds"]
  lines = []
  for row in lds:
    gain = f"{row['over_datamodel']:+.3f} ± {row['over_datamodel_error']:.3f}"
    lines.append(
      (
        f"{row['dropped']:.0%}",
        row["method"],
        f"{row['lds']:.3f} ± {row['error']:.3f}",
        "" if row["method"] == "datamodel" else gain,
        f"{row['lds_other_seed']:.3f}",
        f"{row['another_seed']:.3f}",
        f"{row['seconds']:.1f}",
      )
    )
  head = ("dropped", "method", "LDS", "over the datamodel", "on another seed",
          "a retraining under another seed", "s")  # fmt: skip
  parts = [rows.table(head, lines)]
  for row in measured:
    if row["kind"] == "r2":
      gain, around = row["gain"]
      interval = f" [{around[0]:.3f}, {around[1]:.3f}]" if around else ""
      parts.append(
        f"R² on fresh halves {row['r2']:.3f}, its first order alone "
        f"{row['first_order']:.3f}: gain {gain:.3f}{interval}"
      )
  lines = [
    (
      row["group"],
      str(row["seeds"]),
      f"{row['survive']} of {row['sets']}"
      if row["group"] != "random"
      else f"{row['survive'] + row['contradicted']} of {row['sets']}",
      str(row["contradicted"]) if row["group"] != "random" else "",
      f"{row['size']:.3f}",
      "" if row["correlation"] is None else f"{row['correlation']:.2f}",
    )
    for row in measured
    if row["kind"] == "survival"
  ]
  head = ("pairs", "seeds", "survive", "contradicted", "mean |measured|",
          "correlation with the estimates")  # fmt: skip
  parts.append(rows.table(head, lines))
  return "\n\n".join(parts)


def main(argv):
  """Prints rows as they come, and the tables."""
  del argv
  args = flags.FLAGS
  logging.set_verbosity(logging.WARNING)
  config = CONFIGS[args.config]
  with tempfile.TemporaryDirectory() as folder:
    measured = rows.write(run(config, args.workdir or folder), args.output)
  print(table(measured))


if __name__ == "__main__":
  # Defined here, so that a test may import several experiments.
  flags.DEFINE_enum("config", "full", sorted(CONFIGS), "Which size.")
  flags.DEFINE_string("workdir", None, "Where the bank is kept.")
  flags.DEFINE_string("output", None, "File for the rows, as well.")
  app.run(main)
