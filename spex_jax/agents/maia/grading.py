"""How good a label is: against the truth, and by what it predicts.

Truth is a table here: whether label and truth agree on all subsets of the
concepts of both. Predictive score: the unit's activations on pictures that the
label says it fires for, against others; the area under the ROC curve (a human
judge, or a language model, in the paper; and its two means come along).
"""

import dataclasses
from typing import Any

import numpy as np

from spex_jax.agents.find import functions
from spex_jax.agents.maia import unit_labels, units
from spex_jax.agents.world import concepts, rendering, scenes

_TRIES = 4000
_EACH = 4  # Scenes of a subset.


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a unit does on pictures that a label chose.

  Attributes:
    score: the area under the ROC curve; .5 is chance.
    positive: the mean activation where it should fire.
    negative: the mean where it should not.
  """

  score: float
  positive: float
  negative: float


def table(
  truth: unit_labels.Label, label: unit_labels.Label, seed: int
) -> float:
  """The share of subsets, of the concepts of both, on which both agree.

  A subset that no scene can have (a red circle, but nothing red) is left out;
  of one that several have, four scenes are drawn.
  """
  every = [*dict.fromkeys([*truth.concepts, *label.concepts])]
  rng, agreed = functions.rng(seed, "table", truth, label), []
  for chosen in unit_labels.subsets(len(every)):
    there = [c for c, own in zip(every, chosen) if own]
    away = [c for c, own in zip(every, chosen) if not own]
    try:
      own = [unit_labels.scene_of(there, away, rng) for _ in range(_EACH)]
    except ValueError:
      continue
    agreed.append(np.mean([truth.holds(s) == label.holds(s) for s in own]))
  return float(np.mean(agreed))


def predicted(
  system: units.System,
  label: unit_labels.Label,
  seed: int,
  count: int = 24,
  size: int = 64,
) -> Prediction:
  """What a label predicts.

  Args:
    system: the unit that the label is of.
    label: of it; one that never holds predicts nothing: .5.
    seed: an integer, the seed of the pictures.
    count: pictures of each sort; the paper takes 7.
    size: the side of a picture in pixels, from 32 to 1,024.
  """
  yes, no = _scenes(label, functions.rng(seed, "predicted", label), count)
  if not yes or not no:
    return Prediction(0.5, float("nan"), float("nan"))
  pictures = [rendering.render(scene, size) for scene in (*yes, *no)]
  levels = system.call(pictures).activations
  fired, silent = levels[: len(yes)], levels[len(yes) :]
  return Prediction(
    roc_area(fired, silent), float(fired.mean()), float(silent.mean())
  )


def roc_area(fired: np.ndarray, silent: np.ndarray) -> float:
  """The chance that one of `fired` is above one of `silent`; ties half."""
  more = (fired[:, None] > silent[None]).mean()
  return float(more + (fired[:, None] == silent[None]).mean() / 2)


def _scenes(
  label: unit_labels.Label, rng: np.random.Generator, count: int
) -> tuple[list[scenes.Scene], list[scenes.Scene]]:
  """So many that a label holds for, and so many others, equally alike."""
  yes: list[scenes.Scene] = []
  no: list[scenes.Scene] = []
  for _ in range(_TRIES if label.concepts else 0):
    scene = scenes.draw(rng, 1, 4)
    for concept in label.concepts:
      # Half of the scenes have it.
      if rng.random() < 0.5:
        continue
      if concept.background is not None:
        scene = dataclasses.replace(scene, background=concept.background)
      else:
        own = [*scene.things, concepts.embody(concept, rng)]
        own = unit_labels.scattered(own, rng)
        scene = dataclasses.replace(scene, things=tuple(own))
    side = yes if label.holds(scene) else no
    if len(side) < count:
      side.append(scene)
    if len(yes) == len(no) == count:
      break
  return yes, no


def verdict(
  system: units.System,
  label: unit_labels.Label,
  truth: unit_labels.Label | None,
  seed: int,
) -> dict[str, Any]:
  """All scores of a label, as JSON; those of truth where it is known."""
  found = predicted(system, label, seed)
  own = {
    "predictive_score": found.score, "mean_positive": found.positive,
    "mean_negative": found.negative, "description_length": len(str(label)),
  }  # fmt: skip
  if truth is None:
    return own
  return own | {
    "truth_table_accuracy": table(truth, label, seed), "right": truth == label,
  }  # fmt: skip
