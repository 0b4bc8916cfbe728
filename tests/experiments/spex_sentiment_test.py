"""The experiment on reviews, with a value function in the place of a model."""

import jax
import numpy as np
import pytest

from experiments import spex_sentiment
from spex_jax.ablate import evaluate
from spex_jax.jobs import subjects

pytestmark = pytest.mark.slow


def _subject(n):
  # Masks without player 0 are one value, so that lasso of order 1 misses some.
  value = lambda masks: masks[:, 0] * (2.0 * masks[:, 1] - masks[:, 2])
  return subjects.Subject(
    question="",
    facts={},
    evaluator=evaluate.host(value, n),
    names=tuple(map(str, range(n))),
    units="logit",
    draw=lambda found, path: None,
  )


@pytest.fixture(scope="module")
def measured():
  rows = []
  for number, n in enumerate((8, 12)):
    for row in spex_sentiment.fits(
      _subject(n), (40, 200), ("spex", "lasso"), 50, jax.random.key(number)
    ):
      rows.append({"review": number} | row)
  return rows


def test_rows_of_every_method_and_budget(measured):
  assert len(measured) == 8
  for row in measured:
    if row["method"] == "spex" and row["budget"] == 40:
      assert "a budget of at least" in row["refused"]
    else:
      assert row["r2"] > 0.99 or row["method"] == "lasso"


def test_tables_count_what_was_refused(measured):
  text = spex_sentiment.tables(measured)
  assert "| 40 | refused | " in text and "| 200 | 1.000 | " in text
  assert "| 12 | 1 | 1.000 | " in text
  some = [row for row in measured if row["review"] or row["budget"] == 40]
  some.append(some[0] | {"review": 0, "budget": 200, "r2": 0.5})
  some[-1].pop("refused", None)
  assert np.isfinite(some[-1]["r2"])
  assert "0.750" in spex_sentiment.tables(some)


@pytest.mark.slow
def test_a_figure_is_drawn(measured, tmp_path):
  spex_sentiment.draw(measured, tmp_path / "figure.png")
  assert (tmp_path / "figure.png").stat().st_size > 1000


def test_reviews_are_picked_by_length():
  texts = ["a b", "a b c d e", "a b", "a"]
  assert spex_sentiment.reviews_of_lengths(texts, (2, 2, 4)) == [0, 2, 1]


def test_too_few_masks_are_refused():
  with pytest.raises(ValueError, match="3 players have too few masks"):
    next(
      spex_sentiment.fits(_subject(3), (40,), ("lasso",), 50, jax.random.key(0))
    )
