"""What each member of `auto` is worth, and each constant of its stack.

  python -m experiments.members_worth --config=full --output=worth.jsonl

Members are fitted once to the first masks of a game, as `auto` fits them, and
stacked as `auto` does: all, and with each left out in turn. What that costs is
the ratio of residuals, (1 - R² without it) / (1 - R² of all), on masks that no
fit has seen. Beside it stands the ratio with another value of a field of
`portfolio.policy`, and with errors out of fold taken as they are (`growth`).
`--games` takes recorded games besides (`record_games`).

`--config=fitted` measures fields that members read as they are fitted: all are
fitted again with each other value.

Where the Gram scan leaves nothing, `auto` fits no other member: such games are
counted, and left out of the means.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from experiments import command, games, rows
from spex_jax import base
from spex_jax.fourier import score
from spex_jax.portfolio import folds as folds_lib
from spex_jax.portfolio import policy, select, stack


@dataclasses.dataclass(frozen=True)
class Config:
  """What to draw and fit.

  Attributes:
    drawn: families and seeds, as of `games.make`.
    budgets: masks that are fitted to.
    num_test: masks that judge.
    fitted: fields of the policy, to other values that all members are fitted
      with again, in place of leaving members out.
  """

  drawn: tuple[tuple[str, int], ...]
  budgets: tuple[int, ...]
  num_test: int = 2000
  fitted: Mapping[str, tuple[Any, ...]] = dataclasses.field(
    default_factory=dict
  )


_SEEDS = {
  "cancer30": (2,),
  "pixels64": (2, 3),
  "retrain100": (2,),
  "planted100": (2,),
  "hierarchy100": (2,),
  "maxsum60": (2, 3),
  "vote45": (2, 3),
  "cut40": (2, 3),
}
_TWELVE = tuple((name, s) for name, seeds in _SEEDS.items() for s in seeds)
_FIRST = tuple((name, seeds[0]) for name, seeds in _SEEDS.items())
# Of fields that are read once members are fitted.
_OTHERS: dict[str, tuple[Any, ...]] = {
  "least_weight": (0.0, 0.1),
  "dropped": (0.0, 0.02),
}
# Of fields that members read, and decide answers; none of memory or time.
_FITTED: dict[str, tuple[Any, ...]] = {
  "few_masks": (256,),
  "few_folds": (6, 20),
  "hopeless": (1.02, 2.0),
  "far": (1.5, 10.0),
  "lasso_order": (1,),
  "lasso_penalties": (tuple(10.0 ** (-k / 4) for k in range(11)),),
  "pairs_to_a_mask": (10, 160),
  "tree_depth": (3, 8),
  "scan_flops": (1e8,),
  "least_high": (0.0, 0.2),
  "most_needed": (0.1, 1.0),
  "few_each": (0, 16),
  "many_each": (4, 32),
  "directed_each": (1000,),
  "least_refined": (1000,),
  "groups": (2, 8),
  "groups_of_wide": (2, 4),
  "tuned_one_in": (1,),
  "least_turned": (256,),
  "most_terms": (256, 1024),
}
CONFIGS = {
  "quick": Config((("vote45", 2),), (64,), 200),
  "quick_fitted": Config(
    (("vote45", 2),), (64,), 200, {"few_folds": (6,), "tree_depth": (3,)}
  ),
  "full": Config(_TWELVE, (512, 1024)),
  "recorded": Config((), (512, 1024)),
  "large": Config((), (4096,)),
  "fitted": Config(_FIRST, (512,), fitted=_FITTED),
}


def run(
  config: Config, recorded: Sequence[pathlib.Path] = ()
) -> Iterator[rows.Row]:
  """Yields a row per game and budget; recorded games come first."""
  for recording in _recordings(config, recorded):
    for budget in config.budgets:
      yield _row(recording, budget, config.fitted)


def _recordings(config, recorded) -> Iterable[games.Recording]:
  yield from map(games.load, recorded)
  for family, seed in config.drawn:
    game, name = games.make(family, seed), f"{family}-{seed}"
    most = max(config.budgets)
    yield games.record(game, name, seed, most, config.num_test)


def _row(recording, budget, fitted):
  masks, values = recording.masks[:budget], recording.values[:budget]
  values = values - base.origin(values[:, None])[0]
  start = time.perf_counter()
  found = select.fit_members(masks, values)
  seconds = time.perf_counter() - start
  # Free of the offset too: R² takes any.
  offset = recording.values[0] - values[0]
  truth = recording.test_values - offset
  whole = stack.stack(masks, values, found)
  r2 = lambda answer: float(
    score.r2(truth, answer.function(recording.test_masks))
  )
  reached = r2(whole)
  row = {
    "game": recording.name,
    "budget": budget,
    "seconds": round(seconds, 1),
    "r2": round(reached, 4),
    "stated": round(float(score.r2(values, whole.out_of_fold)), 4),
    "weights": {name: round(w, 2) for name, w in whole.weights.items()},
    "ratio": {},
  }
  if len(found) > 1 and reached < 1:
    if fitted:
      changed = _refitted(masks, values, fitted)
    else:
      changed = _changed(masks, values, found)
    for change, answer in changed:
      row["ratio"][change] = round((1 - r2(answer)) / (1 - reached), 4)
  return row


@contextlib.contextmanager
def _with(name, value):
  """The policy with another value of a field."""
  kept = policy.POLICY
  policy.POLICY = dataclasses.replace(kept, **{name: value})
  try:
    yield
  finally:
    policy.POLICY = kept


def _refitted(masks, values, fitted):
  """Answers of members that were fitted with each other value, by name."""
  for name, others in fitted.items():
    for value in others:
      said = value if np.isscalar(value) else f"{len(value)} of them"
      with _with(name, value):
        found = select.fit_members(masks, values)
        yield f"{name} = {said}", stack.stack(masks, values, found)


def _changed(masks, values, found):
  """Answers without each member, and with each other number, by name."""
  for member in found:
    rest = [one for one in found if one is not member]
    yield member.name, stack.stack(masks, values, rest)
  alone = [stack.best(values, found)]
  yield "the others than the best", stack.stack(masks, values, alone)
  for name, others in _OTHERS.items():
    for value in others:
      with _with(name, value):
        yield f"{name} = {value}", stack.stack(masks, values, found)
  plain = [one._replace(growth=folds_lib.Growth()) for one in found]
  yield "growth = 1", stack.stack(masks, values, plain)


def table(measured: list[rows.Row]) -> str:
  """What leaving out or changing costs: geometric mean, and the worst game.

  A member that was not fitted to a game costs nothing there.
  """
  judged = [row for row in measured if row["ratio"]]
  names = sorted({name for row in judged for name in row["ratio"]})
  lines = []
  for budget in sorted({row["budget"] for row in measured}):
    here = [row for row in judged if row["budget"] == budget]
    for name in names:
      ratios = np.array([row["ratio"].get(name, 1.0) for row in here])
      if not len(ratios):
        continue
      worst = here[int(ratios.argmax())]["game"]
      lines.append([
        str(budget), name, f"{np.exp(np.log(ratios).mean()):.3f}",
        f"{ratios.max():.3f} ({worst})", f"{ratios.min():.3f}",
        str(int((ratios > 1.01).sum())), str(len(here)),
      ])  # fmt: skip
  header = [
    "masks", "without", "mean ratio", "largest", "least", "over 1 %", "games",
  ]  # fmt: skip
  return rows.table(header, lines)


def main(argv):
  """Prints rows and their table."""
  del argv
  given = flags.FLAGS
  folder, config = given.games, CONFIGS[given.config]
  recorded = sorted(pathlib.Path(folder).glob("*.npz")) if folder else []
  if not recorded and (folder or not config.drawn):
    raise app.UsageError(f"No recorded games (*.npz) in --games={folder}.")
  found = run(config, recorded)
  print(table(rows.write(found, given.output)))


if __name__ == "__main__":
  flags.DEFINE_string("games", None, "Folder of recorded games, besides.")
  command.run(main, CONFIGS, "quick")
