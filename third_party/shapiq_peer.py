"""Runs shapiq in an environment of its own, on the same samples and games.

  with Shapiq() as peer:
    found = peer.decode(masks, values, test_masks, method="proxyspex", seed=0)
    guess = peer.shapley(value_fn, n, 1024, method="oddshap", seed=0)

`make peers-shapiq` builds the environment.

Shapes: n players, B masks, R test masks, K terms.
"""

import dataclasses

import numpy as np

from third_party import process

PeerError = process.PeerError

DECODERS = ("proxyspex", "lasso1", "lasso2")
ESTIMATORS = ("kernelshap", "leverageshap", "oddshap", "polyshap", "proxyshap")


@dataclasses.dataclass(frozen=True)
class Fit:
  """A sparse expansion that the peer fitted.

  Attributes:
    supports: bool `[K, n]`.
    coefs: float64 `[K]`, Fourier coefficients.
    trees: float64 `[R]` predictions at the test masks before the proxy was
      made sparse, or None.
    seconds: of each repeat.
  """

  supports: np.ndarray
  coefs: np.ndarray
  trees: np.ndarray | None
  seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Singles:
  """Shapley values that the peer estimated.

  Attributes:
    values: float64 `[n]`.
    seconds: without the evaluation of the game.
    asked: masks that it evaluated.
  """

  values: np.ndarray
  seconds: float
  asked: int


class Shapiq(process.Peer):
  """shapiq 1.8, LightGBM and scikit-learn's lasso, in a process of its own."""

  adapter = "shapiq_adapter"
  variable = "SPEX_SHAPIQ_PYTHON"
  environment = ".venv-shapiq"
  target = "peers-shapiq"

  def decode(
    self,
    masks: np.ndarray,
    values: np.ndarray,
    test_masks: np.ndarray,
    *,
    method: str,
    seed: int,
    repeats: int = 1,
  ) -> Fit:
    """Fits an expansion to samples.

    Args:
      masks: bool `[B, n]`.
      values: `[B]`.
      test_masks: bool `[R, n]`, where unrefined trees predict.
      method: of `DECODERS`: ProxySPEX with its default grid search, or
        LassoCV on all sets of order 1, or up to 2 (n <= 120).
      seed: of the peer.
      repeats: how often to run; all give the same answer.

    Raises:
      ValueError: another method, or values that are not one a mask.
      PeerError: the peer raised, or died.
    """
    masks, values = np.asarray(masks, bool), np.asarray(values, np.float64)
    _choice("method", method, DECODERS)
    if values.shape != masks.shape[:1]:
      raise ValueError(
        f"Need one value per mask, shape ({len(masks)},); got {values.shape}."
      )
    samples, out = self._path("samples"), self._path("found")
    test_masks = np.asarray(test_masks, bool)
    np.savez(samples, masks=masks, values=values, test_masks=test_masks)
    answer = self._ask(
      "decode",
      method=method,
      seed=seed,
      repeats=repeats,
      samples=samples,
      out=out,
    )
    with np.load(out) as file:
      return Fit(
        supports=file["supports"],
        coefs=file["coefs"],
        trees=dict(file).get("trees"),
        seconds=tuple(answer["seconds"]),
      )

  def shapley(
    self,
    value_fn: process.ValueFn,
    n: int,
    budget: int,
    *,
    method: str,
    seed: int,
  ) -> Singles:
    """Estimates Shapley values of a game that is evaluated here.

    Args:
      value_fn: bool `[B, n]` to `[B]`.
      n: players.
      budget: masks that the estimator may ask for.
      method: of `ESTIMATORS`. PolySHAP has pairs as far as half the budget
        goes, ProxySHAP its residual adjustment; else their defaults.
      seed: of the peer.

    Raises:
      ValueError: another method.
      PeerError: the peer raised, or died.
    """
    _choice("method", method, ESTIMATORS)
    out = self._path("found")
    answer = self._ask(
      "shapley",
      value_fn,
      n=n,
      budget=budget,
      method=method,
      seed=seed,
      folder=self._folder.name,
      out=out,
    )
    with np.load(out) as file:
      return Singles(file["values"], answer["seconds"], answer["asked"])


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(f"{name}={value!r}: choose from {', '.join(known)}.")
