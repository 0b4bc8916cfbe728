"""Games of retraining whose whole expansion is known."""

import jax
import numpy as np

import spex_jax as spex
from spex_jax.influence import examples, semivalues, subsets
from spex_jax.masks import sampling
from spex_jax.training import linear
from tests import ridge_games


def _retrainer(x, y, tests, penalty, groups=None):
  learner = linear.ridge(penalty, intercept=False)
  return examples.Retrainer(
    learner,
    {"x": x, "y": y},
    {"x": tests, "y": np.zeros(len(tests))},
    key=jax.random.key(0),
    seeds="common",
    players=None if groups is None else subsets.players_of(groups),
    degenerate="train",
    dtype="float64",
    batch_size=8,
    microbatch=8,
    devices=jax.devices()[:1],
  )


def test_corners_of_an_exclusive_or_are_synergetic():
  """A planted synergy: what the fourth corner is takes the two beside it.

  With the product as a feature, the solution of least norm says -1/3 for the
  fourth corner from the opposite one, 1/3 from one beside it, 1 from both of
  these or all three, 0 from opposite corners' mixed pairs and from nothing:
  by inversion the interaction of the two is 1/3, that of the three is 1/3, and
  those of the opposite one with either are 0.
  """
  corners = np.array([[1.0, 1], [1, -1], [-1, 1]])
  groups = np.repeat(np.arange(3), 4)  # Four copies of each example.
  features = lambda x: np.column_stack([x, x.prod(axis=1)])
  made = _retrainer(
    features(corners)[groups],
    corners.prod(axis=1)[groups],
    features(np.array([[-1.0, -1]])),
    1e-6,
    groups,
  )
  masks = sampling.enumerate_masks(3)
  found = spex.decode(masks, made(masks)[:, 0], method="exact")
  synergy, redundancy = semivalues.interactions(found, index="Moebius", order=3)
  strong = {s: v for s, v in synergy if abs(v) > 1e-5}
  assert sorted(strong) == [(0, 1, 2), (1, 2)]
  # The penalty moves a solution by 1e-6 of some, and rounding by less.
  np.testing.assert_allclose(list(strong.values()), 1 / 3, atol=1e-5)
  assert all(abs(v) < 1e-5 for _, v in redundancy)


def test_noise_stability_and_the_order_of_examples():
  """E f(m) f(m') = sum_k rho^k W_k, and permuted rows permute the game."""
  x, y, tests = ridge_games.data(8)
  made = _retrainer(x, y, tests[:1], ridge_games.PENALTY)
  masks = sampling.enumerate_masks(8)
  values = made(masks)[:, 0]
  fourier = spex.decode(masks, values, method="exact").fourier
  centred = values - values.mean()
  squares = np.asarray(fourier.coefs) ** 2
  differ = (masks[:, None] != masks[None]).sum(axis=2)
  for rho in (0.3, 0.9):
    # A bit of m' is that of m with probability (1 + rho) / 2.
    joint = ((1 - rho) / 2) ** differ * ((1 + rho) / 2) ** (8 - differ)
    stability = centred @ joint @ centred / len(masks)
    orders = np.asarray(fourier.orders)
    energy = (rho**orders * squares)[orders > 0].sum()
    np.testing.assert_allclose(stability, energy, rtol=1e-9)
  order = np.random.default_rng(0).permutation(8)
  moved = _retrainer(x[order], y[order], tests[:1], ridge_games.PENALTY)
  np.testing.assert_allclose(
    moved(masks[:, order])[:, 0], values, rtol=0, atol=1e-12
  )
