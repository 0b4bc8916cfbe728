"""`spex attribute components`: which parts of a network matter, and together.

Sets of them by the decoders of `spex explain`, or, by `method=coar`, one effect
for each while few are absent.

Shapes: n players.
"""

import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from spex_jax import base
from spex_jax.ablate import gradients
from spex_jax.components import coar, judging
from spex_jax.explanation import Explanation
from spex_jax.indices import attribution
from spex_jax.indices import interactions as interactions_lib
from spex_jax.jobs import explain, parts, settings, subjects
from spex_jax.report import progress
from spex_jax.report import tables as report_tables

COAR = "coar"
METHODS = (COAR, *(m for m in explain.METHODS if m not in gradients.METHODS))
_FRESH = 0.1  # Share of COAR's budget that it is judged by, ...
_LEAST = 20  # ... but no fewer masks than these.


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  show: Callable[..., None] | None = None,
) -> Explanation | attribution.Attribution:
  """Answers, and writes into `workdir`, as `explain.run`.

  With `config.method` "coar": `attribution.json` and `figure.png`.

  Args:
    config: `components_digits`, `components_image` or `components_lm` of
      `spex_jax/configs`.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.

  Raises:
    ValueError: a bad setting, a network that has no such parts, or values that
      are NaN.
    OSError: the disk is full.
  """
  hint = ": is it one of `spex attribute components`?"
  asked = ("players", "pattern", "whole", "absent", "keep")
  settings.need(config, asked, hint)
  parts.check(config)
  if config.method == COAR:
    return _coar(config, workdir, show or report_tables.printer())
  return explain.run(config, workdir, show)


def _coar(config, workdir, show) -> attribution.Attribution:
  """One effect for each part, with few absent, judged on fresh ablations."""
  others = config.copy_and_resolve_references()
  others.method = "lasso"  # One that exists: all else is checked as ever.
  explain.check(others)
  fresh = max(_LEAST, int(_FRESH * config.budget))
  if config.budget < 2 * _LEAST:
    raise ValueError(
      f"budget={config.budget}: method=coar needs {2 * _LEAST} masks."
    )
  settings.writable(workdir)
  subject = explain.SUBJECTS[config.subject](config, workdir)
  evaluator, n = subject.evaluator, subject.evaluator.n
  show(report_tables.fact("asked", subject.question))
  for name, fact in subject.facts.items():
    show(report_tables.fact(name, fact))
  fitted = config.budget - fresh
  show(
    report_tables.fact(
      "budget",
      f"{fitted:,} masks to fit and {fresh:,} to judge, each of {n} parts kept "
      f"with probability {config.keep:g}; method coar",
    )
  )
  draws, judge = jax.random.split(subjects.key_of(config, "coar"))
  with progress.evaluations(config.budget) as monitor:
    watched = monitor.watch(evaluator)
    found = coar.attribute(
      watched, n, key=draws, budget=fitted, keep=config.keep
    )
    report = judging.compare(
      {"COAR": found},
      watched,
      n,
      key=judge,
      keep=[config.keep],
      num_masks=fresh,
      fitted=config.keep,
    )
  body = {
    "method": found.method,
    "keep": config.keep,
    "names": list(subject.names),
    "units": subject.units,
    "scores": found.scores[0].tolist(),
    "std": None if found.std is None else found.std[0].tolist(),
    "baseline": float(found.baseline[0]),
    "correlation": report.found[config.keep]["COAR"].mean,
    "notes": list(found.notes),
  }
  base.write_json(workdir / "attribution.json", body)
  show(report_tables.fact("cost", report_tables.cost(evaluator.stats, 0.0)))
  show(
    report_tables.fact(
      "correlation",
      f"{report.found[config.keep]['COAR'].mean:.3f} between predicted and "
      f"measured values of {fresh:,} fresh masks",
    )
  )
  for note in found.notes:
    show(report_tables.fact("note", note))
  effects = interactions_lib.Interactions(
    n=n,
    players=np.arange(n)[:, None],
    values=found.scores[0],
    index="COAR",
    order=1,
    baseline=float(found.baseline[0]),
    names=subject.names,
    units=subject.units,
    std=None if found.std is None else found.std[0],
  )
  show(report_tables.interactions(effects, config.top))
  subject.draw(effects, workdir / "figure.png")
  files = ", ".join(
    str(workdir / name) for name in ("attribution.json", "figure.png")
  )
  show(report_tables.fact("wrote", files))
  return found
