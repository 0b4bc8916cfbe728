"""What readers see of a stream some of whose edges are cut.

A reader sees the stream plus the sum over the writers u before it of
`cut[u] * (ref[u] - z[u])` (`sites.Edits`). A reader that is not named costs
nothing. What the others cost depends on where they read:

- All at one point of the stream (`Once`): nothing is held but what the heads
  gather, `[B, P, h]` each. At that point `ref` is read once, and what heads
  write is weighted on its way: for one row before it is projected.
- At several (`Differences`): the differences are held in one array, with the
  writers leading, that is written in place. All readers at one point contract
  with it in one product, in which those of one row that read next (an MLP
  behind its heads) ride along. So a point costs one pass over it, however many
  edges into it are cut. Derivatives are those of reverse mode alone: the array
  is not kept for the backward pass, which returns to what each writer wrote.

Shapes: B batch, P positions, W writers, R rows of a reader, d width, H heads,
h head width.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

# Of an array whose given axis has more positions, those that are left.
Fit = Callable[[jax.Array, int, int], jax.Array]


class Heads(NamedTuple):
  """What the heads of a layer write, not yet computed.

  Attributes:
    z: `[B, P, H, h]`, what they gather.
    kernel: `[H, h, d]`, by which each is projected.
    factor: `[B, P, d]`, by which their sum is multiplied, or None.
  """

  z: jax.Array
  kernel: jax.Array
  factor: jax.Array | None = None

  @property
  def each(self) -> jax.Array:
    """What each writes: `[B, P, H, d]`."""
    # Heads first, as they are computed and as edges take them.
    each = jnp.einsum("bpnh,nhd->nbpd", self.z, self.kernel)
    each = each if self.factor is None else each * self.factor[None]
    return jnp.moveaxis(each, 0, 2)

  @property
  def shape(self) -> tuple[int, ...]:
    """B, P, H, d."""
    return (*self.z.shape[:3], self.kernel.shape[-1])

  def at(self, few: Callable[[jax.Array], jax.Array]) -> "Heads":
    """These at some positions, as `few` takes them from axis 1."""
    factor = None if self.factor is None else few(self.factor)
    return Heads(few(self.z), self.kernel, factor)

  def total(self, weights: jax.Array) -> jax.Array:
    """Their sum under weights `[B|1, P|1, H]`: `[B, P, d]`."""
    z = (self.z * weights[..., None]).reshape(*self.z.shape[:2], -1)
    total = z @ self.kernel.reshape(-1, self.kernel.shape[-1])
    return total if self.factor is None else total * self.factor


# What writers write at one time: `[B, P, k, d]` of any, or that of heads.
Written: TypeAlias = jax.Array | Heads


def stacked(wrote: Sequence[jax.Array]) -> jax.Array:
  """What writers write, `[B, P, d]` or `[B, P, k, d]` each: `[B, P, W, d]`."""
  each = [z[:, :, None] if z.ndim == 3 else z for z in wrote]
  return jnp.concatenate(each, axis=2)


def tracker(
  cut: Mapping[str, base.Array], ref: base.Array, fit: Fit
) -> "Once | Differences":
  """What follows the writers of one forward, before any write.

  Args:
    cut: as in `sites.Edits`, of at least one reader.
    ref: `[B|1, P|1, W, d]`, as in `sites.Edits`: what cut edges carry.
    fit: called with an array, its axis of positions, and their number.
  """
  arrays = {name: jnp.asarray(one) for name, one in cut.items()}
  points = {one.shape[-1] for one in arrays.values()}
  kind = Once if len(points) == 1 else Differences
  return kind(arrays, jnp.asarray(ref), fit)


class Once:
  """What readers at one point of the stream see, computed there."""

  def __init__(self, cut: dict[str, jax.Array], ref: jax.Array, fit: Fit):
    self._cut, self._ref, self._fit = cut, ref, fit
    self._written: list[Written] = []

  def write(self, z: Written) -> None:
    """Notes what the next writers add to the stream."""
    self._written.append(z)

  def read(self, readers: Sequence[str], x: jax.Array) -> dict[str, jax.Array]:
    """As `Differences.read`."""
    chex.assert_rank(x, 3)
    names = [name for name in readers if name in self._cut]
    if not names:
      return {}
    few = lambda one: self._fit(one, 1, x.shape[1])
    cuts = [_fitted(self._fit, name, self._cut[name], x) for name in names]
    cut, ref = _joined(cuts), few(self._ref.astype(x.dtype))
    _check("ref", ref.shape[:2], x.shape)
    # Summed in the shape in which it is multiplied next: in two shapes it would
    # be computed twice.
    flat = lambda rows: jnp.broadcast_to(rows, (len(rows), *x.shape)).reshape(
      len(rows), -1, x.shape[-1]
    )
    seen, begin = flat(x[None]) + flat(_mixed(cut, ref)), 0
    for z in self._written:
      z = z.at(few) if isinstance(z, Heads) else few(z)
      share = cut[..., begin : begin + z.shape[2]]
      begin += z.shape[2]
      seen = seen - flat(_weighted(share, z))
    ends = np.cumsum([cut.shape[2] for cut in cuts])
    return dict(zip(names, jnp.split(seen.reshape(-1, *x.shape), ends[:-1])))


class Differences:
  """`ref - z` of the writers so far, during one forward trace."""

  def __init__(self, cut: dict[str, jax.Array], ref: jax.Array, fit: Fit):
    self._cut, self._ref = cut, ref
    self._left = {*cut}
    self._num = {name: one.shape[-1] for name, one in self._cut.items()}
    self._fit = fit
    # Writers before each group of readers that read at one point. Nothing is
    # held of writers behind the last one.
    self._groups = sorted({*self._num.values()})
    self._shape: tuple[int, int, int] = (0, 0, 0)  # B, P, d
    self._parts: list[jax.Array] = []  # [k, B P d] each
    # All of them and zeros behind, in one array that is written in place.
    self._held: jax.Array | None = None
    # Of the readers to come, what they see of writers before the last read.
    self._early: dict[str, tuple[jax.Array, int]] = {}

  def write(self, z: Written) -> None:
    """Notes what the next writers add to the stream.

    Raises:
      ValueError: a `ref` of another batch or of other positions.
    """
    if isinstance(z, Heads):
      z = z.each
    chex.assert_rank(z, 4)
    begin = sum(map(len, self._parts))
    if begin == self._groups[-1]:
      return
    batch, length, num, width = z.shape
    if begin:
      self._keep(length)
    self._shape = batch, length, width
    ref = self._ref[:, :, begin : begin + num].astype(z.dtype)
    ref = self._fit(ref, 1, length)
    _check("ref", ref.shape[:2], self._shape)
    part = jnp.moveaxis(ref - z, 2, 0).reshape(num, -1)
    self._parts.append(part)
    part = jax.lax.stop_gradient(part)
    if self._held is None:
      rest = jnp.zeros((self._groups[-1] - num, part.shape[1]), part.dtype)
      self._held = jnp.concatenate([part, rest])
    else:
      update = jax.lax.dynamic_update_slice_in_dim
      self._held = update(self._held, part, begin, 0)

  def read(self, readers: Sequence[str], x: jax.Array) -> dict[str, jax.Array]:
    """What those of the readers that are cut see: `[R, B, P, d]` each.

    Args:
      readers: at one point of the stream.
      x: `[B, P, d]`, the stream there.

    Raises:
      ValueError: a `cut` of another batch or of other positions.
    """
    chex.assert_rank(x, 3)
    names = [name for name in readers if name in self._left]
    if not names:
      return {}
    self._keep(x.shape[1])
    changes = {}
    for name in names:
      if name in self._early:
        change, had = self._early.pop(name)
        fresh = self._cut_of(name, x)[..., had:]
        changes[name] = change + self._fresh(fresh, had)
    self._left -= {*names}
    if wanted := [name for name in names if name not in changes]:
      changes |= self._changes(wanted, x)
    seen = {}
    for name in names:
      rows = changes[name].reshape(len(changes[name]), -1, x.shape[-1])
      rows = rows + x.reshape(1, *rows.shape[1:])
      seen[name] = rows.reshape(-1, *x.shape)
    return seen

  def _changes(self, names, x):
    """Contracts the cuts of these readers, and of those that ride along."""
    num = self._num[names[0]]
    after = [group for group in self._groups if group > num][:1]
    riders = [
      name
      for name in sorted(self._left - self._early.keys())
      if self._num[name] in (num, *after) and self._cut[name].shape[2] == 1
    ]
    cuts = [self._cut_of(name, x)[..., :num] for name in (*names, *riders)]
    parts = tuple(self._parts)
    held = self._held if len(parts) > 1 else parts[0]
    found = _contract(self._shape, _joined(cuts), held, parts)
    changes, begin = {}, 0
    for name, cut in zip((*names, *riders), cuts):
      change = found[begin : begin + cut.shape[2]]
      begin += cut.shape[2]
      if name in names:
        changes[name] = change
      else:
        self._early[name] = change, num
    return changes

  def _cut_of(self, name, x):
    return _fitted(self._fit, name, self._cut[name], x)

  def _fresh(self, cut, had):
    """The change by the writers since the first `had`."""
    if not cut.shape[-1]:
      return jnp.zeros((), cut.dtype)
    begin, fresh = 0, []
    for part in self._parts:
      if begin >= had:
        fresh.append(part)
      begin += len(part)
    return _contract(self._shape, cut, None, tuple(fresh))

  def _keep(self, length):
    """Goes on at `length` positions, where these are fewer than so far."""
    batch, had, width = self._shape
    if had == length:
      return
    fit = jax.vmap(lambda one: self._fit(one, 1, length))
    take = lambda flat: fit(flat.reshape(-1, batch, had, width))
    self._parts = [take(part).reshape(len(part), -1) for part in self._parts]
    if self._held is not None:
      self._held = take(self._held).reshape(len(self._held), -1)
    self._early = {
      name: (take(change).reshape(len(change), -1), num)
      for name, (change, num) in self._early.items()
    }
    self._shape = (batch, length, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(
  shape: tuple[int, int, int],
  cut: jax.Array,
  held: jax.Array | None,
  parts: tuple[jax.Array, ...],
) -> jax.Array:
  """The change that every row sees: `[R, B P d]`.

  Args:
    shape: B, P, d.
    cut: `[B|1, P|1, R, W']`.
    held: the parts in one array `[W' or more, B P d]`, for many rows; None
      for one row, which is summed up writer by writer.
    parts: `[k, B P d]` each, of W' writers together. The backward pass returns
      to them.
  """
  if held is not None:
    room = len(held) - cut.shape[-1]
    cut = jnp.pad(cut, ((0, 0), (0, 0), (0, 0), (0, room)))
    return _product(shape, cut, held)
  found = jnp.zeros((), cut.dtype)
  for share, part in _shares(cut, parts):
    for i in range(len(part)):
      weight = share[..., i].transpose(2, 0, 1)[..., None]
      found = found + weight * part[i].reshape(1, *shape)
  return found.reshape(cut.shape[2], -1)


def _shares(cut, parts):
  begin = 0
  for part in parts:
    yield cut[..., begin : begin + len(part)], part
    begin += len(part)


def _forward(shape, cut, held, parts):
  return _contract(shape, cut, held, parts), (cut, parts)


def _backward(shape, saved, change):
  cut, parts = saved
  to_cut, to_parts = [], []
  for share, part in _shares(cut, parts):
    _, back = jax.vjp(functools.partial(_product, shape), share, part)
    for found, one in zip((to_cut, to_parts), back(change)):
      found.append(one)
  return jnp.concatenate(to_cut, axis=-1), None, tuple(to_parts)


_contract.defvjp(_forward, _backward)


def _product(shape, cut, parts):
  """`[B|1, P|1, R, W]` and `[W, B P d]` to `[R, B P d]`."""
  if cut.shape[:2] == (1, 1):
    return jnp.matmul(cut[0, 0], parts, precision="highest")
  parts = parts.reshape(-1, *shape)
  out = jnp.einsum("bprw,wbpd->rbpd", cut, parts, precision="highest")
  return out.reshape(len(out), -1)


def _mixed(cut: jax.Array, ref: jax.Array) -> jax.Array:
  """Writers `[B|1, P|1, W, d]` mixed by the first W': `[R, B|1, P|1, d]`."""
  num, every = cut.shape[-1], ref.shape[2]
  # Writers are not the leading axis here, so that a part of them is a copy.
  if 3 * num < every:
    ref = ref[:, :, :num]
  else:
    cut = jnp.pad(cut, ((0, 0), (0, 0), (0, 0), (0, every - num)))
  # By position, as `ref` lies in memory; otherwise it would be transposed.
  lead = jnp.broadcast_shapes(cut.shape[:2], ref.shape[:2])
  cut = jnp.broadcast_to(cut, (*lead, *cut.shape[2:]))
  out = jnp.einsum("bprw,bpwd->bprd", cut, ref, precision="highest")
  return jnp.moveaxis(out, 2, 0)


