"""`generate(seed, category, count)`: the functions of a benchmark."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from spex_jax.agents.find import (
  functions,
  knowledge,
  numeric,
  planted_sets,
  strings,
)

if TYPE_CHECKING:
  from spex_jax.models import sites

CATEGORIES: dict[str, Callable[[int, int], functions.Function]] = {
  "numeric": numeric.make,
  "strings": strings.make,
  "entities": knowledge.entities,
  "relations": knowledge.relations,
  "setfn": planted_sets.make,
}
UNIT = "unit"  # Of a network, which is slow to import.


def generate(
  seed: int,
  category: str,
  count: int,
  first: int = 0,
  net: "sites.Network | None" = None,
) -> list[functions.Function]:
  """Functions of a seed; the first ones are the same whatever the count.

  Args:
    seed: an integer of 0 or more, the seed of the benchmark.
    category: the kind of functions, of `CATEGORIES`, or `UNIT`.
    count: how many functions are made.
    first: the number of the first of them, 0 or more.
    net: whose units they are; of `UNIT` alone.

  Raises:
    ValueError: an unknown category, or a seed, count or number below 0.
  """
  if category not in (*CATEGORIES, UNIT):
    raise ValueError(
      f"category={category!r}: choose from {', '.join([*CATEGORIES, UNIT])}."
    )
  if seed < 0 or count < 0 or first < 0:
    raise ValueError(
      f"seed={seed}, count={count}, first={first}: none may be negative."
    )
  numbers = range(first, first + count)
  if category == UNIT:
    if net is None:
      raise ValueError(
        "category='unit' needs the network whose units they are."
      )
    from spex_jax.agents.find import network_functions

    make = network_functions.maker(net)
    return [make(seed, index) for index in numbers]
  return [CATEGORIES[category](seed, index) for index in numbers]
