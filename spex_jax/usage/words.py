"""What several texts of help say alike."""

from typing import Any

from spex_jax import settings

FILE = (
  "one of the names below, or a Python file with a function "
  "get_config(size) that returns an ml_collections.ConfigDict; :quick after "
  "it asks for a small run; --config.KEY=VALUE changes one setting"
)
DEBUG = "  --debug                       shows the traceback of an error"
WORDS = "[--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE ...]"

NAMED = settings.field(
  None, "one of the names below, or a Python file as for `spex explain`"
)


def config(name: str) -> Any:
  """The flag of a configuration, with the one that is taken by default."""
  return settings.field(name, f"{FILE} (default: {name})")


def workdir(what: str) -> Any:
  """The flag of a folder, where `what` goes."""
  return settings.field(None, f"where {what}", place=True)
