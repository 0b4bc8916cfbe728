"""SPEX as an interpreter: of functions of bits, and of a number's bits.

The expansion is read in the basis that needs fewer sets for it: Fourier for
parities, Moebius for conjunctions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spex_jax import api
from spex_jax.agents.find import answers, functions, sets
from spex_jax.fourier import sparse
from spex_jax.indices import mobius

_SHARE = 0.2  # Of the largest, beneath which a coefficient is no set's.
_BITS = 8

Set = tuple[int, ...]


def planted(query: functions.Query, budget: int) -> answers.Answer:
  """A function of n bits: its sets."""
  n = query.about["n"]
  fourier = _decoded(
    lambda masks: query(np.asarray(masks, bool)), n, min(budget, query.left)
  )
  by_kind = {
    "parity": _terms(fourier.players, fourier.coefs, n),
    "all": _terms(*mobius.mobius_from_fourier(fourier)[1:], n),
  }
  kind = min(by_kind, key=lambda kind: (_spread(by_kind[kind]), kind))
  found = _strong(by_kind[kind])
  players = sorted(found, key=lambda s: -abs(found[s]))
  code = sets.code(kind, players, [found[s] for s in players])
  rest = by_kind[kind].get((), 0.0)
  if abs(rest) > 0 and () not in found:
    code += f" + {float(rest):.6g}"
  word = "parities" if kind == "parity" else "conjunctions"
  return answers.Answer(
    f"a sum of {len(players)} {word} of {n} inputs", code, family=kind,
    sets=tuple(s for s in players if s),
  )  # fmt: skip


def bits(query: functions.Query, budget: int) -> answers.Answer:
  """A function of one number, as one of the 8 bits of its place on the grid."""
  weights = 1 << np.arange(_BITS)
  del budget
  at = lambda masks: np.asarray(masks, bool) @ weights - 127.5
  values = lambda masks: np.nan_to_num(
    np.asarray(query(at(masks)), float), posinf=0.0, neginf=0.0
  )
  fourier = _decoded(values, _BITS, min(query.left, 200))
  terms = _terms(fourier.players, fourier.coefs, _BITS)
  code = (
    f"import math\n\nTERMS = {terms!r}\n\ndef f(x):\n"
    "  k = min(max(math.floor(x) + 128, 0), 255)\n"
    "  return sum(c * (-1) ** sum(k >> i & 1 for i in s) "
    "for s, c in TERMS.items())"
  )
  said = f"{len(terms)} parities of the bits of a number"
  return answers.Answer(said, code, family="bits")


def _decoded(
  values: Callable[[np.ndarray], Any], n: int, budget: int
) -> sparse.SparseFourier:
  # A few masks are asked again, to see whether values repeat; theirs do.
  known: dict[bytes, float] = {}

  def ask(masks: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks, bool)
    keys = [row.tobytes() for row in masks]
    new = {k: i for i, k in enumerate(keys) if k not in known}
    if new:
      rows = [*new.values()]
      known.update(zip(new, map(float, values(masks[rows]))))
    return np.array([known[k] for k in keys])

  return api.explain(ask, n, budget=budget, key=jax.random.key(0)).fourier


def _terms(players: Any, values: Any, n: int) -> dict[Set, float]:
  """Values by sets, from rows of players padded with n."""
  return {
    tuple(int(i) for i in row if i < n): float(value)
    for row, value in zip(np.asarray(players), np.asarray(values))
    if value
  }


def _strong(terms: Mapping) -> dict[Set, float]:
  sizes = {s: abs(c) for s, c in terms.items() if s}
  most = max(sizes.values(), default=0.0)
  return {s: terms[s] for s, size in sizes.items() if size > _SHARE * most}


def _spread(terms: Mapping) -> float:
  """How many sets share what there is: (sum |c|)^2 / sum c^2."""
  sizes = np.array([abs(c) for s, c in terms.items() if s])
  return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0
