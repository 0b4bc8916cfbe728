"""Context: which tokens of an answer used it, which parts, and which together.

An answer is scored with its context and without it (`Runs`); what it depends
on, and on what, is found token by token:

  runs = context.Runs.of_text(net, context=passages, current=question)
  found = context.pecore(net, runs, metric="kl_divergence")
  found.selected, found.cues[0].scores, found.to_inseq()

And without any context, which tokens made each token of a generation:

  context.attribute(net, prompt, method="integrated_gradients").scores
"""

import importlib
import pkgutil
from typing import Any

_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))

# What most is done with, and where it is. No module has a function's name, for
# importing it would hide the function.
_FUNCTIONS = {
  "Runs": "response_runs",
  "Generation": "generations",
  "attribute": "attributing",
  "pecore": "reliance",
  "cite": "citing",
  "prune": "citing",
  "calibrate": "citing",
}


def __getattr__(name: str) -> Any:
  """Loads a module when it is first named, as in `spex.context.sources`."""
  if name in _FUNCTIONS:
    module = importlib.import_module(f"spex_jax.context.{_FUNCTIONS[name]}")
    return getattr(module, name)
  if name in _MODULES:
    return importlib.import_module(f"spex_jax.context.{name}")
  raise AttributeError(f"module 'spex_jax.context' has no attribute {name!r}")
