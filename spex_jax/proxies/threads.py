"""Fits that know nothing of one another, side by side on a CPU's cores.

A step of a process is one Cholesky factor after the other, each on one core;
fits to other folds can have the other cores. XLA and LAPACK run outside of
Python's lock, and each fit is the same program on the same arrays as alone, so
no digit changes.
"""

import contextvars
import os
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import TypeVar

import jax

from spex_jax.fourier import regress

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def side_by_side(
  fit: Callable[[_Item], _Found], items: Iterable[_Item]
) -> list[_Found]:
  """`[fit(item) for item in items]`, as many at a time as there are cores.

  One after the other on an accelerator, whose memory they would share. An error
  of one is raised once those that have begun are done.
  """
  items = list(items)
  count = min(len(items), os.cpu_count() or 1)
  if count < 2 or jax.default_backend() != "cpu":
    return [fit(item) for item in items]
  # Entered here, as the last of several threads to leave would restore the 1
  # that it had met. Each has the caller's context, such as NumPy's errstate.
  with regress.one_blas_thread(), futures.ThreadPoolExecutor(count) as pool:
    begun = [
      pool.submit(contextvars.copy_context().run, fit, item) for item in items
    ]
    return [one.result() for one in begun]
