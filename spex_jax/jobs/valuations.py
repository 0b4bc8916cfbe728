"""The methods of `spex attribute data`: one score per player and test point.

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
import ml_collections
import numpy as np

import spex_jax as spex
from spex_jax.indices import attribution
from spex_jax.influence import (
  datamodels,
  gradients,
  knn,
  metagradients,
  semivalues,
  trak,
)
from spex_jax.jobs import classifiers, retraining, subjects
from spex_jax.training import loop

Attribution = attribution.Attribution
_CHECKPOINTS = 3  # Of TracIn, along training.
_LEAST_GRAM = 64  # Subsets that the Gram scan needs.


def _datamodel(config, problem, masks, values):
  """Least squares where masks abound, so that errors are known; else ridge."""
  del config, problem
  if len(masks) >= 3 * masks.shape[1]:
    return datamodels.least_squares(masks, values)
  return datamodels.ridge(masks, values)


def _shapley(config, problem, masks, values):
  """Of the expansion that the decoder finds, for all test points."""
  found = spex.decode(
    masks,
    values,
    method=decoder(config, masks),
    max_order=min(config.order, problem.players.n),
  )
  return semivalues.of_expansion(found.fourier)


def _knn(config, problem, masks, values):
  del masks, values
  found = knn.shapley(
    problem.data["x"],
    problem.data["y"],
    problem.test_data["x"],
    problem.test_data["y"],
    neighbours=config.neighbours,
  )
  return _by_players(problem, found)


def _influence(config, problem, masks, values):
  del masks, values
  kind = config.model.kind
  damping = config.damping
  if kind == "logistic":
    # Its penalty is of the sum of losses; intercepts, which have none, too.
    damping = config.model.penalty / problem.train.num_examples
  found = gradients.influence_functions(
    _one(problem.classifier.by_loss),
    _one(problem.classifier.learner),
    trained(problem),
    problem.data,
    problem.test_data,
    damping=damping,
    solver="exact" if kind == "logistic" else "cg",
  )
  return _by_players(problem, found)


def _trak(config, problem, masks, values):
  """Models of random halves under several seeds, as in the paper."""
  del masks, values
  mask_key, project_key = jax.random.split(subjects.key_of(config, "trak"))
  halves, _ = retraining.draw(problem, mask_key, config.trak_models)
  owner = problem.players.owner
  models = [
    trained(problem, np.append(half, True)[owner], seed)
    for seed, half in enumerate(halves)
  ]
  found = trak.trak(
    _one(problem.classifier.by_log_odds),
    models,
    problem.data,
    problem.test_data,
    key=project_key,
    dim=config.trak_dim or None,
    penalty=1e-6,
  )
  return _by_players(problem, found)


def _tracin(config, problem, masks, values):
  """Checkpoints along the bank's own training."""
  del config, masks, values
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
    weights = np.ones(problem.train.num_examples, np.float32)
    keys = problem.retrainer.keys(0)
    checkpoints.append(jax.jit(fit)(*keys, problem.data, weights).params)
  examples = problem.train.num_examples
  rate = recipe.learning_rate * recipe.num_steps(examples) / len(epochs)
  found = gradients.tracin(
    _one(problem.classifier.by_loss),
    _one(problem.classifier.learner),
    checkpoints,
    [rate / examples] * len(checkpoints),
    problem.data,
    problem.test_data,
  )
  return _by_players(problem, found)


def _metagradient(config, problem, masks, values):
  del config, masks, values
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
  "lasso": lambda c, p, masks, values: datamodels.lasso(masks, values),
  "banzhaf": lambda c, p, masks, values: semivalues.banzhaf(masks, values),
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


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a method that this model or training does not allow.

  Raises:
    ValueError: says which it needs.
  """
  method, training = config.method, config.training
  kinds = NEEDS.get(method, classifiers.MODELS)
  if config.model.kind not in kinds:
    raise ValueError(
      f"method={method} needs model.kind={' or '.join(kinds)}; got "
      f"{config.model.kind}."
    )
  if method == "tracin" and training.schedule != "constant":
    raise ValueError(
      "method=tracin trains up to each checkpoint, which needs "
      f"training.schedule=constant; got {training.schedule}."
    )
  adaptive = training.optimizer != "sgd"
  if method == "metagradient" and adaptive and not training.eps_root > 0:
    raise ValueError(
      f"method=metagradient with training.optimizer={training.optimizer} "
      "needs training.eps_root above 0, 1e-12 say: its square root has no "
      "derivative at 0."
    )


def score(
  config: ml_collections.ConfigDict,
  problem: retraining.Problem,
  masks: np.ndarray,
  values: np.ndarray,
) -> Attribution:
  """Scores `[T, n]` by `config.method`.

  Args:
    config: of the command.
    problem: what it retrains.
    masks: bool `[B, n]`, uniform.
    values: float64 `[B, T]`.

  Raises:
    ValueError: what the method refuses.
  """
  return METHODS[config.method](config, problem, masks, values)


def decoder(config: ml_collections.ConfigDict, masks: np.ndarray) -> str:
  """The decoder of the configuration, or what speaks of few subsets, too."""
  if config.decoder == "gram" and len(masks) < _LEAST_GRAM:
    return "lasso"
  return config.decoder


def _by_players(problem: retraining.Problem, found: Attribution) -> Attribution:
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


def trained(
  problem: retraining.Problem,
  weights: np.ndarray | None = None,
  seed: int = 0,
) -> Any:
  """The state after training, as the bank has it."""
  if weights is None:
    weights = np.ones(problem.train.num_examples, np.float32)
  data = problem.classifier.learner.prepare(problem.data)
  state, finite = jax.jit(problem.classifier.learner.fit)(
    *problem.retrainer.keys(seed), data, jnp.asarray(weights, jnp.float32)
  )
  if not finite:
    raise ValueError(
      "Training diverged with all examples; lower training.learning_rate."
    )
  return state
