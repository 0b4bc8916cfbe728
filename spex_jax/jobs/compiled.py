"""`spex cache`: the programs that the command compiled, kept for the next run.

JAX finds a program again by what it computes, on what, by which version; so
nothing that is kept can be wrong, and all of it may be deleted at any time.
"""

import os
import pathlib
from collections.abc import Sequence

from spex_jax.ablate import choices

_PROGRAMS = ("*-cache", "*-atime")  # JAX's files.
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_ENABLED = "JAX_ENABLE_COMPILATION_CACHE"
_LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep() -> None:
  """Has JAX, once it is imported, keep what it compiles in `choices.users`.

  Of this process and those that it starts. Where JAX is told of a folder
  already, or told to keep nothing (JAX_ENABLE_COMPILATION_CACHE=0), that holds.
  """
  if _FOLDER not in os.environ:
    os.environ[_FOLDER] = str(choices.users())
    # A first call compiles dozens of small programs.
    os.environ.setdefault(_LEAST, "0")


def run(words: Sequence[str], clear: bool) -> None:
  """Prints where programs are kept and their size, or deletes them.

  Args:
    words: arguments of the command, which takes none.
    clear: whether to delete the programs that are kept.

  Raises:
    ValueError: words, a file in the folder's place, or a file that cannot be
      deleted.
  """
  if words:
    raise ValueError(f"unexpected argument {words[0]!r}; see --help.")
  from spex_jax.report import tables  # Slow to import.

  folder = choices.folder()
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"{folder} is a file, and no folder of programs.")
  show = tables.printer()
  found = [path for name in _PROGRAMS for path in folder.glob(name)]
  programs = sum(path.name.endswith("-cache") for path in found)
  size = sum(path.stat().st_size for path in found) / 1e6
  show(tables.fact("folder", str(folder)))
  show(tables.fact("programs", f"{programs:,} compiled, {size:,.1f} MB"))
  given = os.environ.get
  if given(_FOLDER) == "" or given(_ENABLED, "1").lower() in ("0", "false"):
    show(tables.fact("kept", "nothing more: the environment says so"))
  if clear:
    try:
      for path in found:
        path.unlink(missing_ok=True)
    except OSError as error:
      raise ValueError(f"{folder} stays: {error.strerror}.") from error
    show(tables.fact("cleared", f"{programs:,} programs"))
    return
  batches: pathlib.Path = choices.default()
  if batches.exists():
    show(tables.fact("batches", f"{batches}, sizes that were measured"))
