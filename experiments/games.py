"""Value functions of nine public families, drawn anew by a seed.

`make(family, seed)` gives the function; `record` its answers at uniform masks;
`save` and `load` keep them in an `.npz` file, so that every decoder sees the
same samples: `n`; `masks` (packed bits, 1 = kept) with `values`; `test_masks`
and `test_values`, never to be fitted on. A budget of N means the first N.

  cancer30      features of a row of the breast cancer table, replaced by the
                mean; a random forest's probability
  pixels64      pixels of a digit, replaced by the mean; margin of an MLP
  retrain100    training images of 3 and 8, dropped, and a logistic regression
                retrained without them; margin of one test image
  planted100    30 sets of order up to 4, normal coefficients; noise at 10 dB
  planted120    25 sets of order up to 5, the same otherwise
  hierarchy100  60 sets, closed under subsets, smaller as they grow; no noise
  maxsum60      the largest of six sums of 4 to 12 players each: kinks
  vote45        a weighted vote of 16 groups, each in favour if whole: 0 or 1
  cut40         the cut of a graph of 90 weighted edges: sets of two alone

Shapes: n players, B masks, F features.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.datasets import synthetic

ValueFn = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Game:
  """A value function; `clean` is it without noise, for testing.

  Attributes:
    n: players.
    value_fn: bool `[B, n]` to float64 `[B]`.
    clean: the same, without noise.
    planted: the expansion, where it is known.
  """

  n: int
  value_fn: ValueFn
  clean: ValueFn
  planted: synthetic.Planted | None = None


@dataclasses.dataclass(frozen=True)
class Recording:
  """Samples of a game.

  Attributes:
    name: of the game.
    masks: bool `[B, n]`, uniform.
    values: float64 `[B]`.
    test_masks: bool, further ones.
    test_values: theirs, without noise.
  """

  name: str
  masks: np.ndarray
  values: np.ndarray
  test_masks: np.ndarray
  test_values: np.ndarray

  @property
  def n(self) -> int:
    return self.masks.shape[1]


def replaced(
  output: ValueFn, row: np.ndarray, stand_in: np.ndarray
) -> tuple[int, ValueFn]:
  """The game of a row's features: absent ones are those of `stand_in`.

  Args:
    output: `[B, F]` to `[B]`.
    row: `[F]`.
    stand_in: `[F]`.
  """
  row, stand_in = np.asarray(row), np.asarray(stand_in)
  return len(row), lambda masks: np.asarray(
    output(np.where(masks, row, stand_in)), np.float64
  )


def forest(features: Any, labels: Any, seed: int, most: int = 30) -> Game:
  """A random forest's probability of the row's class, mean replacement.

  Args:
    features: `[N, F]`, of which the first `most` columns are used.
    labels: `[N]` classes.
    seed: of the split, the trees and the row, one that was not trained on.
    most: players.
  """
  from sklearn import ensemble, model_selection  # Slow to import.

  features = np.asarray(features)[:, :most]
  train, test, train_labels, _ = model_selection.train_test_split(
    features, labels, test_size=0.25, random_state=seed
  )
  model = ensemble.RandomForestClassifier(100, random_state=seed)
  model.fit(train, train_labels)
  row = test[np.random.default_rng([seed, 1]).integers(len(test))]
  column = int(model.predict_proba(row[None]).argmax())
  n, value_fn = replaced(
    lambda rows: model.predict_proba(rows)[:, column], row, train.mean(axis=0)
  )
  return Game(n, value_fn, value_fn)


def _cancer(seed: int) -> Game:
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_breast_cancer()
  return forest(bunch.data, bunch.target, seed)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
  from sklearn import datasets  # Slow to import.

  bunch: Any = datasets.load_digits()
  return bunch.data / 16.0, bunch.target  # Grey levels run to 16.


_EPOCHS = 100


def mlp_weights(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Layers 64-64-32-10 of a ReLU network trained on all but 300 digits."""
  from sklearn import neural_network  # Slow to import.

  pixels, labels = _digits()
  order = np.random.default_rng([seed, 2]).permutation(len(pixels))[300:]
  # A fixed number of epochs: no tolerance, so nothing to warn of.
  model = neural_network.MLPClassifier((64, 32), random_state=seed)
  for _ in range(_EPOCHS):
    model.partial_fit(pixels[order], labels[order], classes=range(10))
  return list(zip(model.coefs_, model.intercepts_))


