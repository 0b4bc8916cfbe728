"""The removal of components of a model, as an object.

`edits()` is the edit at inference, `apply` the edited parameters; `save` and
`load` keep it as JSON with a checksum, together with what identifies the model
that it was made for. `first | second` joins two, in any order.

Shapes: n players; an activation `[B, ...]` has its site's full rank.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base, shown
from spex_jax.ablate import parts
from spex_jax.components import cutting, identity, saved
from spex_jax.models import removal, sites

_FORMAT = "spex_jax.edit/1"


@dataclasses.dataclass(frozen=True, eq=False)
class Edit(shown.Shown):
  """The removal of components of one model; immutable.

  Made by `Edit.of`; equal if they remove the same in the same way.

  Attributes:
    names: the names of the components, in natural order.
    removed: site to bool of the full rank of its activation, 1 long where
      broadcast: the units that are removed.
    stand_ins: site to float32 of that rank, what stands in for them; a site
      that is not named gets zero.
    model: what the edit was made for; see `identity.of`.
  """

  names: tuple[str, ...]
  removed: Mapping[str, np.ndarray]
  stand_ins: Mapping[str, np.ndarray]
  model: Mapping[str, Any]

  @classmethod
  def of(
    cls,
    net: sites.Network,
    params: Any,
    players: parts.Players,
    remove: Sequence[int | str] | np.ndarray,
    absent: Mapping[str, base.Array] | None = None,
  ) -> "Edit":
    """The removal of some players.

    Args:
      net: the network that the players are parts of.
      params: its parameters, whose digest the edit carries.
      players: players that are parts of the network.
      remove: numbers or names of players, such as `Choice.removed`.
      absent: None for zero, or site to what stands in for its units, as
        `Players.edits` takes it, with one row for all examples.

    Raises:
      ValueError: a player or site that is not there, stand-ins that lack a
        site, have another rank, differ between examples, or are not finite.
      TypeError: players that are neither integers nor names (a mask is none).
    """
    index = {name: i for i, name in enumerate(players.names)}
    chosen = np.zeros(players.n + 1, bool)
    for which in remove:
      if isinstance(which, str):
        number = index.get(which, -1)
      else:
        number = base.check_integer(which, "A player to remove")
      if not 0 <= number < players.n:
        raise ValueError(f"No player {which!r} among {players.n}.")
      chosen[number] = True
    mask = ~chosen[:-1]
    players.edits(mask, absent)  # Refuses stand-ins that do not fit.
    removed, stand_ins = {}, {}
    for site in net.sites:
      if site not in players.owner or not chosen[players.owner[site]].any():
        continue
      removed[site] = chosen[players.owner[site]]
      if absent is not None:
        stand_ins[site] = _stand_in(site, absent[site], removed[site])
    unknown = sorted(players.owner.keys() - {*net.sites})
    if unknown:
      raise ValueError(f"The network has no sites {unknown}.")
    names = (players.names[i] for i in np.flatnonzero(chosen))
    return cls(
      tuple(sorted(names, key=_natural)),
      removed,
      stand_ins,
      identity.of(net, params),
    )

  def __or__(self, other: "Edit") -> "Edit":
    """Both edits in one, in any order; a component may be in both.

    Raises:
      ValueError: edits of different models, or a component that each replaces
        by something else.
    """
    if not isinstance(other, Edit):
      return NotImplemented
    faults = identity.differences(self.model, other.model)
    if faults:
      raise ValueError(
        "These edits were made for different models: " + "; ".join(faults)
      )
    removed = dict(self.removed)
    stand_ins = dict(self.stand_ins)
    for site, units in other.removed.items():
      mine = removed.get(site, np.zeros((1,) * units.ndim, bool))
      values = self._values(site), other._values(site)
      if np.any((mine & units) & (values[0] != values[1])):
        raise ValueError(
          f"Something else stands in for components at {site!r} in each edit."
        )
      removed[site] = mine | units
      if site in self.stand_ins or site in other.stand_ins:
        both = np.where(mine, values[0], values[1])
        stand_ins[site] = np.where(removed[site], both, 0).astype(np.float32)
    names = tuple(sorted({*self.names, *other.names}, key=_natural))
    return Edit(names, removed, stand_ins, self.model)

  def edits(self) -> sites.Edits:
    """The edit as what `Network.apply` takes at inference."""
    scale, replace = {}, {}
    for site, units in self.removed.items():
      if site in self.stand_ins:
        replace[site] = (units, self.stand_ins[site])
      else:
        scale[site] = (~units).astype(np.float32)
    return sites.Edits(replace=replace, scale=scale)

  def apply(
    self,
    net: sites.Network,
    params: Any,
    weights: Mapping[str, removal.Weights] | None = None,
  ) -> Any:
    """Parameters of which the components are gone; `params` stay as they are.

    A forward with them is that with `edits()`: the same numbers where zero
    stands in, up to rounding otherwise. Sharding and dtypes are kept. To undo
    it, keep `params`, or use `applied.Applied`.

    Args:
      net: the network that the edit was made for.
      params: the parameters that the edit was made for.
      weights: the weights of a module of your own; see `removal.weights`.

    Raises:
      ValueError: another model (naming what differs), a site for which no
        weight stands, units along an axis that weights do not have, a
        stand-in that no bias can take up.
    """
    identity.check(self.model, net, params)
    parts = cutting.cuts(net, self.removed, self.stand_ins, weights)
    return cutting.cut(params, parts)[0]

  def bound(self, net: sites.Network, params: Any) -> "Edit":
    """The same removal for another model, such as a copy in bfloat16.

    Nothing says that its components do the same.

    Raises:
      ValueError: a model without these sites.
    """
    missing = sorted(self.removed.keys() - {*net.sites})
    if missing:
      raise ValueError(f"The network has no sites {missing}.")
    return dataclasses.replace(self, model=identity.of(net, params))

  def save(self, path: str | os.PathLike) -> None:
    """Writes JSON with a checksum, whole or not at all."""
    base.write_json(path, self.body())

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Edit":
    """Reads what `save` wrote.

    Raises:
      ValueError: no such file's contents, or damaged ones.
    """
    body = base.read_json(path, must_have_checksum=True)
    if body.get("format") != _FORMAT:
      raise ValueError(f"{path} holds no edit: {body.get('format')!r}.")
    return cls.from_body(body)

  def body(self) -> dict[str, Any]:
    """As JSON."""
    where = {}
    for site in sorted(self.removed):
      units = self.removed[site]
      where[site] = {
        "shape": list(units.shape),
        "units": np.flatnonzero(units).tolist(),
      }
      if site in self.stand_ins:
        values = self.stand_ins[site]
        where[site]["values_shape"] = list(values.shape)
        where[site]["values"] = values.ravel().tolist()
    return {
      "format": _FORMAT,
      "names": list(self.names),
      "sites": where,
      "model": dict(self.model),
    }

  @classmethod
  def from_body(cls, body: Mapping[str, Any]) -> "Edit":
    """The edit that `body` describes.

    Raises:
      ValueError: an entry that is missing or of another kind, a unit or a shape
        that cannot be; the message names it.
    """
    try:
      return saved.edit(cls, body)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
      raise ValueError(f"This is no saved edit: {error!r}.") from error

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Edit) and self.body() == other.body()

  def __hash__(self) -> int:
    text = json.dumps(self.body(), sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)

  def sheet(self) -> shown.Sheet:
    """What is removed, a row of every site."""
    sites_of = sorted(self.removed, key=_natural)
    units = [self.removed[site] for site in sites_of]
    return shown.Sheet(
      str(self).partition("\n")[0],
      {
        "site": sites_of,
        "removed": [int(one.sum()) for one in units],
        "units": [one.size for one in units],
        "replaced by": [
          "a constant" if site in self.stand_ins else "zero"
          for site in sites_of
        ],
      },
      facts={"removed": _listed(self.names)},
    )

  def __str__(self) -> str:
    """What is removed: a line for each site, and the names."""
    number = len(self.names)
    lines = [
      f"Edit of {self.model['network']}: {number} "
      f"{'component' if number == 1 else 'components'} removed"
    ]
    width = max((len(site) for site in self.removed), default=0)
    for site, units in sorted(
      self.removed.items(), key=lambda item: _natural(item[0])
    ):
      what = "a constant" if site in self.stand_ins else "zero"
      lines.append(
        f"  {site:{width}}  {units.sum():4d} of {units.size:4d} units, "
        f"replaced by {what}"
      )
    if number:
      lines.append("  " + _listed(self.names))
    return "\n".join(lines)

  def _values(self, site: str) -> np.ndarray:
    units = self.removed.get(site)
    if site in self.stand_ins:
      return self.stand_ins[site]
    return np.zeros((1,) * (units.ndim if units is not None else 0), np.float32)


def _stand_in(site: str, value: base.Array, units: np.ndarray) -> np.ndarray:
  """A checked stand-in, zero where nothing is removed."""
  value = np.asarray(value, np.float32)
  if len(value) != 1:
    raise ValueError(
      f"What stands in at {site!r} has {len(value)} rows; an edit needs one "
      "for all examples."
    )
  if not np.isfinite(value).all():
    raise ValueError(f"What stands in at {site!r} holds NaN or infinity.")
  return np.where(units, value, np.float32(0)) + np.float32(0)  # No -0.


def _natural(name: str) -> list[tuple[int, str]]:
  """A key that sorts "conv 9" before "conv 10"."""
  parts = re.split(r"(\d+)", name)
  return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _listed(names: Sequence[str]) -> str:
  """Names, with what they begin with said once: "conv 1, 2; mlp 0"."""
  groups: dict[str, list[str]] = {}
  for name in names:
    start, _, end = name.rpartition(" ")
    groups.setdefault(start, []).append(end)
  return "; ".join(
    f"{start} {', '.join(ends)}".strip() for start, ends in groups.items()
  )
