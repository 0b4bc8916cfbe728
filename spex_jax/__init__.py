"""Attribution by ablation: which sets of things matter together to a model.

  import jax, spex_jax as spex

  explanation = spex.explain(value_fn, n, budget=2000, key=jax.random.key(0))
  print(explanation.interactions("FBII", order=2, names=words))

`base` states the one convention: a mask is True where a player is kept.
"""

import importlib as _importlib
import pkgutil as _pkgutil
from typing import Any as _Any

from spex_jax.api import assess, decode, explain
from spex_jax.explanation import Explanation
from spex_jax.fourier.sparse import SparseFourier
from spex_jax.fourier.spex import QueryPlan, make_plan
from spex_jax.indices.interactions import Interactions
from spex_jax.indices.table import INDICES, interactions

__version__ = "0.1.0"

__all__ = [
  "INDICES",
  "Explanation",
  "Interactions",
  "QueryPlan",
  "SparseFourier",
  "assess",
  "decode",
  "explain",
  "interactions",
  "make_plan",
]

# Every file and folder beside this one.
_ROOMS = frozenset(module.name for module in _pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> _Any:
  """Loads a room when it is first named: some pull in plotting or training."""
  if name in _ROOMS:
    return _importlib.import_module(f"spex_jax.{name}")
  raise AttributeError(f"module 'spex_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*__all__, *_ROOMS, "__doc__", "__version__"})
