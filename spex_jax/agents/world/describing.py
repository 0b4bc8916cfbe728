"""Pictures in words, and what several have in common.

A describer that sees what is there, and nothing of what anybody expects.
"""

import fractions
from collections.abc import Sequence

import numpy as np

from spex_jax.agents.world import concepts, prompts, scenes, seeing


def describe(pictures: Sequence[np.ndarray]) -> list[str]:
  """Each in words that `prompts.read` reads again.

  Raises:
    ValueError: one that the world did not draw, by its number.
  """
  return [prompts.write(scene) for scene in seen(pictures)]


def seen(pictures: Sequence[np.ndarray]) -> list[scenes.Scene]:
  """What is on each; raises as `describe`."""
  found = []
  for number, picture in enumerate(pictures):
    try:
      found.append(seeing.see(picture))
    except ValueError as error:
      raise ValueError(f"Picture {number}: {error}") from error
  return found


def common(
  given: Sequence[scenes.Scene], share: float = 0.8
) -> list[tuple[concepts.Concept, float]]:
  """Concepts of up to three words that are in most scenes, the commonest first.

  Of two that are in the same scenes, the one that says more stands alone.

  Args:
    given: the scenes that are compared.
    share: of them that must have it.

  Returns:
    each concept with the share of scenes that have it.
  """
  every = concepts.of_words(3)
  if not given:
    return []
  there = np.array([[each.holds(scene) for scene in given] for each in every])
  often = [
    n for n in range(len(every)) if there[n].sum() >= share * len(given) > 0
  ]
  kept = [
    n
    for n in often
    if not any(
      m != n and every[m].implies(every[n]) and (there[m] == there[n]).all()
      for m in often
    )
  ]
  kept.sort(key=lambda n: (-there[n].sum(), str(every[n])))
  return [(every[n], float(there[n].mean())) for n in kept]


def summarise(pictures: Sequence[np.ndarray], share: float = 0.8) -> str:
  """What pictures have in common, in words; raises as `describe`."""
  found = common(seen(pictures), share)
  said = ", ".join(
    f"{concept} ({fractions.Fraction(part).limit_denominator(99)})"
    for concept, part in found
  )
  return said or "nothing in common"
