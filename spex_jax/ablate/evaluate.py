"""From one mask to a value function: compiled once, or a checked host call.

`compiled` lifts an unbatched, traceable `f(mask)` into a `ValueFn`. Every
batch has one fixed shape (the last one is padded), because the last digits of
a value change with the shape; the shape is recorded with the cost.

Shapes: n players, B masks asked for, T targets, P masks in a padded batch.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

_AXIS = "masks"
_IN_FLIGHT = 2  # Batches computing or on their way back to the host.

Progress = Callable[[int, int], None]  # Masks done and asked for, this call.


@dataclasses.dataclass
class Stats:
  """What the evaluations of one evaluator have cost so far.

  Attributes:
    evaluations: masks asked for.
    padded: further rows that filled up batches.
    batches: batches run.
    compile_seconds: tracing and compilation.
    run_seconds: everything else: transfers and computation.
    batch_shape: `(P, n)`, or None where the host function chooses.
    device: kind and number of devices, as text.
  """

  evaluations: int = 0
  padded: int = 0
  batches: int = 0
  compile_seconds: float = 0.0
  run_seconds: float = 0.0
  batch_shape: tuple[int, int] | None = None
  device: str = "host"


class Evaluator:
  """A `ValueFn`: bool `[B, n]` to float64 `[B]` or `[B, T]`, with `stats`.

  Made by `compiled` and `host`.
  """

  def __init__(
    self,
    n: int,
    run: "Callable[[np.ndarray, Stats, Progress], np.ndarray]",
    stats: Stats,
    progress: Progress | None,
  ):
    self.n = n
    self.stats = stats
    self.progress: Progress = progress or (lambda done, asked: None)
    self._run = run

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Values of `masks`, in their order.

    Raises:
      ValueError: no masks or masks of another shape, or values of another
        shape, NaN or infinite (naming the first row).
      TypeError: values that are not real numbers.
    """
    masks = base.check_masks(masks, self.n)
    if not len(masks):
      raise ValueError("Need at least one mask to evaluate; got none.")
    return self._run(masks, self.stats, self.progress)


def compiled(
  f: Callable[..., jax.Array],
  n: int,
  *,
  batch_size: int = 256,
  shared: Any = None,
  devices: Sequence[jax.Device] | None = None,
  progress: Progress | None = None,
) -> Evaluator:
  """Lifts an unbatched `f(mask)` to a compiled, sharded `ValueFn`.

  Compilation happens at the first call, once; its time is kept apart.

  Args:
    f: bool `[n]` to a real scalar, or `[T]` for T targets; traceable. Given
      `shared`, it is called as `f(mask, shared)`.
    n: number of players.
    batch_size: masks in a batch, over all devices; rounded up to a multiple
      of their number.
    shared: pytree of arrays that every mask uses, such as parameters; one
      copy per device, and not baked into the program as constants.
    devices: all of `jax.devices()` by default; masks are split over them.
    progress: called after each batch.

  Raises:
    ValueError: n or batch_size below 1. At the first call: `f` returns
      another shape than `[]` or `[T]`, or no real number.
  """
  if n < 1 or batch_size < 1:
    raise ValueError(f"Need n >= 1 and batch_size >= 1; got {n}, {batch_size}.")
  lift = _Lifted(f, n, batch_size, shared, devices)
  return Evaluator(n, lift.run, Stats(), progress)


def host(
  fn: Callable[[np.ndarray], base.Values],
  n: int,
  *,
  batch_size: int = 1024,
  progress: Progress | None = None,
) -> Evaluator:
  """Wraps a host callable on NumPy masks: batched, counted and checked.

  Args:
    fn: bool `[b, n]` to `[b]` or `[b, T]`, for any b up to `batch_size`.
    n: number of players.
    batch_size: masks per call of `fn`.
    progress: called after each batch.
  """
  if n < 1 or batch_size < 1:
    raise ValueError(f"Need n >= 1 and batch_size >= 1; got {n}, {batch_size}.")

  def run(masks, stats, report):
    parts: list[np.ndarray] = []
    for start in range(0, len(masks), batch_size):
      rows = masks[start : start + batch_size]
      begin = time.perf_counter()
      values = np.asarray(fn(rows.copy()))  # It may write into its masks.
      stats.run_seconds += time.perf_counter() - begin
      stats.evaluations += len(rows)
      stats.batches += 1
      _append(parts, values, len(rows))
      report(start + len(rows), len(masks))
    return np.concatenate(parts)

  return Evaluator(n, run, Stats(), progress)


