"""What readers see of a stream some of whose edges are cut.

A reader sees the stream plus the sum over the writers u before it of
`cut[u] * (ref[u] - z[u])` (`sites.Edits`). The differences are held once, one
array for every time that writers write, with the writers leading. All readers
at one point contract with them in one product, in which those of one row that
read next (an MLP behind its heads) ride along. So a point costs one pass over
the differences, however many edges into it are cut, and a reader that is not
named costs nothing.

Derivatives are those of reverse mode alone: what a product joins is not kept
for the backward pass, which returns to what each writer wrote.

Shapes: B batch, P positions, W writers, R rows of a reader, d width.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp

from spex_jax import base

# Of an array whose given axis has more positions, those that are left.
Fit = Callable[[jax.Array, int, int], jax.Array]


class Differences:
  """`ref - z` of the writers so far, during one forward trace."""

  def __init__(self, cut: Mapping[str, base.Array], ref: base.Array, fit: Fit):
    """Before any write.

    Args:
      cut: as in `sites.Edits`, of at least one reader.
      ref: as in `sites.Edits`.
      fit: called with an array, its axis of positions, and their number.
    """
    self._cut = {name: jnp.asarray(one) for name, one in cut.items()}
    self._ref = jnp.asarray(ref)
    self._left = {*cut}
    self._num = {name: one.shape[-1] for name, one in self._cut.items()}
    self._fit = fit
    # Writers before each group of readers that read at one point. Nothing is
    # held of writers behind the last one.
    self._groups = sorted({*self._num.values()})
    self._shape: tuple[int, int, int] = (0, 0, 0)  # B, P, d
    self._parts: list[jax.Array] = []  # [k, B P d] each
    # Of the readers to come, what they see of writers before the last read.
    self._early: dict[str, tuple[jax.Array, int]] = {}

  def write(self, z: jax.Array) -> None:
    """Notes what the next writers add to the stream, `[B, P, k, d]`.

    Raises:
      ValueError: a `ref` of another batch or of other positions.
    """
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
    self._parts.append(jnp.moveaxis(ref - z, 2, 0).reshape(num, -1))

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
    lead = jnp.broadcast_shapes(*(cut.shape[:2] for cut in cuts))
    joint = [jnp.broadcast_to(cut, (*lead, *cut.shape[2:])) for cut in cuts]
    joint = jnp.concatenate(joint, axis=2)
    found = _contract(self._shape, joint, tuple(self._parts))
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
    cut = self._fit(self._cut[name].astype(x.dtype), 1, x.shape[1])
    _check(f"cut[{name!r}]", cut.shape[:2], x.shape)
    return cut

  def _fresh(self, cut, had):
    """The change by the writers since the first `had`."""
    if not cut.shape[-1]:
      return jnp.zeros((), cut.dtype)
    begin, fresh = 0, []
    for part in self._parts:
      if begin >= had:
        fresh.append(part)
      begin += len(part)
    return _product(self._shape, cut, jnp.concatenate(fresh))

  def _keep(self, length):
    """Goes on at `length` positions, where these are fewer than so far."""
    batch, had, width = self._shape
    if had == length:
      return
    fit = jax.vmap(lambda one: self._fit(one, 1, length))
    take = lambda flat: fit(flat.reshape(-1, batch, had, width))
    self._parts = [take(part).reshape(len(part), -1) for part in self._parts]
    self._early = {
      name: (take(change), num) for name, (change, num) in self._early.items()
    }
    self._shape = (batch, length, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(
  shape: tuple[int, int, int], cut: jax.Array, parts: tuple[jax.Array, ...]
) -> jax.Array:
  """The change that every row sees: `[R, B, P, d]`.

  Args:
    shape: B, P, d.
    cut: `[B|1, P|1, R, W']`.
    parts: `[k, B P d]` each, of W' writers together.
  """
  if cut.shape[2] > 1:
    return _product(shape, cut, jnp.concatenate(parts))
  found = (_product(shape, one, part) for one, part in _shares(cut, parts))
  return functools.reduce(jnp.add, found)


def _shares(cut, parts):
  begin = 0
  for part in parts:
    yield cut[..., begin : begin + len(part)], part
    begin += len(part)


def _forward(shape, cut, parts):
  return _contract(shape, cut, parts), (cut, parts)


def _backward(shape, saved, change):
  cut, parts = saved
  to_cut, to_parts = [], []
  for share, part in _shares(cut, parts):
    _, back = jax.vjp(functools.partial(_product, shape), share, part)
    for found, one in zip((to_cut, to_parts), back(change)):
      found.append(one)
  return jnp.concatenate(to_cut, axis=-1), tuple(to_parts)


_contract.defvjp(_forward, _backward)


def _product(shape, cut, parts):
  """`[B|1, P|1, R, W]` and `[W, B P d]` to `[R, B, P, d]`."""
  if cut.shape[:2] == (1, 1):
    out = jnp.matmul(cut[0, 0], parts, precision="highest")
    return out.reshape(-1, *shape)
  parts = parts.reshape(-1, *shape)
  return jnp.einsum("bprw,wbpd->rbpd", cut, parts, precision="highest")


def _check(what: str, got: Sequence[int], want: Sequence[int]) -> None:
  if any(a not in (1, b) for a, b in zip(got, want)):
    raise ValueError(
      f"Edit `{what}` has {tuple(got)} as batch and positions; they must be "
      f"{tuple(want[:2])}, or 1 where broadcast."
    )
