"""`Interactions`: values on sets of named players, sorted, printed, saved.

Shapes: n players, K sets, D the largest of them.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from spex_jax import base, shown

_SHOWN = 20  # Rows that `str` prints.


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions(base.ByValue, shown.Shown):
  """An index of one function: a value for every set of players listed.

  Sorted by |value|, largest first, ties by players. Sets that are not listed
  have value 0. The empty set is not among them: its value is `baseline`.

  Attributes:
    n: number of players.
    players: int32 `[K, D]`, ascending in each row, padded with n; read-only.
    values: float64 `[K]`, in `units`; read-only.
    index: name of the index, see `indices.table`.
    order: the largest set that the index speaks of.
    baseline: the value of the empty set, as `indices.table` says for the index:
      f(none) for efficient ones, so that `baseline + values.sum()` is f(all).
      f is the expansion here; what the value function itself said of none and
      all is in `Explanation.ends`.
    names: n names of players, or None for their numbers. Given as any
      sequence of anything; kept as text.
    units: the units of `values`, or None.
    std: float64 `[K]` standard errors of `values`, in their units; read-only.
      None where they are not known. The baseline has none.

  Example:
    >>> found = Interactions.from_sets(
    ...   3, {(0, 2): -1.5, (1,): 0.5}.items(), index="FBII", order=2,
    ...   names=["never", "so", "boring"],
    ... )
    >>> found["boring", "never"], found["never"], found[()]
    (-1.5, 0.0, 0.0)
    >>> print(found.top(1))
    FBII up to order 2: 1 sets of 3 players, baseline +0
             -1.5  {never, boring}

  Raises:
    TypeError: players, n or order that are no integers, names in no order.
    ValueError: shapes that disagree, NaN or infinities, players outside 0..n, a
      set that names one twice, a set listed twice, the empty set, a set of more
      than `order` players, names that are not n, or a negative `std`.
  """

  n: int
  players: np.ndarray
  values: np.ndarray
  index: str
  order: int
  baseline: float = 0.0
  names: tuple[str, ...] | None = None
  units: str | None = None
  std: np.ndarray | None = None

  def __post_init__(self):
    values = np.asarray(self.values, np.float64)
    players = base.check_players(self.players, self.n).astype(np.int32)
    order = base.check_integer(self.order, "order")
    if values.shape != players.shape[:1]:
      raise ValueError(
        f"Need players [K, D] and values [K]; got {players.shape} and "
        f"{values.shape}."
      )
    if not (np.isfinite(values).all() and np.isfinite(self.baseline)):
      raise ValueError("Interactions must be finite.")
    std = None
    if self.std is not None:
      std = check_std(self.std, len(values), "std", "values")
    sizes = (players < self.n).sum(axis=1)
    if not sizes.all():
      raise ValueError("The empty set's value is `baseline`, not a row.")
    width = int(sizes.max(initial=0))
    if width > order:
      largest = players[sizes.argmax()][:width].tolist()
      raise ValueError(
        f"The set {largest} has {width} players, more than order={order}."
      )
    object.__setattr__(self, "names", base.check_names(self.names, self.n))
    players = players[:, :width]
    # By players first, so that equal sets are neighbours.
    rank = np.lexsort(players.T[::-1]) if width else np.arange(len(players))
    players = players[rank]
    again = (players[1:] == players[:-1]).all(axis=1)
    if again.any():
      row = players[1:][again][0]
      raise ValueError(
        f"The set {row[row < self.n].tolist()} is listed twice; add its values."
      )
    strongest = np.argsort(-np.abs(values[rank]), kind="stable")
    players, rank = players[strongest], rank[strongest]
    values, std = values[rank], None if std is None else std[rank]
    for name, array in [("players", players), ("values", values), ("std", std)]:
      if array is not None:
        array.flags.writeable = False
      object.__setattr__(self, name, array)
    object.__setattr__(self, "baseline", float(self.baseline))
    object.__setattr__(self, "n", int(self.n))
    object.__setattr__(self, "order", order)

  def __len__(self) -> int:
    return len(self.values)

  def __iter__(self) -> Iterator[tuple[tuple[int, ...], float]]:
    """Pairs of players and value, largest |value| first."""
    for row, value in zip(self.players.tolist(), self.values.tolist()):
      yield tuple(i for i in row if i < self.n), value

  def __getitem__(self, players: Iterable[int | str] | int | str) -> float:
    """The value of one set, by numbers or names; 0 if it is not listed.

    `()` gives the baseline.

    Raises:
      KeyError: no such player, a name that several have, a player twice, or
        more players than `order`.
      TypeError: a player that is neither an integer nor a name.
    """
    if isinstance(players, int | np.integer | str):
      players = (players,)
    members = sorted(self._number(player) for player in players)
    if len(set(members)) != len(members):
      raise KeyError(f"The set {members} names a player twice.")
    if len(members) > self.order:
      raise KeyError(
        f"{members} has {len(members)} players; {self.index} was taken up "
        f"to order {self.order}."
      )
    if not members:
      return self.baseline
    if len(members) > self.players.shape[1]:
      return 0.0
    row = np.full(self.players.shape[1], self.n)
    row[: len(members)] = members
    found = (self.players == row[None]).all(axis=1)
    return float(self.values[found].sum())  # Of one row, or of none.

  def top(self, k: int = 10) -> "Interactions":
    """The k sets of largest |value|, or all if there are fewer.

    Raises:
      ValueError: k below 0.
    """
    if k < 0:
      raise ValueError(f"k must be at least 0; got {k}.")
    return self._rows(slice(k))

  def by_order(self, order: int) -> "Interactions":
    """The sets of exactly `order` players."""
    return self._rows((self.players < self.n).sum(axis=1) == order)

  def labels(self) -> list[str]:
    """One printable label per player, all different and none blank.

    Control characters and line ends are escaped; players that share a name, or
    have a blank one, are told apart by number.
    """
    if self.names is None:
      return [str(i) for i in range(self.n)]
    names = [base.printable(name) for name in self.names]
    count: dict[str, int] = {}
    for name in names:
      count[name] = count.get(name, 0) + 1
    labels = [
      name if count[name] == 1 and name.strip() else f"{name}#{i}"
      for i, name in enumerate(names)
    ]
    if len(set(labels)) < self.n:  # A name looks like another's number.
      labels = [f"{name}#{i}" for i, name in enumerate(names)]
    return labels

  def __str__(self) -> str:
    """A plain table of the strongest sets, with `std` after `+/-`."""
    labels = self.labels()
    shown = list(self.top(_SHOWN))
    errors = [""] * len(shown)
    if self.std is not None:
      errors = [f" +/- {std:<9.4g}" for std in self.std[:_SHOWN]]
    units = "" if self.units is None else f" {base.printable(self.units)}"
    lines = [
      f"{base.printable(self.index)} up to order {self.order}: {len(self)} "
      f"sets of {self.n} players, baseline {self.baseline:+.4g}{units}"
    ]
    lines += [
      f"  {value:+11.4g}{error}{units}  "
      f"{{{', '.join(labels[i] for i in players)}}}"
      for (players, value), error in zip(shown, errors)
    ]
    if len(self) > len(shown):
      lines.append(f"  ... and {len(self) - len(shown)} more")
    return "\n".join(lines)

  def __repr__(self) -> str:
    return (
      f"Interactions(index={self.index!r}, order={self.order}, n={self.n}, "
      f"sets={len(self)})"
    )

  def sheet(self) -> shown.Sheet:
    """All sets, the strongest first.

    Columns: `set` (a tuple of labels), `players` (of numbers), `order`,
    `value`, and `std` where it is known.
    """
    labels = self.labels()
    sets = [players for players, _ in self]
    columns: dict[str, Any] = {
      "set": [tuple(labels[i] for i in players) for players in sets],
      "players": sets,
      "order": [len(players) for players in sets],
      "value": self.values,
    }
    if self.std is not None:
      columns["std"] = self.std
    return shown.Sheet(str(self).partition("\n")[0], columns)

  def save(self, path: str | os.PathLike) -> None:
    """Writes JSON with a checksum, whole or not at all."""
    base.write_json(
      path,
      {
        "index": self.index,
        "order": self.order,
        "n": self.n,
        "units": self.units,
        "names": None if self.names is None else list(self.names),
        "baseline": self.baseline,
        "sets": [[list(players), value] for players, value in self],
        "std": None if self.std is None else self.std.tolist(),
      },
    )

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Interactions":
    """Reads what `save` wrote; a file without `std` has none.

    Raises:
      ValueError: another kind of file, or a damaged one.
    """
    body = base.read_json(path)
    try:
      return cls.from_sets(
        body["n"],
        [(tuple(players), value) for players, value in body["sets"]],
        index=body["index"],
        order=body["order"],
        baseline=body["baseline"],
        names=body["names"],
        units=body["units"],
        std=body.get("std"),
      )
    except (KeyError, TypeError) as error:
      raise ValueError(
        f"{path} holds no saved interactions: need keys 'n', 'sets', 'index', "
        "'order', 'baseline', 'names' and 'units' "
        f"({type(error).__name__}: {error})."
      ) from error

  @classmethod
  def from_sets(
    cls,
    n: int,
    sets: Iterable[tuple[tuple[int, ...], float]],
    **fields: Any,
  ) -> "Interactions":
    """Builds from pairs of players and value; `fields` are the other ones.

    `std`, if given, is in the order of `sets`.

    Raises:
      As the constructor; a player n, the padding, is refused as well.
    """
    n = base.check_integer(n, "The number of players n")
    pairs = []
    for members, value in sets:
      members = tuple(members)
      what = f"A player of the set {members}"
      checked = [base.check_integer(i, what) for i in members]
      if not all(0 <= i < n for i in checked):
        raise ValueError(f"The set {members} must hold players 0..{n - 1}.")
      pairs.append((checked, value))
    width = max((len(players) for players, _ in pairs), default=0)
    rows = np.full((len(pairs), width), n, np.int32)
    for row, (players, _) in zip(rows, pairs):
      row[: len(players)] = players
    values = np.asarray([value for _, value in pairs], np.float64)
    return cls(n=n, players=rows, values=values, **fields)

  def to_shapiq(self) -> Any:
    """The same as a `shapiq.InteractionValues`, with the empty set listed.

    So are all single players: its network plot leaves out pairs of those that
    are not. `shapiq` renames order 1 of an index to SV or BV, and has no place
    for names, units and standard errors: they are dropped.

    Raises:
      ImportError: no shapiq here.
      ValueError: Fourier coefficients, which it has no index for.
    """
    if self.index == "Fourier":
      raise ValueError(
        "shapiq has no Fourier coefficients; take index 'Moebius' or 'BII'."
      )
    values = {(): self.baseline} | {(i,): 0.0 for i in range(self.n)}
    values |= dict(self)
    return _shapiq().InteractionValues(
      values=np.asarray(list(values.values())),
      # Without a lookup it would list all sets of up to `order` players.
      interaction_lookup={players: i for i, players in enumerate(values)},
      index=self.index,
      max_order=self.order,
      min_order=0,
      n_players=self.n,
      estimated=False,
      baseline_value=self.baseline,
    )

  @classmethod
  def from_shapiq(
    cls,
    values: Any,
    *,
    names: tuple[str, ...] | None = None,
    units: str | None = None,
  ) -> "Interactions":
    """Reads a `shapiq.InteractionValues`; sets of value 0 are dropped.

    Raises:
      TypeError: another type.
      ImportError: no shapiq here.
    """
    if not isinstance(values, _shapiq().InteractionValues):
      raise TypeError(
        f"Need a shapiq.InteractionValues; got {type(values).__name__}."
      )
    found = dict(values.interactions)
    baseline = found.pop((), values.baseline_value)
    return cls.from_sets(
      int(values.n_players),
      [(players, value) for players, value in found.items() if value],
      index=values.index,
      order=int(values.max_order),
      baseline=float(baseline),
      names=names,
      units=units,
    )

  def _rows(self, rows: slice | np.ndarray) -> "Interactions":
    return dataclasses.replace(
      self,
      players=self.players[rows],
      values=self.values[rows],
      std=None if self.std is None else self.std[rows],
    )

  def _number(self, player: int | str) -> int:
    if isinstance(player, str):
      where = [i for i, name in enumerate(self.names or ()) if name == player]
      if len(where) != 1:
        many = "several players are" if where else "no player is"
        raise KeyError(f"{many} named {player!r}; use numbers.")
      return where[0]
    number = base.check_integer(player, "A player that is not named")
    if not 0 <= number < self.n:
      raise KeyError(f"No player {number}; they are 0..{self.n - 1}.")
    return number


def check_std(std: base.Array, size: int, name: str, of: str) -> np.ndarray:
  """Returns standard errors as float64 `[size]`.

  Args:
    std: the standard errors to check.
    size: how many standard errors are needed.
    name: what `std` is called, for messages.
    of: what the errors are of, for messages.

  Raises:
    ValueError: another shape, NaN, infinities, or negative ones.
  """
  out = np.asarray(std, np.float64)
  if out.shape != (size,):
    raise ValueError(
      f"{name} must be [{size}], one for each of {of}; got shape {out.shape}."
    )
  bad = np.flatnonzero(~(np.isfinite(out) & (out >= 0)))
  if len(bad):
    raise ValueError(
      f"{name} must be finite and at least 0; row {bad[0]} is {out[bad[0]]}. "
      f"Give {name}=None if standard errors are not known."
    )
  return out


def _shapiq() -> Any:
  try:
    import shapiq  # An optional peer, slow to import.
  except ImportError as error:
    raise ImportError(
      "Converting to or from shapiq needs it: pip install shapiq."
    ) from error
  return shapiq
