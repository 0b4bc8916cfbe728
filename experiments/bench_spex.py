"""SPEX decoding: time, recall and faithfulness, beside spectralexplain's.

  python -m experiments.bench_spex --config=full --output=rows.jsonl

Planted sets have orders uniform on 1..max_order and standard normal
coefficients; noise is a hash of (seed, mask). The peer draws its plan and both
sides decode the same values: ours with joint decoding and a cross-validated
refit, the peer soft, as it ships. "ours, own plan" is our plan within the same
budget: raw syndromes, a random offset for every group. Our first call is made
with every compiled program dropped, so `first_s` has all compilation in it;
the peer's includes numba's. R^2 is on 4,096 uniform masks, without noise.

Expect `quick` in 1 minute, `speed` in 3, `noise` in 8, `scale` and `filled` in
2, on 2 CPU cores: by `speed` all terms at 100 to 422 times the peer's rate, by
`noise` R^2 of .999, .986 and .936 at 20, 10 and 5 dB on our own 864 masks, by
`scale` all 300 terms of 100,000 players. `noise1000` takes hours, all but
minutes of them the peer's, which looks at every bin up to 100 times:
`--peer_seeds=1` has it decode the first function alone.
"""

import dataclasses
import resource
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command, parity_spectralexplain, rows
from spex_jax.datasets import synthetic
from spex_jax.fourier import sparse, spex
from third_party import peers, process

_TEST_MASKS = 4096
_CHUNK = 1024  # Masks made and evaluated at once.


@dataclasses.dataclass(frozen=True)
class Case:
  """Planted functions of one kind, one for each seed; no `decibels`, no noise.

  Attributes:
    n: players.
    num_terms: planted sets.
    b: bits of the plan.
    max_order: of the planted sets.
    t: largest set that the code decodes.
    decibels: signal to noise.
    num_seeds: functions.
    peer_seeds: of those, the first that the peer decodes too.
    peer_repeats: decodes of the peer; the first includes its compilation.
    budget: masks that our own plan may fill with groups; None for 3 of them.
    magnitudes: range of |coef|; None for standard normal coefficients.
  """

  n: int
  num_terms: int
  b: int
  max_order: int = 4
  t: int = 5
  decibels: float | None = None
  num_seeds: int = 1
  peer_seeds: int = 5
  peer_repeats: int = 2
  budget: int | None = None
  magnitudes: tuple[float, float] | None = None


_SPEED = (
  Case(n=1000, num_terms=100, b=6),
  Case(n=1000, num_terms=300, b=8),
)
_DECIBELS = (20.0, 10.0, 5.0)
_NOISE = tuple(
  Case(n=100, num_terms=30, b=3, decibels=decibels, num_seeds=5)
  for decibels in _DECIBELS
)
_NOISE_1000 = tuple(
  Case(
    n=1000, num_terms=100, b=6, decibels=decibels, num_seeds=5, peer_repeats=1
  )
  for decibels in _DECIBELS
)
_SCALE = (Case(n=100_000, num_terms=300, b=8, max_order=3, t=3, peer_seeds=0),)
# Of 9,000 masks 900 are held out.
_THREE = Case(
  n=500, num_terms=50, b=5, max_order=5, decibels=5.0, num_seeds=3,
  peer_seeds=0, magnitudes=(0.5, 1.0),
)  # fmt: skip
_FILLED = (_THREE, dataclasses.replace(_THREE, budget=8100))
CONFIGS = {
  "quick": (Case(n=60, num_terms=10, b=3, max_order=3, t=3, decibels=20.0),),
  "speed": _SPEED,
  "noise": _NOISE,
  "noise1000": _NOISE_1000,
  "scale": _SCALE,
  "filled": _FILLED,
  "full": _SPEED + _NOISE + _NOISE_1000 + _SCALE + _FILLED,
}


def run(
  cases: tuple[Case, ...],
  peer: peers.SpectralExplain | None,
  most_peer_seeds: int = 5,
) -> Iterator[dict[str, Any]]:
  """Yields a row per case, seed and side, as soon as it is measured."""
  common = rows.common("spex")
  for case in cases:
    for seed in range(case.num_seeds):
      runs = seed < min(case.peer_seeds, most_peer_seeds)
      for row in _rows(case, seed, peer if runs else None):
        yield common | dataclasses.asdict(case) | {"seed": seed} | row


