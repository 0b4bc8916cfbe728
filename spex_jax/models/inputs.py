"""What enters a transformer: checked token ids and masks, embedding tables.

Shapes: B batch, P positions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base


class Table(nn.Module):
  """Rows by number; a row that does not exist is NaN. Parameter `table`."""

  rows: int
  width: int

  def setup(self):
    init = nn.initializers.normal(0.02)
    self.table = self.param("table", init, (self.rows, self.width))

  def __call__(self, numbers: jax.Array) -> jax.Array:
    """Int `[...]` to `[..., width]`."""
    return (
      jnp.asarray(self.table)
      .at[numbers]
      .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )

  def attend(self, x: jax.Array) -> jax.Array:
    """Products with every row: `[..., width]` to `[..., rows]`."""
    return jnp.einsum("bpd,vd->bpv", x, self.table)


def check_ids(
  ids: base.Array,
  vocab_size: int,
  max_positions: int | None,
  name: str = "input_ids",
) -> jax.Array:
  """Token ids `[B, P]` of a fitting length; checked further outside jit.

  A model of which `max_positions` is None takes any length.

  Raises:
    TypeError: ids that are no integers.
    ValueError: another rank, no token, more than the model has positions, or
      (where the values are known) an id outside the vocabulary.
  """
  ids = check_range(ids, name, vocab_size)
  if ids.ndim != 2 or 0 in ids.shape:
    raise ValueError(f"{name} must be [B, P], not empty; got {ids.shape}.")
  if max_positions is not None and ids.shape[1] > max_positions:
    what = "input" if name == "input_ids" else name
    raise ValueError(
      f"The {what} has {ids.shape[1]} tokens; the model has {max_positions} "
      "positions. Shorten it."
    )
  return ids


def check_range(
  numbers: base.Array,
  name: str,
  limit: int,
  shape: tuple[int, ...] | None = None,
) -> jax.Array:
  """Integers in 0..limit-1; the range is checked where values are known.

  Raises:
    TypeError: no integers.
    ValueError: one out of range, named, or another shape than `shape`
      `[B, P]` or `[1, P]`.
  """
  if shape is not None and np.shape(numbers) not in (shape, (1, shape[1])):
    raise ValueError(
      f"{name} must be {shape} or {(1, shape[1])}; got {np.shape(numbers)}."
    )
  if not jnp.issubdtype(jnp.result_type(numbers), jnp.integer):
    raise TypeError(f"{name} must be integers; got {jnp.result_type(numbers)}.")
  if not isinstance(numbers, jax.core.Tracer):
    base.check_unmasked(numbers, name)
    known = np.asarray(numbers)
    bad = known[(known < 0) | (known >= limit)]
    if bad.size:
      raise ValueError(f"{name} must lie in 0..{limit - 1}; got {bad[0]}.")
  return jnp.asarray(numbers)


def check_mask(
  mask: base.Array | None,
  shape: tuple[int, ...],
  name: str = "attention_mask",
) -> jax.Array:
  """An attention mask as bool `[B, P]`; all True for None.

  Raises:
    ValueError: another shape than the ids', or another entry than 0 and 1,
      such as those of a mask that is added to scores. Where values are not
      known, under jit, no floats.
  """
  if mask is None:
    return jnp.ones((1, shape[1]), bool)
  if np.shape(mask) != shape:
    raise ValueError(
      f"{name} must be {shape}, like its ids; got {np.shape(mask)}."
    )
  return check_bool(mask, name)


def check_bool(mask: base.Array, name: str = "attention_mask") -> jax.Array:
  """An attention mask of any shape, checked as `check_mask` does, as bool.

  Raises:
    ValueError: a mask of other numbers than 0 and 1; of floats, under jit.
  """
  base.check_unmasked(mask, name)
  remedy = "1 where a token is there, 0 where not; none that is added to scores"
  if isinstance(mask, jax.core.Tracer):
    if jnp.issubdtype(mask.dtype, jnp.inexact):
      raise ValueError(
        f"{name} must be of integers or bool under jit ({remedy}); got "
        f"{mask.dtype}."
      )
  elif bad := set(np.unique(np.asarray(mask)).tolist()) - {0, 1}:
    raise ValueError(f"{name} must be {remedy}; got {sorted(bad)[0]}.")
  return jnp.asarray(mask).astype(bool)