class _Program(NamedTuple):
  """A compiled batch: how to run it, its rows, and where masks go."""

  run: Callable[[jax.Array], jax.Array]
  rows: int
  by_mask: jax.NamedSharding


class _Lifted:
  """The compiled program of one evaluator, and its batches."""

  def __init__(self, f, n, batch_size, shared, devices):
    self._f, self._n, self._batch_size = f, n, batch_size
    self._shared, self._devices = shared, devices
    self._program: _Program | None = None

  def run(self, masks: np.ndarray, stats: Stats, report: Progress):
    if self._program is None:
      begin = time.perf_counter()
      self._program = self._compile(stats)
      stats.compile_seconds += time.perf_counter() - begin
    begin = time.perf_counter()
    try:
      return _stream(self._program, masks, stats, report)
    finally:
      stats.run_seconds += time.perf_counter() - begin

  def _compile(self, stats: Stats) -> _Program:
    devices = list(jax.devices() if self._devices is None else self._devices)
    rows = -(-self._batch_size // len(devices)) * len(devices)
    mesh = jax.make_mesh(
      (len(devices),),
      (_AXIS,),
      axis_types=(jax.sharding.AxisType.Auto,),
      devices=devices,
    )
    by_mask = jax.NamedSharding(mesh, jax.P(_AXIS))
    everywhere = jax.NamedSharding(mesh, jax.P())
    has_shared = self._shared is not None
    extra = (jax.device_put(self._shared, everywhere),) if has_shared else ()
    one = jax.ShapeDtypeStruct((self._n,), jnp.bool_)
    _check_output(jax.eval_shape(self._f, one, *extra))
    batched = jax.vmap(self._f, in_axes=(0, *[None] * len(extra)))
    batch = jax.ShapeDtypeStruct((rows, self._n), jnp.bool_, sharding=by_mask)
    program = jax.jit(batched, out_shardings=by_mask)
    program = program.lower(batch, *extra).compile()
    stats.batch_shape = (rows, self._n)
    stats.device = f"{len(devices)} x {devices[0].device_kind}"
    return _Program(lambda masks: program(masks, *extra), rows, by_mask)


def _stream(
  program: _Program, masks: np.ndarray, stats: Stats, report: Progress
) -> np.ndarray:
  """Keeps a few batches in flight, and fails at the first bad value."""
  waiting: collections.deque[tuple[jax.Array, int]] = collections.deque()
  parts: list[np.ndarray] = []
  done = 0

  def fetch():
    nonlocal done
    output, count = waiting.popleft()
    _append(parts, np.asarray(output)[:count], count)
    done += count
    stats.evaluations += count
    report(done, len(masks))

  for start in range(0, len(masks), program.rows):
    rows = masks[start : start + program.rows]
    # The padding keeps every player: a mask like any other.
    batch = np.ones((program.rows, masks.shape[1]), bool)
    batch[: len(rows)] = rows
    output = program.run(jax.device_put(batch, program.by_mask))
    output.copy_to_host_async()
    waiting.append((output, len(rows)))
    stats.batches += 1
    stats.padded += program.rows - len(rows)
    if len(waiting) >= _IN_FLIGHT:
      fetch()
  while waiting:
    fetch()
  return np.concatenate(parts)


def _append(parts: list[np.ndarray], values: np.ndarray, count: int) -> None:
  """Adds a batch's values in float64; bad ones raise, by their global row."""
  if values.shape[:1] == (count,) and values.dtype.kind == "f":
    known = [*parts, values.astype(np.float64)]
    if values.shape[1:] != known[0].shape[1:]:
      raise ValueError(
        f"The value function returned {known[0].shape[1:]} targets per mask "
        f"for the first batch, and {values.shape[1:]} for a later one."
      )
    if not np.isfinite(values).all():
      count = sum(map(len, known))
      base.check_values(np.concatenate(known), count)
  parts.append(base.check_values(values, count))


def _check_output(output: Any) -> None:
  shape = getattr(output, "shape", None)
  dtype = getattr(output, "dtype", None)
  real = dtype is not None and (
    jnp.issubdtype(dtype, jnp.floating)
    or jnp.issubdtype(dtype, jnp.integer)
    or dtype == jnp.bool_
  )
  if shape is None or len(shape) > 1 or 0 in shape or not real:
    raise ValueError(
      "f(mask) must return one real number, or [T] of them for T targets; "
      f"it returns {output}. `f` is given one mask, bool [n], not a batch."
    )
