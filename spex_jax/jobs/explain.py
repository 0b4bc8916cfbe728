"""`spex explain`: asks a subject's value function, and reports the answer."""

import pathlib
from collections.abc import Callable, Mapping

import ml_collections

from spex_jax import base
from spex_jax.ablate import evaluate, gradients
from spex_jax.api import METHODS as MASKED
from spex_jax.api import Explanation, explain
from spex_jax.fourier import sparse
from spex_jax.indices import table as index_table
from spex_jax.jobs import (
  by_gradient,
  callables,
  digits,
  language,
  parts,
  pictures,
  sentiment,
  settings,
  subjects,
  tables,
)
from spex_jax.masks import request
from spex_jax.proxies import additive, lime
from spex_jax.report import progress
from spex_jax.report import tables as report_tables

SUBJECTS: Mapping[
  str, Callable[[ml_collections.ConfigDict, pathlib.Path], subjects.Subject]
] = {
  "callable": callables.subject,
  "digits": digits.subject,
  "digits_components": parts.of_digits,
  "image": pictures.subject,
  "image_components": parts.of_picture,
  "lm": language.subject,
  "lm_components": parts.of_language_model,
  "sentiment": sentiment.subject,
  "table": tables.subject,
}


METHODS = (*MASKED, *gradients.METHODS)
# One value for each player, and no sets.
_ADDITIVE = (*additive.METHODS, *gradients.METHODS)

_SETTINGS = (
  "subject",
  "seed",
  "budget",
  "method",
  "batch_size",
  "index",
  "order",
  "top",
)
_BATCH = 256  # Masks at a time where the evaluator measures its batches.
_TRUSTED = 0.5  # Least R^2 of an answer that is shown without a warning.


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that no subject could use, before any work.

  Raises:
    ValueError: names the setting, what it is, and what it may be.
  """
  settings.need(config, _SETTINGS)
  settings.choice("subject", config.subject, sorted(SUBJECTS))
  settings.choice("method", config.method, sorted(METHODS))
  settings.integer("seed", config.seed)
  for name in ("budget", "top"):
    settings.integer(name, config[name], 1)
  for name in ("order", "batch_size"):
    if config[name] is not None:  # No limit; measured.
      settings.integer(name, config[name], 1)
  goal = request.goal(config.get("target_faithfulness"))
  if goal is not None and config.method in ("spex", *_ADDITIVE):
    who = f"{config.method} has masks"
    if config.method == "spex":
      who = "SPEX asks for a plan"
    raise ValueError(
      f"target_faithfulness={goal:g}: {who} of one size; choose "
      "--config.method=auto."
    )
  _kernel_width(config)
  by_gradient.steps_of(config)
  # Whether the index has this order, asked of a function that is constant.
  constant = sparse.SparseFourier.from_terms(config.order or 1, [((), 0.0)])
  index_table.interactions(constant, config.index, config.order)
  settings.finite(config)


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
    ValueError: a bad setting, `workdir` cannot be written, or a value
      function that misbehaves.
    OSError: the disk is full.
  """
  check(config)
  settings.writable(workdir)
  show = show or report_tables.printer()
  subject = SUBJECTS[config.subject](config, workdir)
  if config.method in gradients.METHODS:
    by_gradient.differentiable(subject, config)  # Refused before any word.
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
  total = min(config.budget, 1 << n)  # No more than all masks are asked.
  with progress.evaluations(total) as monitor:
    explanation = answer(
      subject, monitor.watch(evaluator), config, monitor.report
    )
  # First of all: what comes below may fail, and the masks were dear.
  explanation.save(workdir / "explanation.json")
  explanation.fourier.save(workdir / "fourier.json")
  for name, text in _outcome(explanation, evaluator.stats):
    show(report_tables.fact(name, text))
  if subject.findings is not None:
    for name, text in subject.findings(explanation).items():
      show(report_tables.fact(name, text))
  found = explanation.interactions(config.index, config.order)
  if subject.picture is not None:
    show(subject.picture(found))
  show(report_tables.interactions(found, config.top, subject.together))
  subject.draw(found, workdir / "figure.png")
  files = ("explanation.json", "fourier.json", "figure.png")
  show(report_tables.fact("wrote", ", ".join(str(workdir / f) for f in files)))
  return explanation


def answer(
  subject: subjects.Subject,
  value_fn: base.ValueFn,
  config: ml_collections.ConfigDict,
  report: Callable[[int], None] = lambda asked: None,
) -> Explanation:
  """Explains a subject by the method that its configuration names.

  Args:
    subject: what is asked about.
    value_fn: its evaluator, perhaps watched.
    config: of the subject.
    report: takes the number of masks asked so far.

  Raises:
    ValueError: a method that has no gradient to go by, or as `explain`.
  """
  common = {
    "key": subjects.key_of(config, "explain"),
    # A few of the evaluator's batches.
    "batch_size": 4 * (config.batch_size or _BATCH),
    "names": subject.names,
    "units": subject.units,
    "progress": lambda asked, budget: report(asked),
  }
  if config.method in gradients.METHODS:
    return by_gradient.explain(subject, value_fn, config, **common)
  return explain(
    value_fn,
    subject.evaluator.n,
    budget=config.budget,
    method=config.method,
    target_faithfulness=config.get("target_faithfulness"),
    kernel_width=_kernel_width(config),
    **common,
  )


def _kernel_width(config: ml_collections.ConfigDict) -> float:
  return request.positive(
    "kernel_width", config.get("kernel_width", lime.WIDTH)
  )


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
  score = explanation.faithfulness
  if score is None:
    facts.append(("faithfulness", "not measured: no mask was left to test on"))
  elif explanation.held_out:
    facts.append(
      (
        "faithfulness",
        f"R2 {score:.4f} on "
        + report_tables.count(explanation.held_out, "held-out mask"),
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
          if explanation.method in _ADDITIVE
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
