"""Many runs in one program: circuits, patches, swaps, a few at once.

Shapes: C rows, each one run.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

_LEAST = 64  # Rows of a program.


def at_once(tokens: int, plain: bool = False) -> int:
  """How many runs of so many tokens are computed at once.

  Args:
    tokens: of one run, of all its pairs.
    plain: whether no edge is cut, so that a run holds little: then a CPU is
      quicker with more of them at once.
  """
  room = 256 * (4 if plain else 1)
  room = room if jax.default_backend() == "cpu" else 16_384
  return max(1, room // tokens)


def even(count: int, at_once: int) -> int:
  """Of at most so many at once, how many leave the least of a last step idle.

  A multiple of four, where that is fewer: each number is a program of its own.
  """
  steps = -(-count // at_once)
  return min(at_once, -(-count // (4 * steps)) * 4)


def padded(rows: np.ndarray, size: int, multiple: int) -> np.ndarray:
  """Rows `[C, ...]`, filled up by the last one for `mapped`.

  Few rows are filled up to a power of two, so that few programs are compiled.
  What fills up is not computed, but for a rest of `multiple`.
  """
  size = size or max(_LEAST, 1 << (len(rows) - 1).bit_length())
  size = -(-size // multiple) * multiple
  return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def mapped(
  one: Callable[[Any], jax.Array], rows: Any, count: base.Array, at_once: int
) -> jax.Array:
  """`one` of the first `count` rows, some at once; zeros for the others.

  As `jax.lax.map(batch_size=)`, but the number of rows is traced, so that what
  fills up an array is not computed.

  Args:
    one: of a row to an array.
    rows: a pytree of arrays `[C, ...]`, C a multiple of `at_once`.
    count: int, at most C.
    at_once: how many rows are under one `vmap`.
  """
  size = jax.tree.leaves(rows)[0].shape[0]
  chex.assert_tree_shape_prefix(rows, (size,))
  chex.assert_is_divisible(size, at_once)
  shape = jax.eval_shape(one, jax.tree.map(lambda x: x[0], rows))

  def step(i, out):
    at = i * at_once
    some = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, at, at_once), rows
    )
    new = (
      jax.vmap(one)(some)
      if at_once > 1
      else one(jax.tree.map(lambda x: x[0], some))[None]
    )
    return jax.lax.dynamic_update_slice_in_dim(out, new, at, 0)

  start = jnp.zeros((size, *shape.shape), shape.dtype)
  return jax.lax.fori_loop(0, (count + at_once - 1) // at_once, step, start)
