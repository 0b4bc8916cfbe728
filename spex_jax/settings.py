"""Settings by dotted names; a mistyped one is told one that is close."""

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import ml_collections


def check_key(key: str, config: "ml_collections.ConfigDict", name: str) -> None:
  """Refuses a setting that a configuration does not have.

  Args:
    key: dotted.
    config: that should have it.
    name: of the configuration, for the message.

  Raises:
    ValueError: names those that it has, and one that comes close.
  """
  import ml_collections

  node = config
  for depth, part in enumerate(key.split(".")):
    if isinstance(node, ml_collections.ConfigDict) and part in node:
      node = node[part]
      continue
    prefix = ".".join(key.split(".")[:depth] + [""]) if depth else ""
    known = list(node) if isinstance(node, ml_collections.ConfigDict) else []
    close = difflib.get_close_matches(part, known, n=1)
    hint = f" Did you mean {prefix}{close[0]}?" if close else ""
    raise ValueError(
      f"{name} has no setting {key!r}.{hint} It has: "
      f"{', '.join(prefix + k for k in known) or 'nothing there'}."
    )
