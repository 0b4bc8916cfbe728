"""From a bank of retrainings to interactions that retraining confirms."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.indices import judging
from spex_jax.influence import (
  bank,
  corners,
  datamodels,
  examples,
  semivalues,
)
from spex_jax.masks import sampling
from spex_jax.training import linear
from tests import ridge_games

_N = 12


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
  """A bank of ridge regressions, and the same values by NumPy."""
  x, y, tests = ridge_games.data(_N)
  # Without an intercept, sum w (y - x theta)^2 + penalty |theta|^2.
  learner = linear.ridge(
    penalty=ridge_games.PENALTY, intercept=False, output="prediction"
  )
  retrainer = examples.Retrainer(
    learner,
    {"x": x, "y": y},
    {"x": tests, "y": np.zeros(len(tests))},
    key=jax.random.key(0),
    seeds="common",
    degenerate="train",
    dtype="float64",
    batch_size=256,
    microbatch=32,
    devices=jax.devices()[:1],
  )
  kept = bank.Bank(tmp_path_factory.mktemp("bank") / "ridge", retrainer)
  masks = sampling.distinct(jax.random.key(1), 700, _N)
  values = kept.ask(masks)
  np.testing.assert_allclose(
    values[:, 0], ridge_games.refit(masks, x, y, tests), rtol=0, atol=1e-10
  )
  return kept, masks[600:], values[600:]


@pytest.mark.slow
def test_every_reader_reads_the_bank(studied):
  kept, fresh, values = studied
  found = kept.samples()
  masks, known = found.masks[:600], found.values[:600]
  scores = {}
  for method in (
    semivalues.banzhaf, datamodels.least_squares, datamodels.ridge,
  ):  # fmt: skip
    scores[method.__name__] = judging.lds(method(masks, known), fresh, values)
  assert scores["least_squares"].mean > 0.8
  assert scores["least_squares"].mean >= scores["banzhaf"].mean - 0.02
  kept.ask(sampling.leave_one_out(_N))
  everything = kept.samples()
  one = datamodels.leave_one_out(everything.masks, everything.values)
  data = ridge_games.data(_N)
  full = ridge_games.refit(np.ones((1, _N)), *data)[0]
  np.testing.assert_allclose(
    one.scores[:, 3], full - ridge_games.without([3], *data), atol=1e-9
  )


@pytest.mark.slow
def test_decoded_interactions_survive_retraining(studied):
  kept, fresh, values = studied
  found = kept.samples()
  explained = spex.decode(
    found.masks[:600], found.values[:600, 0], method="gram"
  )
  judged = judging.surrogate(explained.fourier, fresh, values[:, 0, :1])
  assert judged.gain()[0] > 0.02
  claims = corners.reported(explained.interactions("BII", 2), 3)
  seeds = [lambda m: kept.ask(m, [0])[:, 0]]
  report = corners.four_corners(
    claims, seeds, sampling.uniform(jax.random.key(2), 60, _N)
  )
  assert report.count("survives") >= 2
  assert report.count("contradicted") == 0
  before = len(kept)
  brittle = judging.brittleness(
    datamodels.least_squares(found.masks, found.values).scores, kept, [1, 3]
  )
  assert brittle.margins.shape == (3, 3) and len(kept) > before