def _rows(case, seed, peer):
  planted = synthetic.planted(
    seed,
    case.n,
    case.num_terms,
    case.max_order,
    magnitudes=case.magnitudes,
  )
  function = planted
  if case.decibels is not None:
    std = synthetic.noise_std(planted.variance, case.decibels)
    function = synthetic.noisy(planted, seed, std)
  masks = np.random.default_rng([seed, 1]).random((_TEST_MASKS, case.n)) < 0.5
  test = masks, planted(masks)
  best = None
  if peer is not None:
    peer_plan = peer.plan(case.n, case.b, case.t, seed=seed)
    values = function(peer_plan.masks)
    found = peer.decode(
      peer_plan, values, decoding="soft", repeats=case.peer_repeats
    )
    theirs = sparse.SparseFourier.from_supports(found.supports, found.coefs)
    best = min(found.seconds)
    yield {
      "who": "spectralexplain",
      "version": peer.versions["spectralexplain"],
      "samples": len(values),
      "first_s": round(found.seconds[0], 4),
      "best_s": round(best, 4),
    } | _figures(planted, theirs, test)
    plan = parity_spectralexplain.plan_of(peer_plan)
    yield {"who": "ours"} | _ours(plan, values, best, planted, test)
  b = case.b if case.budget is None else None
  plan = spex.make_plan(
    jax.random.key(seed), case.n, case.budget, b=b, t=case.t
  )
  values = np.concatenate(
    [
      function(plan.masks(start, start + _CHUNK))
      for start in range(0, plan.num_masks, _CHUNK)
    ]
  )
  who = "ours, own plan" if case.budget is None else "ours, budget filled"
  yield {"who": who} | _ours(plan, values, best, planted, test)


def _ours(plan, values, peer_seconds, planted, test):
  jax.clear_caches()
  times = []
  for _ in range(4):
    start = time.perf_counter()
    result = spex.decode(plan, values)
    times.append(time.perf_counter() - start)
  row = {
    "samples": plan.num_masks,
    "first_s": round(times[0], 4),
    "best_s": round(min(times[1:]), 4),
    "status": result.status,
    "rounds": result.rounds,
    # Of this process so far: run `scale` alone to read the plan's own.
    "peak_gib": round(
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
    ),
  }
  if peer_seconds is not None:
    row["ratio"] = round(peer_seconds / min(times[1:]), 1)
  return row | _figures(planted, result.fourier, test)


def _figures(planted, fourier, test):
  """Recall and precision of the sets, R^2 on clean values."""
  masks, truth = test
  true_sets = {s for s, _ in planted.terms()}
  found = {s for s, c in fourier.terms() if s and c}
  hits = len(true_sets & found)
  guess = np.concatenate(
    [
      fourier(masks[start : start + _CHUNK])
      for start in range(0, len(masks), _CHUNK)
    ]
  )
  # The peer leaves the mean where its samples put it; so may ours.
  return {
    "recall": round(hits / len(true_sets), 4),
    "precision": round(hits / max(1, len(found)), 4),
  } | rows.r2(truth, guess, digits=5)


def table(measured: list[rows.Row]) -> str:
  """A markdown table of medians over seeds."""
  header = ["n", "terms", "dB", "who", "samples", "recall", "precision"]
  header += ["R²", "first s", "warm s", "ratio"]
  lines = []
  groups: dict[tuple, list[rows.Row]] = {}
  for row in measured:
    key = row["n"], row["num_terms"], row["decibels"], row["who"]
    groups.setdefault(key, []).append(row)
  for (n, terms, decibels, who), members in groups.items():
    ratios = [m["ratio"] for m in members if "ratio" in m]
    median = lambda name, members=members: float(
      np.median([m[name] for m in members])
    )
    cells = [
      f"{n:,}",
      str(terms),
      "–" if decibels is None else f"{decibels:g}",
      who,
      f"{members[0]['samples']:,}",
      *(f"{median(name):.2f}" for name in ("recall", "precision")),
      f"{median('r2'):.4f}",
      f"{median('first_s'):.2f}",
      f"{median('best_s'):.3f}",
      f"{np.median(ratios):.0f}" if ratios else "",
    ]
    lines.append(cells)
  return rows.table(header, lines)


def main(argv):
  """Prints the rows and the table; writes the rows where `--output` says."""
  del argv
  args = flags.FLAGS
  with process.optional(peers.SpectralExplain, args.peer) as peer:
    found = run(CONFIGS[args.config], peer, args.peer_seeds)
    print(table(rows.write(found, args.output)))


if __name__ == "__main__":
  flags.DEFINE_bool("peer", True, "Run spectralexplain too (`make peers`).")
  flags.DEFINE_integer("peer_seeds", 5, "Most that the peer runs.")
  command.run(main, CONFIGS)
