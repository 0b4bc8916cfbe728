"""From one mask to a value function: compiled once, or a checked host call.

`compiled` lifts an unbatched, traceable `f(mask)` into a `ValueFn`. Every
batch has one fixed shape (the last one is padded), because the last digits of
a value change with the shape; the shape is recorded with the cost. A function
of a few sizes (`shapes.Shaped`) has one program for each, and a mask runs in
that of the least size that fits. No mask is run twice in a request; given room
for them, nor across requests.

Shapes: n players, B masks asked for, T targets, P masks in a padded batch.
"""

import collections
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import (
  answers,
  batching,
  closed,
  program,
  repeats,
  sizing,
)
from spex_jax.ablate import cache as kept
from spex_jax.masks import ask

_HOST_BATCH = 1024  # Masks in a call of a host function, at most.

Progress = answers.Progress
Candidate = batching.Candidate


@dataclasses.dataclass
class Stats:
  """What the evaluations of one evaluator have cost so far.

  Attributes:
    evaluations: how many masks were asked for.
    repeated: those of them that were not run, because they had been before.
    padded: further rows that filled up batches; whole microbatches of them
      are not computed.
    batches: how many batches were run.
    retries: calls of a host function that were made again.
    compile_seconds: tracing and compilation, of the candidates too.
    probe_seconds: seconds of measuring batch sizes, compilation included.
    head_seconds: what is computed once, before all masks.
    run_seconds: seconds of everything else: transfers and computation.
    batch_shape: `(P, n)`, or None where the host function chooses.
    sizes: masks that were run at each size of a `shapes.Shaped`, all of them
      in batches of `batch_shape`; empty for any other function.
    device_batch: rows of a batch on one device; values are the same bit for
      bit on any number of devices at the same `device_batch`, `microbatch`.
    microbatch: rows that are computed at once on one device.
    memory_bytes: bound on what the program needs on one device, parameters
      included, or None where the compiler does not say; of several the most.
    candidates: the batch sizes that were measured, if any were.
    device: kind and number of devices, as text.
    chosen: how batch sizes came about, as text; "" as they were given.
  """

  evaluations: int = 0
  repeated: int = 0
  padded: int = 0
  batches: int = 0
  retries: int = 0
  compile_seconds: float = 0.0
  probe_seconds: float = 0.0
  head_seconds: float = 0.0
  run_seconds: float = 0.0
  batch_shape: tuple[int, int] | None = None
  sizes: dict[int, int] = dataclasses.field(default_factory=dict)
  device_batch: int | None = None
  microbatch: int | None = None
  memory_bytes: int | None = None
  candidates: tuple[Candidate, ...] = ()
  device: str = "host"
  chosen: str = ""


class Evaluator:
  """A `ValueFn`: bool `[B, n]` to float64 `[B]` or `[B, T]`, with `stats`.

  Made by `compiled` and `host`.

  Attributes:
    n: number of players.
    names: the names of the players, where who made it knows them.
    stats: what it has cost so far.
    progress: called after each batch with the masks done and asked for.
    batch_size: masks in a call of a host function, where that was given.
  """

  names: tuple[str, ...] | None = None

  def __init__(
    self,
    n: int,
    run: "Callable[[answers.Answers, Stats], None]",
    stats: Stats,
    progress: Progress | None,
    stores: Sequence[repeats.Store] = (),
    prepare: "Callable[[Stats], None]" = lambda stats: None,
    share: "Callable[[Any], None] | None" = None,
    expect: "Callable[[int, pathlib.Path | None], None] | None" = None,
  ):
    self.n = n
    self.stats = stats
    self.progress: Progress = progress or (lambda done, asked: None)
    self._run, self._stores, self._prepare = run, stores, prepare
    self._share, self._expect = share, expect
    self.batch_size: int | None = None

  @property
  def compiled(self) -> bool:
    """Whether it pads, and has batches of its own, as `compiled` makes it."""
    return self._expect is not None

  def of(self, f: Any) -> "Evaluator":
    """Itself, known to be of `f`, as `functools.wraps` has it."""
    self.__wrapped__ = f
    return self

  def prepare(self) -> Stats:
    """Compiles, and fixes the batch size, before the first mask is asked.

    The first call does it otherwise. Returns `stats`.
    """
    self._prepare(self.stats)
    return self.stats

  def expect(self, masks: int, choices: pathlib.Path | None = None) -> None:
    """Says how many masks will be asked in all, before the first one.

    No batch is larger than that; where sizes are to be measured, a small job
    is spared it. Once compiled, an evaluator stays as it is.

    Args:
      masks: how many at most, over all requests.
      choices: a file of sizes that were measured before (see `choices`).
    """
    if self._expect is not None:
      self._expect(masks, choices)

  def share(self, shared: Any) -> None:
    """Replaces what all masks share, without compiling again.

    Raises:
      ValueError: another structure, shape or dtype than that given to
        `compiled`; nothing was shared, or values are remembered.
    """
    if self._share is None or self._stores:
      raise ValueError(
        "Only an evaluator of `compiled` with `shared` arrays, and without "
        "remember_bytes, can share others."
      )
    self._prepare(self.stats)
    self._share(shared)

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
    if self._stores:
      self._prepare(self.stats)  # What is kept is proven before it is used.
    split = repeats.split(masks, self._stores)
    self.stats.evaluations += len(masks)
    self.stats.repeated += len(masks) - len(split.missing)
    if not len(split.missing):
      self.progress(len(masks), len(masks))
      return split.scatter(None)
    found = answers.Answers(
      masks[split.rows],
      split.rows,
      split.counts,
      len(masks),
      progress=lambda done, asked: self.progress(done, asked),
      keep=[store.put for store in self._stores],
    )
    self._run(found, self.stats)
    return split.scatter(found.values())


