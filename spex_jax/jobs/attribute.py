"""`spex attribute data`: retrains on subsets, and says which examples matter.

All outputs go into a bank in the workdir; whatever is asked twice, by a second
run or a larger budget, is read from there.

Shapes: n players, B masks, T test points, F fresh masks, S seeds.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import spex_jax as spex
from spex_jax import base
from spex_jax.explanation import Explanation
from spex_jax.fourier import score
from spex_jax.indices import attribution, judging
from spex_jax.indices import interactions as interactions_lib
from spex_jax.influence import bank as banks
from spex_jax.influence import corners, semivalues, valuations
from spex_jax.influence import problem as problems
from spex_jax.jobs import retraining
from spex_jax.jobs.explain import writable
from spex_jax.report import example_plots as pictures
from spex_jax.report import plots, progress
from spex_jax.report import tables as report_tables

_SIGNS = (
  "synergy: together they raise the output by more than one by one; redundancy:"
  " by less. Of examples that harm, synergy says that their harm overlaps"
)
_FILES = ("attribution.json", "explanation.json", "figure.png")


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the command found.

  Attributes:
    scores: the worth of every player for each of the T test points.
    explanation: the expansions of the points that are explained.
    points: which test points those are, by number.
    lds: correlation with retrained subsets, of the bank's own random numbers.
    lds_seeds: correlation with the mean over seeds, with its ceiling.
    r2: float64 `[T]`, of the scores on fresh subsets.
    r2_std: float64 `[T]`, its standard errors.
    surrogate: how well the expansions predict the same subsets.
    checks: the corners retrained under all seeds; None without sets.
    own_checks: the same under the bank's own seed alone.
    num_trained: how many models this run trained.
    num_rows: how many rows the bank holds now.
  """

  scores: attribution.Attribution
  explanation: Explanation
  points: tuple[int, ...]
  lds: judging.Correlation
  lds_seeds: judging.Correlation
  r2: np.ndarray
  r2_std: np.ndarray
  surrogate: judging.Surrogate
  checks: corners.Report | None
  own_checks: corners.Report | None
  num_trained: int
  num_rows: int


