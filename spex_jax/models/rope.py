"""Rotary position embeddings, with the scalings that are implemented.

Pairs are the two halves of the rotated part of a head, entry i with entry
i + w/2, as in Hugging Face's models; the angle of pair i at position p is
`p * frequencies[i]`.

Source: Su et al., RoFormer (arXiv 2104.09864); the scalings are `linear`
(positions divided by a factor), `llama3` (Llama 3.1: low frequencies divided,
high ones kept, those between interpolated), `yarn` (the same by another ramp,
and larger scores: Peng et al., arXiv 2309.00071), and two that depend on the
length of a text: `dynamic` (another base beyond the trained length) and
`longrope` (one divisor per pair, of two sets: Ding et al., arXiv 2402.13753).

Shapes: B batch, P positions, H heads, h head width, w <= h rotated entries.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

KINDS = ("default", "linear", "llama3", "yarn", "dynamic", "longrope")


@dataclasses.dataclass(frozen=True)
class Rope:
  """Settings of a rotary embedding.

  Attributes:
    theta: the base of the frequencies.
    width: w, even; the first w entries of a head are rotated.
    kind: how it is scaled for longer texts, one of `KINDS`.
    factor: by which the context is stretched.
    low_freq_factor: of `llama3`; wavelengths above
      `original_positions / low_freq_factor` are stretched by the factor.
    high_freq_factor: of `llama3`; wavelengths below
      `original_positions / high_freq_factor` are kept.
    original_positions: length of the context before stretching.
    attention_factor: of `yarn` and `longrope`; of cosines and sines.
    beta_fast: of `yarn`; pairs that turn more often than this in the old
      context are kept.
    beta_slow: of `yarn`; pairs that turn less often are stretched.
    truncate: of `yarn`; the ramp begins and ends at whole pairs.
    short_factor: of `longrope`, `[w/2]`, up to `original_positions` tokens.
    long_factor: of `longrope`, `[w/2]`, for longer texts.
  """

  theta: float
  width: int
  kind: str = "default"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_positions: int = 8192
  attention_factor: float = 1.0
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True
  short_factor: tuple[float, ...] = ()
  long_factor: tuple[float, ...] = ()

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(
        f"RoPE scaling {self.kind!r} is not implemented; known are "
        f"{', '.join(KINDS)}."
      )
    if self.width < 2 or self.width % 2:
      raise ValueError(
        f"RoPE rotates pairs: an even number of entries; got {self.width}."
      )
    if self.kind == "longrope":
      for name in ("short_factor", "long_factor"):
        if len(getattr(self, name)) != self.width // 2:
          raise ValueError(
            f"{name} must have {self.width // 2} entries, one for each pair; "
            f"got {len(getattr(self, name))}."
          )

  @property
  def by_length(self) -> bool:
    """Whether frequencies differ for texts beyond `original_positions`."""
    return self.kind in ("dynamic", "longrope")


def frequencies(rope: Rope, length: int = 0) -> np.ndarray:
  """Radians per position of each pair: float64 `[w/2]`.

  `length` is that of the text, which matters where `Rope.by_length` holds.
  """
  exponents = np.arange(0, rope.width, 2) / rope.width
  base = rope.theta**-exponents
  if rope.kind == "default":
    return base
  if rope.kind == "linear":
    return base / rope.factor
  if rope.kind == "longrope":
    longer = length > rope.original_positions
    return base / np.array(rope.long_factor if longer else rope.short_factor)
  if rope.kind == "dynamic":
    times = max(length, rope.original_positions) / rope.original_positions
    grown = rope.factor * times - (rope.factor - 1)
    return base * grown ** (-rope.width / (rope.width - 2) * exponents)
  if rope.kind == "yarn":
    kept = _ramp(rope)
  else:
    turns = rope.original_positions * base / (2 * np.pi)  # In the old context.
    low, high = rope.low_freq_factor, rope.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
  return kept * base + (1 - kept) * base / rope.factor


def _ramp(rope: Rope) -> np.ndarray:
  """Of `yarn`: 1 for pairs that are kept, 0 for those stretched: `[w/2]`."""
  ends = []
  for turns in (rope.beta_fast, rope.beta_slow):
    length = rope.original_positions / (turns * 2 * math.pi)
    ends.append(rope.width * math.log(length) / (2 * math.log(rope.theta)))
  low, high = ends
  if rope.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, rope.width - 1)
  high += 0.001 * (low == high)
  return 1 - np.clip((np.arange(rope.width // 2) - low) / (high - low), 0, 1)


def table(rope: Rope, num: int, length: int | None = None) -> np.ndarray:
  """Cosines and sines of positions 0..num-1: `[2, num, w/2]`.

  In float64 on the host: a float32 angle is off by 1e-3 at position 10^4.
  `length` is that of the text, `num` by default.
  """
  length = num if length is None else length
  angles = np.arange(num)[:, None] * frequencies(rope, length)
  return np.stack([np.cos(angles), np.sin(angles)]) * rope.attention_factor


def rows(
  rope: Rope, positions: base.Array, num: int, num_slots: int | None = None
) -> jax.Array:
  """The table's rows at int `positions` `[B or 1, P]`: `[2, B or 1, P, w/2]`.

  NaN for a position that a table of `num` does not have. `num_slots` is the
  size of a cache, where there is one.

  Raises:
    ValueError: angles that depend on the length of a text, for a cache that may
      hold another, or for positions whose values are not known.
  """
  whole = jnp.asarray(table(rope, num, 0), jnp.result_type(float))
  longest = rope.original_positions
  if rope.by_length and num > longest:
    if num_slots is not None and num_slots > longest:
      raise ValueError(
        f"RoPE {rope.kind!r} depends on the length of a text beyond "
        f"{longest} tokens, so that keys cannot be kept in a cache of "
        f"{num_slots}: make the text shorter, or run it whole (`apply`)."
      )
    if num_slots is None:
      whole = _by_length(rope, positions, num, whole)
  return whole.at[:, positions].get(
    mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
  )


def _by_length(
  rope: Rope, positions: base.Array, num: int, short: jax.Array
) -> jax.Array:
  """The table for texts whose length may exceed the trained one."""
  if not isinstance(positions, jax.core.Tracer):
    length = int(positions.max()) + 1
  elif rope.kind == "longrope":
    long = jnp.asarray(table(rope, num), short.dtype)
    return jnp.where(positions.max() < rope.original_positions, short, long)
  else:
    raise ValueError(
      f"RoPE {rope.kind!r} depends on the length of a text, so that "
      "position_ids must be left out."
    )
  return jnp.asarray(table(rope, num, length), short.dtype)


def rotate(x: jax.Array, cos_sin: jax.Array) -> jax.Array:
  """Rotates the first w entries of `x` `[B, P, H, h]`.

  Args:
    x: `[B, P, H, h]`, queries or keys.
    cos_sin: `[2, B or 1, P, w/2]`, the rows of `table` at x's positions.
  """
  half = cos_sin.shape[-1]
  cos, sin = cos_sin[:, :, :, None].astype(x.dtype)
  first, second = x[..., :half], x[..., half : 2 * half]
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate([*turned, x[..., 2 * half :]], axis=-1)
