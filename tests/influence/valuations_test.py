"""The methods of the command, on one problem whose retrainings are known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import cli
from spex_jax.indices import judging
from spex_jax.influence import problem as problems
from spex_jax.influence import valuations
from spex_jax.jobs import retraining


def _masks(config, problem, budget):
  return problems.masks(problem, config.key("subsets"), budget, config.fresh)


@pytest.fixture(scope="module")
def known():
  """A problem of one epoch, subsets and what retraining them gave."""
  training = {"num_epochs": 1, "optimizer": "sgd", "learning_rate": 0.1}
  config = cli.load_config(
    "data_digits:quick", "attribute", {"training": training, "budget": 60}
  )
  problem = retraining.problem_of(config)
  masks = _masks(config, problem, 60)
  return config, problem, masks, problem.retrainer.run(masks.fit).values


@pytest.mark.slow
def test_the_keys_are_those_of_the_bank(known):
  _, problem, _, _ = known
  everybody = np.ones((1, problem.players.n), bool)
  for seed in (0, 3):
    state = problem.trained(seed=seed)
    answer = problem.classifier.learner.read(
      state, jax.tree.map(jnp.asarray, problem.test_data)
    )
    expected = problem.retrainer.run(everybody, seed).values[0]
    # Three steps in float32, batched otherwise.
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ("method", "least"),
  # Sixty subsets are too few for the default decoder.
  [
    ("tracin", 0.6),
    ("trak", 0.1),
    ("knn", 0.3),
    pytest.param("shapley", 0.6, marks=pytest.mark.slow),
  ],
)
def test_each_method_ranks_retrainings(known, method, least):
  config, problem, masks, values = known
  scores = valuations.score(method, problem, masks.fit, values, config.options)
  assert scores.scores.shape == (6, 24)
  assert judging.lds(scores, masks.fit, values).mean > least


def test_scores_of_groups_are_sums_of_their_members(known):
  config, problem, masks, values = known
  score = functools.partial(
    valuations.score, "knn", values=values, options=config.options
  )
  each = score(problem, masks.fit)
  changed = dataclasses.replace(config, players="clusters", num_clusters=5)
  grouped = retraining.problem_of(changed)
  assert grouped.players.n == 5 and not grouped.singles
  found = score(grouped, masks.fit[:, :5])
  for player in range(5):
    members = grouped.players.owner == player
    np.testing.assert_allclose(
      found.scores[:, player], each.scores[:, members].sum(axis=1), atol=1e-12
    )


def test_a_larger_budget_holds_the_smaller_ones_masks(known):
  config, problem, masks, _ = known
  more = _masks(config, problem, 90)
  np.testing.assert_array_equal(more.fit[:60], masks.fit)
  np.testing.assert_array_equal(more.fresh, masks.fresh)
  every = np.concatenate([more.fit, more.fresh])
  assert len(np.unique(every, axis=0)) == len(every) == 90 + config.fresh


def test_contexts_leave_two_classes_at_every_corner(known):
  config, problem, _, _ = known
  sets = [(0, 1), (2, 5, 7)]
  drawn = problems.contexts(
    problem, config.key("contexts"), config.contexts, sets
  )
  assert len(drawn) == config.contexts
  for players in sets:
    corner = drawn.copy()
    corner[:, players] = False
    problem.retrainer.check(corner)  # Refuses a class alone.
  none = np.zeros((1, problem.players.n), bool)
  assert not problem.usable(none).any()
