"""What is absent, what is read, and how values of masks come about."""

import importlib
import pkgutil
from typing import Any

_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> Any:
  """Loads a module when it is first named, as in `spex.ablate.columns`."""
  if name in _MODULES:
    return importlib.import_module(f"spex_jax.ablate.{name}")
  raise AttributeError(f"module 'spex_jax.ablate' has no attribute {name!r}")
