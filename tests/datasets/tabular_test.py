"""Tables: scikit-learn's by name, your own checked, splits from keys."""

import jax
import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from spex_jax.datasets import images, splits, tabular


@pytest.mark.parametrize("name", tabular.NAMES)
def test_load_equals_scikit_learn(name):
  table = tabular.load(name)
  bunch = getattr(sklearn_datasets, f"load_{name}")()
  np.testing.assert_array_equal(table.features, bunch.data)
  np.testing.assert_allclose(table.targets, bunch.target)
  assert table.columns == tuple(bunch.feature_names)
  assert bool(table.classes) == (name != "diabetes")


def test_moments_standardise_and_survive_a_constant_column():
  features = np.random.default_rng(0).normal(3, 2, (50, 3))
  features[:, 1] = 0.1
  table = tabular.from_arrays(features, np.zeros(50))
  mean, std = table.moments()
  scaled = (table.features - mean) / std
  np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(scaled.std(axis=0), [1, 0, 1], atol=1e-5)


def test_split_partitions_and_follows_its_key():
  table = tabular.load("iris")
  train, test = table.split(jax.random.key(1), 0.2)
  assert (train.num_examples, test.num_examples) == (120, 30)
  rows = splits.split(jax.random.key(1), 150, 0.2)
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(150))
  np.testing.assert_array_equal(test.features, table.features[rows[1]])
  other = splits.split(jax.random.key(2), 150, 0.2)
  assert not np.array_equal(rows[1], other[1])


def test_tiny_splits_keep_both_parts():
  assert [len(r) for r in splits.split(jax.random.key(0), 2, 0.01)] == [1, 1]
  with pytest.raises(ValueError, match="two examples"):
    splits.split(jax.random.key(0), 1, 0.5)
  with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
    splits.split(jax.random.key(0), 9, 1.0)


_ONES = np.ones((4, 2))


@pytest.mark.parametrize(
  "args, kwargs, message",
  [
    ((np.ones(4), np.ones(4)), {}, r"must be \[examples, columns\]"),
    ((_ONES, np.ones(3)), {}, "one target for each of 4"),
    ((_ONES, np.ones(4)), {"columns": ("a", "a")}, "2 distinct column"),
    ((_ONES, np.array([0, 1, 2, 3])), {"classes": ("a",)}, "0..0"),
    ((_ONES, np.array([0, 1, np.nan, 3])), {}, "response must be finite"),
  ],
)
def test_bad_tables_are_refused(args, kwargs, message):
  with pytest.raises(ValueError, match=message):
    tabular.from_arrays(*args, **kwargs)


def test_nan_features_are_named():
  features = np.ones((4, 2))
  features[2, 1] = np.nan
  with pytest.raises(ValueError, match=r"1 NaN .* row 2, column 'size'"):
    tabular.from_arrays(features, np.ones(4), columns=("age", "size"))


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match="'titanic'; known are breast_cancer"):
    tabular.load("titanic")


def test_digits():
  digits = images.digits()
  assert digits.pixels.shape == (1797, 1, 8, 8)
  assert digits.pixels.dtype == np.float32 and digits.labels.dtype == np.int32
  assert (digits.pixels.min(), digits.pixels.max()) == (0, 1)
  assert digits.classes == tuple("0123456789")
  train, test = digits.split(jax.random.key(0), 0.25)
  assert (train.num_examples, test.num_examples) == (1348, 449)
  # Every image went to one side, with its label.
  both = np.concatenate([train.pixels, test.pixels])
  labels = np.concatenate([train.labels, test.labels])
  rows = np.concatenate(splits.split(jax.random.key(0), 1797, 0.25))
  np.testing.assert_array_equal(both, digits.pixels[rows])
  np.testing.assert_array_equal(labels, digits.labels[rows])


def test_bad_images_are_refused():
  pixels = np.zeros((3, 1, 2, 2))
  with pytest.raises(ValueError, match=r"\[N, channels, height, width\]"):
    images.from_arrays(pixels[:, 0], np.zeros(3, int))
  with pytest.raises(TypeError, match="integers or texts"):
    images.from_arrays(pixels, np.zeros(3))
  with pytest.raises(ValueError, match=r"must lie in 0..1.*first: 5 at row 2"):
    images.from_arrays(pixels, np.array([0, 1, 5]), classes=("a", "b"))
  pixels[1, 0, 0, 0] = np.inf
  with pytest.raises(ValueError, match=r"1 images hold NaN .* \(first: 1\)"):
    images.from_arrays(pixels, np.zeros(3, int))
