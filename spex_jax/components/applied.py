"""Edits in force on parameters, with what they took: undone bit for bit.

  applied = Applied.of(net, params, first).also(second)
  applied.params                       # without the components of both
  applied.undo(first).params           # without those of `second` alone
  applied.undo().params                # the parameters before any edit

Edits are undone in any order, also where both remove a component. What was
taken is a copy of the weights that changed, no more, and `save` keeps it, so
that an edited checkpoint can be mended later.
"""

import base64
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.components import cutting, edit, identity
from spex_jax.models import removal, sites

_FORMAT = "spex_jax.applied/1"


@dataclasses.dataclass(frozen=True, eq=False)
class Applied:
  """Parameters with edits in force; immutable.

  Attributes:
    net: the network that the parameters are of.
    params: the edited parameters.
    edits: the edits in force, each once.
    taken: what the edits took from the parameters.
    weights: the weights of a module of your own; see `removal.weights`.
  """

  net: sites.Network
  params: Any
  edits: tuple[edit.Edit, ...]
  taken: tuple[cutting.Taken, ...]
  weights: Mapping[str, removal.Weights]

  @classmethod
  def of(
    cls,
    net: sites.Network,
    params: Any,
    *edits: edit.Edit,
    weights: Mapping[str, removal.Weights] | None = None,
  ) -> "Applied":
    """Puts edits in force.

    Args:
      net: the network that the parameters are of.
      params: the parameters that the edits were made for.
      *edits: the edits, any number of them.
      weights: the weights of a module of your own.

    Raises:
      ValueError: as `Edit.apply` and `Edit.__or__`.
    """
    for one in edits:
      identity.check(one.model, net, params)
    return _made(net, params, edits, weights or {})

  def also(self, other: edit.Edit) -> "Applied":
    """One more edit in force; one that is already changes nothing.

    Raises:
      ValueError: an edit of another model, or as `of`.
    """
    original = self._original()
    if self.edits:
      faults = identity.differences(self.edits[0].model, other.model)
      if faults:
        raise ValueError(
          "This edit was made for another model: " + "; ".join(faults)
        )
    else:
      identity.check(other.model, self.net, original)
    edits = tuple(dict.fromkeys((*self.edits, other)))
    return _made(self.net, original, edits, self.weights)

  def undo(self, *edits: edit.Edit) -> "Applied":
    """Without these edits, or without any if none is named.

    Raises:
      ValueError: an edit that is not in force.
    """
    for one in edits:
      if one not in self.edits:
        raise ValueError(f"Not in force: {one}")
    kept = tuple(one for one in self.edits if edits and one not in edits)
    return _made(self.net, self._original(), kept, self.weights)

  def save(self, path: str | os.PathLike) -> None:
    """Writes edits and what they took as JSON with a checksum.

    The edited parameters are not in it: save them as you save others.
    """
    flat = identity.paths(self.params)
    touched = sorted({part.path for part in self.taken})
    body = {
      "format": _FORMAT,
      "edits": [one.body() for one in self.edits],
      "taken": [_packed(part) for part in self.taken],
      "edited": {name: identity.digest(flat[name]) for name in touched},
    }
    base.write_json(path, body)

  @classmethod
  def load(
    cls,
    path: str | os.PathLike,
    net: sites.Network,
    params: Any,
    weights: Mapping[str, removal.Weights] | None = None,
  ) -> "Applied":
    """Reads what `save` wrote, for the same edited parameters.

    Raises:
      ValueError: no such file's contents, damaged ones, or other parameters
        than the edited ones (naming those that differ).
    """
    body = base.read_json(path, must_have_checksum=True)
    if body.get("format") != _FORMAT:
      raise ValueError(
        f"{path} holds no applied edits: {body.get('format')!r}."
      )
    flat = identity.paths(params)
    try:
      edits = tuple(edit.Edit.from_body(one) for one in body["edits"])
      taken = tuple(_unpacked(part) for part in body["taken"])
      other = [
        name
        for name, known in body["edited"].items()
        if name not in flat or identity.digest(flat[name]) != known
      ]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
      raise ValueError(f"{path} is no file of ours: {error!r}.") from error
    if other:
      raise ValueError(
        f"{path} belongs to other parameters: {', '.join(other)} differ from "
        "those that were edited."
      )
    found = cls(net, params, edits, taken, weights or {})
    for one in edits:
      identity.check(one.model, net, found._original())
    return found

  def __str__(self) -> str:
    if not self.edits:
      return "No edits in force."
    return "\n".join(str(one) for one in self.edits)

  def _original(self) -> Any:
    return cutting.restored(self.params, self.taken)


def _made(net, params, edits, weights) -> Applied:
  """`edits` in force on parameters that none is in force on."""
  edits = tuple(dict.fromkeys(edits))
  if not edits:
    return Applied(net, params, (), (), weights)
  whole = edits[0]
  for one in edits[1:]:
    whole = whole | one
  parts = cutting.cuts(net, whole.removed, whole.stand_ins, weights)
  new, taken = cutting.cut(params, parts)
  return Applied(net, new, edits, taken, weights)


def _packed(part: cutting.Taken) -> dict[str, Any]:
  return {
    "path": part.path,
    "axes": list(part.axes),
    "index": [numbers.tolist() for numbers in part.index],
    "dtype": str(part.values.dtype),
    "shape": list(part.values.shape),
    "values": base64.b64encode(part.values.tobytes()).decode(),
  }


def _unpacked(entry: Mapping[str, Any]) -> cutting.Taken:
  bits = base64.b64decode(entry["values"])
  values = np.frombuffer(bits, jnp.dtype(entry["dtype"]))
  return cutting.Taken(
    entry["path"],
    tuple(entry["axes"]),
    tuple(np.asarray(numbers, np.int64) for numbers in entry["index"]),
    values.reshape(entry["shape"]),
  )
