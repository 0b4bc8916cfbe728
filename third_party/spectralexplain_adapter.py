"""Runs `spectralexplain` for comparison; a worker inside the peer environment.

`peers.py` starts it and `serving.py` answers for it. The process stays alive
between tasks, because the peer's Galois-field code is compiled at its first
use in each process.

Only the peer's public functions are called, with the arguments that its own
`Explainer` passes. This file imports nothing of `spex_jax`.

Shapes: n players, C groups, P delays (P - 1 parity bits), K terms, D order.
"""

import time

import numpy as np
import spectralexplain
from sparse_transform.qsft.utils import general

from third_party import serving


def _signal(values_of, n, b, t, seed):
  """The peer's plan for (n, b, t), its values taken from `values_of`."""
  np.random.seed(seed)  # noqa: NPY002  The peer draws from the global state.
  signal, _ = spectralexplain.sampling_strategy(
    values_of, b, b, n, sample_save_dir=None, t=t
  )
  return signal


def plan(request):
  """Writes `masks` [C, P, 2^b, n], `M` [C, n, b], `D` [P, n], `L` [b, 2^b].

  Mask (c, p, l) is `M[c] @ L[:, l] + D[p]` mod 2. Row 0 of `D` is zero and
  rows 1.. are the parity contributions of each player in the peer's code.
  """
  start = time.perf_counter()
  signal = _signal(
    lambda masks: np.zeros(len(masks)),
    request["n"],
    request["b"],
    request["t"],
    request["seed"],
  )
  seconds = time.perf_counter() - start
  masks = np.asarray(signal.all_queries, dtype=bool)
  np.savez(
    request["out"],
    masks=masks,
    M=np.asarray(signal.Ms, dtype=bool),
    D=np.asarray(signal.Ds[0][0], dtype=bool),
    L=np.asarray(signal.get_all_qary_vectors(), dtype=bool),
  )
  return {"seconds": seconds, "num_samples": int(np.prod(masks.shape[:3]))}


def decode(request):
  """Writes `supports` [K, n] and `coefs` [K] found from values of a plan.

  `values` [C, P, 2^b] answer the masks of `plan` with the same n, b, t and
  seed. `seconds` lists each repeat of the peer's `support_recovery`, the
  first of a process with its compilation; `fold_seconds` is its transforms.
  """
  with np.load(request["values"]) as file:
    rows = iter(file["values"].reshape(len(file["values"]), -1))
  n, b, t = request["n"], request["b"], request["t"]
  fold_start = time.perf_counter()
  signal = _signal(lambda masks: next(rows), n, b, t, request["seed"])
  fold_seconds = time.perf_counter() - fold_start
  state = np.random.get_state()  # noqa: NPY002
  seconds = []
  for _ in range(request["repeats"]):
    np.random.set_state(state)  # noqa: NPY002  Each repeat is the same work.
    start = time.perf_counter()
    found = spectralexplain.support_recovery(request["decoding"], signal, b, t)
    seconds.append(time.perf_counter() - start)
  np.savez(
    request["out"],
    supports=np.asarray(list(found), dtype=bool).reshape(len(found), n),
    coefs=np.asarray(list(found.values()), dtype=np.float64),
  )
  return {"seconds": seconds, "fold_seconds": fold_seconds}


def interactions(request):
  """Writes `supports` and `values` of an index of a given expansion."""
  with np.load(request["values"]) as file:
    supports, coefs = file["supports"].astype(int), file["coefs"]
  fourier = {tuple(s.tolist()): c for s, c in zip(supports, coefs)}
  n, seconds = supports.shape[1], []
  for _ in range(request["repeats"]):
    start = time.perf_counter()
    found = spectralexplain.Interactions(
      dict(fourier), list(range(n)), request["index"], None, request["order"]
    ).get_interactions()
    seconds.append(time.perf_counter() - start)
  rows = np.zeros((len(found), n), bool)
  for row, members in zip(rows, found):
    row[list(members)] = True
  values = np.asarray([float(np.real(v)) for v in found.values()])
  np.savez(request["out"], supports=rows, values=values)
  return {"seconds": seconds}


def transform(request):
  """Times the peer's dense transform of `values` [2^n]; writes `fourier`."""
  with np.load(request["values"]) as file:
    values = file["values"]
  n, seconds = len(values).bit_length() - 1, []
  for _ in range(request["repeats"]):
    start = time.perf_counter()
    fourier = general.gwht(values, 2, n)
    seconds.append(time.perf_counter() - start)
  np.savez(request["out"], fourier=np.real(fourier))
  return {"seconds": seconds}


def versions(request):
  """Names and versions of what runs here."""
  del request
  return serving.versions_of(
    "spectralexplain", "sparse-transform", "galois", "numba", "numpy"
  )


if __name__ == "__main__":
  serving.serve(plan, decode, interactions, transform, versions)
