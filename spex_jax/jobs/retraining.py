"""What `spex attribute data` retrains: examples, players, a model, its masks.

Shapes: N training examples, n players, T test points, B masks.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import ml_collections
import numpy as np

from spex_jax import base
from spex_jax.ablate import features
from spex_jax.datasets import labelled
from spex_jax.influence import examples, subsets
from spex_jax.jobs import classifiers, subjects
from spex_jax.masks import packing, sampling

PLAYERS = ("examples", "classes", "clusters")
_LISTED = 12  # Players of whom all subsets are listed, and then drawn from.
_BLOCK = 256  # Masks drawn by one key.
_ROUNDS = 64  # Blocks without a new mask before giving up.


@dataclasses.dataclass(frozen=True)
class Problem:
  """Everything that is retrained.

  Attributes:
    train: N training examples, as they came.
    test: T test points.
    data: what the learner gets, `{"x": float32 [N, D], "y": [N]}`.
    test_data: the same of the test points.
    players: groups of training examples.
    names: of the players.
    classifier: what learns.
    retrainer: of all that.
  """

  train: labelled.Labelled
  test: labelled.Labelled
  data: dict[str, np.ndarray]
  test_data: dict[str, np.ndarray]
  players: features.Players
  classifier: classifiers.Classifier
  retrainer: examples.Retrainer

  @property
  def names(self) -> tuple[str, ...]:
    return self.players.names

  @property
  def singles(self) -> bool:
    """Whether every player is one example."""
    return self.players.n == self.train.num_examples

  def point(self, target: int) -> str:
    """A test point in words."""
    label = self.test.classes[self.test.y[target]]
    return f"test point {target} (row {self.test.rows[target]}: {label})"


def problem(
  config: ml_collections.ConfigDict,
  degenerate: Literal["refuse", "train"] = "refuse",
) -> Problem:
  """Reads, splits and checks; nothing is trained.

  Args:
    config: of `spex attribute data`.
    degenerate: of the retrainer.

  Raises:
    ValueError: a setting out of range, or data that cannot be used, named.
    TypeError: labels that are no integers.
    FileNotFoundError: no such file.
  """
  train, test = _split(config)
  flat = [part.x.reshape(part.num_examples, -1) for part in (train, test)]
  if not train.are_images:
    # Columns differ in scale; the scale is of all examples, and stays.
    mean, std = flat[0].mean(axis=0), flat[0].std(axis=0)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    flat = [((x - mean) / std).astype(np.float32) for x in flat]
  data = {"x": flat[0], "y": train.y}
  test_data = {"x": flat[1], "y": test.y}
  players = _players(config, train, flat[0])
  made = classifiers.classifier(config, train.x.shape[1:], len(train.classes))
  if made.recipe is not None:
    # Refuses a batch that is too large.
    made.recipe.num_steps(train.num_examples)
  retrainer = examples.Retrainer(
    made.learner,
    data,
    test_data,
    key=subjects.key_of(config, "retraining"),
    seeds="common",
    players=players,
    degenerate=degenerate,
    batch_size=config.microbatch or None,
    microbatch=config.microbatch or None,
  )
  return Problem(
    train=train,
    test=test,
    data=data,
    test_data=test_data,
    players=players,
    classifier=made,
    retrainer=retrainer,
  )


@dataclasses.dataclass(frozen=True)
class Masks:
  """Which subsets are retrained.

  Attributes:
    fit: bool `[B, n]`, to fit to.
    fresh: bool `[F, n]`, none of those, to judge by.
    unusable: how many that were drawn kept no example, or one class only.
  """

  fit: np.ndarray
  fresh: np.ndarray
  unusable: int


def masks(config: ml_collections.ConfigDict, problem: Problem) -> Masks:
  """Distinct uniform masks; a larger budget has all of a smaller one's.

  Raises:
    ValueError: so few players that fewer than 8 subsets can be retrained.
  """
  n = problem.players.n
  key = subjects.key_of(config, "subsets")
  if n <= _LISTED:
    everything = sampling.enumerate_masks(n)
    order = np.asarray(jax.random.permutation(key, len(everything)))
    kept = everything[order[usable(problem, everything[order])]]
    few = min(config.fresh, len(kept) // 5)
    fresh, fit = kept[:few], kept[few:][: config.budget]
    unusable = len(everything) - len(kept)
  else:
    fresh_key, fit_key = jax.random.split(key)
    fresh, lost = draw(problem, fresh_key, config.fresh)
    fit, more = draw(problem, fit_key, config.budget, fresh)
    unusable = lost + more
  if min(len(fit) // 2, len(fresh)) < 4:
    raise ValueError(
      f"Of {n} players, {len(fit)} subsets can be fitted to and {len(fresh)} "
      "judged by; 8 and 4 are needed. Take more players (--config.players="
      "examples, say), a larger budget, or more fresh subsets."
    )
  return Masks(fit, fresh, unusable)


def draw(
  problem: Problem, key: base.Key, size: int, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
  """Distinct uniform masks that can be retrained, block by block.

  Args:
    problem: whose players.
    key: consumed.
    size: how many; fewer come back where there are no more.
    exclude: bool `[E, n]`, none of these.

  Returns:
    bool `[size, n]`, and how many were passed over.
  """
  n = problem.players.n
  found = np.zeros((0, n), bool) if exclude is None else exclude
  number, idle, unusable, start = 0, 0, 0, len(found)
  while len(found) < start + size and idle < _ROUNDS:
    drawn = sampling.uniform(jax.random.fold_in(key, number), _BLOCK, n)
    sound = usable(problem, drawn)
    unusable += int((~sound).sum())
    joined = np.concatenate([found, drawn[sound]])
    joined = joined[packing.distinct_masks(joined).first]
    idle = idle + 1 if len(joined) == len(found) else 0
    found, number = joined, number + 1
  return found[start : start + size], unusable


def usable(problem: Problem, masks: np.ndarray) -> np.ndarray:
  """bool `[B]`: which masks the retrainer does not refuse."""
  owner, n = problem.players.owner, problem.players.n
  table = np.zeros((n + 1, len(problem.train.classes)))
  np.add.at(table, (owner, problem.train.y), 1)
  counts = masks.astype(np.float64) @ table[:n] + table[n]
  return (counts > 0).sum(axis=1) >= 2


def contexts(
  config: ml_collections.ConfigDict,
  problem: Problem,
  sets: Sequence[Sequence[int]],
) -> np.ndarray:
  """bool `[C, n]`: uniform masks in which every corner of `sets` is usable."""
  n = problem.players.n
  found = np.zeros((0, n), bool)
  key = subjects.key_of(config, "contexts")
  for number in range(_ROUNDS):
    drawn = sampling.uniform(jax.random.fold_in(key, number), _BLOCK, n)
    sound = np.ones(len(drawn), bool)
    for players in sets:
      neither = drawn.copy()
      neither[:, list(players)] = False
      sound &= usable(problem, neither)
    found = np.concatenate([found, drawn[sound]])
    found = found[packing.distinct_masks(found).first][: config.contexts]
    if len(found) == config.contexts:
      break
  return found


def _split(
  config: ml_collections.ConfigDict,
) -> tuple[labelled.Labelled, labelled.Labelled]:
  """Training examples, and the test points that are scored."""
  train, test = labelled.load(config.data)
  if config.classes:
    names = [name.strip() for name in config.classes.split(",")]
    train = train.only(names)
    test = None if test is None else test.only(names)
  _check_classes(train)
  key = subjects.key_of(config, "split")
  order = np.asarray(jax.random.permutation(key, train.num_examples))
  if test is None:
    if train.num_examples < config.num_test + 2:
      raise ValueError(
        f"num_test={config.num_test}: there are {train.num_examples} examples, "
        "and two at least are to be trained on."
      )
    test = train.take(order[: config.num_test])
    order = order[config.num_test :]
  elif config.num_test > test.num_examples:
    raise ValueError(
      f"num_test={config.num_test}: {config.data} has {test.num_examples} test "
      "examples."
    )
  else:
    test = test.take(np.arange(config.num_test))
  if config.num_train > len(order):
    raise ValueError(
      f"num_train={config.num_train}: {len(order)} examples are left beside "
      "the test points; 0 takes them all."
    )
  train = train.take(order[: config.num_train or len(order)])
  _check_classes(train)
  return train, test


def _check_classes(train: labelled.Labelled) -> None:
  present = np.unique(train.y)
  if len(present) < 2:
    raise ValueError(
      f"The {train.num_examples} training examples are all of class "
      f"{train.classes[present[0]]}; two classes are needed."
    )


def _players(config, train: labelled.Labelled, x: np.ndarray):
  if config.players == "classes":
    names = [train.classes[c] for c in np.unique(train.y)]
    return subsets.players_of(train.y, names)
  if config.players == "clusters":
    if not 2 <= config.num_clusters <= train.num_examples:
      raise ValueError(
        f"num_clusters={config.num_clusters}: must lie in "
        f"2..{train.num_examples}."
      )
    groups = subsets.clusters(x, config.num_clusters, config.seed)
    names = []
    for group in np.unique(groups):
      labels = train.y[groups == group]
      most = np.bincount(labels).argmax()
      names.append(
        f"cluster {group} ({len(labels)}, mostly {train.classes[most]})"
      )
    return subsets.players_of(groups, names)
  names = [
    f"{row} ({train.classes[label]})" for row, label in zip(train.rows, train.y)
  ]
  return subsets.players_of(np.arange(train.num_examples), names)
