"""Configurations of ledgers: what all values of one depend on, as JSON."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration as it is read back: tuples are lists.

  Raises:
    ValueError: what JSON has no word for.
  """
  try:
    return json.loads(json.dumps(dict(config), allow_nan=False))
  except (TypeError, ValueError) as error:
    raise ValueError(f"The configuration is no JSON: {error}.") from error


def digest(config: Mapping[str, Any]) -> str:
  """SHA-256 of a configuration, whatever the order of its keys."""
  text = json.dumps(as_json(config), sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def differing(one: Any, other: Any, prefix: str = "") -> list[str]:
  """Dotted names of the keys in which two configurations differ."""
  if not (isinstance(one, dict) and isinstance(other, dict)):
    return [] if one == other else [prefix or "everything"]
  found = []
  for key in sorted(one.keys() | other.keys()):
    name = f"{prefix}.{key}" if prefix else key
    if key not in one or key not in other:
      found.append(name)
    else:
      found += differing(one[key], other[key], name)
  return found
