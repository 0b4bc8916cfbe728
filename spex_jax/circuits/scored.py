"""Scores of every pair, with their intervals and how far exact effects agree.

Shapes: N pairs, P positions, E edges (or nodes, or neurons), K checked ones.
"""

import csv
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from spex_jax import base, shown
from spex_jax.circuits import graph as graph_lib

_RESAMPLES = 1000
_COLUMNS = 4096  # Edges whose resamples are held at once.


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Scores beside exact effects, on a sample.

  Attributes:
    which: numbers of the sample, int `[K]`; of level "position" that of
      `[P, E]`, flat.
    exact: their effects, mean over the checked pairs: float64 `[K]`.
    estimate: their scores, mean over the same pairs.
    num_pairs: the first so many were checked.
    pearson: correlation; NaN where either is constant.
    kendall: rank correlation tau b; NaN likewise.
  """

  which: np.ndarray
  exact: np.ndarray
  estimate: np.ndarray
  num_pairs: int
  pearson: float
  kendall: float

  def __str__(self) -> str:
    return (
      f"Kendall {self.kendall:.2f}, Pearson {self.pearson:.2f} with exact "
      f"effects of {len(self.which)} on {self.num_pairs} pairs"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Scores(shown.Shown):
  """Scores of every pair.

  Attributes:
    graph: the graph whose edges and writers these are.
    values: float64 `[N, E]`; of level "position" `[N, P, E]`.
    level: what is scored, one of `graph.LEVELS`.
    names: the E names of what is scored.
    method: with backward rules and ablation, in words.
    units: the units of the values.
    cost: forward and backward passes of one pair, by name.
    agreement: with exact effects on a sample; None if there is none.
    ratio: float64 `[E]`, of second-order scores: the correction against the
      whole, see `second.Curved`; else None.
    checked: bool `[E]`, where the value is an exact effect.
  """

  graph: graph_lib.Graph
  values: np.ndarray
  level: str
  names: tuple[str, ...] = dataclasses.field(repr=False)
  method: str
  units: str
  cost: dict[str, int]
  agreement: Agreement | None = None
  ratio: np.ndarray | None = None
  checked: np.ndarray | None = None

  def mean(self) -> np.ndarray:
    """Over pairs: `[E]`, or `[P, E]`."""
    return self.values.mean(axis=0)

  def interval(
    self,
    level: float = 0.95,
    *,
    which: np.ndarray | slice = slice(None),
    resamples: int = _RESAMPLES,
    seed: int = 0,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval of the mean, by percentiles over pairs drawn anew.

    Args:
      level: of confidence, in (0, 1).
      which: numbers of edges, or at level "position" of positions; all by
        default.
      resamples: how many draws of N pairs are made.
      seed: an integer, the seed of the draws.

    Returns:
      Lower and upper ends, each of the shape of `mean()[which]`.

    Raises:
      ValueError: a level outside (0, 1), or no resample.
    """
    return bootstrap(self.values[:, which], level, resamples, seed)

  def sheet(self) -> shown.Sheet:
    """Means over pairs, the largest first: `name`, `score` and what is known.

    `std` is the standard error over pairs, where there are two or more.
    """
    mean = self.mean().ravel()
    order = np.argsort(-np.abs(mean), kind="stable")
    which = order % len(self.names)
    columns: dict[str, Any] = {"name": [self.names[i] for i in which]}
    if self.level == "position":
      columns["position"] = order // len(self.names)
    columns["score"] = mean[order]
    if (num := len(self.values)) > 1:
      std = self.values.std(axis=0, ddof=1).ravel() / np.sqrt(num)
      columns["std"] = std[order]
    for name in ("ratio", "checked"):
      if getattr(self, name) is not None:
        columns[name] = getattr(self, name)[which]
    trust = []
    if self.agreement is not None:
      weak = not self.agreement.pearson >= 0.5
      trust = [("agreement", str(self.agreement), weak)]
    return shown.Sheet(
      f"{self.method}: scores of {mean.size:,} {self.level}s, {self.units}",
      columns,
      trust,
      {"pairs": f"{num:,}", "graph": self.graph.fingerprint},
    )

  def save(self, path: str | os.PathLike) -> None:
    """Writes all of it to an `.npz` file."""
    extra: dict[str, Any] = {}
    if self.agreement is not None:
      for field in dataclasses.fields(Agreement):
        extra[f"agreement_{field.name}"] = getattr(self.agreement, field.name)
    for name in ("ratio", "checked"):
      if getattr(self, name) is not None:
        extra[name] = getattr(self, name)
    np.savez_compressed(
      pathlib.Path(path),
      values=self.values,
      graph=self.graph.fingerprint,
      level=self.level,
      names=np.asarray(self.names),
      method=self.method,
      units=self.units,
      cost=np.asarray(list(self.cost.items()), object).astype(str),
      **extra,
    )

  def write_csv(self, path: str | os.PathLike) -> None:
    """Writes `writer,reader,row,score`, the mean over pairs of every edge.

    Of positions the sum over them is written; of nodes and neurons
    `name,score`.
    """
    mean = self.mean()
    if self.level == "position":
      mean = mean.sum(axis=0)
    with open(path, "w", newline="", encoding="utf-8") as file:
      rows = csv.writer(file, lineterminator="\n")
      if self.level in ("edge", "position"):
        rows.writerow(("writer", "reader", "row", "score"))
        for i, value in enumerate(mean):
          rows.writerow((*self.graph.edge(i), repr(float(value))))
      else:
        rows.writerow(("name", "score"))
        rows.writerows(zip(self.names, map(repr, map(float, mean))))


