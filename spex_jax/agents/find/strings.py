"""Functions of texts: a primitive, or one of another; and texts to ask them."""

from collections.abc import Sequence

import numpy as np

from spex_jax.agents.find import functions, primitives

TWO = 0.7  # The paper's share of compositions.
NUM_TESTS = 10
_SOFT, _HARD = "aeiou", "bcdfghjklmnpqrstvwxyz"


def make(seed: int, index: int) -> functions.Function:
  """The function of a number."""
  name = f"strings-{index:05d}"
  rng = functions.rng(seed, name)
  depth = 2 if rng.random() < TWO else 1
  names = tuple(str(one) for one in rng.choice([*primitives.PRIMITIVES], depth))

  def values(xs: Sequence[str]) -> list[str]:
    if not all(isinstance(x, str) and len(x) <= 1000 for x in xs):
      raise ValueError("Inputs are texts of at most 1,000 letters.")
    return [primitives.apply(names, x) for x in xs]

  about = {
    "category": "strings",
    "inputs": "texts: words, with capitals, digits or signs in some",
    "outputs": "texts",
  }
  truth = {
    "names": list(names), "depth": depth, "said": primitives.said(names),
    "code": primitives.code(names),
  }  # fmt: skip
  tests = texts(functions.rng(seed, name, "tests"), NUM_TESTS)
  return functions.Function(
    name, "strings", about, truth, values, values, tests
  )


def texts(rng: np.random.Generator, count: int) -> list[str]:
  """Words that nobody knows: 3 to 10 letters, some with more in them."""
  found: list[str] = []
  while len(found) < count:
    letters = [
      str(rng.choice([*(_SOFT if rng.random() < 0.4 else _HARD)]))
      for _ in range(rng.integers(3, 11))
    ]
    if rng.random() < 0.3:
      at = rng.integers(0, len(letters))
      letters[at] = letters[at].upper()
    if rng.random() < 0.2:
      letters[rng.integers(0, len(letters))] = str(rng.integers(0, 10))
    if rng.random() < 0.2:
      at = rng.integers(0, len(letters))
      letters[at] = letters[0]
    text = "".join(letters)
    if text not in found:
      found.append(text)
  return found
