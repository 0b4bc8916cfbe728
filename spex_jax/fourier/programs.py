"""Programs of decoders, compiled in half of the time on a CPU.

A fit compiles a dozen programs of a hundred small loops around a few matrix
products; the loops cost nearly all of the compiler's time and little of the
program's. XLA's older emitters of loops, and one part of code in place of many,
take about half, and the program is as fast (`experiments.bench_first`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

_OPTIONS = {
  "xla_cpu_use_fusion_emitters": False,
  "xla_cpu_parallel_codegen_split_count": 1,
}


class Program:
  """A function that `jax.jit` compiles, top level alone."""

  def __init__(self, f: Callable[..., Any], **settings: Any):
    """As `jax.jit`; options are chosen once the first call names a backend.

    Args:
      f: a function of arrays.
      **settings: further arguments of `jax.jit`.
    """
    functools.update_wrapper(self, f)
    self._f, self._settings = f, settings

  @functools.cached_property
  def _jitted(self) -> Any:
    return jax.jit(self._f, compiler_options=options(), **self._settings)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._jitted(*args, **kwargs)

  def count(self) -> int:
    """Number of programs that were compiled: one for each set of shapes."""
    return self._jitted._cache_size()


@functools.cache
def options() -> dict[str, Any] | None:
  """XLA's options on a CPU; None elsewhere, or where XLA knows them no more."""
  if jax.default_backend() != "cpu":
    return None
  try:
    jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
  except jax.errors.JaxRuntimeError:
    return None
  return _OPTIONS
