"""What readers see of a stream some of whose edges are cut.

A reader sees the stream plus the sum over the writers u before it of
`cut[u] * (ref[u] - z[u])` (`sites.Edits`). The differences are held once, in
one array with the writers leading that every write updates in place, and all
readers at one point of the stream contract with it in one product. So a reader
costs one pass over the differences, however many of its edges are cut, and one
that is not named costs nothing.

Derivatives are reverse mode's alone: an array that is updated in place cannot
be kept for every reader, so the backward pass returns to what each writer
wrote, which is kept once.

Shapes: B batch, P positions, W writers, R rows of a reader, d width.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

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
    self._cut = cut
    self._ref = jnp.asarray(ref)
    self._fit = fit
    # Writers before each group of readers that read at one point. Nothing is
    # held of writers behind the last one.
    self._groups = sorted({np.shape(one)[-1] for one in cut.values()})
    self._shape: tuple[int, int, int] = (0, 0, 0)  # B, P, d
    self._parts: list[jax.Array] = []  # [k, B P d] each
    # Of the readers to come, what they see of writers before the last read.
    self._early: dict[str, tuple[jax.Array, int]] = {}

  def write(self, z: jax.Array) -> None:
    """Notes what the next writers add to the stream, `[B, P, k, d]`.

    Raises:
      ValueError: a `ref` of another batch or of other positions.
    """
    begin = sum(map(len, self._parts))
    if begin == self._groups[-1]:
      return
    batch, length, num, width = z.shape
    ref = self._fit(self._ref[:, :, begin : begin + num], 1, length)
    _check("ref", ref.shape, z.shape)
    part = jnp.moveaxis(ref.astype(z.dtype) - z, 2, 0).reshape(num, -1)
    if begin:
      self._keep(length)
    self._shape = batch, length, width
    self._parts.append(part)

  def read(self, readers: Sequence[str], x: jax.Array) -> dict[str, jax.Array]:
    """What those of the readers that are cut see: `[R, B, P, d]` each.

    Args:
      readers: at one point of the stream.
      x: `[B, P, d]`, the stream there.

    Raises:
      ValueError: a `cut` of another batch or of other positions.
    """
    names = [name for name in readers if name in self._cut]
    if not names:
      return {}
    self._keep(x.shape[1])
    cuts = {name: self._cut_of(name, x) for name in names}
    seen = {}
    if names[0] in self._early:
      for name, cut in cuts.items():
        early, had = self._early.pop(name)
        seen[name] = x + early + self._fresh(cut[..., had:], had)
      return seen
    num = cuts[names[0]].shape[-1]
    later = [g for g in self._groups if g > num][:1]
    for name in self._cut:
      if np.shape(self._cut[name])[-1] in later:
        cuts[name] = self._cut_of(name, x)[..., :num]
    lead = jnp.broadcast_shapes(*(cut.shape[:2] for cut in cuts.values()))
    rows = [jnp.broadcast_to(c, (*lead, *c.shape[2:])) for c in cuts.values()]
    change = _contract(
      self._shape, jnp.concatenate(rows, 2), tuple(self._parts)
    )
    begin = 0
    for name, cut in cuts.items():
      share = change[begin : begin + cut.shape[2]]
      begin += cut.shape[2]
      if name in names:
        rows = share.reshape(len(share), -1, x.shape[-1])
        seen[name] = (rows + x.reshape(rows.shape[1:])).reshape(share.shape)
      else:
        self._early[name] = share, num
    return seen

  def _cut_of(self, name, x):
    cut = jnp.asarray(self._cut[name]).astype(x.dtype)
    cut = self._fit(cut, 1, x.shape[1])
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
    take = lambda flat: self._fit(
      flat.reshape(-1, batch, had, width), 2, length
    ).reshape(len(flat), -1)
    self._parts = [take(part) for part in self._parts]
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
  return sum(
    _product(shape, share, part) for share, part in _shares(cut, parts)
  )


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
    return jnp.matmul(cut[0, 0], parts, precision="highest").reshape(-1, *shape)
  return jnp.einsum("bprw,wbpd->rbpd", cut, parts.reshape(-1, *shape))


def _check(what: str, got: Sequence[int], want: Sequence[int]) -> None:
  if any(a not in (1, b) for a, b in zip(got, want)):
    raise ValueError(
      f"Edit `{what}` has {tuple(got)} as batch and positions; they must be "
      f"{tuple(want[:2])}, or 1 where broadcast."
    )
