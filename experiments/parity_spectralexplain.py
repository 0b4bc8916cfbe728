"""Same samples, same support: our SPEX decoder beside spectralexplain's.

  python -m experiments.parity_spectralexplain --config=full

Draws the peer's own plan, evaluates a planted function at its masks, and gives
the values to both. Ours decodes them as a `QueryPlan` made of the peer's
matrices and delays, without refit, as the peer returns its coefficients.
Prints one line per case and ends with an error if a noiseless case differs.
Expect `quick` in 45 s (the peer compiles) and `full` in 5 minutes on 2 cores.

Shapes: n players, K terms planted.
"""

import dataclasses
import json
import platform
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command
from spex_jax.datasets import synthetic
from spex_jax.fourier import sparse, spex
from spex_jax.masks import bch, hadamard
from third_party import peers

# Coefficients of planted sets are at least 0.5; sums run in float32.
_SAME_COEF = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
  """One planted function and the plan for it; `decibels=None`: no noise."""

  n: int
  num_terms: int
  b: int
  decoding: str
  t: int = 5
  max_order: int = 4
  decibels: float | None = None
  seed: int = 0


CONFIGS = {
  "quick": (
    Case(n=100, num_terms=10, b=3, decoding="hard"),
    Case(n=100, num_terms=10, b=3, decoding="soft"),
  ),
  "full": (
    *(
      Case(n=100, num_terms=30, b=5, decoding=decoding, seed=seed)
      for decoding in ("hard", "soft")
      for seed in range(3)
    ),
    Case(n=1000, num_terms=100, b=6, decoding="soft"),
    Case(n=1000, num_terms=300, b=8, decoding="hard"),
    Case(n=1000, num_terms=300, b=8, decoding="soft"),
    *(
      Case(n=100, num_terms=30, b=5, decoding="soft", decibels=db)
      for db in (20.0, 10.0)
    ),
  ),
}


def plan_of(plan: peers.PeerPlan) -> spex.QueryPlan:
  """Our plan of the peer's masks, in the peer's order.

  Raises:
    ValueError: our code or masks are not the peer's.
  """
  code = bch.make_code(plan.n, plan.t, "systematic")
  affine = hadamard.AffineMasks(
    maps=plan.subsampling[:, :, ::-1],  # The peer counts from the highest bit.
    delays=plan.delays,
    offsets=np.zeros((len(plan.subsampling), plan.n), bool),
  )
  if not np.array_equal(code.parity_rows(), plan.delays[1:]):
    raise ValueError("Our code's parity rows are not the peer's.")
  if not np.array_equal(affine.masks(), plan.masks):
    raise ValueError("Our masks are not the peer's.")
  return spex.QueryPlan(affine=affine, code=code)


def compare(case: Case, peer: peers.SpectralExplain) -> dict[str, Any]:
  """Decodes the same values by both; returns what each found."""
  planted = synthetic.planted(case.seed, case.n, case.num_terms, case.max_order)
  function = planted
  if case.decibels is not None:
    std = synthetic.noise_std(planted.variance, case.decibels)
    function = synthetic.noisy(planted, case.seed, std)
  plan = peer.plan(case.n, case.b, case.t, seed=case.seed)
  values = function(plan.masks)
  theirs = peer.decode(plan, values, decoding=case.decoding, repeats=2)
  ours_plan = plan_of(plan)
  times = []
  for _ in range(2):
    start = time.perf_counter()
    ours = spex.decode(
      ours_plan, values, decoding=case.decoding, refit=False
    ).fourier
    times.append(time.perf_counter() - start)
  truth = dict(planted.terms())
  a = {s: c for s, c in ours.terms() if s}
  expansion = sparse.SparseFourier.from_supports(theirs.supports, theirs.coefs)
  b = {s: c for s, c in expansion.terms() if s}
  shared = a.keys() & b.keys()
  return {
    **dataclasses.asdict(case),
    "samples": len(values),
    "same_support": a.keys() == b.keys(),
    "shared": len(shared),
    "coef_difference": max((abs(a[s] - b[s]) for s in shared), default=0.0),
    "ours": _figures(a, truth) | {"first_s": times[0], "warm_s": times[1]},
    "peer": _figures(b, truth)
    | {"first_s": theirs.seconds[0], "warm_s": theirs.seconds[1]},
  }


def _figures(found, truth):
  hits = len(found.keys() & truth.keys())
  return {"found": len(found), "recall": hits / len(truth)}


def run(name: str, peer: peers.SpectralExplain) -> Iterator[dict[str, Any]]:
  """Yields one row per case of a configuration."""
  common = {
    "parity": "spectralexplain",
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "peer_version": peer.versions["spectralexplain"],
  }
  for case in CONFIGS[name]:
    yield common | compare(case, peer)


def differs(row: dict[str, Any]) -> bool:
  """Whether a row breaks parity: it must hold where there is no noise."""
  return row["decibels"] is None and not (
    row["same_support"] and row["coef_difference"] < _SAME_COEF
  )


def main(argv):
  """Prints the rows; an error if one of them breaks parity."""
  del argv
  with peers.SpectralExplain() as peer:
    rows = []
    for row in run(flags.FLAGS.config, peer):
      print(json.dumps(row), flush=True)
      rows.append(row)
  broken = sum(map(differs, rows))
  if broken:
    raise SystemExit(f"{broken} noiseless cases differ from the peer.")
  print(f"Same support, coefficients within {_SAME_COEF:g}, without noise.")


if __name__ == "__main__":
  flags.DEFINE_enum("config", "full", sorted(CONFIGS), "Which cases.")
  command.start(main)
