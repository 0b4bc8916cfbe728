"""The compiled program of an evaluator: one padded batch, over a mesh.

A batch is split over the mesh's axis `masks` by `shard_map`, so that each
device runs the very program that a single device would run on its rows: values
are the same bit for bit at equal rows per device. The other axes, if any, stay
automatic: they carry what `shared` is sharded over.

On a device, a batch is mapped in microbatches of m masks each, one after the
other, and a microbatch is one `vmap`. Small ones stay in a CPU's caches, and
those that hold nothing but padding are passed over.

A few batches are under way at once. An accelerator has the next ones at hand; a
lone CPU device computes two, each from a thread of its own: while one is at
what takes a single core, such as transpositions and small sums, the other has
the rest. XLA runs the programs of one thread one after the other.

Shapes: n players, P masks in a padded batch, D devices along `masks`, T
targets.
"""

import dataclasses
import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import shapes

AXIS = "masks"
IN_FLIGHT = 3  # Batches that wait, compute, or are on their way back.
_AT_ONCE = 2  # Those of them that a lone CPU device computes.

_YNN = re.compile(r"= (\w+)\[([\d,]*)\]\S* fusion\(.*\"__ynn_fusion\"")
_BITS = {"f64": 64, "f32": 32, "bf16": 16, "f16": 16, "s8": 8, "u8": 8}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled batch.

  Attributes:
    start: begins a batch, bool `[B, n]` on the host, B no more than P; what it
      returns waits for the values, `[P]` or `[P, T]`, of which the first B
      count.
    rows: P, how many rows a batch has, over all devices.
    microbatch: m, masks in one `vmap` on one device.
    memory_bytes: the most that it needs on one device: parameters, and of the
      batches in flight masks, values and, where they compute at once, scratch.
      None where the compiler does not say.
  """

  start: Callable[[np.ndarray], Callable[[], np.ndarray]]
  rows: int
  microbatch: int
  memory_bytes: int | None


class Source:
  """What programs are built from: f, its operands, and where they live."""

  def __init__(
    self,
    f: Callable[..., jax.Array],
    n: int,
    *,
    shared: Any = None,
    shared_sharding: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    devices: Sequence[jax.Device] | None = None,
    dtype: Any = None,
    head: Callable[[Any], Any] | None = None,
  ):
    """Puts `shared` on the devices; see `evaluate.compiled` for all else.

    Raises:
      ValueError: an unfit mesh or sharding, or what `check_output` refuses.
    """
    self.n = n
    self.mesh = mesh_of(mesh, devices)
    self.num_shards = self.mesh.shape[AXIS]
    self.devices = list(self.mesh.devices.flat)
    self._f = f
    self.sizes = f.sizes if isinstance(f, shapes.Shaped) else ()
    self._by_mask = jax.NamedSharding(self.mesh, jax.P(AXIS))
    self._sharding, self._dtype = shared_sharding, dtype
    self._extra: tuple[Any, ...] = ()
    threads = at_once(self.devices)
    self._threads = futures.ThreadPoolExecutor(threads) if threads > 1 else None
    everywhere = jax.NamedSharding(self.mesh, jax.P())
    self._head = head and jax.jit(head, out_shardings=everywhere)
    self.head_seconds = 0.0
    if shared is not None:
      self.share(shared)
    one = jax.ShapeDtypeStruct((n,), jnp.bool_)
    self._output = jax.eval_shape(f, one, *self._extra)
    check_output(self._output)

  def share(self, shared: Any) -> None:
    """Puts `shared` on the devices, in the place of what was there.

    The head runs here, and leaves a copy of its state on every device.

    Raises:
      ValueError: another structure, shape or dtype than before.
    """
    placed = places(shared, self._sharding, self.mesh)
    shared = jax.device_put(cast(shared, self._dtype), placed)
    like = jax.tree.map(jax.typeof, shared)
    if self._extra and like != self._like:
      raise ValueError(
        "What is shared may be replaced by arrays of the same structure, "
        "shapes and dtypes only."
      )
    self._like, self._extra = like, (shared,)
    if self._head is not None:
      begin = time.perf_counter()
      state = jax.block_until_ready(self._head(shared))
      self.head_seconds += time.perf_counter() - begin
      self._extra = ((state, shared),)

  def fingerprint(self) -> str:
    """Of what one mask computes, and where: for what was measured of it."""
    one = jax.ShapeDtypeStruct((self.n,), jnp.bool_)
    traced = str(jax.make_jaxpr(self._f)(one, *self._extra))
    where = (
      jax.__version__, self.devices[0].device_kind, len(self.devices),
      self.num_shards,
    )  # fmt: skip
    # Functions are printed with their addresses.
    text = re.sub(r"0x[0-9a-f]+", "", traced) + repr(where)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

  def numbers(self, masks: np.ndarray) -> np.ndarray:
    """Which of `sizes` each mask takes: int `[B]`, 0 without any."""
    if isinstance(self._f, shapes.Shaped):
      return self._f.numbers(masks)
    return np.zeros(len(masks), int)

  def build(
    self, per_device: int, microbatch: int, size: int | None = None
  ) -> Program:
    """Compiles for `per_device` rows a device; `microbatch` divides them.

    `size` is one of `sizes`, where there are any; the largest by default.
    """
    rows = per_device * self.num_shards
    f, like = self._f, self._output
    if size is not None:
      assert isinstance(f, shapes.Shaped)
      f = f.at(size)

    def local(masks, count, *extra):
      many = lambda rows: jax.vmap(lambda mask: f(mask, *extra))(rows)
      if microbatch == per_device:
        return many(masks)
      nothing = lambda rows: jnp.zeros((microbatch, *like.shape), like.dtype)
      # Of this device's rows, so many are masks that were asked for.
      count = count - jax.lax.axis_index(AXIS) * per_device

      def step(start, rows):
        values = jax.lax.cond(start < count, many, nothing, rows)
        return start + microbatch, values

      parts = masks.reshape(-1, microbatch, self.n)
      values = jax.lax.scan(step, jnp.int32(0), parts)[1]
      return values.reshape(per_device, *like.shape)

    over_mesh = jax.shard_map(
      local,
      mesh=self.mesh,
      in_specs=(jax.P(AXIS), jax.P(), *[jax.P()] * len(self._extra)),
      out_specs=jax.P(AXIS),
      axis_names={AXIS},
      # A loop inside f may start from a constant.
      check_vma=False,
    )
    program = jax.jit(
      # The masks are returned so that their donated buffer is one of the
      # outputs; nothing holds it once the batch has run.
      lambda masks, *given: (over_mesh(masks, *given), masks),
      donate_argnums=0,
      keep_unused=True,  # They take memory all the same, and are counted.
      out_shardings=(self._by_mask, self._by_mask),
    )
    batch = jax.ShapeDtypeStruct(
      (rows, self.n), jnp.bool_, sharding=self._by_mask
    )
    everywhere = jax.NamedSharding(self.mesh, jax.P())
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    compiled = program.lower(batch, number, *self._extra).compile()

    def run(masks: np.ndarray) -> jax.Array:
      # The padding keeps every player: a mask like any other.
      whole = np.ones((rows, self.n), bool)
      whole[: len(masks)] = masks
      given = jax.device_put(
        (whole, np.int32(len(masks))), (self._by_mask, everywhere)
      )
      return compiled(*given, *self._extra)[0]

    def start(masks: np.ndarray) -> Callable[[], np.ndarray]:
      if self._threads is not None:
        return self._threads.submit(lambda: np.asarray(run(masks))).result
      output = run(masks)
      output.copy_to_host_async()
      return lambda: fetched(output)

    bound = memory(compiled, at_once=at_once(self.devices))
    return Program(start, rows, microbatch, bound)


def at_once(devices: Sequence[jax.Device]) -> int:
  """Batches that these devices compute at the same time."""
  lone = len(devices) == 1 and devices[0].platform == "cpu"
  return _AT_ONCE if lone else 1


def fetched(values: base.Array) -> np.ndarray:
  """The values of a batch on the host, those of other processes, too.

  Where the mesh is of several processes, all of them have to call it.
  """
  if not isinstance(values, jax.Array) or values.is_fully_addressable:
    return np.asarray(values)
  from jax.experimental import multihost_utils  # Seldom needed.

  return np.asarray(multihost_utils.process_allgather(values, tiled=True))


def mesh_of(
  mesh: jax.sharding.Mesh | None, devices: Sequence[jax.Device] | None
) -> jax.sharding.Mesh:
  """The mesh, if masks can be split over it; else one of the axis `masks`.

  Raises:
    ValueError: both given; no axis of the name `masks`, or one that is not
      automatic.
  """
  automatic = jax.sharding.AxisType.Auto
  if mesh is None:
    devices = list(jax.local_devices() if devices is None else devices)
    shape = (len(devices),)
    return jax.make_mesh(
      shape, (AXIS,), axis_types=(automatic,), devices=devices
    )
  if devices is not None:
    raise ValueError("Give a mesh or devices; a mesh has devices of its own.")
  if AXIS not in mesh.axis_names:
    raise ValueError(
      f"The mesh needs an axis named {AXIS!r}, over which masks are split; it "
      f"has {mesh.axis_names}."
    )
  kinds = zip(mesh.axis_names, mesh.axis_types)
  wrong = [name for name, kind in kinds if kind != automatic]
  if wrong:
    raise ValueError(
      f"Axes {wrong} of the mesh are not automatic; make it with "
      "axis_types=(jax.sharding.AxisType.Auto,) * (number of axes)."
    )
  return mesh


def cast(shared: Any, dtype: Any) -> Any:
  """`shared` with its floating leaves in `dtype`; as it is for None.

  Raises:
    ValueError: a `dtype` that is not a floating one.
  """
  if dtype is None:
    return shared
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"dtype must be a floating one; got {dtype}.")

  def leaf(x):
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      return x
    return (x if isinstance(x, jax.Array) else np.asarray(x)).astype(dtype)

  return jax.tree.map(leaf, shared)


def check_output(output: Any) -> None:
  """Refuses the abstract `output` of f unless it is real `[]` or `[T]`.

  Raises:
    ValueError: it is not.
  """
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


def places(shared: Any, specs: Any, mesh: jax.sharding.Mesh) -> Any:
  """A `NamedSharding` for every leaf; replicated where `specs` is None.

  Raises:
    ValueError: `specs` that are no `PartitionSpec` and no tree of them like
      `shared`, or that use the axis `masks` or one that the mesh lacks.
  """
  is_spec = lambda x: x is None or isinstance(x, jax.P)
  leaves, tree = jax.tree.flatten(shared)
  if specs is None:
    specs = jax.P()
  if isinstance(specs, jax.P):
    found: list[Any] = [specs] * len(leaves)
  else:
    found, other = jax.tree.flatten(specs, is_leaf=is_spec)
    if other != tree:
      raise ValueError(
        "shared_sharding must be one PartitionSpec, or a tree of them like "
        f"`shared`; got {other} for {tree}."
      )
  placed = []
  for leaf, spec in zip(leaves, found):
    spec = jax.P() if spec is None else spec
    axes = {
      a for part in spec for a in (part if type(part) is tuple else [part])
    }
    axes.discard(None)
    unfit = axes - {*mesh.axis_names} | axes & {AXIS}
    if unfit:
      raise ValueError(
        f"shared_sharding {spec} of an array {np.shape(leaf)} names "
        f"{sorted(map(str, unfit))}; it may use the axes of the mesh other "
        f"than {AXIS!r}: "
        f"{[name for name in mesh.axis_names if name != AXIS]}."
      )
    placed.append(jax.NamedSharding(mesh, spec))
  return jax.tree.unflatten(tree, placed)


def memory(
  compiled: Any, in_flight: int = IN_FLIGHT, at_once: int = 1
) -> int | None:
  """Bytes that a compiled program needs on one device, parameters included.

  None where the compiler does not say.

  Args:
    compiled: a program that `jax.jit` has lowered and compiled.
    in_flight: calls whose masks and values are held at once.
    at_once: those of them that compute at the same time.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    return None
  masks = analysis.alias_size_in_bytes  # In the outputs as well.
  values = analysis.output_size_in_bytes - masks
  once = (
    analysis.argument_size_in_bytes
    - masks
    + analysis.generated_code_size_in_bytes
  )
  scratch = analysis.temp_size_in_bytes + _cpu_scratch(compiled.as_text())
  return int(once + at_once * scratch + in_flight * (masks + values))


def _cpu_scratch(text: str) -> int:
  """What a CPU's kernels allocate as they run, which the analysis leaves out.

  XLA hands products and sums on a CPU to YNNPACK, which repacks operands, in
  several threads at once. Measured on encoders at 8 to 256 masks, that came to
  1.5 to 2.3 times the largest result of such a kernel; other kernels needed
  little. See the `memory` rows of `experiments/bench_evaluate.py`.
  """
  largest = 0
  for dtype, shape in _YNN.findall(text):
    size = math.prod(int(side) for side in shape.split(",") if side)
    largest = max(largest, size * _BITS.get(dtype, 32) // 8)
  return 2 * largest
