"""`generate(seed, category, count)`: the functions of a benchmark."""

from collections.abc import Callable

from spex_jax.agents.find import (
  functions,
  knowledge,
  numeric,
  sets,
  strings,
)

CATEGORIES: dict[str, Callable[[int, int], functions.Function]] = {
  "numeric": numeric.make,
  "strings": strings.make,
  "entities": knowledge.entities,
  "relations": knowledge.relations,
  "setfn": sets.make,
}


def generate(
  seed: int, category: str, count: int, first: int = 0
) -> list[functions.Function]:
  """Functions of a seed; the first ones are the same whatever the count.

  Args:
    seed: 0 or more.
    category: of `CATEGORIES`.
    count: how many.
    first: the number of the first.

  Raises:
    ValueError: an unknown category, or a seed, count or number below 0.
  """
  if category not in CATEGORIES:
    raise ValueError(
      f"category={category!r}: choose from {', '.join(CATEGORIES)}."
    )
  if seed < 0 or count < 0 or first < 0:
    raise ValueError(
      f"seed={seed}, count={count}, first={first}: none may be negative."
    )
  make = CATEGORIES[category]
  return [make(seed, index) for index in range(first, first + count)]