def compiled(
  f: base.Game | Callable[..., jax.Array],
  n: int | None = None,
  *,
  batch_size: int | None = 256,
  microbatch: int | None = None,
  shared: Any = None,
  head: Callable[[Any], Any] | None = None,
  shared_sharding: Any = None,
  mesh: jax.sharding.Mesh | None = None,
  devices: Sequence[jax.Device] | None = None,
  dtype: Any = None,
  memory_limit: int | None = None,
  remember_bytes: int = 0,
  progress: Progress | None = None,
) -> Evaluator:
  """Lifts a game, or an unbatched `f(mask)`, to a compiled, sharded `ValueFn`.

  Compilation happens at the first call, once; its time is kept apart. The
  value of a mask does not depend on which other masks are asked for.

  Args:
    f: a game, restricted to strengths of 0 and 1, which brings n, `shared` and
      `head`; or bool `[n]` to a real scalar, or `[T]` for T targets, traceable.
      Given `shared`, it is called as `f(mask, shared)`. A `shapes.Shaped` is
      compiled for each of its sizes; batch sizes are measured at the largest.
    n: number of players.
    batch_size: masks in a batch, over all devices; rounded up to a multiple
      of their number and of `microbatch`. None measures powers of two before
      the first batch and takes the fastest (see `batching`).
    microbatch: masks computed at once on one device, one such after the
      other; None for all of a batch, or for the fastest if `batch_size` is
      None too.
    shared: pytree of arrays that every mask uses, such as parameters; placed
      once, and not baked into the program as constants.
    head: traceable, of `shared`: what no mask touches. It runs once; f is then
      called as `f(mask, (state, shared))`. A `dtype` casts what it is given,
      and leaves the state as it is.
    shared_sharding: a `PartitionSpec`, or a pytree of them like `shared`, over
      the axes of `mesh` other than "masks"; None for one copy per device.
    mesh: with an axis "masks", over which batches are split, and automatic
      axis types; by default one of that axis alone.
    devices: the devices of the default mesh; by default all of this process. A
      mesh over several processes needs all of them to ask for the same masks.
    dtype: floating dtype that the floating leaves of `shared` are cast to,
      such as `jnp.bfloat16`; None leaves them.
    memory_limit: bytes that a program may need on one device, where the batch
      size is measured; by default what is free there.
    remember_bytes: memory for values of earlier calls, the latest kept; 0
      remembers none.
    progress: called after each batch with the masks done and asked for.

  Raises:
    TypeError: no n, or one beside a game.
    ValueError: n, batch_size or microbatch below 1, `remember_bytes` below 0.
      At the first call: an unfit mesh or sharding, both a mesh and devices, a
      `dtype` that is not floating; `f` returns another shape than `[]` or
      `[T]`, or no real number.
    MemoryError: at the first call, if no measured batch size fits; at any,
      if a batch ran out of memory.
  """
  if isinstance(f, base.Game):
    if n is not None or shared is not None or head is not None:
      raise TypeError("A game brings n, shared and head: give it alone.")
    n, shared, head, value = f.n, f.shared, f.head, f.value
    f = lambda mask, given=None: value(mask.astype(jnp.float32), given)
  if n is None:
    raise TypeError("Give n, the number of players of f.")
  _check_sizes(n, batch_size, microbatch, remember_bytes)
  settings = {
    "shared": shared,
    "head": head,
    "shared_sharding": shared_sharding,
    "mesh": mesh,
    "devices": devices,
    "dtype": dtype,
  }
  made = lambda: program.Source(f, n, **settings)
  lift = _Lifted(made, batch_size, microbatch, memory_limit)
  stores = _stores(remember_bytes)
  share = None if shared is None else lift.share
  made = Evaluator(
    n, lift.run, Stats(), progress, stores, lift.prepare, share, lift.expect
  )
  return made.of(f)


