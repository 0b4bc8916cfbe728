"""From a sweep of retrainings to a table: which training digits matter?

  python -m launch.local --config=experiments/configs/sweep_digits.py \
    --workdir=DIR --processes=2
  python -m experiments.sweep_table --workdir=DIR

Items of the sweep are seeds of one configuration, and ask for the same subsets.
A linear datamodel (ridge, its penalty chosen per test point) is fitted to the
first 80 % of the subsets, and judged on the others, by how well it ranks their
retrainings (LDS, Spearman's, mean over test points with its 95 % interval):

  one seed     fitted to a seed and judged by it, mean over the seeds
  another      fitted to a seed and judged by the next one
  all seeds    fitted to the mean over the seeds and judged by that; `ceiling`
               is what the expectation over all seeds there are would score: it
               may be passed, since these seeds are fitted to

Then the training digits that move most test points: the share of all points at
which a digit is among the five strongest.

Prints one JSON line per row, and Markdown at the end. Expect the sweep in
36 to 90 s on 2 CPU cores and its table in 14: LDS .838 of one seed, .562 by
another, .912 of all four, whose ceiling is .903.
"""

from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.fourier import score
from spex_jax.indices import judging
from spex_jax.influence import datamodels
from spex_jax.sweeps import run, state

_FITTED = 0.8  # Of the subsets.
_STRONGEST = 5


def table(workdir: str, show: int = 5) -> Iterator[rows.Row]:
  """Yields the rows.

  Args:
    workdir: of a sweep whose items differ in their seed alone.
    show: training examples that are listed.

  Raises:
    ValueError: no sweep, an item without rows, or items that asked for other
      subsets.
  """
  common = rows.common("sweep_table")
  found = state.status(workdir)
  _, sweep = run.opened(workdir)
  parts = [state.samples(workdir, item) for item in range(len(sweep.items))]
  masks = parts[0][0]
  if any(not np.array_equal(masks, other) for other, _ in parts[1:]):
    raise ValueError(
      f"The items of {workdir} did not ask for the same subsets; or some rows "
      "have no value: see `spex sweep status`."
    )
  values = np.stack([value for _, value in parts], axis=1)
  fitted = int(_FITTED * len(masks))
  yield common | {
    "row": "sweep",
    "seeds": values.shape[1],
    "subsets": len(masks),
    "examples": masks.shape[1],
    "test_points": values.shape[2],
    "shards": found.shards,
    "processes": found.processes,
    "process_seconds": round(found.cost, 1),
  }
  fit = lambda chosen: datamodels.ridge(masks[:fitted], chosen[:fitted])
  judge = lambda model, truth: judging.lds(model, masks[fitted:],
                                           truth[fitted:])  # fmt: skip
  models = [fit(values[:, seed]) for seed in range(values.shape[1])]
  for name, step in (("one seed", 0), ("another", 1)):
    if step and len(models) == 1:
      continue
    scores = [
      judge(model, values[:, (seed + step) % len(models)]).per_target
      for seed, model in enumerate(models)
    ]
    mean, interval = score.mean_interval(np.nanmean(scores, axis=0))
    yield common | _lds(name, mean, interval)
  model = fit(values.mean(axis=1))
  all_seeds = judge(model, values)
  yield common | _lds("all seeds", all_seeds.mean, all_seeds.interval) | {
    "ceiling": None if all_seeds.ceiling is None else round(
      all_seeds.ceiling, 3)
  }  # fmt: skip
  scores = model.scores.T  # [n, T]
  strongest = np.argsort(-np.abs(scores), axis=0)[:_STRONGEST]
  share = np.bincount(strongest.ravel(), minlength=len(scores))
  share = share / scores.shape[1]
  for example in np.argsort(-share, kind="stable")[:show]:
    yield common | {
      "row": "strong",
      "example": int(example),
      "share_of_points": round(float(share[example]), 3),
      "helps": int((scores[example] > 0).sum()),
      "harms": int((scores[example] < 0).sum()),
      "mean_abs_score": round(float(np.abs(scores[example]).mean()), 4),
    }


def _lds(name: str, mean: float, interval) -> rows.Row:
  ends = [round(float(end), 3) for end in interval]
  return {"row": "lds", "fitted_to": name, "lds": round(float(mean), 3),
          "interval": ends}  # fmt: skip


def _markdown(found: list[rows.Row]) -> str:
  lds = [row for row in found if row["row"] == "lds"]
  text = lambda row: [str(cell) for cell in row]
  lines = [
    (row["fitted_to"], row["lds"], "{} to {}".format(*row["interval"]),
     row.get("ceiling") or "")
    for row in lds
  ]  # fmt: skip
  strong = [
    tuple(row[name] for name in
          ("example", "share_of_points", "helps", "harms", "mean_abs_score"))
    for row in found
    if row["row"] == "strong"
  ]  # fmt: skip
  header = ("training digit", "among the strongest of", "helps", "harms",
            "mean score")  # fmt: skip
  return "\n\n".join(
    [
      rows.table(
        ("fitted to, and judged by", "LDS", "95 %", "ceiling"),
        map(text, lines),
      ),
      rows.table(header, map(text, strong)),
    ]
  )


def main(argv):
  """Prints the rows, and then tables."""
  del argv
  given = flags.FLAGS
  found = rows.write(table(given.workdir, given.show), given.output)
  print(f"\n{_markdown(found)}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "Of the sweep.", required=True)
  flags.DEFINE_integer("show", 5, "Training examples to list.")
  command.run(main)