def load(path: str | os.PathLike, graph: graph_lib.Graph) -> Scores:
  """Scores that `Scores.save` wrote.

  Args:
    path: the path of the file.
    graph: of the network that they are of.

  Raises:
    ValueError: scores of another graph.
  """
  with np.load(pathlib.Path(path), allow_pickle=False) as file:
    held = dict(file)
  if str(held["graph"]) != graph.fingerprint:
    raise ValueError(
      f"{path} holds scores of graph {held['graph']}, not of this one, "
      f"{graph.fingerprint}."
    )
  agreement = None
  if "agreement_which" in held:
    given = {
      field.name: held[f"agreement_{field.name}"]
      for field in dataclasses.fields(Agreement)
    }
    for name, kind in (
      ("num_pairs", int),
      ("pearson", float),
      ("kendall", float),
    ):
      given[name] = kind(given[name])
    agreement = Agreement(**given)
  return Scores(
    graph,
    held["values"],
    str(held["level"]),
    tuple(held["names"].tolist()),
    str(held["method"]),
    str(held["units"]),
    {str(name): int(count) for name, count in held["cost"]},
    agreement,
    held.get("ratio"),
    held.get("checked"),
  )


def bootstrap(
  values: base.Array,
  level: float = 0.95,
  resamples: int = _RESAMPLES,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Ends of intervals of means over pairs: `[N, ...]` to two of `[...]`.

  Args:
    values: float `[N, ...]`, a number for each pair.
    level: of confidence, in (0, 1).
    resamples: how many draws of N pairs are made.
    seed: an integer, the seed of the draws.

  Raises:
    ValueError: a level outside (0, 1), or no resample.
  """
  if not 0 < level < 1 or resamples < 1:
    raise ValueError(
      f"An interval needs a level in (0, 1) and resamples; got {level}, "
      f"{resamples}."
    )
  values = np.asarray(values, np.float64)
  rng, num = np.random.default_rng(seed), len(values)
  drawn = rng.multinomial(num, np.full(num, 1 / num), size=resamples) / num
  flat = values.reshape(num, -1)
  ends = np.empty((2, flat.shape[1]))
  for start in range(0, flat.shape[1], _COLUMNS):
    part = slice(start, start + _COLUMNS)
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends[:, part] = np.quantile(drawn @ flat[:, part], tails, axis=0)
  low, high = ends.reshape(2, *values.shape[1:])
  return low, high
