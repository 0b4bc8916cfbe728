"""Public games are what they say, and a recording keeps them."""

import json

import numpy as np
import pytest

from experiments import games, record_games


def _masks(n, count=40, seed=0):
  return np.random.default_rng(seed).random((count, n)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(games.FAMILIES))
def test_a_seed_draws_one_game(family):
  first, again, other = (games.make(family, seed) for seed in (1, 1, 2))
  masks = _masks(first.n)
  values = first.value_fn(masks)
  assert values.shape == (40,) and values.dtype == np.float64
  assert values.std() > 0.01
  np.testing.assert_array_equal(values, again.value_fn(masks))
  assert np.abs(values - other.value_fn(masks)).max() > 0.01
  # A value belongs to its mask, whatever the batch.
  np.testing.assert_allclose(
    first.value_fn(masks[7:9]), values[7:9], rtol=0, atol=1e-9
  )
  # The name ends in the number of players.
  assert family.endswith(str(first.n))


def test_an_unknown_family_is_named():
  with pytest.raises(ValueError, match="No family 'cancer3'; known: cancer30"):
    games.make("cancer3", 0)


def test_retraining_is_scikit_learns():
  from sklearn import datasets, linear_model

  game = games.make("retrain100", 3)
  bunch = datasets.load_digits()
  rng = np.random.default_rng([3, 3])
  threes, eights = (
    rng.permutation(np.flatnonzero(bunch.target == c)) for c in (3, 8)
  )
  rows = np.concatenate([threes[:50], eights[:50]])
  target = rng.choice(np.concatenate([threes[50:], eights[50:]]))
  for mask in _masks(100, 3):
    model = linear_model.LogisticRegression(C=10, tol=1e-9, max_iter=10_000)
    labels = bunch.target[rows][mask] == bunch.target[target]
    model.fit(bunch.data[rows][mask] / 16, labels)
    expected = model.decision_function(bunch.data[target][None] / 16)
    # lbfgs ends where the gradient is below 1e-9, some 1e-6 from the optimum.
    np.testing.assert_allclose(
      game.value_fn(mask[None]), expected, rtol=0, atol=1e-4
    )


def test_a_margin_is_the_networks():
  layers = [
    (np.array([[1.0, -1.0], [2.0, 0.0]]), np.array([0.0, 0.5])),
    (np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]), np.array([0.0, 0.0, -1.0])),
  ]
  # Hidden: relu(1 + 2, -1 + .5) = (3, 0); logits (3, 0, 5); margins by hand.
  row = np.array([[1.0, 1.0]])
  for label, expected in ((0, -2.0), (1, -5.0), (2, 2.0)):
    assert games.margin(layers, row, label) == pytest.approx([expected])


@pytest.mark.slow
def test_the_weights_of_the_pixel_game_give_its_values():
  game, arrays = games.pixels(1)
  masks = _masks(64, 5)
  x = np.where(masks, arrays["row"], arrays["stand_in"])
  for number in range(2):
    x = np.maximum(x @ arrays[f"weights{number}"] + arrays[f"bias{number}"], 0)
  logits = x @ arrays["weights2"] + arrays["bias2"]
  label = arrays["label"]
  others = np.delete(logits, label, axis=1).max(axis=1)
  np.testing.assert_allclose(
    game.value_fn(masks), logits[:, label] - others, rtol=0, atol=1e-12
  )


def test_noise_is_at_ten_decibels_and_test_values_have_none():
  game = games.make("planted100", 5)
  masks = _masks(100, 4000)
  noise = game.value_fn(masks) - game.clean(masks)
  # The variance of 4,000 normal deviates, five standard errors to each side.
  ratio = noise.var() / (game.planted.variance / 10)
  assert abs(ratio - 1) < 5 * np.sqrt(2 / 4000)


def test_a_hierarchy_holds_all_subsets():
  planted = games.make("hierarchy100", 4).planted
  sets = {s for s, _ in planted.terms()}
  assert len(sets) == 60 and max(map(len, sets)) == 4
  for members in sets:
    for left_out in members:
      smaller = tuple(i for i in members if i != left_out)
      assert not smaller or smaller in sets


def test_a_recording_survives_its_file(tmp_path, capsys):
  (path,) = record_games.run(
    tmp_path / "new", ["planted100"], seed=7, num_masks=50, num_test=20
  )
  assert path.name == "planted100-7.npz"
  assert json.loads(capsys.readouterr().out)["n"] == 100
  loaded = games.load(path)
  game = games.make("planted100", 7)
  assert loaded.name == "planted100-7" and loaded.n == 100
  assert loaded.masks.shape == (50, 100)
  assert loaded.test_masks.shape == (20, 100)
  np.testing.assert_array_equal(loaded.values, game.value_fn(loaded.masks))
  np.testing.assert_array_equal(
    loaded.test_values, game.clean(loaded.test_masks)
  )
  # Uniform: 5,000 fair bits within five standard errors.
  assert abs(loaded.masks.mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)


def test_a_file_of_something_else_is_refused(tmp_path):
  np.savez(tmp_path / "other.npz", n=3, masks=np.zeros((1, 1), np.uint8))
  with pytest.raises(ValueError, match="no recorded game: it lacks test_masks"):
    games.load(tmp_path / "other.npz")
