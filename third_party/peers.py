"""Runs peer packages, each in its own environment, on the same samples.

  peer = SpectralExplain()                      # starts its process
  plan = peer.plan(n=100, b=3, t=5, seed=0)     # which masks it asks for
  found = peer.decode(plan, values, decoding="soft", repeats=2)

`make peers` builds the environment. The caller evaluates the masks, so that
both sides see the same function, noise included.

Shapes: n players, B masks, C groups, P delays, K terms.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from third_party import process

PeerError = process.PeerError


@dataclasses.dataclass(frozen=True)
class PeerPlan:
  """Which masks the peer asks for, in its order.

  Attributes:
    masks: bool `[B, n]`, B = C * P * 2^b; group by group, delay by delay.
    subsampling: bool `[C, n, b]`, the matrices M_c.
    delays: bool `[P, n]`, a zero row, then one row per parity bit.
    points: bool `[b, 2^b]`; mask (c, p, l) = M_c points[:, l] + delays[p].
    b: columns of each M_c.
    t: the largest order that the code corrects.
    seed: of the peer's generator.
    seconds: that the peer took to draw the plan.
  """

  masks: np.ndarray
  subsampling: np.ndarray
  delays: np.ndarray
  points: np.ndarray
  b: int
  t: int
  seed: int
  seconds: float

  @property
  def n(self) -> int:
    """Number of players."""
    return self.masks.shape[1]


@dataclasses.dataclass(frozen=True)
class PeerResult:
  """What the peer found.

  Attributes:
    supports: bool `[K, n]`.
    coefs: float64 `[K]`, Fourier coefficients, or values of an index.
    seconds: of each repeat; the first one in a process compiles.
    fold_seconds: of the peer's transforms before decoding, not in `seconds`.
  """

  supports: np.ndarray
  coefs: np.ndarray
  seconds: tuple[float, ...]
  fold_seconds: float = 0.0


class SpectralExplain(process.Peer):
  """The reference implementation of SPEX, in a process of its own."""

  adapter = "spectralexplain_adapter"
  variable = "SPEX_PEER_PYTHON"
  environment = ".venv"
  target = "peers"

  def plan(self, n: int, b: int, t: int = 5, *, seed: int) -> PeerPlan:
    """Draws the peer's plan: 3 groups, 2^b points, codes for order <= t."""
    out = self._path("plan")
    answer = self._ask("plan", n=n, b=b, t=t, seed=seed, out=out)
    with np.load(out) as file:
      return PeerPlan(
        masks=file["masks"].reshape(-1, n),
        subsampling=file["M"],
        delays=file["D"],
        points=file["L"],
        b=b,
        t=t,
        seed=seed,
        seconds=answer["seconds"],
      )

  def decode(
    self,
    plan: PeerPlan,
    values: np.ndarray,
    *,
    decoding: str = "soft",
    repeats: int = 1,
  ) -> PeerResult:
    """Decodes values of the plan's masks.

    Args:
      plan: of `plan`.
      values: `[B]`, in the order of `plan.masks`.
      decoding: "soft" or "hard".
      repeats: how often to run; all give the same answer.

    Raises:
      ValueError: another number of values, or another decoding.
      PeerError: the peer raised; the message is its own.
    """
    values = np.asarray(values, np.float64)
    if values.shape != plan.masks.shape[:1]:
      raise ValueError(
        f"Need one value per mask, shape ({len(plan.masks)},); got "
        f"{values.shape}."
      )
    if decoding not in ("soft", "hard"):
      raise ValueError(f"decoding must be 'soft' or 'hard'; got {decoding!r}.")
    source, out = self._path("values"), self._path("found")
    groups = plan.subsampling.shape[0]
    np.savez(source, values=values.reshape(groups, -1))
    answer = self._ask(
      "decode",
      n=plan.n,
      b=plan.b,
      t=plan.t,
      seed=plan.seed,
      decoding=decoding,
      repeats=repeats,
      values=source,
      out=out,
    )
    with np.load(out) as file:
      return PeerResult(
        supports=file["supports"],
        coefs=file["coefs"],
        seconds=tuple(answer["seconds"]),
        fold_seconds=answer["fold_seconds"],
      )

  def explain(
    self,
    value_fn: Callable[[np.ndarray], np.ndarray],
    n: int,
    b: int,
    t: int = 5,
    *,
    seed: int,
    decoding: str = "soft",
  ) -> PeerResult:
    """Runs the peer end to end on `value_fn`: bool `[B, n]` -> `[B]`."""
    plan = self.plan(n, b, t, seed=seed)
    return self.decode(plan, value_fn(plan.masks), decoding=decoding)

  def interactions(
    self,
    supports: np.ndarray,
    coefs: np.ndarray,
    index: str,
    order: int,
    *,
    repeats: int = 1,
  ) -> PeerResult:
    """The peer's index values, up to `order`, of a Fourier expansion.

    Args:
      supports: bool `[K, n]`, distinct rows.
      coefs: `[K]`.
      index: a name that the peer knows, such as "FBII".
      order: the largest order of a set.
      repeats: how often to run.
    """
    source, out = self._path("fourier"), self._path("found")
    np.savez(source, supports=supports, coefs=np.asarray(coefs, np.float64))
    answer = self._ask(
      "interactions",
      index=index,
      order=order,
      repeats=repeats,
      values=source,
      out=out,
    )
    with np.load(out) as file:
      return PeerResult(
        file["supports"], file["values"], tuple(answer["seconds"])
      )

  def transform(
    self, values: np.ndarray, *, repeats: int = 1
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """The peer's dense transform of `values` `[2^n]`, and its seconds."""
    source, out = self._path("values"), self._path("found")
    np.savez(source, values=values)
    answer = self._ask("transform", repeats=repeats, values=source, out=out)
    with np.load(out) as file:
      return file["fourier"], tuple(answer["seconds"])
