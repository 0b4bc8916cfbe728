"""What is retrained, and on which subsets: usable masks, drawn block by block.

Shapes: N training examples, n players, T test points, B masks.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import features
from spex_jax.influence import classifiers, examples
from spex_jax.masks import packing, sampling

_LISTED = 12  # Players of whom all subsets are listed, and then drawn from.
_BLOCK = 256  # Masks drawn by one key.
_ROUNDS = 64  # Blocks without a new mask before giving up.


@dataclasses.dataclass(frozen=True)
class Problem:
  """Everything that is retrained.

  Attributes:
    data: the training examples, `{"x": float32 [N, D], "y": [N]}`.
    test_data: the test points, in the same form.
    num_classes: the number of classes of the labels y; 0 of a response.
    players: groups of training examples.
    classifier: the model that learns.
    retrainer: the retrainer of all that.
  """

  data: dict[str, np.ndarray]
  test_data: dict[str, np.ndarray]
  num_classes: int
  players: features.Players
  classifier: classifiers.Classifier
  retrainer: examples.Retrainer

  @property
  def names(self) -> tuple[str, ...]:
    """Of the players."""
    return self.players.names

  @property
  def num_examples(self) -> int:
    """N."""
    return len(self.data["y"])

  @property
  def singles(self) -> bool:
    """Whether every player is one example."""
    return self.players.n == self.num_examples

  def usable(self, masks: np.ndarray) -> np.ndarray:
    """bool `[B]`: which masks the retrainer does not refuse."""
    owner, n = self.players.owner, self.players.n
    if not self.num_classes:  # Of a response, two examples are needed.
      sizes = np.bincount(owner, minlength=n + 1)
      return masks @ sizes[:n] + sizes[n] >= 2
    table = np.zeros((n + 1, self.num_classes))
    np.add.at(table, (owner, self.data["y"]), 1)
    counts = masks.astype(np.float64) @ table[:n] + table[n]
    return (counts > 0).sum(axis=1) >= 2

  def trained(self, weights: np.ndarray | None = None, seed: int = 0) -> Any:
    """The state after training, as the bank has it.

    Args:
      weights: float `[N]`, the weights of the examples; all 1 by default.
      seed: the seed of initialisation and order.

    Raises:
      ValueError: training diverged.
    """
    if weights is None:
      weights = np.ones(self.num_examples, np.float32)
    data = self.classifier.learner.prepare(self.data)
    state, finite = jax.jit(self.classifier.learner.fit)(
      *self.retrainer.keys(seed), data, jnp.asarray(weights, jnp.float32)
    )
    if not finite:
      raise ValueError(
        "Training diverged with all examples; lower training.learning_rate."
      )
    return state


@dataclasses.dataclass(frozen=True)
class Masks:
  """Which subsets are retrained.

  Attributes:
    fit: bool `[B, n]`, the masks to fit to.
    fresh: bool `[F, n]`, the masks to judge by, none of those.
    unusable: how many drawn masks kept no example, or one class only.
  """

  fit: np.ndarray
  fresh: np.ndarray
  unusable: int


def masks(problem: Problem, key: base.Key, budget: int, fresh: int) -> Masks:
  """Distinct uniform masks; a larger budget has all of a smaller one's.

  Args:
    problem: the problem whose players the masks are of.
    key: consumed.
    budget: the number of masks to fit to.
    fresh: the number to judge by; a fifth of all where there are few.

  Raises:
    ValueError: so few players that fewer than 8 subsets can be retrained.
  """
  n = problem.players.n
  if n <= _LISTED:
    everything = sampling.enumerate_masks(n)
    order = np.asarray(jax.random.permutation(key, len(everything)))
    kept = everything[order[problem.usable(everything[order])]]
    few = min(fresh, len(kept) // 5)
    judge, fit = kept[:few], kept[few:][:budget]
    unusable = len(everything) - len(kept)
  else:
    fresh_key, fit_key = jax.random.split(key)
    judge, lost = draw(problem, fresh_key, fresh)
    fit, more = draw(problem, fit_key, budget, judge)
    unusable = lost + more
  if min(len(fit) // 2, len(judge)) < 4:
    raise ValueError(
      f"Of {n} players, {len(fit)} subsets can be fitted to and {len(judge)} "
      "judged by; 8 and 4 are needed. Take more players (--config.players="
      "examples, say), a larger budget, or more fresh subsets."
    )
  return Masks(fit, judge, unusable)


def draw(
  problem: Problem, key: base.Key, size: int, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
  """Distinct uniform masks that can be retrained, block by block.

  Args:
    problem: the problem whose players the masks are of.
    key: consumed.
    size: the number of masks; fewer come back where there are no more.
    exclude: bool `[E, n]` masks that must not be drawn.

  Returns:
    bool `[size, n]`, and how many were passed over.
  """
  n = problem.players.n
  found = np.zeros((0, n), bool) if exclude is None else exclude
  number, idle, unusable, start = 0, 0, 0, len(found)
  while len(found) < start + size and idle < _ROUNDS:
    drawn = sampling.uniform(jax.random.fold_in(key, number), _BLOCK, n)
    sound = problem.usable(drawn)
    unusable += int((~sound).sum())
    joined = np.concatenate([found, drawn[sound]])
    joined = joined[packing.distinct_masks(joined).first]
    idle = idle + 1 if len(joined) == len(found) else 0
    found, number = joined, number + 1
  return found[start : start + size], unusable


def contexts(
  problem: Problem, key: base.Key, size: int, sets: Sequence[Sequence[int]]
) -> np.ndarray:
  """bool `[C, n]`: uniform masks in which every corner of `sets` is usable.

  Args:
    problem: the problem whose players the masks are of.
    key: consumed.
    size: C; fewer come back where there are no more.
    sets: the sets of players.
  """
  n = problem.players.n
  found = np.zeros((0, n), bool)
  for number in range(_ROUNDS):
    drawn = sampling.uniform(jax.random.fold_in(key, number), _BLOCK, n)
    sound = np.ones(len(drawn), bool)
    for players in sets:
      neither = drawn.copy()
      neither[:, list(players)] = False
      sound &= problem.usable(neither)
    found = np.concatenate([found, drawn[sound]])
    found = found[packing.distinct_masks(found).first][:size]
    if len(found) == size:
      break
  return found
