"""What do masks of the words of film reviews give, for every decoder alike?

  spex sweep run --config=experiments/configs/sweep_reviews.py:brief \
    --config.data=reviews.csv --config.model=MINILM --workdir=DIR
  python -m experiments.spex_sentiment --workdir=DIR --output=rows.jsonl \
    --budgets=512,1024

An item is a review, a row of the table. Its masks are uniform ones, of which
the first `TESTS` are for judging, and behind as many as are left those of one
plan of SPEX, the largest that this number holds; uniform ones fill it up. Both
commands go on where they were stopped.

`brief` has every seventh review of rows 20 to 76, with 1,024 masks of each kind
(of a table in groups by length, as the SPEX paper's: three reviews each of 16
to 31 words, of 32 to 63 and of 64 to 127); `full` has rows 0 to 159 with 4,096,
and goes on where a text is longer than the model takes, up to three of ten (of
that table 46 have more than MiniLM's 512 tokens). Expect R^2 of SPEX above that
of single words by .03 to .1 on reviews of up to 40 words, at 1,024 masks, and
equal at 113; a review of 40 words takes four minutes on a busy machine.
"""

import jax
import ml_collections
import numpy as np

from spex_jax import configs, settings
from spex_jax.fourier import spex
from spex_jax.jobs import sentiment, sweeping
from spex_jax.sweeps import evaluating

TESTS = 200
# Rows of the table, and masks of each kind.
_SIZES = {
  "full": (range(160), 4096),
  "brief": (range(20, 80, 7), 1024),
  "quick": (range(3), 180),
}


def get_config(size: str = "full") -> ml_collections.ConfigDict:
  """`full`, `brief`, or `quick`: three reviews of a table of your own."""
  _, each = _sized(size)
  config = configs.config(sentiment.Sentiment)
  config.build = "experiments.configs.sweep_reviews:planned"
  config.data = "reviews.csv"
  config.batch_size = 32
  config.model_dir = "head"

  config.rows = TESTS + 2 * each
  config.rows_per_shard = 64 if size == "quick" else 562
  config.nan = "error"
  config.retries = 0
  config.max_failed = 0.3 if size == "full" else 0.0
  config.seed = 0
  return config


def sweep(size: str = "full"):
  """Reviews."""
  reviews, _ = _sized(size)
  for row in reviews:
    yield {"row": row}


def _sized(size: str) -> tuple[range, int]:
  if size not in _SIZES:
    raise ValueError(f"size must be one of {', '.join(_SIZES)}; got {size!r}.")
  return _SIZES[size]


def each_of(rows: int) -> int:
  """Masks of each kind, of an item of so many rows."""
  return (rows - TESTS) // 2


def plan_of(n: int, rows: int, seed: int) -> tuple[spex.QueryPlan, int]:
  """The plan of an item of so many rows, and the row where it begins."""
  each = each_of(rows)
  key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 1)
  return spex.make_plan(key, n, each), TESTS + each


def planned(config: ml_collections.ConfigDict) -> evaluating.Item:
  """An item's work.

  Raises:
    ValueError: what `sweeping.explanations` refuses, or fewer rows than the
      smallest plan needs.
  """
  work, given = sweeping.explanations(config), settings.plain(config)
  plan, first = plan_of(work.n, given["rows"], given["seed"])

  def masks(start, stop):
    found, at = work.masks(start, stop), np.arange(start, stop) - first
    asked = (at >= 0) & (at < plan.num_masks)
    if asked.any():
      low, high = at[asked][[0, -1]]
      found[asked] = plan.masks(low, high + 1)
    return found

  return evaluating.Item(
    work.n, work.num_targets, masks, work.values, work.anchors
  )
