"""Circuits: which edges of a network carry a behaviour, and which together.

Scores on some pairs of prompts, circuits from them, judged on other pairs:

  found = circuits.score(net, params, some, metric, method="eap-ig")
  kept = circuits.selection.greedy(found.graph, found.mean(), 400)
  print(circuits.faithfulness(net, params, others, {"greedy": kept}, metric))
"""

import importlib
import pkgutil
from typing import Any

_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))

# What most is done with, and where it is.
_FUNCTIONS = {"score": "scores", "faithfulness": "judges"}


def __getattr__(name: str) -> Any:
  """Loads a module when it is first named, as in `spex.circuits.graph`."""
  if name in _FUNCTIONS:
    return getattr(__getattr__(_FUNCTIONS[name]), name)
  if name in _MODULES:
    return importlib.import_module(f"spex_jax.circuits.{name}")
  raise AttributeError(f"module 'spex_jax.circuits' has no attribute {name!r}")
