"""`spex cache`: the programs that the command compiled, kept for the next run.

JAX finds a program again by what it computes, on what, by which version; so
nothing that is kept can be wrong, and all of it may be deleted at any time.
"""

import os
import pathlib
from collections.abc import Sequence

import jax

from spex_jax.ablate import choices
from spex_jax.report import tables

_PROGRAMS = ("*-cache", "*-atime")  # JAX's files.


def keep() -> None:
  """Has JAX keep what it compiles beside what `choices` remembers.

  Where JAX is told of a folder already, or told to keep nothing
  (JAX_ENABLE_COMPILATION_CACHE=0), that holds.
  """
  if jax.config.values.get("jax_compilation_cache_dir"):
    return
  jax.config.update("jax_compilation_cache_dir", str(choices.folder()))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    # A first call compiles dozens of small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run(words: Sequence[str], clear: bool) -> None:
  """Prints where programs are kept and their size, or deletes them.

  Args:
    words: none.
    clear: whether to delete them.

  Raises:
    ValueError: words, or a file that cannot be deleted.
  """
  if words:
    raise ValueError(f"unexpected argument {words[0]!r}; see --help.")
  folder = choices.folder()
  show = tables.printer()
  found = [path for name in _PROGRAMS for path in folder.glob(name)]
  programs = sum(path.name.endswith("-cache") for path in found)
  size = sum(path.stat().st_size for path in found) / 1e6
  show(tables.fact("folder", str(folder)))
  show(tables.fact("programs", f"{programs:,} compiled, {size:,.1f} MB"))
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
