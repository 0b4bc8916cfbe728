"""`spex explain`: asks a subject's value function, and reports the answer."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import choices, evaluate, gradients
from spex_jax.api import Explanation, explain
from spex_jax.fourier import score as score_lib
from spex_jax.jobs import (
  by_gradient,
  callables,
  digits,
  language,
  network_parts,
  pictures,
  sentiment,
  shares,
  subjects,
  table_rows,
)
from spex_jax.report import clock as clock_lib
from spex_jax.report import progress
from spex_jax.report import tables as report_tables


class Kind(NamedTuple):
  """A kind of subject.

  Attributes:
    settings: the class of its settings.
    make: settings and a workdir to the subject.
  """

  settings: type[subjects.Ask]
  make: Callable[[Any, pathlib.Path], subjects.Subject]


SUBJECTS: Mapping[str, Kind] = {
  "callable": Kind(callables.Function, callables.subject),
  "digits": Kind(digits.Digits, digits.subject),
  "digits_components": Kind(network_parts.OfDigits, network_parts.of_digits),
  "image": Kind(pictures.Picture, pictures.subject),
  "image_components": Kind(network_parts.OfPicture, network_parts.of_picture),
  "lm": Kind(language.Language, language.subject),
  "lm_components": Kind(
    network_parts.OfLanguageModel, network_parts.of_language_model
  ),
  "sentiment": Kind(sentiment.Sentiment, sentiment.subject),
  "table": Kind(table_rows.Table, table_rows.subject),
}

SCENE = "scene.json"  # Where players stand, for a page.
_BATCH = 256  # Masks at a time where the evaluator measures its batches.
_LONG = 10  # Seconds of compilation that are worth a word.
_WHOLE = 0.999  # Least R^2 of an empty answer that says all.
_TRUSTED = 0.5  # Least R^2 of an answer that is shown without a warning.


def kind_of(given: Mapping[str, Any], where: str) -> type[subjects.Ask]:
  """The class of settings that a configuration's `subject` names.

  Raises:
    ValueError: it names none.
  """
  if "subject" not in given:
    raise ValueError(f"{where} lacks subject.")
  known = settings.Kind(str, choices=tuple(SUBJECTS))
  return SUBJECTS[settings.checked("subject", known, given["subject"])].settings


def subject_of(config: subjects.Ask, workdir: pathlib.Path) -> subjects.Subject:
  """The subject of settings.

  Raises:
    ValueError: what it refuses.
  """
  return SUBJECTS[config.subject].make(config, workdir)


def run(
  config: subjects.Ask,
  workdir: pathlib.Path,
  show: Callable[..., None] | None = None,
  before: float = 0.0,
) -> Explanation:
  """Explains what `config` asks about; writes its answer into `workdir`.

  `explanation.json`, `fourier.json`, `figure.png`, and `scene.json` for pages
  are replaced; a trained network is kept in `model/` and used again.

  Args:
    config: the settings of the command, of a class in `SUBJECTS`.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: `workdir` cannot be written, or a value function that
      misbehaves.
    OSError: the disk is full.
  """
  writable(workdir)
  said = clock_lib.Session(show, before)
  with said.of("load"):
    subject = subject_of(config, workdir)
  if config.method in gradients.METHODS:
    by_gradient.game(subject, config)  # Refused before any word.
  evaluator = subject.evaluator
  n = evaluator.n
  said.tell("asked", subject.question)
  said.facts(subject.facts)
  said.tell(
    "budget",
    f"{config.budget:,} distinct masks of 2^{n}, held-out ones included; "
    f"method {config.method}",
  )
  total = min(config.budget, 1 << n)  # No more than all masks are asked.
  # As many as it may ask twice are beyond the budget; measurements are kept.
  evaluator.expect(total, choices.default())
  with progress.evaluations(total, evaluator.compiled) as monitor:
    evaluator.progress = monitor.within
    explanation = answer(
      subject, monitor.watch(evaluator), config, monitor.report
    )
  explanation = dataclasses.replace(
    explanation, notes=(*subject.notes, *explanation.notes)
  )
  # First of all: what comes below may fail, and the masks were dear.
  explanation.save(workdir / "explanation.json")
  explanation.fourier.save(workdir / "fourier.json")
  base.write_json(workdir / SCENE, dict(subject.scene or {}))
  said.add(
    clock_lib.evaluation(evaluator.stats, explanation.seconds["decoding"])
  )
  for name, text in _outcome(explanation, evaluator.stats):
    said.tell(name, text)
  with said.of("draw"):
    if subject.findings is not None:
      said.facts(subject.findings(explanation))
    found = explanation.interactions(config.index, config.shown_order)
    if subject.picture is not None:
      said.show(subject.picture(found))
    if len(found):
      said.show(report_tables.interactions(found, config.top, subject.together))
    else:
      text = "No set was found that moves the value."
      if not np.any(np.asarray(explanation.faithfulness) < _WHOLE):
        text = "The value is constant: no set moves it."
      said.tell("note", text)
    subject.draw(found, workdir / "figure.png")
  files = ("explanation.json", "fourier.json", "figure.png")
  said.end(*(workdir / name for name in files))
  return explanation


def waited(stats: evaluate.Stats) -> list[tuple[str, str]]:
  """How a long compilation is spared another time, as a fact or none."""
  seconds = stats.compile_seconds
  if seconds < _LONG or jax.config.values.get("jax_compilation_cache_dir"):
    return []
  text = (
    f"{seconds:.0f} s went into compilation; with JAX_COMPILATION_CACHE_DIR="
    "FOLDER in the environment, a second run reads it from there"
  )
  return [("hint", text)]


def writable(workdir: pathlib.Path, what: str = "workdir") -> None:
  """Makes a folder, and sees that it can be written before any work.

  Args:
    workdir: the folder, which may not be there yet.
    what: what it is called, for the message.

  Raises:
    ValueError: it cannot.
  """
  probe = workdir / ".probe"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ValueError(
      f"{what} {workdir} cannot be written: {error.strerror}."
    ) from error


def answer(
  subject: subjects.Subject,
  value_fn: base.ValueFn,
  config: subjects.Ask,
  report: Callable[[int], None] = lambda asked: None,
) -> Explanation:
  """Explains a subject by the method that its configuration names.

  Args:
    subject: what is asked about, with its evaluator and names.
    value_fn: bool masks `[B, n]` to values: its evaluator, perhaps watched.
    config: the settings of the subject, and `method`.
    report: takes the number of masks asked so far.

  Raises:
    ValueError: a method that has no gradient to go by, or as `explain`.
  """
  # A few of the evaluator's batches; a host function has small ones at first.
  batch_size = subject.evaluator.batch_size
  if subject.evaluator.compiled:
    batch_size = 4 * (config.batch_size or _BATCH)
  common = {
    "key": subjects.key_of(config.seed, "explain"),
    "batch_size": batch_size,
    "names": subject.names,
    "units": subject.units,
    "progress": lambda asked, budget: report(asked),
  }
  if config.cache:
    common["cache"] = config.cache
  # Gradients ask no masks; of parts, a pilot may choose how many are kept.
  if config.method in gradients.METHODS:
    return by_gradient.explain(subject, value_fn, config, **common)
  pilot = None
  if (
    isinstance(config, network_parts.Parts)
    and config.method in network_parts.SHARED
  ):
    pilot = _pilot(subject, value_fn, config)
    report(pilot.asked)
  if pilot is not None and pilot.share != shares.HALF:
    return shares.explain(
      value_fn,
      subject.evaluator.n,
      pilot,
      budget=config.budget - pilot.asked,
      method=config.method,
      **common,
    )
  # All else: masks of half of the players, or those of a method's own.
  found = explain(
    value_fn,
    subject.evaluator.n,
    budget=config.budget - (pilot.asked if pilot else 0),
    method=config.method,
    index=None if pilot else config.aim(subject.evaluator.n),
    target_faithfulness=config.target_faithfulness,
    kernel_width=config.kernel_width,
    **common,
  )
  if pilot is not None and pilot.note:
    found = dataclasses.replace(
      found,
      notes=(pilot.note, *found.notes),
      num_evaluations=found.num_evaluations + pilot.asked,
    )
  return found


def _pilot(
  subject: subjects.Subject, value_fn: base.ValueFn, config: network_parts.Parts
) -> shares.Pilot:
  """The share of parts that masks keep: given, measured, or half."""
  n, share = subject.evaluator.n, config.share
  if share is not None:
    note = f"Each part is kept with probability {share:g}, as given."
    return shares.Pilot(share, note, 0)
  if config.target_faithfulness is not None:
    return shares.Pilot(shares.HALF, "", 0)
  if not shares.worth(n, config.budget):
    return shares.Pilot(shares.HALF, "", 0)
  return shares.pilot(value_fn, n, subjects.key_of(config.seed, "pilot"))


def _outcome(
  explanation: Explanation, stats: evaluate.Stats
) -> list[tuple[str, str]]:
  """What it cost, and how far the answer can be trusted."""
  units = explanation.units or "value"
  facts = [
    (
      "cost",
      report_tables.count(explanation.num_evaluations, "distinct mask")
      + ", "
      + f"{explanation.num_repeats} of them asked twice; "
      + report_tables.cost(stats, explanation.seconds["decoding"]),
    )
  ]
  facts += waited(stats)
  score = explanation.faithfulness
  if score is None:
    facts.append(("faithfulness", "not measured: no mask was left to test on"))
  elif explanation.held_out:
    facts.append(
      (
        "faithfulness",
        f"R2 {score_lib.shown(score, explanation.faithfulness_std)} on "
        + explanation.tested,
      )
    )
  else:
    facts.append(("faithfulness", f"R2 {score:.4f}: every mask was asked"))
  if score is not None and score < _TRUSTED:
    facts.append(
      (
        "warning",
        f"R2 is below {_TRUSTED}: the sets below do not account for the "
        "model's outputs; do not rely on them. "
        + (
          f"{explanation.method} has one value for each player: "
          "--config.method=auto finds sets."
          if explanation.method in subjects.ADDITIVE
          else "A larger budget may help."
        ),
      )
    )
  if explanation.noise_floor:
    facts.append(
      ("noise", f"{explanation.noise_floor:.3g} {units} between repeats")
    )
  terms = report_tables.count(int(explanation.fourier.count), "Fourier term")
  facts.append(("answer", f"{terms}, found by {explanation.method}"))
  return facts + [("note", note) for note in explanation.notes]
