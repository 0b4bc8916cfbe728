"""Sizes that arrays are padded to."""

import numpy as np

from spex_jax.masks import padding


def test_few_sizes_hold_every_count():
  counts = np.arange(1, 4097)
  sizes = np.array([padding.rows(int(count)) for count in counts])
  assert (sizes >= counts).all() and (np.diff(sizes) >= 0).all()
  assert set(sizes[counts <= 512]) == {128, 256, 384, 512}
  assert (sizes <= 1.125 * counts)[counts > 512].all()
  assert len(set(sizes[counts > 512])) == 3 * 8  # Eight to each double.
  assert all(padding.rows(int(size)) == size for size in sizes)
  assert padding.rows(0) == 128 and padding.columns(0) == 8
  assert [padding.columns(n) for n in (1, 8, 9, 860)] == [8, 8, 16, 864]


def test_padding_is_zeros_behind():
  signs = np.sign(np.random.default_rng(0).normal(size=(21, 5)))
  wide = padding.signs(signs)
  assert wide.shape == (128, 8)
  np.testing.assert_array_equal(wide[:21, :5], signs)
  assert not wide[21:].any() and not wide[:, 5:].any()
