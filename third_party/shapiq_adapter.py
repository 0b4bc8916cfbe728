"""Runs shapiq's estimators for comparison; a worker inside its environment.

`shapiq_peer.py` starts it and `serving.py` answers for it. Its public classes
are called with their defaults; two things they do not give are read from
inside: the samples that `ProxySPEX` fits are ours, not of its sampler, and its
trees predict before it makes them sparse. This file imports nothing of ours.

Shapes: n players, B masks, R test masks, K terms.
"""

import itertools
import logging
import math
import time
import warnings

import lightgbm
import numpy as np
import shapiq
import xgboost
from shapiq.approximator.proxy import _routes
from sklearn import linear_model

from third_party import serving

_MOST_PAIRED = 120  # Players: more have too many pairs for a lasso.


def _proxyspex(masks, values, test_masks, seed):
  """Terms of the refined spectrum, and the trees' values at the test masks."""
  n = masks.shape[1]
  peer = shapiq.ProxySPEX(
    n=n, index="FBII", max_order=min(n, 5), random_state=seed
  )
  peer.proxy_model.fit(masks, values)
  trees = getattr(peer.proxy_model, "best_estimator_", peer.proxy_model)
  spectrum = peer._refine(_routes.tree_to_fourier(trees, n), masks, values)
  return spectrum, trees.predict(test_masks)


def _lasso(order):
  def fit(masks, values, test_masks, seed):
    del test_masks, seed  # Its folds are fixed.
    n = masks.shape[1]
    if order > 1 and n > _MOST_PAIRED:
      raise ValueError(f"{n} players have too many pairs for this lasso.")
    sets = [
      members
      for size in range(1, order + 1)
      for members in itertools.combinations(range(n), size)
    ]
    signs = 1.0 - 2.0 * masks
    design = np.stack([signs[:, members].prod(axis=1) for members in sets], 1)
    model = linear_model.LassoCV(cv=5, n_jobs=-1).fit(design, values)
    terms = {s: c for s, c in zip(sets, model.coef_) if c}
    return {(): model.intercept_} | terms, None

  return fit


_DECODERS = {"proxyspex": _proxyspex, "lasso1": _lasso(1), "lasso2": _lasso(2)}


def decode(request):
  """Fits `masks` and `values`; writes `supports` [K, n] and `coefs` [K].

  And `trees` [R], the predictions at `test_masks` of a proxy that is not
  sparse, if there is one. `seconds` is of the whole fit, each time.
  """
  with np.load(request["samples"]) as file:
    masks, values = file["masks"].astype(bool), file["values"]
    test_masks = file["test_masks"].astype(bool)
  fit, seconds = _DECODERS[request["method"]], []
  for _ in range(request["repeats"]):
    start = time.perf_counter()
    terms, trees = fit(masks, values, test_masks, request["seed"])
    seconds.append(time.perf_counter() - start)
  supports = np.zeros((len(terms), masks.shape[1]), bool)
  for row, members in zip(supports, terms):
    row[list(members)] = True
  found = {"supports": supports, "coefs": np.array(list(terms.values()))}
  if trees is not None:
    found["trees"] = trees
  np.savez(request["out"], **found)
  return {"seconds": seconds}


def _polyshap(n, budget, seed):
  """Pairs as far as the budget determines them, as its warning asks."""
  full = 1 + n + math.comb(n, 2)
  return shapiq.approximator.PolySHAP(
    n, max_terms=max(n + 1, min(full, budget // 2)), random_state=seed
  )


_ESTIMATORS = {
  "kernelshap": lambda n, budget, seed: shapiq.KernelSHAP(n, random_state=seed),
  "leverageshap": lambda n, budget, seed: shapiq.approximator.LeverageSHAP(
    n, random_state=seed
  ),
  "oddshap": lambda n, budget, seed: shapiq.approximator.OddSHAP(
    n, random_state=seed
  ),
  "polyshap": _polyshap,
  "proxyshap": lambda n, budget, seed: shapiq.ProxySHAP(
    n, index="SV", max_order=1, adjustment=True, random_state=seed
  ),
}


def shapley(request):
  """Writes Shapley `values` [n] of the caller's game, within `budget` masks.

  `seconds` leaves out the game; `asked` counts the masks it was asked.
  """
  n, asked, waited = request["n"], 0, 0.0

  def game(masks):
    nonlocal asked, waited
    start = time.perf_counter()
    values = serving.values_at(np.atleast_2d(masks), request["folder"])
    waited += time.perf_counter() - start
    asked += len(values)
    return values

  start = time.perf_counter()
  peer = _ESTIMATORS[request["method"]](n, request["budget"], request["seed"])
  found = peer.approximate(request["budget"], game)
  seconds = time.perf_counter() - start - waited
  np.savez(request["out"], values=[float(found[(i,)]) for i in range(n)])
  return {"seconds": seconds, "asked": asked}


def versions(request):
  """Names and versions of what runs here."""
  del request
  return serving.versions_of("shapiq", "lightgbm", "scikit-learn", "numpy") | {
    "xgboost": xgboost.__version__
  }


if __name__ == "__main__":
  # A line for each leaf that cannot be split: tens of thousands a fit.
  silent = logging.getLogger("lightgbm")
  silent.setLevel(logging.CRITICAL)
  lightgbm.register_logger(silent)
  warnings.filterwarnings("ignore")
  serving.serve(decode, shapley, versions)
