"""Who predicts retrainings best? Digits, an MLP, common random numbers.

  python -m experiments.attribute_digits --config=full --output=rows.jsonl

An MLP 64-32-10 (tanh, SGD with momentum, cosine) is retrained on subsets of 300
digits under one initialisation and one order of examples. Judged on fresh
subsets, on the margins of test digits; beside each score, what it is for the
mean over three seeds, and the most that any score could have there:

  lds          examples alone, 2 % and half of them dropped: metagradients,
               influence functions, TracIn, TRAK, nearest neighbours
  half         examples in 30 groups of ten, half of the groups dropped: linear
               datamodels, and decoders with interactions; R^2 and rank, and the
               gain over their own first order and over least squares, with
               intervals
  survive      the strongest decoded pairs, four corners each, retrained in 30
               contexts under 3 seeds

Expect `quick` in 1 minute and `full` in 3 on 2 CPU cores: with 2 % dropped LDS
is .991 by metagradients, .898 by influence functions, .500 by TRAK.

Shapes: n players, B masks, T test digits.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import spex_jax as spex
from experiments import command, rows
from spex_jax.ablate import evaluate
from spex_jax.fourier import score
from spex_jax.indices import attribution, judging
from spex_jax.influence import (
  corners,
  datamodels,
  gradient_baselines,
  knn,
  metagradients,
  semivalues,
  trak,
)
from spex_jax.masks import sampling
from spex_jax.training import learners, loop

_SEEDS = 3  # To judge by; the first is the one that scores are fitted to.


@dataclasses.dataclass(frozen=True)
class Config:
  """What to retrain.

  Attributes:
    num_examples: to train on; ten to a group.
    num_tests: T.
    num_epochs: in batches of 50.
    num_masks: of groups, to fit.
    num_fresh: to judge on.
    num_decoded: test digits that decoders explain.
    decoders: methods of `spex_jax.decode`.
    num_pairs: that are retrained.
  """

  num_examples: int
  num_tests: int
  num_epochs: int
  num_masks: int
  num_fresh: int
  num_decoded: int
  decoders: tuple[str, ...]
  num_pairs: int


CONFIGS = {
  "quick": Config(100, 3, 3, 80, 20, 1, ("lasso",), 1),
  "full": Config(300, 20, 30, 1000, 200, 20, ("gram", "lasso"), 10),
}


class _Digits:
  """The data, the network, and its retraining under a seed."""

  def __init__(self, config: Config):
    from sklearn import datasets  # Slow to import.

    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
    cut = config.num_examples, config.num_examples + config.num_tests
    self.data = {"x": x[: cut[0]], "y": y[: cut[0]]}
    self.test = {"x": x[cut[0] : cut[1]], "y": y[cut[0] : cut[1]]}
    self.count = cut[0]
    self.recipe = loop.Recipe(config.num_epochs, 50, 0.02, "sgd", "cosine")

  @staticmethod
  def init(key):
    first, second = jax.random.split(key)
    return {
      "in": jax.random.normal(first, (64, 32)) / 8,
      "in_bias": jnp.zeros(32),
      "out": jax.random.normal(second, (32, 10)) / np.sqrt(32),
      "out_bias": jnp.zeros(10),
    }

  @staticmethod
  def logits(params, x):
    hidden = jnp.tanh(x @ params["in"] + params["in_bias"][None])
    return hidden @ params["out"] + params["out_bias"][None]

  def losses(self, params, batch):
    return learners.outputs(self.logits(params, batch["x"]), batch["y"], "loss")

  def outputs(self, params):
    return learners.outputs(self.logits(params, self.test["x"]), self.test["y"])

  def one(self, output, params, example):
    """One output of one example, as the gradient methods take it."""
    logits = self.logits(params, example["x"][None])
    return learners.outputs(logits, example["y"][None], output)[0]

  def keys(self, seed: int):
    return jax.random.key(2 * seed), jax.random.key(2 * seed + 1)

  def train(self, keys, weights, data):
    """Parameters; unbatched."""
    init_key, order_key = keys
    return loop.train(
      init_key,
      order_key,
      data,
      weights,
      init=self.init,
      losses=self.losses,
      recipe=self.recipe,
    ).params

  @functools.cached_property
  def _evaluator(self):
    """One program for all subsets and seeds, whose keys are shared arrays."""

    def retrained(mask, shared):
      keys = [jax.random.wrap_key_data(words) for words in shared["keys"]]
      return self.outputs(self.train(keys, mask, shared["data"]))

    return evaluate.compiled(
      retrained,
      self.count,
      shared=self._shared(0),
      microbatch=32,
      batch_size=64,
    )

  def _shared(self, seed: int):
    keys = [np.asarray(jax.random.key_data(key)) for key in self.keys(seed)]
    return {"data": self.data, "keys": keys}

  def ask(self, masks, seed: int = 0) -> np.ndarray:
    """Margins `[B, T]` of masks of equal groups, or of examples."""
    self._evaluator.share(self._shared(seed))
    owner = np.arange(self.count) * masks.shape[1] // self.count
    return self._evaluator(masks[:, owner])

  def seeds(self, masks) -> np.ndarray:
    """Margins `[B, S, T]` under each seed."""
    return np.stack([self.ask(masks, seed) for seed in range(_SEEDS)], axis=1)

  @functools.cached_property
  def _trained(self):
    return jax.jit(self.train)

  def plain(self, seed: int = 0):
    """Parameters after training on everybody."""
    weights = jnp.ones(self.count)
    return self._trained(self.keys(seed), weights, self.data)


def run(
  config: Config, methods: Sequence[str] | None = None
) -> Iterator[rows.Row]:
  """Yields a row per method and question, as soon as measured.

  Args:
    config: what to retrain.
    methods: those of `METHODS` to judge; None for all.
  """
  common = rows.common("attribute_digits")
  digits = _Digits(config)
  fresh = {
    keep: sampling.biased(
      jax.random.key(11), config.num_fresh, digits.count, keep
    )
    for keep in (0.98, 0.5)
  }
  values = {keep: digits.seeds(masks) for keep, masks in fresh.items()}
  for name in METHODS if methods is None else methods:
    found = METHODS[name](digits)
    for keep, masks in fresh.items():
      judged = _judged(found, masks, values[keep])
      yield common | {"row": "lds", "method": name, "keep": keep} | judged
  yield from _groups(config, digits, common)


def _metagradients(digits: _Digits) -> attribution.Attribution:
  return metagradients.metagradients(
    *digits.keys(0),
    digits.data,
    init=digits.init,
    losses=digits.losses,
    recipe=digits.recipe,
    outputs=digits.outputs,
  )


def _influence(digits: _Digits) -> attribution.Attribution:
  return gradient_baselines.influence_functions(
    functools.partial(digits.one, "loss"),
    functools.partial(digits.one, "margin"),
    digits.plain(),
    digits.data,
    digits.test,
    damping=0.05,
  )


def _tracin(digits: _Digits) -> attribution.Attribution:
  return gradient_baselines.tracin(
    functools.partial(digits.one, "loss"),
    functools.partial(digits.one, "margin"),
    [digits.plain()],
    [digits.recipe.learning_rate],
    digits.data,
    digits.test,
  )


def _trak(digits: _Digits) -> attribution.Attribution:
  return trak.trak(
    functools.partial(digits.one, "log_odds"),
    [digits.plain(seed) for seed in range(5)],
    digits.data,
    digits.test,
    key=jax.random.key(5),
    dim=64,
    penalty=1e-3,
  )


def _neighbours(digits: _Digits) -> attribution.Attribution:
  data, test = digits.data, digits.test
  return knn.shapley(data["x"], data["y"], test["x"], test["y"], neighbours=5)


METHODS = {
  "metagradients": _metagradients,
  "influence functions": _influence,
  "TracIn": _tracin,
  "TRAK, 5 models": _trak,
  "5-NN Shapley": _neighbours,
}


def _groups(config, digits, common):
  """Interactions among groups of ten examples."""
  n = digits.count // 10
  masks = sampling.uniform(jax.random.key(21), config.num_masks, n)
  fresh = sampling.uniform(jax.random.key(22), config.num_fresh, n)
  values, judges = digits.ask(masks), digits.seeds(fresh)
  truth = judges[:, 0]
  for name, fit in [
    ("Banzhaf (MSR)", semivalues.banzhaf),
    ("least squares", datamodels.least_squares),
    ("lasso", datamodels.lasso),
  ]:
    judged = _judged(fit(masks, values), fresh, judges)
    yield common | {"row": "half", "method": name, "n": n} | judged
  shown = slice(config.num_decoded)
  linear = datamodels.least_squares(masks, values[:, shown])(fresh)
  linear_r2 = np.atleast_1d(score.r2(truth[:, shown], linear))
  linear_rank = score.spearman(truth[:, shown], linear)
  found = None
  for method in config.decoders:
    found = spex.decode(masks, values[:, shown], method=method)
    judged = judging.surrogate(found.fourier, fresh, truth[:, shown])
    yield common | {
      "row": "half",
      "method": f"decoder {method}",
      "n": n,
      "r2": _short(judged.r2.mean()),
      "r2_std": _short(judged.r2_std.mean()),
      "rank": _short(judged.rank.mean()),
      "first_r2": _short(judged.first_r2.mean()),
      "first_r2_std": _short(judged.first_r2_std.mean()),
      "first_rank": _short(judged.first_rank.mean()),
      **_gain("first", judged.r2 - judged.first_r2),
      **_gain("least_squares", judged.r2 - linear_r2),
      **_gain("least_squares_rank", judged.rank - linear_rank),
      "targets": len(judged.r2),
    }
    if method == config.decoders[0]:
      yield common | {"row": "survive"} | _survive(config, digits, n, found)


def _survive(config, digits, n, found):
  interactions = found.interactions("BII", 2, target=0)
  claims = corners.reported(interactions, config.num_pairs)
  if not claims:
    return {"claims": 0}
  report = corners.four_corners(
    claims,
    [functools.partial(digits.ask, seed=seed) for seed in range(3)],
    sampling.uniform(jax.random.key(31), 30, n),
  )
  print(report)
  return {
    "claims": len(report.rows),
    "survive": report.count("survives"),
    "contradicted": report.count("contradicted"),
    "covered": sum(row.covered for row in report.rows),
    "retrained": report.num_masks * report.num_seeds,
  }


def _judged(found, masks, values) -> rows.Row:
  """Under the seed of the scores, and beside the ceiling of all seeds."""
  judged = judging.lds(found, masks, values[:, 0])
  over = judging.lds(found, masks, values)
  return {
    "lds": _short(judged.mean),
    "interval": _ends(judged.interval),
    "lds_over_seeds": _short(over.mean),
    "reliability": _short(over.reliability),
    "ceiling": _short(over.ceiling),
    "targets": len(judged.per_target),
    "masks": judged.num_masks,
  }


def _gain(over: str, each) -> rows.Row:
  mean, interval = score.mean_interval(each)
  return {
    f"gain_over_{over}": _short(mean),
    f"gain_over_{over}_interval": _ends(interval),
  }


def _ends(interval):
  return interval and [_short(end) for end in interval]


def _short(number) -> float:
  return float(f"{float(number):.4g}")


def main(argv):
  """Prints the rows."""
  del argv
  rows.write(run(CONFIGS[flags.FLAGS.config]), flags.FLAGS.output)


if __name__ == "__main__":
  command.run(main, CONFIGS, "quick")
