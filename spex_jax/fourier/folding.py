"""Folded values: the bins of a plan, where sets land in them, least squares.

Bin j of group c holds, for every delay p, the sum over the sets S with
M_c^T S = j of F(S) (-1)^<d_p + o_c, S>.

Shapes: n players, C groups, B = 2^b bins a group, P delays, K sets, D players
a set.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.masks import bch, hadamard


@flax.struct.dataclass
class Geometry:
  """Where each player lands in each group; what decoding knows of the masks.

  Attributes:
    bins: int32 `[n + 1, C]` bin of each player, 0 for the padding.
    delays: bool `[n + 1, P]` d_p of each player, False for the padding.
    offsets: bool `[n + 1, C]` o_c of each player.
    code: the code that the delays come from; static.
  """

  bins: base.Array
  delays: base.Array
  offsets: base.Array
  code: bch.Code = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Terms:
  """A padded list of sets, and where they land.

  Attributes:
    players: int32 `[K, D]`, ascending, padded with n.
    bins: int32 `[K, C]`.
    signs: float `[K, C, P]`, chi_S(d_p + o_c).
    used: bool `[K]`.
  """

  players: base.Array
  bins: base.Array
  signs: base.Array
  used: base.Array


def make_geometry(affine: hadamard.AffineMasks, code: bch.Code) -> Geometry:
  """Host tables for a plan's masks."""
  return Geometry(
    bins=hadamard.player_bins(affine.maps).T,
    delays=hadamard.player_parities(affine.delays),
    offsets=hadamard.player_parities(affine.offsets),
    code=code,
  )


def locate(geometry: Geometry, players: base.Array, used: base.Array) -> Terms:
  """Bins and signs of sets, `players` int32 `[K, D]`. Batched over sets."""
  chex.assert_rank([players, used], [2, 1])
  chex.assert_equal_shape_prefix([players, used], 1)
  chex.assert_type([players, used], [int, bool])
  fold = jax.vmap(hadamard.fold_players, in_axes=(None, 0))
  delays = fold(geometry.delays, players)
  offsets = fold(geometry.offsets, players)
  odd = offsets[:, :, None] ^ delays[:, None, :]
  signs = 1.0 - 2.0 * odd.astype(jnp.float32)
  return Terms(players, fold(geometry.bins, players), signs, used)


def project(terms: Terms, bins: jax.Array) -> jax.Array:
  """Mean over delays of each set's bins times its signs, `[K, C]`."""
  _, num_groups, num_delays = terms.signs.shape
  chex.assert_shape(bins, (num_groups, None, num_delays))
  groups = jnp.arange(bins.shape[0])[None]
  values = bins[groups, terms.bins]
  return (values * terms.signs).mean(axis=2)


def expand(terms: Terms, coefs: jax.Array, num_bins: int) -> jax.Array:
  """The bins `[C, B, P]` of coefficients `[K]`: the adjoint of `project`."""
  chex.assert_equal_shape([coefs, terms.used])
  _, num_groups, num_delays = terms.signs.shape
  groups = jnp.arange(num_groups)[None]
  out = jnp.zeros((num_groups, num_bins, num_delays), coefs.dtype)
  weights = jnp.where(terms.used, coefs, 0)[:, None, None]
  return out.at[groups, terms.bins].add(weights * terms.signs)


def solve(
  terms: Terms, coefs: jax.Array, bins: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """Least squares on a support by conjugate gradients from `coefs`.

  Folding is orthogonal, so this is least squares on the samples. Supports far
  below the sample count are nearly orthogonal: a few steps suffice.

  Returns:
    coefficients `[K]`, and the residual bins.
  """
  chex.assert_equal_shape([coefs, terms.used])
  chex.assert_type([coefs, bins], float)
  num_bins = bins.shape[1]

  def gather(x):
    return jnp.where(terms.used, project(terms, x).mean(axis=1), 0)

  residual = bins - expand(terms, coefs, num_bins)
  descent = gather(residual)
  state = coefs, descent, descent, (descent**2).sum()

  def step(_, state):
    coefs, descent, direction, size = state
    image = gather(expand(terms, direction, num_bins))
    length = size / jnp.maximum((direction * image).sum(), 1e-30)
    coefs = coefs + length * direction
    descent = descent - length * image
    new_size = (descent**2).sum()
    direction = descent + new_size / jnp.maximum(size, 1e-30) * direction
    return coefs, descent, direction, new_size

  coefs = jax.lax.fori_loop(0, steps, step, state)[0]
  return coefs, bins - expand(terms, coefs, num_bins)
