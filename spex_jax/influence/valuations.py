"""Scores of training data by the name of a method: per player and test point.

Those that read the bank get masks and values; the others train once with
everybody there, under the bank's own initialisation and order.

Shapes: n players, N examples, T test points, B masks.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.api import decode
from spex_jax.indices import attribution
from spex_jax.influence import (
  classifiers,
  datamodels,
  gradient_baselines,
  knn,
  metagradients,
  semivalues,
  trak,
)
from spex_jax.influence import problem as problems
from spex_jax.training import loop

Attribution = attribution.Attribution
_CHECKPOINTS = 3  # Of TracIn, along training.
_LEAST_GRAM = 64  # Subsets that the Gram scan needs.


@dataclasses.dataclass(frozen=True)
class Options:
  """What some of the methods need to know.

  Attributes:
    key: the key of trak.
    decoder: the decoder of sets, for shapley: a method of `spex.decode`.
    order: the largest sets, for shapley.
    neighbours: the neighbours of knn.
    damping: the damping of influence.
    trak_models: retrained ones that trak averages over.
    trak_dim: the dimension of its projection; 0 for none.
  """

  key: base.Key
  decoder: str = "gram"
  order: int = 2
  neighbours: int = 5
  damping: float = 1e-2
  trak_models: int = 5
  trak_dim: int = 64


def _datamodel(problem, masks, values, options):
  """Least squares where masks abound, so that errors are known; else ridge."""
  del problem, options
  if len(masks) >= 3 * masks.shape[1]:
    return datamodels.least_squares(masks, values)
  return datamodels.ridge(masks, values)


def _shapley(problem, masks, values, options):
  """Of the expansion that the decoder finds, for all test points."""
  found = decode(
    masks,
    values,
    method=decoder(options.decoder, masks),
    max_order=min(options.order, problem.players.n),
  )
  return semivalues.of_expansion(found.fourier)


def _knn(problem, masks, values, options):
  del masks, values
  found = knn.shapley(
    problem.data["x"],
    problem.data["y"],
    problem.test_data["x"],
    problem.test_data["y"],
    neighbours=options.neighbours,
  )
  return _by_players(problem, found)


def _influence(problem, masks, values, options):
  del masks, values
  penalty, damping = problem.classifier.penalty, options.damping
  if penalty is not None:
    # It is of the sum of losses; intercepts, which have none, get it too.
    damping = penalty / problem.num_examples
  found = gradient_baselines.influence_functions(
    _one(problem.classifier.by_loss),
    _one(problem.classifier.learner),
    problem.trained(),
    problem.data,
    problem.test_data,
    damping=damping,
    solver="cg" if penalty is None else "exact",
  )
  return _by_players(problem, found)


def _trak(problem, masks, values, options):
  """Models of random halves under several seeds, as in the paper."""
  del masks, values
  mask_key, project_key = jax.random.split(options.key)
  halves, _ = problems.draw(problem, mask_key, options.trak_models)
  owner = problem.players.owner
  models = [
    problem.trained(np.append(half, True)[owner], seed)
    for seed, half in enumerate(halves)
  ]
  found = trak.trak(
    _one(problem.classifier.by_log_odds),
    models,
    problem.data,
    problem.test_data,
    key=project_key,
    dim=options.trak_dim or None,
    penalty=1e-6,
  )
  return _by_players(problem, found)


def _tracin(problem, masks, values, options):
  """Checkpoints along the bank's own training."""
  del masks, values, options
  recipe = problem.classifier.recipe
  marks = np.linspace(1, recipe.num_epochs, _CHECKPOINTS).round()
  epochs = np.unique(marks).astype(int).tolist()
  checkpoints = []
  for number in epochs:
    part = dataclasses.replace(recipe, num_epochs=number)
    fit = functools.partial(
      loop.train,
      init=problem.classifier.init,
      losses=problem.classifier.by_loss.read,
      recipe=part,
    )
    weights = np.ones(problem.num_examples, np.float32)
    keys = problem.retrainer.keys(0)
    checkpoints.append(jax.jit(fit)(*keys, problem.data, weights).params)
  examples = problem.num_examples
  rate = recipe.learning_rate * recipe.num_steps(examples) / len(epochs)
  found = gradient_baselines.tracin(
    _one(problem.classifier.by_loss),
    _one(problem.classifier.learner),
    checkpoints,
    [rate / examples] * len(checkpoints),
    problem.data,
    problem.test_data,
  )
  return _by_players(problem, found)


def _metagradient(problem, masks, values, options):
  del masks, values, options
  init_key, order_key = problem.retrainer.keys(0)
  found = metagradients.metagradients(
    init_key,
    order_key,
    problem.data,
    init=problem.classifier.init,
    losses=problem.classifier.by_loss.read,
    recipe=problem.classifier.recipe,
    outputs=lambda params: problem.classifier.learner.read(
      params, problem.test_data
    ),
  )
  return _by_players(problem, found)


METHODS: Mapping[str, Callable[..., Attribution]] = {
  "datamodel": _datamodel,
  "lasso": lambda p, masks, values, o: datamodels.lasso(masks, values),
  "banzhaf": lambda p, masks, values, o: semivalues.banzhaf(masks, values),
  "shapley": _shapley,
  "knn": _knn,
  "trak": _trak,
  "influence": _influence,
  "tracin": _tracin,
  "metagradient": _metagradient,
}
# What each needs a model to be.
NEEDS: Mapping[str, tuple[str, ...]] = {
  "trak": (*classifiers.PURE, "logistic"),
  "influence": (*classifiers.PURE, "logistic"),
  "tracin": classifiers.PURE,
  "metagradient": classifiers.PURE,
}


def score(
  method: str,
  problem: problems.Problem,
  masks: np.ndarray,
  values: np.ndarray,
  options: Options,
) -> Attribution:
  """Scores `[T, n]` by one of `METHODS`.

  Args:
    method: the name of a method; `NEEDS` says which models some of them need.
    problem: the problem that is retrained.
    masks: bool `[B, n]`, uniform.
    values: float64 `[B, T]`.
    options: the options of the methods.

  Raises:
    ValueError: what the method refuses.
  """
  return METHODS[method](problem, masks, values, options)


def decoder(name: str, masks: np.ndarray) -> str:
  """The decoder that is asked for, or what speaks of few subsets, too."""
  if name == "gram" and len(masks) < _LEAST_GRAM:
    return "lasso"
  return name


def _by_players(problem: problems.Problem, found: Attribution) -> Attribution:
  """Scores of examples, added up within each player."""
  owner, n = problem.players.owner, problem.players.n
  scores = np.zeros((found.num_targets, n + 1))
  np.add.at(scores.T, owner, found.scores.T)
  # Those whom nobody owns are always there.
  baseline = found.baseline + scores[:, n]
  return Attribution(scores[:, :n], baseline, found.method, None, found.notes)


def _one(learner: Any) -> Callable[[Any, Any], jax.Array]:
  """A learner's answer for one example."""
  return lambda state, example: learner.read(
    state, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], example)
  )[0]
