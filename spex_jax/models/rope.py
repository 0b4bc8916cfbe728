"""Rotary position embeddings, with the scalings that are implemented.

Pairs are the two halves of the rotated part of a head, entry i with entry
i + w/2, as in Hugging Face's models; the angle of pair i at position p is
`p * frequencies[i]`.

Source: Su et al., RoFormer (arXiv 2104.09864); the scalings are `linear`
(positions divided by a factor) and `llama3` (Llama 3.1: low frequencies
divided, high ones kept, those between interpolated).

Shapes: B batch, P positions, H heads, h head width, w <= h rotated entries.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("default", "linear", "llama3")


@dataclasses.dataclass(frozen=True)
class Rope:
  """Settings of a rotary embedding.

  Attributes:
    theta: base of the frequencies.
    width: w, even; the first w entries of a head are rotated.
    kind: one of `KINDS`.
    factor: by which `linear` and `llama3` stretch the context.
    low_freq_factor: of `llama3`; wavelengths above
      `original_positions / low_freq_factor` are stretched by the factor.
    high_freq_factor: of `llama3`; wavelengths below
      `original_positions / high_freq_factor` are kept.
    original_positions: length of the context before stretching.
  """

  theta: float
  width: int
  kind: str = "default"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_positions: int = 8192

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


def frequencies(rope: Rope) -> np.ndarray:
  """Radians per position of each pair: float64 `[w/2]`."""
  exponents = np.arange(0, rope.width, 2) / rope.width
  base = rope.theta**-exponents
  if rope.kind == "default":
    return base
  if rope.kind == "linear":
    return base / rope.factor
  turns = rope.original_positions * base / (2 * np.pi)  # In the old context.
  low, high = rope.low_freq_factor, rope.high_freq_factor
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return kept * base + (1 - kept) * base / rope.factor


def table(rope: Rope, length: int) -> np.ndarray:
  """Cosines and sines of positions 0..length-1: `[2, length, w/2]`.

  In float64 on the host: a float32 angle is off by 1e-3 at position 10^4.
  """
  angles = np.arange(length)[:, None] * frequencies(rope)
  return np.stack([np.cos(angles), np.sin(angles)])


def rotate(x: jax.Array, cos_sin: jax.Array) -> jax.Array:
  """Rotates the first w entries of `x` `[B, P, H, h]`.

  Args:
    x: queries or keys.
    cos_sin: `[2, B or 1, P, w/2]`, the rows of `table` at x's positions.
  """
  half = cos_sin.shape[-1]
  cos, sin = cos_sin[:, :, :, None].astype(x.dtype)
  first, second = x[..., :half], x[..., half : 2 * half]
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate([*turned, x[..., 2 * half :]], axis=-1)
