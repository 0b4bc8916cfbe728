"""Attribution by ablation: which sets of things matter together to a model.

  import jax, spex_jax as spex

  explanation = spex.explain(value_fn, n, budget=2000, key=jax.random.key(0))
  print(explanation.interactions("FBII", order=2, names=words))

`base` states the one convention: a mask is True where a player is kept.
"""

import importlib as _importlib
import pkgutil as _pkgutil
import typing as _typing

if _typing.TYPE_CHECKING:
  from spex_jax.api import assess, decode, explain
  from spex_jax.explanation import Explanation
  from spex_jax.fourier.sparse import SparseFourier
  from spex_jax.fourier.spex import QueryPlan, make_plan
  from spex_jax.indices.interactions import Interactions
  from spex_jax.indices.table import INDICES, interactions

__version__ = "1.0.0rc4"

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

# Which file a name of the face is from. None is loaded before a name is used:
# `spex --help` and an import of one room need not wait for JAX.
_FROM = {
  "INDICES": "indices.table",
  "Explanation": "explanation",
  "Interactions": "indices.interactions",
  "QueryPlan": "fourier.spex",
  "SparseFourier": "fourier.sparse",
  "assess": "api",
  "decode": "api",
  "explain": "api",
  "interactions": "indices.table",
  "make_plan": "fourier.spex",
}
# Every file and folder beside this one.
_ROOMS = frozenset(module.name for module in _pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> _typing.Any:
  """Loads a room, or a name of the face, when it is first named."""
  if name in _ROOMS:
    return _importlib.import_module(f"spex_jax.{name}")
  if name in _FROM:
    room = _importlib.import_module(f"spex_jax.{_FROM[name]}")
    found = globals()[name] = getattr(room, name)
    return found
  raise AttributeError(f"module 'spex_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*__all__, *_ROOMS, "__doc__", "__version__"})