def margin(
  layers: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray, label: int
) -> np.ndarray:
  """The logit of `label` less the largest other one, `[B]`."""
  for weights, bias in layers[:-1]:
    rows = np.maximum(rows @ weights + bias, 0)
  logits = rows @ layers[-1][0] + layers[-1][1]
  others = np.delete(logits, label, axis=1)
  return logits[:, label] - others.max(axis=1)


def pixels(seed: int) -> tuple[Game, dict[str, Any]]:
  """The game of a digit's pixels, and the arrays that define it."""
  images, labels = _digits()
  layers = mlp_weights(seed)
  order = np.random.default_rng([seed, 2]).permutation(len(images))
  row, label = images[order[0]], int(labels[order[0]])
  stand_in = images[order[300:]].mean(axis=0)
  n, value_fn = replaced(
    lambda rows: margin(layers, rows, label), row, stand_in
  )
  arrays: dict[str, Any] = {"row": row, "stand_in": stand_in, "label": label}
  for number, (weights, bias) in enumerate(layers):
    arrays |= {f"weights{number}": weights, f"bias{number}": bias}
  return Game(n, value_fn, value_fn), arrays


_RIDGE = 0.1  # As scikit-learn's C = 10.
_NEWTON_STEPS = 12  # From zero; 9 reach the last digits.


def _margin_without(mask, features, signs, image):
  """The margin after retraining by Newton's method; unbatched."""
  weight = mask.astype(features.dtype)
  ridge = jnp.diag(jnp.full(features.shape[1], _RIDGE).at[-1].set(0.0))

  def step(_, beta):
    chance = jax.nn.sigmoid(-signs * (features @ beta))
    gradient = ridge @ beta - features.T @ (weight * signs * chance)
    curvature = weight * chance * (1 - chance)
    hessian = ridge + features.T @ (curvature[:, None] * features)
    return beta - jnp.linalg.solve(hessian, gradient)

  start = jnp.zeros(features.shape[1])
  return image @ jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)


_margins = jax.jit(
  jax.vmap(_margin_without, in_axes=(0, None, None, None)),
)


