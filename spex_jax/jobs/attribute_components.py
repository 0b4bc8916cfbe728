"""`spex attribute components`: which parts of a network matter, and together.

Sets of them by the decoders of `spex explain`, or, by `method=coar`, one effect
for each while few are absent.

Shapes: n players.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from spex_jax import base
from spex_jax.ablate import choices
from spex_jax.components import coar, comparing
from spex_jax.explanation import Explanation
from spex_jax.indices import attribution
from spex_jax.indices import interactions as interactions_lib
from spex_jax.jobs import explain, network_parts, subjects
from spex_jax.report import clock as clock_lib
from spex_jax.report import progress
from spex_jax.report import tables as report_tables

# Share of COAR's budget that it is judged by, at least `network_parts.LEAST`.
_FRESH = 0.1


def run(
  config: network_parts.Parts,
  workdir: pathlib.Path,
  show: Callable[..., None] | None = None,
  before: float = 0.0,
) -> Explanation | attribution.Attribution:
  """Answers, and writes into `workdir`, as `explain.run`.

  With `config.method` "coar": `attribution.json` and `figure.png`.

  Args:
    config: the settings of the command, of a class in `parts`.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: settings of another command, a network that has no such parts,
      or values that are NaN.
    OSError: the disk is full.
  """
  if not isinstance(config, network_parts.Parts):
    raise ValueError(
      f"subject={config.subject!r} has no parts: is it one of `spex attribute "
      "components`?"
    )
  if config.method == network_parts.COAR:
    return _coar(config, workdir, clock_lib.Session(show, before))
  return explain.run(config, workdir, show, before)


def _coar(
  config: network_parts.Parts, workdir, said
) -> attribution.Attribution:
  """One effect for each part, with few absent, judged on fresh ablations."""
  fresh = max(network_parts.LEAST, int(_FRESH * config.budget))
  explain.writable(workdir)
  with said.of("load"):
    subject = explain.subject_of(config, workdir)
  evaluator, n = subject.evaluator, subject.evaluator.n
  said.tell("asked", subject.question)
  said.facts(subject.facts)
  # Effects, and their judgement by fresh masks.
  fitted = config.budget - fresh
  said.tell(
    "budget",
    f"{fitted:,} masks to fit and {fresh:,} to judge, each of {n} parts kept "
    f"with probability {config.keep:g}; method coar",
  )
  draws, judge = jax.random.split(subjects.key_of(config.seed, "coar"))
  evaluator.expect(config.budget, choices.default())
  with progress.evaluations(config.budget, evaluator.compiled) as monitor:
    evaluator.progress = monitor.within
    watched = monitor.watch(evaluator)
    found = coar.attribute(
      watched, n, key=draws, budget=fitted, keep=config.keep
    )
    report = comparing.compare(
      {"COAR": found},
      watched,
      n,
      key=judge,
      keep=[config.keep],
      num_masks=fresh,
      fitted=config.keep,
    )
  # First of all: what comes below may fail, and the masks were dear.
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
  said.tell("cost", report_tables.cost(evaluator.stats, 0.0))
  said.facts(dict(explain.waited(evaluator.stats)))
  said.tell(
    "correlation",
    f"{report.found[config.keep]['COAR'].mean:.3f} between predicted and "
    f"measured values of {fresh:,} fresh masks",
  )
  for note in found.notes:
    said.tell("note", note)
  # The figure.
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
  said.add(clock_lib.evaluation(evaluator.stats))
  with said.of("draw"):
    said.show(report_tables.interactions(effects, config.top))
    subject.draw(effects, workdir / "figure.png")
  said.end(workdir / "attribution.json", workdir / "figure.png")
  return found
