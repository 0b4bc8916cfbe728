"""What every command asks of its settings before any work: named, in range."""

import pathlib
from collections.abc import Iterable
from typing import Any

import ml_collections
import numpy as np


def need(
  config: ml_collections.ConfigDict, names: Iterable[str], hint: str = ""
) -> None:
  """Raises ValueError for settings that are missing; names them all."""
  if missing := [name for name in names if name not in config]:
    raise ValueError(f"The configuration lacks {', '.join(missing)}{hint}.")


def integer(name: str, value: Any, least: int | None = None) -> None:
  """Raises ValueError unless `value` is an integer, and at least `least`."""
  if isinstance(value, bool) or not isinstance(value, int):
    raise ValueError(f"{name}={value!r}: must be an integer.")
  if least is not None and value < least:
    raise ValueError(f"{name}={value}: must be at least {least}.")


def choice(
  name: str, value: Any, known: Iterable[str], otherwise: str = ""
) -> None:
  """Raises ValueError unless `value` is one of `known`.

  Args:
    name: of the setting.
    value: that it has.
    known: that it may have.
    otherwise: what else would do, for the end of the message.
  """
  known = tuple(known)
  if value not in known:
    raise ValueError(
      f"{name}={value!r}: choose from {', '.join(known)}{otherwise}."
    )


def finite(config: ml_collections.ConfigDict, prefix: str = "") -> None:
  """Raises ValueError for a setting that is NaN or infinite; names it."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      finite(value, f"{prefix}{name}.")
    elif isinstance(value, float) and not np.isfinite(value):
      raise ValueError(f"{prefix}{name}={value}: must be finite.")


def writable(workdir: pathlib.Path) -> None:
  """Makes `workdir`, and sees that it can be written before any work.

  Raises:
    ValueError: it cannot.
  """
  probe = workdir / ".probe"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ValueError(
      f"workdir {workdir} cannot be written: {error.strerror}."
    ) from error
