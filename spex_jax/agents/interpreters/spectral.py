"""SPEX as an interpreter: of functions of bits, and of a number's bits.

Two bases are tried, parities (Fourier) and conjunctions (Moebius), and the one
that explains the values by fewer sets is the answer. Parities are those that
SPEX decodes from its plan's masks. A conjunction of k inputs is 2^k parities:
of the inputs that these name, and of those that what is left still depends on,
all small sets are tried. Either way matching pursuit chooses, on the values
that were asked, and least squares fits.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from spex_jax.agents.find import functions, interpretations, planted_sets
from spex_jax.fourier import spex

_BITS = 8
_SMALL = 16  # Bits up to which all sets of few bits are tried.
_PLAYERS = 30  # Of which all sets are tried: 4,525 of up to three.
_ROUNDS = 4
_LOUD = 5.0  # Standard errors beyond which an input matters.
_MOST = 80  # Sets of an answer.
_SURE = 1e4  # Answers, of which one may have a set that is not there.
_NOTHING = 1e-12  # A share of the variance that rounding may leave.

Set = tuple[int, ...]
Fit = tuple[dict[Set, float], np.ndarray]  # Coefficients, and what they leave.


def planted(query: functions.Query, budget: int) -> interpretations.Answer:
  """A function of n bits: its sets."""
  n = query.about["n"]
  masks, values, parities = _asked(query, n, min(budget, query.left))
  total = float(((values - values.mean()) ** 2).sum())
  found = {"parity": _pursued("parity", parities, masks, values)}
  named = itertools.chain.from_iterable(parities if n > _SMALL else ())
  players = [*dict.fromkeys([*named, *_loudest(masks, values, _PLAYERS)])]
  if not _is_parity(found["parity"], masks, players[:_PLAYERS]):
    found["all"] = _conjunctions(masks, values, players[:_PLAYERS])
  # Of BIC, up to what both bases share.
  count = len(values)
  kind = min(
    found,
    key=lambda kind: (
      count * np.log((found[kind][1] ** 2).sum() + _NOTHING * total + 1e-300)
      + len(found[kind][0]) * np.log(count)
    ),
  )
  terms, _ = found[kind]
  players = sorted((s for s in terms if s), key=lambda s: -abs(terms[s]))
  code = planted_sets.code(kind, players, [terms[s] for s in players])
  code += f" + {terms[()]:.6g}"
  word = "parities" if kind == "parity" else "conjunctions"
  return interpretations.Answer(
    f"a sum of {len(players)} {word} of {n} inputs", code, family=kind,
    sets=tuple(players),
  )  # fmt: skip


def bits(query: functions.Query, budget: int) -> interpretations.Answer:
  """A function of one number, as one of the 8 bits of its place on the grid."""
  count = min(budget, query.left, 200)
  places = functions.rng(0, "bits").permutation(1 << _BITS)[:count]
  masks = (places[:, None] >> np.arange(_BITS) & 1).astype(bool)
  values = np.nan_to_num(
    np.asarray(query(places - 127.5), float), posinf=0.0, neginf=0.0
  )
  terms, _ = _pursued("parity", _subsets(range(_BITS), _BITS), masks, values)
  short = {s: float(f"{c:.6g}") for s, c in terms.items()}
  code = (
    f"import math\n\nTERMS = {short!r}\n\ndef f(x):\n"
    "  k = min(max(math.floor(x) + 128, 0), 255)\n"
    "  return sum(c * (-1) ** sum(k >> i & 1 for i in s) "
    "for s, c in TERMS.items())"
  )
  said = f"{len(terms)} parities of the bits of a number"
  return interpretations.Answer(said, code, family="bits")


def _subsets(players: Iterable[int], order: int) -> list[Set]:
  """All sets of 1 to `order` of some players."""
  own = sorted(set(players))
  return [s for k in range(order) for s in itertools.combinations(own, k + 1)]


def _asked(
  query: functions.Query, n: int, budget: int
) -> tuple[np.ndarray, np.ndarray, list[Set]]:
  """What is asked: bool `[B, n]`, `[B]`; and which parities may matter."""
  key = jax.random.key(0)
  if n > _SMALL:
    # Of a power of two, so that few programs are compiled.
    padded = 1 << (n - 1).bit_length()
    try:
      plan = spex.make_plan(key, padded, budget)
    except ValueError:  # The budget is too small for any.
      pass
    else:
      masks = plan.masks()[:, :n]
      values = np.asarray(query(masks), float)
      fourier = spex.decode(plan, values, decoding="soft", refit=False).fourier
      order = np.argsort(-np.abs(fourier.coefs), kind="stable")
      rows = np.asarray(fourier.players)[order]
      named = [tuple(int(i) for i in row if i < padded) for row in rows]
      # The same mask has the same noise, and counts once.
      first = np.sort(np.unique(masks, axis=0, return_index=True)[1])
      named = [s for s in named if s and max(s) < n]
      return masks[first], values[first], named
  rng = functions.rng(0, "masks")
  if n > _SMALL:
    masks = rng.random((budget, n)) < 0.5
  else:
    draw = rng.permutation(1 << n)[:budget]
    masks = (draw[:, None] >> np.arange(n) & 1).astype(bool)
  values = np.asarray(query(masks), float)
  players = _loudest(masks, values, _SMALL)
  return masks, values, _subsets(players, 4)


def _loudest(masks: np.ndarray, values: np.ndarray, most: int) -> list[int]:
  """The players that values depend on most, alone."""
  return np.argsort(-_alone(masks, values), kind="stable")[:most].tolist()


def _alone(masks: np.ndarray, values: np.ndarray) -> np.ndarray:
  """How many standard errors each player alone is worth, `[n]`."""
  signs = 1.0 - 2.0 * masks
  signs -= signs.mean(axis=0)
  centred = values - values.mean()
  size = np.linalg.norm(signs, axis=0) * (centred.std() or 1.0)
  return np.abs(centred @ signs) / np.where(size > 0, size, 1.0)


def _is_parity(fit: Fit, masks: np.ndarray, players: Sequence[int]) -> bool:
  """Whether parities leave no conjunction, and are no sum of some.

  A conjunction's parities are all parts of its set.
  """
  terms, rest = fit
  parts = [s[:i] + s[i + 1 :] in terms for s in terms for i in range(len(s))]
  if 2 * sum(parts) >= len(parts):
    return False
  left, _ = _pursued("all", _subsets(players, 3), masks, rest, most=1)
  return len(left) == 1  # The empty set.


def _conjunctions(
  masks: np.ndarray, values: np.ndarray, players: Sequence[int]
) -> Fit:
  """Conjunctions of up to three: of the players that matter, round by round."""
  loud = _loudest(masks, values, _PLAYERS)
  found: dict[Set, float] = {}
  rest = values
  for _ in range(_ROUNDS):
    found, rest = _pursued("all", _subsets(players, 3), masks, values)
    used = {i for s in found for i in s}
    more = np.flatnonzero(_alone(masks, rest) > _LOUD).tolist()
    if used.issuperset(more):
      break
    players = [*dict.fromkeys([*used, *more, *loud])][:_PLAYERS]
  return found, rest


def _columns(kind: str, found: Sequence[Set], masks: np.ndarray) -> np.ndarray:
  """Values of sets, float32 `[B, K]`."""
  signs = np.where(masks, -1, 1) if kind == "parity" else masks
  each = np.ones((len(masks), masks.shape[1] + 1), np.float32)
  each[:, :-1] = signs  # The last stands for no player.
  out = np.ones((len(masks), len(found)), np.float32)
  for place in itertools.zip_longest(*found, fillvalue=-1):
    out *= each[:, place]
  return out


def _pursued(
  kind: str, candidates: Sequence[Set], masks: np.ndarray, values: np.ndarray,
  most: int = _MOST,
) -> Fit:  # fmt: skip
  """Sets by orthogonal matching pursuit, and the empty one; least squares.

  It ends, and weak sets leave, by the extended BIC: a set must lower `B log
  RSS` by `log B + 2 log K`, for all K sets of as many of the n players: those
  that are tried were chosen by the same values. Of many players, where the sets
  are the answer, it is `2 log 10,000` in the place of `log B`: one answer of so
  many may have a set that is none.
  """
  count = len(values)
  mean = float(values.mean()) if count else 0.0
  if not len(candidates) or count < 4:
    return {(): mean}, values - mean
  columns = _columns(kind, candidates, masks)
  columns -= columns.mean(axis=0)
  sizes = np.linalg.norm(columns, axis=0)
  columns /= np.where(sizes > 1e-3, sizes, np.inf)
  order, n = max(map(len, candidates)), masks.shape[1]
  tried = sum(math.comb(n, k + 1) for k in range(order))
  price = np.log(count if n <= _SMALL else _SURE**2) + 2 * np.log(tried)
  rest = values - mean
  total = energy = float(rest @ rest)
  chosen: list[int] = []
  basis = np.zeros((count, 0))
  while len(chosen) < min(most, count // 3) and energy > _NOTHING * total:
    scores = np.abs(rest.astype(np.float32) @ columns)
    scores[chosen] = 0
    best = int(scores.argmax())
    column = columns[:, best].astype(float)
    column -= basis @ (basis.T @ column)
    size = np.linalg.norm(column)
    if size < 1e-4:
      break
    column /= size
    gain = float(column @ rest) ** 2
    if count * np.log1p(-min(gain / energy, 1 - 1e-15)) > -price:
      break
    chosen.append(best)
    basis = np.concatenate([basis, column[:, None]], axis=1)
    rest = rest - column * (column @ rest)
    energy = float(rest @ rest)
  return _pruned(kind, [candidates[i] for i in chosen], masks, values, price)


def _pruned(
  kind: str,
  found: list[Set],
  masks: np.ndarray,
  values: np.ndarray,
  price: float,
) -> Fit:
  """Least squares, without the sets that it has no need of, one by one."""
  while True:
    ones = np.ones((len(values), 1))
    design = np.concatenate([_columns(kind, found, masks), ones], axis=1)
    coefs = np.linalg.lstsq(design, values, rcond=None)[0]
    rest = values - design @ coefs
    noise = max(float(rest @ rest), _NOTHING * float(values @ values))
    inverse = np.linalg.pinv(design.T @ design)
    worth = coefs**2 / np.maximum(np.diag(inverse), 1e-300) / (noise or 1.0)
    weakest = int(worth[:-1].argmin()) if found else -1
    if not found or len(values) * np.log1p(worth[weakest]) > price:
      return dict(zip([*found, ()], map(float, coefs))), rest
    found = found[:weakest] + found[weakest + 1 :]
