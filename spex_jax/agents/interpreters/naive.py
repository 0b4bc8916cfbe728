"""Interpreters that understand nothing: what a score must tell them from.

Interpolation is the loophole of the paper's score for numbers: it passes most
of it. For texts and words the answer to anything is that to the closest query.
"""

from typing import Any

import numpy as np

from spex_jax.agents.find import functions, interpretations, knowledge, strings

_WORDS = 60
_DEGREE = 5
_CLOSEST = """\
import difflib

def f(x):
  near = difflib.get_close_matches(x, [*KNOWN], 1, 0)
  return KNOWN[near[0]] if near else DEFAULT
"""


def constant(query: functions.Query, budget: int) -> interpretations.Answer:
  """The mean of numbers, or the most common text, of a quarter of queries."""
  xs, ys = _asked(query, max(min(budget, query.left) // 4, 1))
  del xs
  value: Any
  if isinstance(ys, np.ndarray):
    finite = ys[np.isfinite(ys)]
    value = float(finite.mean()) if len(finite) else 0.0
  else:
    value = max(set(ys), key=lambda y: (list(ys).count(y), y))
  code = f"def f(x):\n  return {value!r}"
  return interpretations.Answer(f"always {value!r}", code, family="constant")


def interpolation(
  query: functions.Query, budget: int, family: str = ""
) -> interpretations.Answer:
  """Lines between points of a grid; for texts what is closest by spelling."""
  if query.about["category"] == "numeric":
    # A half of the paper's grid, or numbers in it would be known by heart.
    count = min(budget, query.left, 190)
    xs = np.concatenate([
      np.linspace(-128, 128, max(count * 2 // 3, 1)),
      np.linspace(-8.1, 8.1, max(count // 3, 1)),
    ])[:count]  # fmt: skip
    order = np.argsort(xs, kind="stable")
    xs, ys = xs[order], np.asarray(query(xs), float)[order]
    keep = np.isfinite(ys)
    if not keep.any():
      return interpretations.Answer(
        "no value anywhere", "def f(x):\n  return 0.0"
      )
    xs, ys = _listed(xs[keep]), _listed(ys[keep])
    code = (
      f"import numpy as np\n\nX = {xs}\nY = {ys}\n\n"
      "def f(x):\n  return np.interp(x, X, Y)"
    )
    return interpretations.Answer("lines between points", code, family=family)
  if "n" in query.about:
    return constant(query, budget)
  xs, ys = _asked(query, min(budget, query.left, _WORDS))
  known = dict(zip(xs, (y.item() if hasattr(y, "item") else y for y in ys)))
  code = f"KNOWN = {known!r}\nDEFAULT = ''\n{_CLOSEST}"
  return interpretations.Answer("as the closest word that was asked", code)


def polynomial(query: functions.Query, budget: int) -> interpretations.Answer:
  """A polynomial of degree 5 by least squares."""
  xs = np.linspace(-128, 128, max(min(budget, query.left, 190), 1))
  ys = np.asarray(query(xs), float)
  keep = np.isfinite(ys)
  degree = min(_DEGREE, max(int(keep.sum()) - 1, 0))
  coefs = np.zeros(1)
  if keep.any():
    coefs = np.polyfit(xs[keep] / 128, ys[keep], degree)
  code = (
    "import numpy as np\n\n"
    f"def f(x):\n  return np.polyval({_listed(coefs)}, x / 128)"
  )
  said = f"a polynomial of degree {degree}"
  return interpretations.Answer(said, code, family="polynomial")


def _listed(values: np.ndarray) -> list[float]:
  return [float(f"{v:.9g}") for v in values]


def inputs(query: functions.Query, count: int, cause: str) -> list[Any]:
  """Inputs of a function's category, at most `count`, drawn for a cause."""
  category, rng = query.about["category"], functions.rng(0, cause)
  if category == "numeric":
    return np.round(rng.uniform(-128, 128, count), 2).tolist()
  if "n" in query.about:
    return (rng.random((count, query.about["n"])) < 0.5).astype(int).tolist()
  if category == "strings":
    return strings.texts(rng, count)
  words = knowledge.words()
  count = min(count, len(words))
  return [str(word) for word in rng.choice(words, count, replace=False)]


def _asked(query: functions.Query, count: int) -> tuple[list, Any]:
  """Inputs of a category, and their values."""
  xs = inputs(query, count, "baselines")
  ys = query(xs)
  return xs, np.asarray(ys, float) if isinstance(ys, np.ndarray) else list(ys)
