"""`spex explain`: asks a subject's value function, and reports the answer."""

import pathlib
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np

from spex_jax.ablate import evaluate
from spex_jax.explain import METHODS, Explanation, explain
from spex_jax.indices import table as index_table
from spex_jax.jobs import callables, digits, subjects, tables
from spex_jax.report import progress
from spex_jax.report import tables as report_tables

SUBJECTS: Mapping[
  str, Callable[[ml_collections.ConfigDict, pathlib.Path], subjects.Subject]
] = {
  "callable": callables.subject,
  "digits": digits.subject,
  "table": tables.subject,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that no subject could use, before any work.

  Raises:
    ValueError: names the setting, what it is, and what it may be.
  """
  missing = [k for k in ("subject", "seed", "budget", "top") if k not in config]
  if missing:
    raise ValueError(f"The configuration lacks {', '.join(missing)}.")
  choices = {
    "subject": tuple(SUBJECTS),
    "method": METHODS,
  }
  for name, known in choices.items():
    if config[name] not in known:
      raise ValueError(
        f"{name}={config[name]!r}: choose from {', '.join(sorted(known))}."
      )
  index_table.find(config.index)
  for name in ("budget", "batch_size", "order", "top"):
    if config[name] < 1:
      raise ValueError(f"{name}={config[name]}: must be at least 1.")
  _check_finite(config, "")


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  show: Callable[..., None] | None = None,
) -> Explanation:
  """Explains what `config` asks about; writes three files into `workdir`.

  `explanation.json`, `fourier.json` and `figure.png` are replaced; a trained
  network is kept in `model/` and used again.

  Args:
    config: see `spex_jax/configs`.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.

  Raises:
    ValueError: a bad setting, or a value function that misbehaves.
    OSError: `workdir` cannot be written.
  """
  check(config)
  prepare(workdir)
  show = show or report_tables.printer()
  subject = SUBJECTS[config.subject](config, workdir)
  evaluator = subject.evaluator
  n = evaluator.n
  show(report_tables.fact("asked", subject.question))
  for name, fact in subject.facts.items():
    show(report_tables.fact(name, fact))
  show(
    report_tables.fact(
      "budget",
      f"{config.budget:,} distinct masks of 2^{n}, held-out ones included; "
      f"method {config.method}",
    )
  )
  with progress.evaluations(config.budget) as report:
    explanation = explain(
      evaluator,
      n,
      key=subjects.key_of(config, "explain"),
      budget=config.budget,
      method=config.method,
      batch_size=4 * config.batch_size,  # A few of the evaluator's batches.
      names=subject.names,
      units=subject.units,
      progress=lambda asked, budget: report(asked),
    )
  for name, text in _outcome(explanation, evaluator.stats):
    show(report_tables.fact(name, text))
  found = explanation.interactions(config.index, config.order)
  show(report_tables.interactions(found, config.top))
  explanation.save(workdir / "explanation.json")
  explanation.fourier.save(workdir / "fourier.json")
  subject.draw(found, workdir / "figure.png")
  files = ("explanation.json", "fourier.json", "figure.png")
  show(report_tables.fact("wrote", ", ".join(str(workdir / f) for f in files)))
  return explanation


def _outcome(
  explanation: Explanation, stats: evaluate.Stats
) -> list[tuple[str, str]]:
  """What it cost, and how far the answer can be trusted."""
  units = explanation.units or "value"
  facts = [
    (
      "cost",
      f"{explanation.num_evaluations:,} distinct masks, "
      f"{explanation.num_repeats} of them asked twice; "
      + report_tables.cost(stats, explanation.seconds["decoding"]),
    )
  ]
  score = explanation.faithfulness
  if score is None:
    facts.append(("faithfulness", "not measured: no mask was left to test on"))
  elif explanation.held_out:
    facts.append(
      (
        "faithfulness",
        f"R2 {score:.4f} on {explanation.held_out} held-out masks",
      )
    )
  else:
    facts.append(("faithfulness", f"R2 {score:.4f}: every mask was asked"))
  if explanation.noise_floor:
    facts.append(
      ("noise", f"{explanation.noise_floor:.3g} {units} between repeats")
    )
  count = int(explanation.fourier.count)
  facts.append(
    ("answer", f"{count} Fourier terms, found by {explanation.method}")
  )
  return facts + [("note", note) for note in explanation.notes]


def prepare(workdir: pathlib.Path) -> None:
  """Makes `workdir`, and sees that it can be written before any work.

  Raises:
    OSError: it cannot.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  probe = workdir / ".probe"
  probe.touch()
  probe.unlink()


def _check_finite(config: ml_collections.ConfigDict, prefix: str) -> None:
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      _check_finite(value, f"{prefix}{name}.")
    elif isinstance(value, float) and not np.isfinite(value):
      raise ValueError(f"{prefix}{name}={value}: must be finite.")
