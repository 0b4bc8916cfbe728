"""How well component models predict fresh ablations, beside other scores.

  python -m experiments.bench_components --config=full --rows=correlation
  python -m experiments.bench_components --config=full --rows=language \
    --stories=DIR --workdir=KEPT

COAR's measure (arXiv 2404.11534, section 4), of filters of a CNN and of the
heads of a language model: mean correlation over examples of what is predicted
and what ablations give, by share of the components that is kept.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments import rows, tasks
from spex_jax.ablate import components
from spex_jax.circuits import tasks as circuits_tasks
from spex_jax.components import coar, comparing, component_pairs, other_scores
from spex_jax.models import hub


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    keep: share of components kept by the masks that are fitted to.
    shares: those that methods are judged at.
    budget: masks of COAR.
    fresh: masks to judge on, of each share.
    steps: of the gradients' integrals.
    far: whether COAR is fitted to masks of one half, too, and with pairs.
  """

  keep: float = 0.9
  shares: tuple[float, ...] = (0.85, 0.9, 0.95, 0.5)
  budget: int = 10_000
  fresh: int = 500
  steps: int = 32
  far: bool = True


@dataclasses.dataclass(frozen=True)
class Language:
  """Of a language model.

  Attributes:
    tasks: of `circuits.tasks`.
    prompts: of each.
    sizes: of the comparison.
  """

  tasks: tuple[str, ...] = ("gender", "capital")
  prompts: int = 8
  sizes: Config = Config(budget=1000, fresh=100, steps=8, far=False)


FULL, LANGUAGE = Config(), Language()
QUICK = Config(budget=200, fresh=30, steps=2)
QUICK_LANGUAGE = Language(
  ("gender",), 2, Config(budget=40, fresh=40, steps=2, far=False)
)


def language(
  config: Language, model: pathlib.Path, workdir: str | None = None
) -> Iterator[rows.Row]:
  """Yields the rows of a language model's heads.

  Args:
    config: sizes.
    model: its folder.
    workdir: where values are kept, so that a run that was stopped goes on.
  """
  net = hub.load(model)
  for task in config.tasks:
    pairs = circuits_tasks.make(
      task, net.tokenizer, config.prompts, jax.random.key(0),
      start="<|endoftext|>",
    ).pairs  # fmt: skip
    inputs, read = tasks.of_pairs(pairs)
    players = components.heads(components.shapes(net, net.params, **inputs))
    kept = rows.Kept(workdir, str(model), task, config.prompts)
    value_fn = kept.values(
      "values",
      components.evaluator(net, players, inputs, read, batch_size=rows.KEPT),
    )
    given = (net, players, inputs, read)
    for row in compared(config.sizes, given, value_fn):
      yield row | {"task": task, "prompts": len(pairs)}


def compared(config: Config, given, value_fn) -> Iterator[rows.Row]:
  """How well each method predicts fresh ablations, by share kept.

  Args:
    config: sizes.
    given: network, players, inputs and what is read.
    value_fn: of these.
  """
  n, inputs = given[1].n, given[2]
  key, begin = jax.random.key(0), time.process_time()

  def fitted(keep, cause):
    """COAR and pairs from ablations at one share."""
    batches = coar.ablations(
      value_fn,
      n,
      key=jax.random.fold_in(key, cause),
      budget=config.budget,
      keep=keep,
    )
    masks, values = (np.concatenate(part) for part in zip(*batches))
    yield coar.fit(masks, values)
    if config.far:
      yield component_pairs.fit(masks, values, keep=keep)

  methods: dict[str, Any] = dict(
    zip(("COAR", "COAR with pairs"), fitted(config.keep, 0))
  )
  if config.far:
    names = "COAR, fitted at .5", "with pairs, fitted at .5"
    methods |= dict(zip(names, fitted(0.5, 3)))
  count = len(next(iter(inputs.values())))
  methods |= {
    "leave-one-out": other_scores.leave_one_out(value_fn, n),
    "gradient x parameter": other_scores.gradient_x_parameter(*given),
    "neuron conductance": other_scores.neuron_conductance(
      *given, steps=config.steps
    ),
    "internal influence": other_scores.internal_influence(
      *given, steps=config.steps
    ),
    "random": other_scores.random(jax.random.fold_in(key, 1), n, count),
  }
  report = comparing.compare(
    methods,
    value_fn,
    n,
    key=jax.random.fold_in(key, 2),
    keep=config.shares,
    num_masks=config.fresh,
    fitted=config.keep,
  )
  print(report, flush=True)
  for keep, found in report.found.items():
    row = {
      "kept": keep,
      "fitted_at": config.keep,
      "players": n,
      "masks": config.budget,
      "fresh": config.fresh,
      "correlations": {
        name: [round(one.mean, 4), one.error and round(one.error, 4)]
        for name, one in found.items()
      },
      "left_over_leave_one_out": round(
        report.left("COAR", "leave-one-out", keep), 3
      ),
      "cpu_s": round(time.process_time() - begin, 1),
    }
    if config.far:
      gain, error = report.gap("COAR with pairs", "COAR", keep)
      row["pairs_gain"] = [round(gain, 4), error and round(error, 4)]
      notes = methods["COAR with pairs"].notes
      row["pairs"] = notes[0] if notes else ""
    yield row
