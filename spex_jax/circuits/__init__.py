"""Circuits: which edges of a network carry a behaviour, and which together."""

import importlib
import pkgutil
from typing import Any

_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> Any:
  """Loads a module when it is first named, as in `spex.circuits.graph`."""
  if name in _MODULES:
    return importlib.import_module(f"spex_jax.circuits.{name}")
  raise AttributeError(f"module 'spex_jax.circuits' has no attribute {name!r}")