def run(
  config: retraining.Data,
  workdir: pathlib.Path,
  show: Callable[..., None] | None = None,
) -> Answer:
  """Retrains, scores, decodes, judges; writes into `workdir`.

  `attribution.json`, `explanation.json` and `figure.png` are replaced; the
  bank, in `bank/`, is kept and extended.

  Args:
    config: the settings of the command.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.

  Raises:
    ValueError: a bad setting, data that cannot be used, a bank of another
      configuration, or too many trainings that diverged.
    TypeError: labels that are no integers.
    FileNotFoundError: no such file of data.
    OSError: the disk is full.
  """
  # What is asked.
  problem = retraining.problem_of(config)
  masks = problems.masks(
    problem, config.key("subsets"), config.budget, config.fresh
  )
  chosen = _chosen(config, problem)
  writable(workdir)
  show = show or report_tables.printer()
  tell = report_tables.teller(show)
  for name, fact in _question(config, problem, masks):
    tell(name, fact)
  # Retrainings, from the bank or new; scores, sets, and their corners.
  most = config.checked * config.contexts << config.order
  total = len(masks.fit) + (len(masks.fresh) + most) * config.num_seeds
  start = time.perf_counter()
  with progress.evaluations(total) as monitor:
    asked = 0
    bank = banks.Bank(
      workdir / "bank",
      problem.retrainer,
      rows_per_shard=config.rows_per_shard,
      progress=lambda done, _: monitor.report(asked + done),
    )
    before = len(bank)

    def ask(masks: np.ndarray, seeds: list[int]) -> np.ndarray:
      nonlocal asked
      values = bank.ask(masks, seeds)
      asked += len(masks) * len(seeds)
      return values

    fresh = ask(masks.fresh, list(range(config.num_seeds)))
    values = ask(masks.fit, [0])[:, 0]
    fit_masks, values = _sound(masks.fit, values)
    fresh_masks, fresh = _sound(masks.fresh, fresh)
    points = chosen or _undecided(config, values)
    scores = valuations.score(
      config.method, problem, fit_masks, values, config.options
    )
    explanation = spex.decode(
      fit_masks,
      values[:, list(points)],
      method=valuations.decoder(config.decoder, fit_masks),
      max_order=min(config.order, problem.players.n),
      names=problem.names,
      units=_units(config, problem),
    )
    checks, own_checks = _retrained(
      config, problem, bank, ask, explanation, points
    )
  seconds = time.perf_counter() - start
  # How good they are, on fresh subsets.
  own, guess = fresh[:, 0], scores(fresh_masks)
  answer = Answer(
    scores=scores,
    explanation=explanation,
    points=points,
    lds=judging.lds(scores, fresh_masks, own),
    lds_seeds=judging.lds(scores, fresh_masks, fresh),
    r2=np.atleast_1d(score.r2(own, guess)),
    r2_std=np.atleast_1d(score.r2_std(own, guess)),
    surrogate=judging.surrogate(
      explanation.fourier, fresh_masks, own[:, list(points)]
    ),
    checks=checks,
    own_checks=own_checks,
    num_trained=len(bank) - before,
    num_rows=len(bank),
  )
  shown = [_point(config, problem, answer, k) for k in range(len(points))]
  # First of all: what comes below may fail, and the models were dear.
  base.write_json(
    workdir / "attribution.json", _as_json(config, problem, answer, shown)
  )
  explanation.save(workdir / "explanation.json")
  # What is told and drawn.
  for name, fact in _outcome(config, problem, answer, bank, seconds):
    tell(name, fact)
  units = _units(config, problem)
  for point in shown:
    show(pictures.table(point, problem.names, units))
  tell("sets", _SIGNS)
  tell("retrained", _survival(answer))
  if answer.checks is not None:
    show(str(answer.checks).partition("\n")[2])
  _draw(problem, answer, shown, units, workdir / "figure.png")
  files = ", ".join(str(workdir / name) for name in (*_FILES, "bank"))
  tell("wrote", files)
  return answer


def command(
  config: retraining.Data, workdir: pathlib.Path, before: float
) -> None:
  """`run` with a device for each core: trainings are small."""
  del before
  with contextlib.suppress(RuntimeError):  # JAX's backend is up already.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
  run(config, workdir)


def _chosen(config, problem) -> tuple[int, ...]:
  """The test points whose rows the configuration names, if any."""
  places = problem.test.rows.tolist()
  return tuple(places.index(row) for row in config.rows)


