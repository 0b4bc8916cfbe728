"""A label from exemplars alone, after MILAN: one phrase for what regions show.

The concept that the exemplars' active regions have more often than scenes at
large (its share times the logarithm of how much more: their pointwise mutual
information), and a second one with "or", where the first is not on all. Like
captions, it cannot say that two things must come together, nor that one must be
away. Source: Hernandez et al., "Natural language descriptions of deep visual
features", ICLR 2022; their captioner is a trained one.
"""

import math
from collections.abc import Sequence

import numpy as np

from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.maia import unit_labels
from spex_jax.agents.world import concepts, prompts, scenes

_ALL = 0.9  # Of exemplars: then no second concept is named.


def run(tools: tools_lib.Tools) -> tools_lib.Finding:
  """The label of a unit; raises as the tools."""
  found = tools.exemplars()
  if not found.fired.any():
    return tools_lib.Finding(unit_labels.Label("none"), "It never fires.")
  tools.display(found.numbers)
  texts = tools.describe(found.numbers)
  seen = [
    _active(prompts.read(text), where)
    for text, where, own in zip(texts, found.maps, found.fired)
    if own
  ]
  known = concepts.of_words()
  rates = [_rate(concept) for concept in known]
  first = _likeliest(known, seen, rates)
  left = [own for own in seen if not _on(first, *own)]
  own = [first]
  if len(left) > (1 - _ALL) * len(seen):
    second = _likeliest(known, left, rates)
    if not (first.implies(second) or second.implies(first)):
      own.append(second)
  label = unit_labels.Label("or" if len(own) == 2 else "one", tuple(own))
  return tools_lib.Finding(label, f"Its regions show: {label}.")


def _active(
  scene: scenes.Scene, where: np.ndarray
) -> tuple[scenes.Scene, str | None]:
  """The things in active regions, and the background if it is one."""
  rows, columns = (
    np.arange(size) * scenes.GRID // size for size in where.shape
  )
  most = where.max()
  keep = []
  for thing in scene.things:
    cell = where[rows == thing.row][:, columns == thing.column]
    keep.append(cell.size > 0 and most > 0 and cell.max() > most / 2)
  is_ground = most > 0 and where[0, 0] > most / 2
  return scene.kept(keep), scene.background if is_ground else None


def _on(
  concept: concepts.Concept, scene: scenes.Scene, background: str | None
) -> bool:
  if concept.background is not None:
    return concept.background == background
  return concept.holds(scene)


def _rate(concept: concepts.Concept) -> float:
  """How often a concept is in scenes at large, of two to five things."""
  if concept.background is not None:
    return 1 / len(scenes.BACKGROUNDS)
  one = math.prod(
    1 / len(scenes.ATTRIBUTES[name]) for name in concept.attributes
  )
  return float(np.mean([1 - (1 - one) ** count for count in range(2, 6)]))


def _likeliest(
  known: Sequence[concepts.Concept],
  seen: Sequence[tuple[scenes.Scene, str | None]],
  rates: Sequence[float],
) -> concepts.Concept:
  shares = [np.mean([_on(each, *own) for own in seen]) for each in known]
  gains = [
    share * np.log((share + 1e-9) / rate) for share, rate in zip(shares, rates)
  ]
  return known[int(np.argmax(gains))]
