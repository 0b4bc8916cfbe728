"""Splits of examples, from a key."""

import jax
import numpy as np

from spex_jax import base


def split(
  key: base.Key, num_examples: int, test_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
  """A uniform split without replacement.

  Args:
    key: a random key; consumed, so use it for nothing else.
    num_examples: N, at least 2.
    test_fraction: in (0, 1); the test part is rounded, and both parts hold at
      least one example.

  Returns:
    int64 indices of the training and of the test examples, both ascending.

  Raises:
    ValueError: fewer than two examples, or a fraction outside (0, 1).
  """
  if num_examples < 2:
    raise ValueError(f"A split needs two examples; got {num_examples}.")
  if not 0 < test_fraction < 1:
    raise ValueError(f"test_fraction must lie in (0, 1); got {test_fraction}.")
  size = int(np.clip(round(num_examples * test_fraction), 1, num_examples - 1))
  order = np.asarray(jax.random.permutation(key, num_examples), np.int64)
  return np.sort(order[size:]), np.sort(order[:size])
