"""Flags of `spex sweep`: words of a command line to text by name.

absl's own take one program's flags, defined once; here every word has its own.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence

# Given by their name alone, or as --dry_run=false.
BARE = (
  "retry_failed", "dry_run", "distributed", "together", "json", "partial",
)  # fmt: skip
_EMPTY = ("sinks", "accept")  # Lists, of nothing perhaps.
_TRUTH = {"true": True, "yes": True, "1": True}
_TRUTH |= {"false": False, "no": False, "0": False}
_PLACES = ("workdir", "output", "config")


def read(
  arguments: Sequence[str], known: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
  """Flags, and the settings that `--config.KEY=VALUE` changes, as text.

  A bare flag is there if it is set. `~` is the home directory.

  Args:
    arguments: without the words before them.
    known: flags.

  Raises:
    ValueError: an argument that is no flag, a flag that is not known (with a
      close name), one without its value, or a bare one that is neither true nor
      false.
  """
  flags: dict[str, str] = {}
  overrides: dict[str, str] = {}
  waiting = iter(arguments)
  for argument in waiting:
    if not argument.startswith("-"):
      raise ValueError(f"unexpected argument {argument!r}; see --help.")
    name, equals, value = argument.lstrip("-").partition("=")
    if name.startswith("config."):
      if not equals:
        raise ValueError(f"--{name} needs a value: --{name}=VALUE.")
      overrides[name.removeprefix("config.")] = value
      continue
    if name not in known:
      close = difflib.get_close_matches(name, known, n=1)
      hint = f" Did you mean --{close[0]}?" if close else ""
      raise ValueError(
        f"unknown flag --{name}.{hint} This has "
        + ", ".join(f"--{flag}" for flag in known)
        + "."
      )
    if name in BARE:
      if _is_true(name, value if equals else "true"):
        flags[name] = ""
      else:
        flags.pop(name, None)
      continue
    if not equals:
      value = next(waiting, "")
      if value.startswith("-"):  # The next flag.
        value = ""
    if not value and not (equals and name in _EMPTY):
      raise ValueError(f"--{name} needs a value: --{name}=VALUE.")
    flags[name] = os.path.expanduser(value) if name in _PLACES else value
  if "workdir" in flags:
    _check_url("workdir", flags["workdir"])
  return flags, overrides


def words(text: str) -> list[str]:
  """What commas separate."""
  return [name.strip() for name in text.split(",") if name.strip()]


def seconds(
  flags: Mapping[str, str], name: str, default: float, *, least: float = 0.001
) -> float:
  """A flag that is a number of seconds.

  Raises:
    ValueError: no number, or one below `least`.
  """
  try:
    found = float(flags.get(name, default))
  except ValueError:
    found = -1.0
  if not least <= found < float("inf"):
    raise ValueError(
      f"{name}={flags[name]!r}: seconds, a number from {least:g} up."
    )
  return found


def is_url(path: str) -> bool:
  """Whether it names an object store, with one slash or two."""
  return _URL.match(path) is not None


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")


def _check_url(name: str, path: str) -> None:
  """Refuses a URL with one slash, which would be a path from here."""
  found = _URL.match(path)
  if found and not found[2]:
    right = f"{found[1]}://{path[found.end() :]}"
    if found[1] == "file":
      right = path[len("file:") :]
    raise ValueError(
      f"--{name}={path}: a URL has two slashes: give --{name}={right}, or "
      f"--{name}=./{path} for a directory of that name."
    )


def _is_true(name: str, text: str) -> bool:
  if text.lower() not in _TRUTH:
    raise ValueError(f"--{name}={text}: give true or false, or --{name} alone.")
  return _TRUTH[text.lower()]
