"""Networks behind one face; `load` reads Hugging Face checkpoints."""

from typing import Any


def __getattr__(name: str) -> Any:
  """`load` comes with the families only when it is named."""
  if name == "load":
    from spex_jax.models import hub

    return hub.load
  raise AttributeError(f"module 'spex_jax.models' has no attribute {name!r}")
