"""What tells one model from another: its network, settings and weights."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from spex_jax.models import sites

_SHOWN = 4  # Differences of a kind that a message names.


def paths(params: Any) -> dict[str, Any]:
  """Path, joined by "/", to every leaf of a tree of parameters."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {"/".join(_name(key) for key in path): leaf for path, leaf in leaves}


def rebuilt(params: Any, flat: Mapping[str, Any]) -> Any:
  """The tree of `params` with the leaves of `flat`, by path."""
  structure = jax.tree.structure(params)
  return jax.tree.unflatten(structure, [flat[path] for path in paths(params)])


def digest(leaf: Any) -> str:
  """Of an array's dtype, shape and bits."""
  array = np.ascontiguousarray(np.asarray(leaf))
  found = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
  found.update(array.tobytes())
  return found.hexdigest()[:16]


def of(net: sites.Network, params: Any) -> dict[str, Any]:
  """A model as JSON: `network`, `config`, and a digest of each parameter.

  Reads every parameter once, on the host: a second for a gigabyte or two.
  """
  config = net.config
  settings = {}
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    settings = dataclasses.asdict(config)
  module = getattr(net.module, "module", net.module)  # Behind an adapter.
  kind = type(module if config is None else config)
  return {
    "network": f"{kind.__module__}.{kind.__qualname__}",
    "config": json.loads(json.dumps(settings, default=str)),
    "weights": {path: digest(leaf) for path, leaf in paths(params).items()},
  }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  """What differs between two models of `of`, in words; empty if nothing."""
  if one["network"] != other["network"]:
    return [f"the network is {other['network']}, not {one['network']}"]
  faults = [
    f"{name} is {other['config'].get(name)!r}, not {one['config'].get(name)!r}"
    for name in sorted(one["config"].keys() | other["config"].keys())
    if one["config"].get(name) != other["config"].get(name)
  ]
  mine, theirs = one["weights"], other["weights"]
  for what, names in (
    ("has other weights", [p for p in mine if mine[p] != theirs.get(p)]),
    ("has weights of its own", [p for p in theirs if p not in mine]),
  ):
    if names:
      more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
      faults.append(f"it {what} at {', '.join(names[:_SHOWN])}{more}")
  return faults


def check(model: Mapping[str, Any], net: sites.Network, params: Any) -> None:
  """Refuses a model that is not the one described.

  Raises:
    ValueError: naming what differs.
  """
  faults = differences(model, of(net, params))
  if faults:
    raise ValueError(
      "This edit was made for another model: "
      + "; ".join(faults)
      + ". Join edits of one model by `|` or `Applied.also`; "
      "`bound(net, params)` takes an edit to another model on purpose."
    )


def _name(key: Any) -> str:
  for attribute in ("key", "idx", "name"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  raise TypeError(f"A tree of parameters has the key {key!r}.")
