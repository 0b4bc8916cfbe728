"""Images: checked arrays, the digits, and splits."""

import jax
import numpy as np
import pytest

from spex_jax.datasets import images, splits


def _arrays(num=6):
  pixels = np.arange(num * 8.0).reshape(num, 2, 2, 2)
  return pixels, np.arange(num) % 3


def test_from_arrays():
  pixels, labels = _arrays()
  got = images.from_arrays(pixels, labels)
  assert (got.pixels.dtype, got.labels.dtype) == (np.float32, np.int32)
  np.testing.assert_array_equal(got.pixels, pixels)
  np.testing.assert_array_equal(got.labels, labels)
  assert got.classes == ("0", "1", "2")
  assert got.num_examples == 6


def test_classes_may_outnumber_the_labels_seen():
  pixels, labels = _arrays()
  got = images.from_arrays(pixels, labels, ("cat", "dog", "owl", "yak"))
  assert got.classes == ("cat", "dog", "owl", "yak")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_labels_of_any_integer_type(dtype):
  pixels, labels = _arrays(2)
  got = images.from_arrays(pixels, labels.astype(dtype))
  assert got.labels.tolist() == [0, 1]


def test_take_keeps_pixels_and_labels_together():
  pixels, labels = _arrays()
  got = images.from_arrays(pixels, labels).take(np.array([4, 1]))
  np.testing.assert_array_equal(got.pixels, pixels[[4, 1]])
  assert got.labels.tolist() == [1, 1]
  assert got.classes == ("0", "1", "2")


def test_split_is_a_partition_set_by_the_key():
  whole = images.from_arrays(*_arrays(10))
  train, test = whole.split(jax.random.key(0), 0.3)
  assert (train.num_examples, test.num_examples) == (7, 3)
  first = np.concatenate([train.pixels, test.pixels])[:, 0, 0, 0]
  np.testing.assert_array_equal(np.sort(first), whole.pixels[:, 0, 0, 0])
  for part in (train, test):  # Every image keeps its label.
    np.testing.assert_array_equal(part.labels, part.pixels[:, 0, 0, 0] / 8 % 3)
  again, _ = whole.split(jax.random.key(0), 0.3)
  np.testing.assert_array_equal(train.pixels, again.pixels)
  other, _ = whole.split(jax.random.key(1), 0.3)
  assert (train.pixels != other.pixels).any()


@pytest.mark.parametrize("fraction, size", [(0.001, 1), (0.999, 9), (0.5, 5)])
def test_neither_part_of_a_split_is_empty(fraction, size):
  train, test = splits.split(jax.random.key(0), 10, fraction)
  assert (len(train), len(test)) == (10 - size, size)


def test_bad_splits():
  for fraction in (0.0, 1.0, -0.5, np.nan):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\); got"):
      splits.split(jax.random.key(0), 10, fraction)
  with pytest.raises(ValueError, match="A split needs two examples; got 1"):
    images.from_arrays(*_arrays(1)).split(jax.random.key(0), 0.5)


def test_digits():
  got = images.digits()
  assert got.pixels.shape == (1797, 1, 8, 8)
  assert got.pixels.min() == 0 and got.pixels.max() == 1
  assert got.classes == tuple("0123456789")
  assert np.bincount(got.labels).min() > 170  # All ten, about equally often.


def _with(array, index, value):
  array = np.array(array)
  array[index] = value
  return array


_PIXELS, _LABELS = _arrays()


@pytest.mark.parametrize(
  "pixels, labels, classes, message",
  [
    (_PIXELS[:, 0], _LABELS, (), r"must be \[N, .*; got \(6, 2, 2\)"),
    (_PIXELS[:0], _LABELS[:0], (), r"got \(0, 2, 2, 2\)"),
    (_PIXELS[:, :0], _LABELS, (), r"got \(6, 0, 2, 2\)"),
    (_PIXELS, _LABELS[:5], (), r"each of 6 images; got shape \(5,\)"),
    (_PIXELS, _LABELS[:, None], (), r"got shape \(6, 1\)"),
    (_PIXELS, _LABELS - 1, ("a", "b"), r"lie in 0\.\.1.*-1 at row 0"),
    (_PIXELS, _LABELS, ("a", "b"), r"lie in 0\.\.1.*2 at row 2"),
    (_with(_PIXELS, 4, np.nan), _LABELS, (), r"1 images .*\(first: 4\)"),
    (_with(_PIXELS, (2, 1), -np.inf), _LABELS, (), r"1 images .*\(first: 2\)"),
  ],
)
def test_bad_arrays(pixels, labels, classes, message):
  with pytest.raises(ValueError, match=message):
    images.from_arrays(pixels, labels, classes)
