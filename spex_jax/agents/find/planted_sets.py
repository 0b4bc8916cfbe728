"""Functions of 20 to 200 binary inputs with planted sets, and noise at 20 dB.

  parity   f(m) = sum_S c_S chi_S(m), sets of up to 5: few Fourier terms
  all      f(m) = sum_S c_S [S is a subset of m], sets of up to 3: few Moebius

c has a random sign and a size from 1 to 3. Ours, not the paper's: a function of
one number hides what a function of many shows, which inputs act together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.agents.find import functions

DECIBEL = 20.0
_ORDERS = {"parity": 5, "all": 3}


def make(seed: int, index: int) -> functions.Function:
  """The function of a number."""
  name = f"setfn-{index:05d}"
  rng = functions.rng(seed, name)
  n = int(rng.integers(20, 201))
  kind = str(rng.choice([*_ORDERS]))
  sets: list[list[int]] = []
  count = int(rng.integers(5, 11))
  while len(sets) < count:
    order = int(rng.integers(1, _ORDERS[kind] + 1))
    players = sorted(int(i) for i in rng.choice(n, order, replace=False))
    if players not in sets:
      sets.append(players)
  sizes = rng.uniform(1, 3, len(sets)) * rng.choice([-1, 1], len(sets))
  coefs = [round(float(size), 2) for size in sizes]
  key = f"{seed} {name}"

  def clean(xs: Any) -> np.ndarray:
    return evaluate(kind, sets, coefs, np.asarray(xs, bool))

  draws = functions.rng(seed, name, "level").integers(0, 2, (2048, n)) > 0
  level = float(clean(draws).std() * 10 ** (-DECIBEL / 20))

  def values(xs: Any) -> np.ndarray:
    masks = np.asarray(xs, bool)
    if masks.ndim != 2 or masks.shape[1] != n:
      raise ValueError(f"Inputs are rows of {n} bits; got {masks.shape}.")
    return clean(masks) + level * functions.noise("normal", key, masks)

  about = {
    "category": "setfn", "inputs": f"rows of {n} bits", "n": n,
    "outputs": "numbers, with noise",
    "notes": "A few sets of inputs act together.",
  }  # fmt: skip
  truth = {
    "kind": kind, "n": n, "sets": sets, "coefs": coefs, "level": level,
    "code": code(kind, sets, coefs),
  }  # fmt: skip
  tests = functions.rng(seed, name, "tests").integers(0, 2, (256, n)).tolist()
  return functions.Function(name, "setfn", about, truth, values, clean, tests)


def evaluate(
  kind: str,
  sets: Sequence[Sequence[int]],
  coefs: Sequence[float],
  masks: np.ndarray,
) -> np.ndarray:
  """Values, float64 `[B]`, of bool `[B, n]`."""
  out = np.zeros(len(masks))
  for players, coef in zip(sets, coefs):
    kept = masks[:, list(players)]
    if kind == "parity":
      out += coef * (1 - 2 * (kept.sum(1) % 2))
    else:
      out += coef * kept.all(1)
  return out


def code(
  kind: str, sets: Sequence[Sequence[int]], coefs: Sequence[float]
) -> str:
  """A program of its own, `f(m)` of a list of bits."""
  terms = {tuple(s): float(f"{c:.6g}") for s, c in zip(sets, coefs)}
  each = (
    "(-1) ** sum(m[i] for i in s)"
    if kind == "parity"
    else "all(m[i] for i in s)"
  )
  return (
    f"TERMS = {terms!r}\n\n"
    f"def f(m):\n  return sum(c * {each} for s, c in TERMS.items())"
  )