def _undecided(config, values: np.ndarray) -> tuple[int, ...]:
  """The test points that move most beside how sure the models are of them."""
  certain = np.abs(values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
  order = np.argsort(certain, kind="stable")
  return tuple(order[: config.num_points].tolist())


def _sound(masks: np.ndarray, values: np.ndarray):
  """Rows none of whose trainings diverged.

  Raises:
    ValueError: fewer than half of them.
  """
  flat = np.isfinite(values.reshape(len(values), -1))
  sound: np.ndarray = np.all(flat, axis=1)
  if sound.mean() < 0.5:
    raise ValueError(
      f"{(~sound).sum()} of {len(sound)} subsets diverged in training; lower "
      "training.learning_rate, or raise model.penalty."
    )
  return masks[sound], values[sound]


def _retrained(config, problem, bank, ask, explanation, points):
  """The corners of the strongest sets of each point: all seeds, and the own."""
  lists = []
  for place, target in enumerate(points):
    found = explanation.interactions("BII", config.order, target=place)
    lists.append(corners.reported(found, config.checked, target=target))
  # The strongest of each point, then the second, and so on.
  ranks = itertools.zip_longest(*lists)
  claims = [claim for rank in ranks for claim in rank if claim is not None]
  claims = claims[: config.checked]
  if not claims:
    return None, None
  sets = [claim.players for claim in claims]
  contexts = problems.contexts(
    problem, config.key("contexts"), config.contexts, sets
  )
  seeds = list(range(config.num_seeds))
  contexts = _finite(sets, contexts, lambda masks: ask(masks, seeds))
  if len(contexts) < 2:
    return None, None
  # From the bank, by now.
  value_fns = [
    lambda masks, seed=seed: bank.ask(masks, [seed])[:, 0] for seed in seeds
  ]
  return tuple(
    corners.four_corners(claims, some, contexts, names=problem.names)
    for some in (value_fns, value_fns[:1])
  )


def _finite(sets, contexts, ask) -> np.ndarray:
  """The contexts none of whose corners diverged under any seed."""
  masks = np.concatenate(
    [corners.corner_masks(players, contexts) for players in sets], axis=1
  )
  values = ask(masks.reshape(-1, masks.shape[-1]))
  finite = np.isfinite(values.reshape(len(contexts), -1))
  return contexts[finite.all(axis=1)]


def _units(config, problem) -> str:
  if not problem.train.classes:
    return "response"
  return "nat" if config.model.output == "log_odds" else "logit"


def _question(config, problem, masks):
  """What is asked, before any work."""
  train, n = problem.train, problem.players.n
  who = report_tables.count(n, "training example")
  if not problem.singles:
    who = f"{n} {config.players} of {train.num_examples:,} training examples"
  output = f"{retraining.OUTPUTS[config.model.output]} of the right class"
  where = report_tables.count(problem.test.num_examples, "test point")
  if train.classes:
    counts = np.bincount(train.y, minlength=len(train.classes))
    classes = ", ".join(
      f"{c} of {name}" for c, name in zip(counts, train.classes)
    )
  else:
    output = "prediction"
    low, mean, high = train.y.min(), train.y.mean(), train.y.max()
    classes = f"a response, {low:.4g} to {high:.4g}, mean {mean:.4g}"
  seeds = report_tables.count(config.num_seeds, "seed")
  decoder = valuations.decoder(config.decoder, masks.fit)
  judged = f"{len(masks.fresh):,} fresh ones under {seeds}"
  facts = [
    ("asked", f"Which of {who} move the {output} at {where}?"),
    ("data", f"{config.data}: {classes}"),
    ("model", problem.classifier.words),
    (
      "budget",
      f"{len(masks.fit):,} subsets of half the players, {judged}; method "
      f"{config.method}, sets by {decoder}",
    ),
  ]
  if masks.unusable:
    text = "drawn or listed keep no example, or those of one class: left out"
    facts.append(
      ("note", f"{report_tables.count(masks.unusable, 'subset')} {text}")
    )
  return facts


def _outcome(config, problem, answer, bank, seconds):
  """What it cost, and how good it is."""
  cost = (
    f"no model trained, all {answer.num_rows:,} rows from the bank; "
    f"{seconds:.1f} s"
  )
  if answer.num_trained:
    stats = problem.retrainer.stats
    rate = answer.num_trained / max(stats.run_seconds, 1e-9)
    cost = (
      f"{answer.num_trained:,} models trained at {rate:,.0f} models/s on "
      f"{stats.device} (compile {stats.compile_seconds:.1f} s), "
      f"{answer.num_rows - answer.num_trained:,} rows from the bank; "
      f"{seconds:.1f} s with decoding"
    )
  facts = [("cost", cost)]
  if bank.num_diverged:
    facts.append(
      (
        "diverged",
        f"{report_tables.count(bank.num_diverged, 'training')}: marked in the "
        "bank, and in nothing below",
      )
    )
  facts.append(("LDS", f"{answer.scores.method}: {answer.lds}"))
  if answer.lds_seeds.num_seeds > 1:
    facts.append(("", f"of the mean over seeds: {answer.lds_seeds}"))
  facts += [
    (
      "R2",
      score.shown(answer.r2, answer.r2_std)
      + " of the scores on fresh subsets, mean of "
      + report_tables.count(len(answer.r2), "test point"),
    ),
    (
      "",
      f"sets by {answer.explanation.method}, points below: {answer.surrogate}",
    ),
  ]
  return facts + [("note", note) for note in answer.scores.notes]


def _survival(answer: Answer) -> str:
  if answer.checks is None or answer.own_checks is None:
    return (
      "nothing to check: no set, or fewer than two contexts whose corners "
      "could all be trained"
    )
  total = len(answer.checks.rows)
  return (
    f"{answer.checks.count('survives')} of {total} sets survive over "
    f"{report_tables.count(answer.checks.num_seeds, 'seed')}, "
    f"{answer.checks.count('contradicted')} contradicted; under the bank's own "
    f"seed {answer.own_checks.count('survives')} survive, "
    f"{answer.own_checks.count('contradicted')} contradicted "
    f"({answer.checks.num_contexts} contexts, level {answer.checks.level:g})"
  )


def _point(config, problem, answer: Answer, place: int) -> pictures.Point:
  target = answer.points[place]
  scores, std = answer.scores.scores[target], answer.scores.std
  count = min(config.top, answer.scores.n)

  def single(player: int) -> pictures.Shown:
    error = None if std is None else float(std[target, player])
    return pictures.Shown((int(player),), float(scores[player]), error)

  helpful = [single(p) for p in answer.scores.helpful(target, count)]
  harmful = [single(p) for p in answer.scores.harmful(target, count)]
  parts = semivalues.interactions(
    answer.explanation, target=place, order=config.order
  )
  sets = [_strongest(part.top(config.top)) for part in parts]
  return pictures.Point(
    title=problem.point(target),
    helpful=[item for item in helpful if item.value > 0],
    harmful=[item for item in harmful if item.value < 0],
    synergy=sets[0],
    redundancy=sets[1],
  )


def _strongest(found: interactions_lib.Interactions) -> list[pictures.Shown]:
  errors = [None] * len(found) if found.std is None else found.std.tolist()
  return [pictures.Shown(s, v, std) for (s, v), std in zip(found, errors)]


def _draw(problem, answer: Answer, shown, units: str, path) -> None:
  title = f"{answer.scores.method}: {problem.classifier.words}"
  if problem.train.are_images and problem.singles:
    figure = pictures.images(
      shown,
      [problem.test.x[target] for target in answer.points],
      problem.train.x,
      problem.names,
      units=units,
      title=title,
    )
  else:
    figure = pictures.bars(shown, problem.names, units=units, title=title)
  plots.save(figure, path)


def _as_json(config, problem, answer: Answer, shown) -> dict[str, Any]:
  """Everything that a reader would compute with."""
  std = answer.scores.std
  checks = [] if answer.checks is None else answer.checks.rows
  return {
    "method": answer.scores.method,
    "model": problem.classifier.words,
    "units": _units(config, problem),
    "names": list(problem.names),
    "train_rows": problem.train.rows.tolist(),
    "test_rows": problem.test.rows.tolist(),
    "scores": answer.scores.scores.tolist(),
    "std": None if std is None else std.tolist(),
    "baseline": answer.scores.baseline.tolist(),
    "lds": answer.lds.mean,
    "lds_interval": answer.lds.interval,
    "lds_seeds": answer.lds_seeds.mean,
    "ceiling": answer.lds_seeds.ceiling,
    "ceiling_interval": answer.lds_seeds.ceiling_interval,
    "r2": answer.r2.tolist(),
    "r2_std": answer.r2_std.tolist(),
    "r2_with_sets": answer.surrogate.r2.tolist(),
    "r2_with_sets_std": answer.surrogate.r2_std.tolist(),
    "points": [
      {"point": target, "title": point.title}
      | {
        name: [item._asdict() for item in getattr(point, name)]
        for name in ("helpful", "harmful", "synergy", "redundancy")
      }
      for target, point in zip(answer.points, shown)
    ],
    "checks": [
      row.reported._asdict()
      | {"measured": row.measured, "low": row.low, "high": row.high}
      | {"p_value": row.p_value, "verdict": row.verdict}
      for row in checks
    ],
  }
