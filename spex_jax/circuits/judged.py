"""What circuits do on pairs, as `judges.faithfulness` found it.

Shapes: C circuits, N pairs.
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from spex_jax import shown
from spex_jax.circuits import identities as identities_lib

_SHOWN = 3  # Pairs that an error names.
_RESAMPLES = 1000  # Of pairs, for intervals.


@dataclasses.dataclass(frozen=True, eq=False)
class Judged(shown.Shown):
  """What circuits do on pairs.

  Attributes:
    names: the names of the C circuits.
    values: float64 `[C, N]`, the metric of every circuit and pair.
    clean: float64 `[N]`, of the unedited clean run.
    corrupted: float64 `[N]`, of the unedited corrupted run.
    empty: float64 `[N]`, of the circuit without edges: f is 0 there.
    edges: int `[C]`, edges of the circuits (or nodes, neurons) as they were
      given.
    connected: int `[C]`, those of them that lie on a path to the output.
    identities: how far the checks were off.
  """

  names: tuple[str, ...]
  values: np.ndarray
  clean: np.ndarray
  corrupted: np.ndarray
  empty: np.ndarray
  edges: np.ndarray
  connected: np.ndarray
  identities: identities_lib.Identities

  def __len__(self) -> int:
    return len(self.values)

  def __getitem__(self, some: slice) -> "Judged":
    """Some of the circuits."""
    return dataclasses.replace(
      self,
      names=self.names[some],
      values=self.values[some],
      edges=self.edges[some],
      connected=self.connected[some],
    )

  def faithfulness(self) -> np.ndarray:
    """Of every circuit, by means over pairs: float64 `[C]`.

    Raises:
      ValueError: the whole model and the empty circuit do nearly the same.
    """
    return ratio(self.values.mean(axis=1), self.clean, self.empty)

  def untold(self) -> np.ndarray:
    """Numbers of the pairs on which nothing is done of which to tell a share.

    The whole model and the empty circuit do nearly the same there.
    """
    size = np.maximum(np.abs(self.clean), np.abs(self.empty))
    gap = np.abs(self.clean - self.empty)
    return np.flatnonzero(gap <= identities_lib.VANISHING * size)

  def doubts(self) -> tuple[str, ...]:
    """In words: pairs of `untold`, and what `interval` leaves out."""
    lines = []
    if (bad := self.untold()).size:
      lines.append(
        f"{_pairs(bad)}: no effect, so that they have no faithfulness of their "
        "own; in that of all they count"
      )
    if lost := int(np.isnan(self._resampled(0)).any(axis=1).sum()):
      lines.append(
        f"{lost:,} of {_RESAMPLES:,} resamples of pairs have no effect; the "
        "interval is that of the others"
      )
    return tuple(lines)

  def by_pair(self) -> np.ndarray:
    """Of every circuit and pair: float64 `[C, N]`.

    Raises:
      ValueError: a pair on which the whole model and the empty circuit do
        nearly the same; the first such pairs are named.
    """
    gap = self.clean - self.empty
    if (bad := self.untold()).size:
      raise ValueError(
        f"{_pairs(bad)}: the metric of the whole model and of the empty "
        f"circuit differ by {np.abs(gap[bad]).max():.2g} only, so that no "
        "share of it can be told. Leave these pairs out, or take "
        "`faithfulness()`, a ratio of means."
      )
    return (self.values - self.empty) / gap

  def interval(self, level: float = 0.95, seed: int = 0) -> np.ndarray:
    """Of the faithfulness, by bootstrap over pairs: float64 `[C, 2]`.

    Resamples that show no effect are left out; `doubts` counts them.

    Args:
      level: of confidence, in (0, 1).
      seed: an integer, the seed of the resamples.

    Raises:
      ValueError: another level; as `faithfulness`.
    """
    if not 0 < level < 1:
      raise ValueError(f"A level lies in (0, 1); got {level}.")
    self.faithfulness()
    tails = [(1 - level) / 2, (1 + level) / 2]
    return np.nanquantile(self._resampled(seed), tails, axis=0).T

  def _resampled(self, seed: int) -> np.ndarray:
    """Faithfulness in resamples, NaN in those without an effect: `[R, C]`."""
    count = len(self.clean)
    rng = np.random.default_rng(seed)
    each = np.full((_RESAMPLES, len(self.values)), np.nan)
    for row, some in enumerate(rng.integers(count, size=(_RESAMPLES, count))):
      with contextlib.suppress(ValueError):
        means = self.values[:, some].mean(axis=1)
        each[row] = ratio(means, self.clean[some], self.empty[some])
    return each

  def rows(self) -> list[dict[str, Any]]:
    """For a table: a row of every circuit and pair.

    The faithfulness is None on the pairs of `untold`.
    """
    none = {*self.untold().tolist()}
    gap = self.clean - self.empty
    return [
      {
        "circuit": name,
        "pair": pair,
        "metric": float(self.values[c, pair]),
        "faithfulness": None
        if pair in none
        else float((self.values[c, pair] - self.empty[pair]) / gap[pair]),
      }
      for c, name in enumerate(self.names)
      for pair in range(self.values.shape[1])
    ]

  def sheet(self) -> shown.Sheet:
    """A row of every circuit; its faithfulness with a 95 % interval.

    Where no share can be told (see `faithfulness`), it is NaN, and that is
    said.
    """
    trust = [("identities", line, False) for line in self.identities.lines()]
    try:
      f, ends = self.faithfulness(), self.interval()
      trust += [("faithfulness", line, True) for line in self.doubts()]
    except ValueError as error:
      f, ends = np.full(len(self), np.nan), np.full((len(self), 2), np.nan)
      trust.append(("faithfulness", str(error), True))
    return shown.Sheet(
      f"What {len(self)} circuit{'s' * (len(self) != 1)} keep of a behaviour, "
      f"on {len(self.clean)} pairs",
      {
        "circuit": list(self.names),
        "edges": self.edges,
        "connected": self.connected,
        "metric": self.values.mean(axis=1),
        "faithfulness": f,
        "low": ends[:, 0],
        "high": ends[:, 1],
      },
      trust,
      {
        name: f"{float(values.mean()):.4g}, mean metric"
        for name, values in (
          ("clean", self.clean), ("corrupted", self.corrupted),
          ("empty circuit", self.empty),
        )
      },
    )  # fmt: skip

  def __str__(self) -> str:
    f = self.faithfulness()
    lines = [
      f"metric: clean {self.clean.mean():.4g}, corrupted "
      f"{self.corrupted.mean():.4g}, empty circuit {self.empty.mean():.4g} "
      f"(means of {len(self.clean)} pairs)",
      *self.identities.lines(),
      "    edges  connected     metric  faithful  circuit",
    ]
    for c, name in enumerate(self.names):
      lines.append(
        f"{self.edges[c]:9,d} {self.connected[c]:10,d} "
        f"{self.values[c].mean():10.4g} {f[c]:9.3f}  {name}"
      )
    return "\n".join(lines)


def ratio(
  values: np.ndarray, full: np.ndarray, empty: np.ndarray,
  names: tuple[str, str] = ("the whole model", "the empty circuit"),
) -> np.ndarray:  # fmt: skip
  """Faithfulness by means over pairs.

  Args:
    values: `[C]`, mean metrics of circuits.
    full: `[N]`, the metric of the whole model on every pair.
    empty: `[N]`, that of the empty circuit.
    names: of these two, for the message.

  Raises:
    ValueError: these two have nearly the same mean.
  """
  gap = full.mean() - empty.mean()
  size = max(np.abs(full).mean(), np.abs(empty).mean())
  if not abs(gap) > identities_lib.VANISHING * size:
    raise ValueError(
      f"The metric of {names[0]}, {full.mean():.4g}, and of {names[1]}, "
      f"{empty.mean():.4g}, differ by {gap:.2g} only: there is no effect of "
      "which a share could be told. Check the pairs and the metric."
    )
  return (values - empty.mean()) / gap


def _pairs(numbers) -> str:
  more = f" and {len(numbers) - _SHOWN} more" * (len(numbers) > _SHOWN)
  return f"Pairs {', '.join(map(str, numbers[:_SHOWN]))}{more}"
