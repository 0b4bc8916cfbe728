"""The experiment on reviews, with a value function in the place of a model."""

import csv
import re

import jax
import numpy as np
import pytest

import spex_jax as spex
from experiments import rows, spex_sentiment
from experiments.configs import sweep_reviews
from spex_jax.ablate import evaluate
from spex_jax.jobs import subjects, sweeping
from spex_jax.models import hub
from spex_jax.sweeps import grid, state
from spex_jax.sweeps import run as sweep_run
from tests.jobs import small

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
  assert "| 40 | refused | " in text
  assert re.search(r"\| 200 \| 1(\.000 ± 0\.000)? \| ", text)
  assert re.search(r"\| 12 \| 1 \| 1(\.000 ± 0\.000)? \| ", text)
  some = [row for row in measured if row["review"] or row["budget"] == 40]
  some.append(some[0] | {"review": 0, "budget": 200, "r2": 0.5})
  some[-1].pop("refused", None)
  assert np.isfinite(some[-1]["r2"])
  assert "0.750 ± 0.250" in spex_sentiment.tables(some)


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


def test_a_language_model_is_asked_by_a_prompt(tmp_path):
  folder = str(small.gpt2(tmp_path / "model"))
  subject = spex_sentiment.prompted(
    folder, "the film is fun", tmp_path, (" fun", " film")
  )
  assert subject.names == ("the", "film", "is", "fun")
  net = hub.load(folder)
  first, second = (net.tokenizer.encode(x).ids[-1] for x in (" fun", " film"))
  masks = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
  # The words that are taken out take the spaces before them along.
  texts = (" the film is fun", " the fun", "")
  for value, text in zip(subject.evaluator(masks), texts):
    ids = net.tokenizer.encode(f"Review:{text}\nSentiment:").ids
    output = net.apply(net.params, input_ids=np.asarray(ids)[None])
    logits = output.logits[0, -1]
    expected = float(logits[first] - logits[second])
    assert value == pytest.approx(expected, abs=1e-5)


_REVIEWS = (
  ("the film is great fun , never boring , and the film is fun .", "good"),
  ("great fun and never boring . the film is great fun .", "good"),
  ("boring . boring . mr film is never fun , and boring .", "bad"),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """The quick sweep of three reviews, of which the last is not whole."""
  root = tmp_path_factory.mktemp("reviews")
  small.bert(root / "embedding", labels=())
  with (root / "reviews.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *_REVIEWS])
  config = sweep_reviews.get_config("quick")
  config.update(
    data=str(root / "reviews.csv"), model=str(root / "embedding"),
    model_dir=str(root / "head"),
  )  # fmt: skip
  sweep = grid.freeze(config, sweep_reviews.sweep("quick"))
  sweep_run.Run(root / "run", sweep, sweeping.build).run()
  last = sweep.shards()[-1].index
  for path in (root / "run" / "shards").glob(f"{last:08d}.*"):
    path.unlink()
  return root / "run"


def test_a_sweep_is_decoded_and_goes_on(workdir, tmp_path):
  masks, values = state.samples(workdir, 0)
  plan, first = sweep_reviews.plan_of(masks.shape[1], len(masks), 0)
  np.testing.assert_array_equal(
    masks[first : first + plan.num_masks], plan.masks()
  )
  np.testing.assert_array_equal(np.isfinite(values), True)
  methods, tests = ("spex", "lasso"), sweep_reviews.TESTS
  found = list(spex_sentiment.of_sweep(str(workdir), (150,), methods))
  assert [(r["review"], r["method"]) for r in found] == [
    (review, method) for review in (0, 1) for method in methods
  ]
  told = spex.decode(
    masks[tests : tests + 150], values[tests : tests + 150, 0], method="lasso"
  ).fourier
  truth = values[:tests, 0]
  left = ((truth - told(masks[:tests])) ** 2).sum()
  r2 = 1 - left / ((truth - truth.mean()) ** 2).sum()
  np.testing.assert_allclose(found[1]["r2"], r2, rtol=0, atol=1e-4)
  (alone, *_) = spex_sentiment.of_sweep(str(workdir), (150,), ("lasso1",))
  told = spex.decode(
    masks[tests : tests + 150], values[tests : tests + 150, 0],
    method="lasso", max_order=1,
  ).fourier  # fmt: skip
  assert alone["terms"] == int(told.count) <= masks.shape[1] + 1
  again = list(
    spex_sentiment.of_sweep(str(workdir), (150,), methods, found[:-1])
  )
  assert again[:-1] == found[:-1] and again[-1]["r2"] == found[-1]["r2"]
  assert "By length" in spex_sentiment.tables(again)
  path = tmp_path / "rows.jsonl"
  rows.write(found, str(path))
  assert rows.read(path) == found
  with pytest.raises(ValueError, match="a review has 180 of each kind"):
    list(spex_sentiment.of_sweep(str(workdir), (181,), methods))


def test_a_review_is_read_once_and_none_before_a_refusal(workdir, monkeypatch):
  read, own = [], state.samples
  monkeypatch.setattr(
    spex_sentiment.state, "samples",
    lambda folder, item: (read.append(item), own(folder, item))[1],
  )  # fmt: skip
  with pytest.raises(ValueError, match="a review has 180 of each kind"):
    list(spex_sentiment.of_sweep(str(workdir), (181,), ("lasso1",)))
  assert not read
  list(spex_sentiment.of_sweep(str(workdir), (60,), ("lasso1",)))
  assert read == [0, 1]
