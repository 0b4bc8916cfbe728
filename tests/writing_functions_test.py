"""A user's function may write into its masks: nobody else's are changed."""

import jax
import numpy as np
import pytest

import spex_jax as spex
from spex_jax.ablate import evaluate
from spex_jax.components import coar, comparing, other_scores, pruning
from spex_jax.indices import deletion, judging
from spex_jax.influence import corners, semivalues
from spex_jax.masks import sampling

_N = 5
_KEY = jax.random.key(0)
_MASKS = sampling.enumerate_masks(_N)
_SUMS = np.arange(1.0, _N + 1) * [1, -1, 1, 1, -1]
_FOURIER = spex.SparseFourier.from_terms(
  _N, [((i,), -w / 2) for i, w in enumerate(_SUMS)]
)


def _values(masks):
  masks = np.asarray(masks)
  return masks @ _SUMS + 2.0 * (masks[:, 0] & masks[:, 2])


def _writes(masks):
  values = _values(masks)
  masks[:] = ~masks
  return values


def _at_once(f):
  return evaluate.host(f, _N, remember_bytes=1 << 20)


_ASKED = {
  "explain": lambda f: spex.explain(f, _N, budget=32, key=_KEY).fourier.coefs,
  "explain in batches": lambda f: spex.explain(
    f, _N, budget=25, key=_KEY, method="kernelshap", batch_size=7
  ).fourier.coefs,
  "assess": lambda f: spex.assess(f, _FOURIER, key=_KEY).faithfulness,
  "host": lambda f: _at_once(f)(np.concatenate([_MASKS, _MASKS])),
  "COAR": lambda f: coar.attribute(f, _N, budget=32, key=_KEY).scores,
  "compare": lambda f: comparing.compare(
    {"even": lambda m: m @ np.ones((_N, 1))}, f, _N, key=_KEY, keep=(0.5,)
  ).found[0.5]["even"].mean,
  "leave one out": lambda f: other_scores.leave_one_out(f, _N).scores,
  "best of random": lambda f: pruning.best_of_random(f, _N, 3, 20, _KEY).mask,
  "greedy": lambda f: pruning.greedy(f, _N, [1, 3])[3].mask,
  "removal": lambda f: deletion.removal_curve(_FOURIER, f, [1, 2]).masks,
  "Shapley": lambda f: semivalues.by_permutations(
    f, _N, num_permutations=8, key=_KEY
  ).attribution.scores,
  "corners": lambda f: corners.four_corners(
    [corners.Reported((0, 2), 1.0, 0)], [f, f], _MASKS[:8]
  ).rows[0].measured,
  "brittleness": lambda f: judging.brittleness(
    _SUMS[None], lambda m: f(m)[:, None], [1, 2]
  ).margins,
  "LDS": lambda f: judging.lds(
    lambda m: f(m)[:, None], _MASKS, _values(_MASKS)
  ).mean,
}  # fmt: skip


@pytest.mark.parametrize("who", _ASKED)
def test_nothing_but_its_own_masks_is_changed(who):
  before = _MASKS.copy()
  expected = np.asarray(_ASKED[who](_values))
  np.testing.assert_array_equal(np.asarray(_ASKED[who](_writes)), expected)
  np.testing.assert_array_equal(_MASKS, before)
