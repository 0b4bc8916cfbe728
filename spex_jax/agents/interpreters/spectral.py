"""SPEX as an interpreter: of functions of bits, and of a number's bits.

The expansion is read in the basis that needs fewer sets for it: Fourier for
parities, Moebius for conjunctions; what it names is fitted anew to all values
that were asked, by least squares in that basis.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import api
from spex_jax.agents.find import answers, functions, sets
from spex_jax.indices import mobius

_SHARE = 0.2  # Of the largest, beneath which a coefficient is no set's.
_MOST = 200  # Sets that are fitted anew.
_BITS = 8
_SMALL = 16  # Bits up to which all sets of few bits are scanned.

Set = tuple[int, ...]


def planted(query: functions.Query, budget: int) -> answers.Answer:
  """A function of n bits: its sets."""
  n = query.about["n"]
  asked = _Asked(lambda masks: query(masks), n)
  fourier = _decoded(asked, n, min(budget, query.left))
  masks, values = asked.all()
  by_kind = {
    "parity": _terms(fourier.players, fourier.coefs, n, fourier.n),
    "all": _terms(*mobius.mobius_from_fourier(fourier)[1:], n, fourier.n),
  }
  fitted = {
    kind: _fitted(kind, _largest(terms), masks, values)
    for kind, terms in by_kind.items()
  }
  kind = min(fitted, key=lambda kind: (_spread(fitted[kind]), kind))
  found = _strong(fitted[kind])
  players = sorted(found, key=lambda s: -abs(found[s]))
  found = _fitted(kind, players, masks, values)
  code = sets.code(kind, players, [found[s] for s in players])
  code += f" + {found[()]:.6g}"
  word = "parities" if kind == "parity" else "conjunctions"
  return answers.Answer(
    f"a sum of {len(players)} {word} of {n} inputs", code, family=kind,
    sets=tuple(players),
  )  # fmt: skip


def bits(query: functions.Query, budget: int) -> answers.Answer:
  """A function of one number, as one of the 8 bits of its place on the grid."""
  weights = 1 << np.arange(_BITS)
  del budget
  asked = _Asked(
    lambda masks: np.nan_to_num(
      np.asarray(query(masks @ weights - 127.5), float), posinf=0.0, neginf=0.0
    ),
    _BITS,
  )
  fourier = _decoded(asked, _BITS, min(query.left, 200))
  terms = _terms(fourier.players, fourier.coefs, _BITS, _BITS)
  code = (
    f"import math\n\nTERMS = {terms!r}\n\ndef f(x):\n"
    "  k = min(max(math.floor(x) + 128, 0), 255)\n"
    "  return sum(c * (-1) ** sum(k >> i & 1 for i in s) "
    "for s, c in TERMS.items())"
  )
  said = f"{len(terms)} parities of the bits of a number"
  return answers.Answer(said, code, family="bits")


class _Asked:
  """A value function of n bits, and of more that do not matter.

  Values are asked once: a few masks are asked again, to see whether values
  repeat, and these do.
  """

  def __init__(self, values: Callable[[np.ndarray], Any], n: int):
    self._values, self._n = values, n
    self._known: dict[bytes, float] = {}

  def __call__(self, masks: Any) -> np.ndarray:
    masks = np.asarray(masks, bool)[:, : self._n]
    keys = [row.tobytes() for row in masks]
    new = {k: i for i, k in enumerate(keys) if k not in self._known}
    if new:
      values = self._values(masks[[*new.values()]])
      self._known.update(zip(new, map(float, values)))
    return np.array([self._known[k] for k in keys])

  def all(self) -> tuple[np.ndarray, np.ndarray]:
    """What was asked: bool `[B, n]`, `[B]`."""
    rows = [np.frombuffer(key, bool) for key in self._known]
    return np.array(rows), np.array([*self._known.values()])


def _decoded(asked: _Asked, n: int, budget: int) -> Any:
  """The expansion, of n players or of more that do not matter."""
  key = jax.random.key(0)
  if n > _SMALL:
    # Of a power of two, so that few programs are compiled; where the budget is
    # too small for a plan, all sets of few players are scanned.
    padded = 1 << (n - 1).bit_length()
    try:
      return api.explain(
        asked, padded, budget=budget, key=key, method="spex"
      ).fourier
    except ValueError:
      pass
  return api.explain(asked, n, budget=budget, key=key, method="gram").fourier


def _terms(players: Any, values: Any, n: int, padded: int) -> dict[Set, float]:
  """Values by sets, from rows of players padded with `padded`.

  Sets with a player from n on, which does not matter, are left out.
  """
  found: dict[Set, float] = {}
  for row, value in zip(np.asarray(players), np.asarray(values)):
    own = tuple(int(i) for i in row if i < padded)
    if value and all(i < n for i in own):
      found[own] = float(value)
  return found


def _largest(terms: Mapping[Set, float]) -> list[Set]:
  ordered = sorted(terms, key=lambda s: (-abs(terms[s]), s))
  return [s for s in ordered if s][:_MOST]


def _fitted(
  kind: str, found: Sequence[Set], masks: np.ndarray, values: np.ndarray
) -> dict[Set, float]:
  """Coefficients of sets, and of the empty one, by least squares."""
  columns = [sets.evaluate(kind, [s], [1.0], masks) for s in found]
  basis = np.stack([*columns, np.ones(len(values))], axis=1)
  coefs = np.linalg.lstsq(basis, values, rcond=None)[0]
  return dict(zip([*found, ()], map(float, coefs)))


def _strong(terms: Mapping[Set, float]) -> dict[Set, float]:
  sizes = {s: abs(c) for s, c in terms.items() if s}
  most = max(sizes.values(), default=0.0)
  return {s: terms[s] for s, size in sizes.items() if size > _SHARE * most}


def _spread(terms: Mapping[Set, float]) -> float:
  """How many sets share what there is: (sum |c|)^2 / sum c^2."""
  sizes = np.array([abs(c) for s, c in terms.items() if s])
  if not sizes.any():
    return 0.0
  return float(sizes.sum() ** 2 / (sizes**2).sum())