def host(
  fn: Callable[[np.ndarray], base.Values],
  n: int,
  *,
  batch_size: int | None = None,
  retry: closed.Retry | None = None,
  calls_per_second: float | None = None,
  cache: closed.File | str | os.PathLike | None = None,
  remember_bytes: int = 0,
  progress: Progress | None = None,
) -> Evaluator:
  """Wraps a host callable on NumPy masks: batched, counted and checked.

  With `cache` or `remember_bytes` a mask asked again gets the same answer, so
  that `explain` cannot see the noise of a function that answers at random.

  Args:
    fn: bool `[b, n]` to `[b]` or `[b, T]`, for any b up to `batch_size`.
    n: number of players.
    batch_size: masks per call of `fn`; None for one at first, then as many as
      take about a second, at most 1,024 (see `masks.ask.Growing`).
    retry: which exceptions of `fn` to try again after, and how; None for none.
    calls_per_second: most calls of `fn` in a second, retries included.
    cache: a file that answers masks asked before, in this process or another,
      and takes the values of each batch as soon as they come. A path is opened
      for `fn` and n, and a few of the masks that it keeps are asked again.
    remember_bytes: memory for values of earlier calls, the latest kept; 0
      remembers none.
    progress: called after each batch with the masks done and asked for.

  Raises:
    ValueError: a size or rate that is not positive, `remember_bytes` below 0,
      or a path of another function's values.
  """
  _check_sizes(n, batch_size, None, remember_bytes)
  # The call: from a file where one is given, paced, tried again.
  growing = ask.Growing(_HOST_BATCH)
  by_path = isinstance(cache, str | os.PathLike)
  opened = kept.opened(cache, fn, n) if by_path else cache
  # It may write into its masks, and be tried again with them.
  call = lambda rows: fn(rows.copy())
  if calls_per_second is not None:
    call = closed.Paced(call, calls_per_second)

  def run(found: answers.Answers, stats: Stats):
    def again(error):
      stats.retries += 1

    tried = call if retry is None else retry.wrap(call, again)
    start = 0
    while start < len(found.masks):
      size = batch_size or growing.size
      rows = found.masks[start : start + size]
      begin = time.perf_counter()
      given = tried(rows)
      base.check_unmasked(given, "Values")
      values = np.asarray(given)
      seconds = time.perf_counter() - begin
      stats.run_seconds += seconds
      stats.batches += 1
      growing.took(len(rows), seconds)
      found.add(values, np.arange(start, start + len(rows)))
      start += len(rows)

  def prove(stats: Stats) -> None:
    del stats
    if by_path and opened is not None and not proven:
      ask.prove(opened, n, lambda few: base.check_values(call(few), len(few)))
      proven.append(True)

  proven: list[bool] = []
  stores = _stores(remember_bytes)
  if opened is not None:
    stores.append(opened)
  made = Evaluator(n, run, Stats(), progress, stores, prove).of(fn)
  made.batch_size = batch_size
  return made