def _retrain(seed: int) -> Game:
  images, labels = _digits()
  rng = np.random.default_rng([seed, 3])
  threes, eights = (
    rng.permutation(np.flatnonzero(labels == c)) for c in (3, 8)
  )
  rows = np.concatenate([threes[:50], eights[:50]])
  target = int(rng.choice(np.concatenate([threes[50:], eights[50:]])))
  # A last column of ones for the intercept, which the ridge leaves alone.
  features = np.pad(images[rows], ((0, 0), (0, 1)), constant_values=1.0)
  signs = np.where(labels[rows] == 3, 1.0, -1.0)
  image = np.append(images[target], 1.0) * (1 if labels[target] == 3 else -1)

  def value_fn(masks):
    chunks = np.array_split(np.asarray(masks, bool), -(-len(masks) // 256))
    with jax.enable_x64(True):
      parts = [_margins(c, features, signs, image) for c in chunks]
      return np.concatenate([np.asarray(part) for part in parts])

  return Game(len(rows), value_fn, value_fn)


def planted(
  seed: int,
  n: int = 100,
  num_terms: int = 30,
  decibels: float | None = 10.0,
  max_order: int = 4,
) -> Game:
  """Sets up to an order with normal coefficients; noise of that size."""
  clean = synthetic.planted([seed, n], n, num_terms, max_order, magnitudes=None)
  noisy = clean
  if decibels is not None:
    std = synthetic.noise_std(clean.variance, decibels)
    noisy = synthetic.noisy(clean, seed, std)
  return Game(n, noisy, clean, planted=clean)


def _hierarchy(seed: int, n: int = 100, num_terms: int = 60) -> Game:
  rng = np.random.default_rng([seed, 4])
  sets: set[tuple[int, ...]] = set()
  while len(sets) < num_terms:
    size = int(rng.integers(1, 5))
    top = sorted(rng.choice(n, size, replace=False).tolist())
    for order in range(1, size + 1):  # Small ones first, until there are 60.
      for members in itertools.combinations(top, order):
        if len(sets) < num_terms:
          sets.add(members)
  ordered = sorted(sets)
  players = np.full((num_terms, 4), n, np.int32)
  for row, members in zip(players, ordered):
    row[: len(members)] = members
  sizes = np.array([len(members) for members in ordered])
  coefs = rng.normal(size=num_terms) * 0.7 ** (sizes - 1)
  function = synthetic.Planted(n, players, coefs)
  return Game(n, function, function, planted=function)


def _maxsum(seed: int, n: int = 60, num_sums: int = 6) -> Game:
  rng = np.random.default_rng([seed, 6])
  weights = np.zeros((num_sums, n))
  for row in weights:
    size = int(rng.integers(4, 13))
    row[rng.choice(n, size, replace=False)] = rng.normal(size=size)
  value_fn = lambda masks: (masks @ weights.T).max(axis=1)
  return Game(n, value_fn, value_fn)


def _vote(seed: int, n: int = 45, num_groups: int = 16) -> Game:
  rng = np.random.default_rng([seed, 7])
  groups = np.zeros((num_groups, n), int)
  for row in groups:
    row[rng.choice(n, int(rng.integers(2, 5)), replace=False)] = 1
  weights = rng.uniform(0.5, 2.0, num_groups)
  chances = weights * 0.5 ** groups.sum(axis=1)
  needed = chances.sum() * rng.uniform(1.1, 1.4)

  def value_fn(masks):
    whole = masks @ groups.T == groups.sum(axis=1)
    return (whole @ weights > needed).astype(np.float64)

  return Game(n, value_fn, value_fn)


def _cut(seed: int, n: int = 40, num_edges: int = 90) -> Game:
  rng = np.random.default_rng([seed, 8])
  pairs = np.array(list(itertools.combinations(range(n), 2)))
  ends = pairs[rng.choice(len(pairs), num_edges, replace=False)].T
  weights = rng.exponential(size=num_edges)
  value_fn = lambda masks: (masks[:, ends[0]] != masks[:, ends[1]]) @ weights
  return Game(n, value_fn, value_fn)


FAMILIES: dict[str, Callable[[int], Game]] = {
  "cancer30": _cancer,
  "pixels64": lambda seed: pixels(seed)[0],
  "retrain100": _retrain,
  "planted100": planted,
  "planted120": lambda seed: planted(seed, 120, 25, max_order=5),
  "hierarchy100": _hierarchy,
  "maxsum60": _maxsum,
  "vote45": _vote,
  "cut40": _cut,
}


def make(family: str, seed: int) -> Game:
  """The game of a family that a seed draws.

  Raises:
    ValueError: no such family.
  """
  if family not in FAMILIES:
    raise ValueError(f"No family {family!r}; known: {', '.join(FAMILIES)}.")
  return FAMILIES[family](seed)


def record(
  game: Game, name: str, seed: int, num_masks: int, num_test: int
) -> Recording:
  """Asks a game at uniform masks; `seed` draws them."""
  rng = np.random.default_rng([seed, 5])
  draw = lambda rows: rng.integers(2, size=(rows, game.n), dtype=np.uint8) > 0
  masks, test_masks = draw(num_masks), draw(num_test)
  return Recording(
    name, masks, game.value_fn(masks), test_masks, game.clean(test_masks)
  )


def save(recording: Recording, path: pathlib.Path) -> None:
  """Writes a recording; `load` reads it."""
  np.savez_compressed(
    path,
    n=recording.n,
    masks=np.packbits(recording.masks, axis=1),
    values=recording.values,
    test_masks=np.packbits(recording.test_masks, axis=1),
    test_values=recording.test_values,
  )


def load(path: pathlib.Path) -> Recording:
  """Reads a recorded game, named as its file.

  Raises:
    ValueError: a file without the arrays of one.
  """
  with np.load(path) as file:
    needed = {"n", "masks", "values", "test_masks", "test_values"}
    if missing := needed - set(file.files):
      raise ValueError(
        f"{path} is no recorded game: it lacks {', '.join(sorted(missing))}."
      )
    n = int(file["n"])
    bits = lambda name: np.unpackbits(file[name], axis=1, count=n).astype(bool)
    return Recording(
      path.stem,
      bits("masks"),
      file["values"].astype(np.float64),
      bits("test_masks"),
      file["test_values"].astype(np.float64),
    )
