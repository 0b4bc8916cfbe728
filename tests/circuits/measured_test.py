"""What a model does on pairs, by its logits one prompt at a time."""

import numpy as np
import pytest

from spex_jax.circuits import measured, metrics
from spex_jax.circuits import pairs as pairs_lib
from tests.circuits.graph_test import network
from tests.models import checkpoints

_NET = network(num_blocks=1)
_PARAMS = checkpoints.random_params(_NET)
_RNG = np.random.default_rng(0)


def _pairs():
  rows = []
  for number in range(5):
    clean = _RNG.integers(0, 11, 3 + number % 2)
    corrupted = clean.copy()
    corrupted[0] = (corrupted[0] + 1) % 11
    right, *wrong = _RNG.permutation(11)[:3].tolist()
    rows.append(
      {
        "clean_ids": clean.tolist(),
        "corrupted_ids": corrupted.tolist(),
        "right_ids": [right],
        "wrong_ids": wrong if number else [],
      }
    )
  return pairs_lib.from_ids(rows)


@pytest.mark.slow
def test_one_prompt_at_a_time():
  pairs = _pairs()
  found = measured.measure(
    _NET, _PARAMS, pairs, metrics.logit_difference, size=2
  )
  for row in range(len(pairs)):
    length = pairs.lengths[row]
    right = pairs.right[row, 0]
    wrong = [i for i in pairs.wrong[row] if i >= 0]
    for ids, got in (
      (pairs.clean, found.clean), (pairs.corrupted, found.corrupted),
    ):  # fmt: skip
      out = _NET.apply(_PARAMS, input_ids=ids[row : row + 1, :length]).logits
      logits = np.asarray(out[0, -1], np.float64)
      others = logits[wrong].mean() if wrong else logits.mean()
      # Float32 logits of size 1.
      np.testing.assert_allclose(got[row], logits[right] - others, atol=1e-5)
      if ids is pairs.clean:
        first = logits.argmax() == right
        assert found.first[row] == first
        assert found.correct[row] == (
          logits[right] > others if wrong else first
        )
  assert found.accuracy == found.correct.mean()


def _measured(correct):
  correct = np.array(correct)
  return measured.Measured(np.zeros(2), np.zeros(2), correct, correct)


def test_a_task_that_is_failed_is_refused_unless_forced():
  failed = _measured([True, False])
  with pytest.raises(ValueError, match="fails ioi: 50% correct, fewer than"):
    failed.check("ioi")
  failed.check("ioi", forced=True)
  _measured([True, True]).check("ioi")


def test_what_is_not_finite_is_named():
  broken = lambda logits, clean, right, wrong: logits[0] * np.nan
  with pytest.raises(ValueError, match="pair 0 is nan on its clean prompt"):
    measured.measure(_NET, _PARAMS, _pairs(), broken)