class _Lifted:
  """The compiled program of one evaluator, and its batches."""

  def __init__(self, source, batch_size, microbatch, memory_limit):
    self._source: Callable[[], program.Source] = source
    self._batch_size, self._microbatch = batch_size, microbatch
    self._limit = memory_limit
    self._programs: list[program.Program] = []  # One a size, ascending.
    self._made: program.Source | None = None
    self._expected: int | None = None
    self._choices: pathlib.Path | None = None

  def expect(self, masks: int, choices: pathlib.Path | None) -> None:
    if not self._programs:
      self._expected, self._choices = masks, choices or self._choices

  def share(self, shared: Any) -> None:
    assert self._made is not None
    self._made.share(shared)

  def run(self, found: answers.Answers, stats: Stats) -> None:
    self.prepare(stats)
    assert self._made is not None
    which = self._made.numbers(found.masks)
    for number, size in enumerate(self._made.sizes):
      stats.sizes[size] += int((which == number).sum())
    begin = time.perf_counter()
    try:
      _stream(self._programs, which, found, stats)
    except Exception as error:
      if not batching.out_of_memory(error):
        raise
      rows = self._programs[-1].rows
      raise MemoryError(
        f"A batch of {rows} masks ran out of memory: {error} "
        "Use a smaller batch_size or microbatch, or batch_size=None, which "
        "measures what fits."
      ) from error
    finally:
      stats.run_seconds += time.perf_counter() - begin

  def prepare(self, stats: Stats) -> None:
    if self._programs:
      return
    source = self._made = self._source()
    stats.head_seconds = source.head_seconds
    begin = time.perf_counter()

    def build(per_device, microbatch, size=None):
      start = time.perf_counter()
      try:
        return source.build(per_device, microbatch, size)
      finally:
        stats.compile_seconds += time.perf_counter() - start

    most = self._expected
    if self._batch_size is None:
      made, stats.candidates, stats.chosen = sizing.sized(
        source,
        build,
        limit=self._limit,
        microbatch=self._microbatch,
        expected=most,
        choices_path=self._choices,
      )
      stats.probe_seconds += time.perf_counter() - begin
    else:
      batch_size = min(self._batch_size, most or self._batch_size)
      per_device = -(-batch_size // source.num_shards)
      microbatch = min(self._microbatch or per_device, per_device)
      made = build(-(-per_device // microbatch) * microbatch, microbatch)
    stats.batch_shape = (made.rows, source.n)
    stats.device_batch = made.rows // source.num_shards
    smaller = [
      build(stats.device_batch, made.microbatch, size)
      for size in source.sizes[:-1]
    ]
    self._programs = [*smaller, made]
    stats.sizes = dict.fromkeys(source.sizes, 0)
    memory = [each.memory_bytes for each in self._programs]
    stats.memory_bytes = max((x for x in memory if x is not None), default=None)
    stats.microbatch = made.microbatch
    devices = source.devices
    stats.device = f"{len(devices)} x {devices[0].device_kind}"


def _stream(
  programs: Sequence[program.Program],
  numbers: np.ndarray,
  found: answers.Answers,
  stats: Stats,
) -> None:
  """Keeps a few batches in flight, and fails at the first bad value.

  Each mask runs in the program that `numbers` `[U]` names for it.
  """
  waiting: collections.deque[tuple[Callable[[], np.ndarray], np.ndarray]] = (
    collections.deque()
  )

  def fetch():
    values, rows = waiting.popleft()
    found.add(values()[: len(rows)], rows)

  for number, made in enumerate(programs):
    own = np.flatnonzero(numbers == number)
    for start in range(0, len(own), made.rows):
      rows = own[start : start + made.rows]
      waiting.append((made.start(found.masks[rows]), rows))
      stats.batches += 1
      stats.padded += made.rows - len(rows)
      if len(waiting) >= program.IN_FLIGHT:
        fetch()
  while waiting:
    fetch()


def _stores(remember_bytes: int) -> list[repeats.Store]:
  return [repeats.Recent(remember_bytes)] if remember_bytes else []


def _check_sizes(n, batch_size, microbatch, remember_bytes):
  size = 1 if batch_size is None else batch_size
  if n < 1 or size < 1:
    raise ValueError(f"Need n >= 1 and batch_size >= 1; got {n}, {batch_size}.")
  if microbatch is not None and microbatch < 1:
    raise ValueError(f"microbatch must be at least 1; got {microbatch}.")
  if remember_bytes < 0:
    raise ValueError(
      f"remember_bytes must be at least 0; got {remember_bytes}."
    )