def _weighted(cut: jax.Array, z: Written) -> jax.Array:
  """What writers write, under weights of every row: `[R, B, P, d]`."""
  if not isinstance(z, Heads):
    return _mixed(cut, z)
  if cut.shape[2] == 1:
    return z.total(cut[:, :, 0])[None]
  weights = jnp.moveaxis(cut, 2, 0)[..., None]
  each = z.each[None]
  # A sum of products, not a product of matrices: it is computed together with
  # what it is added to, so that nothing of R rows is written on the way.
  first, *others = (
    weights[..., i, :] * each[..., i, :] for i in range(cut.shape[3])
  )
  return sum(others, start=first)


def _joined(cuts: Sequence[jax.Array]) -> jax.Array:
  """Of cuts `[B|1, P|1, R, W']` one with all their rows."""
  lead = jnp.broadcast_shapes(*(cut.shape[:2] for cut in cuts))
  full = [jnp.broadcast_to(cut, (*lead, *cut.shape[2:])) for cut in cuts]
  return jnp.concatenate(full, axis=2)


def _fitted(fit: Fit, name: str, cut: jax.Array, x: jax.Array) -> jax.Array:
  """A reader's cut that fits the stream `x` `[B, P, d]`."""
  cut = fit(cut.astype(x.dtype), 1, x.shape[1])
  _check(f"cut[{name!r}]", cut.shape[:2], x.shape)
  return cut


def _check(what: str, got: Sequence[int], want: Sequence[int]) -> None:
  if any(a not in (1, b) for a, b in zip(got, want)):
    raise ValueError(
      f"Edit `{what}` has {tuple(got)} as batch and positions; they must be "
      f"{tuple(want[:2])}, or 1 where broadcast."
    )
