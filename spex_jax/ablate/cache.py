"""A file of values for one function of the user's, found again by its path.

What the values are of is written down: how many players, and the function by
its name and code. A file of another one is refused; where the code says
nothing, as of what it calls, `masks.ask.prove` asks a few masks again.
"""

import functools
import hashlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from spex_jax.ablate import closed


def opened(
  path: str | os.PathLike, fn: Callable[..., Any], n: int
) -> closed.File:
  """Opens or makes the file that keeps the values of a function.

  Args:
    path: the path of the file; its folder must exist.
    fn: the function whose values are kept.
    n: number of players.

  Raises:
    ValueError: a file of another function or of other players, one that is
      damaged or open elsewhere, or no file of values.
    OSError: no permission, no such folder.
  """
  about = {"players": n, "name": name_of(fn), "code": code_of(fn)}
  return closed.File(path, "values", about=about)


def name_of(fn: Callable[..., Any]) -> str:
  """The function's own name, or that of its class."""
  found = _inner(fn)
  return getattr(found, "__qualname__", type(found).__qualname__)


def code_of(fn: Callable[..., Any]) -> str:
  """What the function does itself, hashed; "" where there is no such text.

  Bytecode, which versions of Python write differently: the version is in it.
  Not what it calls, nor the values that it closes over.
  """
  found = _inner(fn)
  code = getattr(found, "__code__", None)
  if code is None:  # An object that can be called.
    code = getattr(type(found).__dict__.get("__call__"), "__code__", None)
  if code is None:
    return ""
  digest = hashlib.sha256(repr(_parts(code)).encode()).hexdigest()
  return f"{sys.version_info[0]}.{sys.version_info[1]}:{digest[:16]}"


def _inner(fn: Any) -> Any:
  """The function inside of wrappers."""
  while True:
    if isinstance(fn, functools.partial):
      fn = fn.func
    elif hasattr(fn, "__wrapped__"):
      fn = fn.__wrapped__
    elif isinstance(fn, types.MethodType):
      fn = fn.__func__
    else:
      return fn


def _parts(code: types.CodeType) -> tuple[Any, ...]:
  """Of a function's code what does not change with its place in a file."""
  constants = [
    _parts(c) if isinstance(c, types.CodeType)
    # A set's order changes from process to process.
    else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
    for c in code.co_consts
  ]  # fmt: skip
  return code.co_code.hex(), constants, code.co_names, code.co_varnames
