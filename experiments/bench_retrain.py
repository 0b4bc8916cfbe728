"""Times retraining on subsets: vmapped, looped, in PyTorch and scikit-learn.

  python -m experiments.bench_retrain
  python -m experiments.bench_retrain --rows=banzhaf,ridge
  python -m experiments.bench_retrain --rows=loops --torch
  python -m experiments.bench_retrain --config=quick # seconds

Prints one JSON line per row and its load average. Rows:

  banzhaf   the setting of Data Banzhaf (Wang and Jia 2023): n = 200, 48
            features, 100 LeakyReLU units, Adam 1e-3, batch 32, 15 epochs,
            10,000 subsets x 5 independent seeds. Features are synthetic.
            Its authors: about 5 CPU hours.
  loops     an MLP 64-32-10 on digits, 180 steps of momentum: vmapped over
            masks, a jitted function in a loop, and with `--torch` PyTorch in a
            loop (needs `make peers-torch`).
  logistic  digits 3 against 8, n = 100, 64 features, 6,096 subsets, float64,
            beside scikit-learn in a loop (timed on a part), tol = 1e-8.
  ridge     4,096 exact retrains, n = 300, 64 features, float64.
  conv      a small convolutional network on digits, 8 trainings at once:
            kernels as grouped convolutions, as patches, or one after another.
  transformer  one block of width 16 on digits, 30 steps of 20: by 16, by 4, and
            one after another.
  memory    bytes of one more training, as compiled, beside the formula of
            `influence.examples`.

Expect ten minutes on 2 CPU cores: `banzhaf` in 42.3 s, digits vmapped at 732
models/s, 3.6 times a jitted loop.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.datasets import images
from spex_jax.influence import classifiers, examples
from spex_jax.models import convnet, mlp
from spex_jax.training import learners, linear, loop
from third_party import process, torch_peer


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    banzhaf: subsets and seeds.
    looped: masks of the vmapped row; and of the loops, which are slower.
    logistic: subsets, and those that scikit-learn is timed on.
    ridge: subsets.
    epochs: of the networks, 15 and 30 in the settings above.
    repeats: of which the best counts.
    torch: PyTorch's loop, too.
  """

  banzhaf: tuple[int, int] = (10_000, 5)
  looped: tuple[int, int] = (2048, 100)
  logistic: tuple[int, int] = (6096, 200)
  ridge: int = 4096
  epochs: tuple[int, int] = (15, 30)
  repeats: int = 3
  torch: bool = False


CONFIGS = {
  "full": Config(),
  "quick": Config((16, 2), (16, 3), (16, 3), 16, (1, 1), 1),
}


def run(config: Config, names: list[str]) -> Iterator[rows.Row]:
  """Yields the rows of `names`, as they come."""
  common = rows.common("retrain")
  for name in names:
    for row in _ROWS[name](config):
      yield common | {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **row,
      }


def network(
  features: int,
  width: int,
  classes: int,
  recipe: loop.Recipe,
  activation: str,
  capacity: int | None = None,
) -> learners.Learner:
  """A classifier of one hidden layer."""
  net = mlp.network(mlp.Config(features, classes, (width,), activation))
  return learners.classifier(
    f"mlp {features}-{width}-{classes} {activation}",
    net.init,
    lambda params, x: net.apply(params, features=x).logits,
    classes,
    recipe,
    capacity=capacity,
  )


def _banzhaf(config: Config) -> Iterator[rows.Row]:
  """Independent seeds, index subsets: about 100 of 200 fit into 144 slots."""
  count, seeds = config.banzhaf
  rng = np.random.default_rng(0)
  x = rng.normal(size=(260, 48)).astype(np.float32)
  y = (x @ rng.normal(size=48) + 0.5 * rng.normal(size=260) > 0).astype(int)
  recipe = loop.Recipe(config.epochs[0], 32, 1e-3)
  retrainer = examples.Retrainer(
    network(48, 100, 2, recipe, "leaky_relu", capacity=144),
    {"x": x[:200], "y": y[:200]},
    {"x": x[200:], "y": y[200:]},
    key=jax.random.key(0),
    seeds="independent",
    **_batch(16),
  )
  masks = _masks(count, 200)
  begin = time.perf_counter()
  stats = retrainer.stats
  first = time.perf_counter() - begin
  begin, busy = time.perf_counter(), time.process_time()
  for seed in range(seeds):
    retrainer.run(masks, seed)
  spent = time.perf_counter() - begin
  yield {
    "row": "banzhaf",
    "trainings": count * seeds,
    "first_s": round(first, 1),
    "seconds": round(spent, 1),
    "cpu_s": round(time.process_time() - busy, 1),
    "models_per_s": round(count * seeds / spent, 1),
    **_shape(stats),
  }


def _loops(config: Config) -> Iterator[rows.Row]:
  """Common random numbers, weight masks: one order for all."""
  with process.optional(torch_peer.Torch, config.torch) as peer:
    yield from _looped(config, peer)


def _looped(
  config: Config, peer: torch_peer.Torch | None
) -> Iterator[rows.Row]:
  data = images.digits()
  x = data.pixels.reshape(len(data.pixels), -1)
  recipe = loop.Recipe(config.epochs[1], 50, 0.1, "sgd")
  learner = network(64, 32, 10, recipe, "relu")
  train = {"x": x[:300], "y": data.labels[:300]}
  test = {"x": x[300:340], "y": data.labels[300:340]}
  many, few = config.looped
  masks = _masks(many, 300)
  made = examples.Retrainer(
    learner, train, test, key=jax.random.key(0), seeds="common", **_batch(8)
  )
  made.run(masks[:1])
  busy = time.process_time()
  _, best = rows.seconds(made.run, masks, repeats=config.repeats)
  cpu = _busy(busy, config)
  vmapped = many / best
  yield {
    "row": "loops", "who": "vmapped", "models_per_s": round(vmapped, 1),
    "models_per_cpu_s": round(many / cpu, 1),
    **_shape(made.stats),
  }  # fmt: skip

  @jax.jit
  def one(words, weights):
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    state, _ = learner.fit(key, key, train, weights)
    return learner.read(state, test)

  words = np.zeros(2, np.uint32)
  weights = masks[:few].astype(np.float32)

  def looped():
    return [one(words, row).block_until_ready() for row in weights]

  looped()
  busy = time.process_time()
  _, best = rows.seconds(looped, repeats=config.repeats)
  cpu = _busy(busy, config)
  jitted = few / best
  yield {
    "row": "loops", "who": "jitted loop", "models_per_s": round(jitted, 1),
    "models_per_cpu_s": round(few / cpu, 1),
    "vmapped_over_it": round(vmapped / jitted, 2),
  }  # fmt: skip
  if peer is None:
    return
  epochs = config.epochs[1]
  # So small products may be quicker without threads that wait for each other.
  threads = min(
    (1, os.cpu_count() or 1),
    key=lambda n: peer.trainings(2, epochs, threads=n, repeats=1)[0],
  )
  seconds, busy = peer.trainings(
    few, epochs, threads=threads, repeats=config.repeats
  )
  theirs = few / min(seconds)
  yield {
    "row": "loops", "who": f"PyTorch {peer.versions['torch']} loop",
    "models_per_s": round(theirs, 1),
    "models_per_cpu_s": round(few * len(busy) / sum(busy), 1),
    "vmapped_over_it": round(vmapped / theirs, 2),
    "threads": threads,
  }  # fmt: skip


def _logistic(config: Config) -> Iterator[rows.Row]:
  from sklearn import linear_model

  count, few = config.logistic
  data = images.digits()
  x = data.pixels.reshape(len(data.pixels), -1).astype(np.float64)
  pair = np.isin(data.labels, [3, 8])
  x, y = x[pair], (data.labels[pair] == 8).astype(int)
  train, test = {"x": x[:100], "y": y[:100]}, {"x": x[100:140], "y": y[100:140]}
  made = examples.Retrainer(
    linear.logistic(1.0), train, test,
    key=jax.random.key(0), seeds="common", dtype="float64", **_batch(16),
  )  # fmt: skip
  masks = _masks(count, 100)
  values = made.run(masks).values
  busy = time.process_time()
  _, ours = rows.seconds(made.run, masks, repeats=config.repeats)
  cpu = _busy(busy, config)
  begin, middle = time.perf_counter(), time.process_time()
  error = 0.0
  for mask, value in zip(masks[:few], values):
    fitted = linear_model.LogisticRegression(tol=1e-8, max_iter=10_000).fit(
      x[:100][mask], y[:100][mask]
    )
    scores = fitted.decision_function(test["x"])
    margin = np.where(test["y"] == 1, scores, -scores)
    error = max(error, np.abs(value - margin).max())
  theirs = (time.perf_counter() - begin) / few * count
  theirs_busy = (time.process_time() - middle) / few * count
  yield {
    "row": "logistic",
    "subsets": count,
    "seconds": round(ours, 3),
    "cpu_s": cpu,
    "scikit_learn_cpu_s": round(theirs_busy, 1),
    "scikit_learn_s": round(theirs, 1),
    "times_faster": round(theirs / ours, 1),
    "largest_difference": float(error),
    "diverged": made.num_diverged,
    **_shape(made.stats),
  }


def _ridge(config: Config) -> Iterator[rows.Row]:
  data = images.digits()
  x = data.pixels.reshape(len(data.pixels), -1).astype(np.float64)
  y = data.labels.astype(np.float64)
  made = examples.Retrainer(
    linear.ridge(1.0), {"x": x[:300], "y": y[:300]},
    {"x": x[300:340], "y": y[300:340]},
    key=jax.random.key(0), seeds="common", dtype="float64", **_batch(16),
  )  # fmt: skip
  masks = _masks(config.ridge, 300)
  made.run(masks[:1])
  busy = time.process_time()
  _, best = rows.seconds(made.run, masks, repeats=config.repeats)
  yield {
    "row": "ridge", "subsets": config.ridge, "seconds": round(best, 3),
    "cpu_s": _busy(busy, config),
    **_shape(made.stats),
  }  # fmt: skip


def _conv(config: Config) -> Iterator[rows.Row]:
  data = images.digits()
  train = {"x": data.pixels[:300], "y": data.labels[:300]}
  test = {"x": data.pixels[300:340], "y": data.labels[300:340]}
  recipe = loop.Recipe(1, 50, 0.05, "sgd")
  count = min(16, config.looped[0])
  for way in ("grouped", "patches"):
    for microbatch in (1, 8):
      net = convnet.small(10, conv=way)
      learner = learners.classifier(
        "small", net.init, net.logits, 10, recipe,
        finish=net.settle, settings=net.settings,
      )  # fmt: skip
      made = examples.Retrainer(
        learner, train, test, key=jax.random.key(0), seeds="common",
        microbatch=microbatch, batch_size=count, devices=jax.devices()[:1],
      )  # fmt: skip
      masks = _masks(count, 300)
      made.run(masks[:1])
      busy = time.process_time()
      _, best = rows.seconds(made.run, masks, repeats=config.repeats)
      yield {
        "row": "conv", "way": way, "microbatch": microbatch,
        "models_per_s": round(count / best, 2),
        "models_per_cpu_s": round(count / _busy(busy, config), 2),
      }  # fmt: skip


def _transformer(config: Config) -> Iterator[rows.Row]:
  data = images.digits()
  x = data.pixels.reshape(len(data.pixels), -1)
  net, name = classifiers.transformer(
    (8, 8), 10, width=16, num_blocks=1, num_heads=2, patch_size=2
  )
  learner = learners.classifier(
    name,
    net.init,
    lambda params, x: (
      net.apply(params, pixel_values=x.reshape(-1, 1, 8, 8)).logits
    ),
    10,
    loop.Recipe(min(3, config.epochs[1]), 20, 3e-3),
  )
  count = min(32, config.looped[0])
  masks = _masks(count, 200)
  for microbatch in (1, 4, 16):
    made = examples.Retrainer(
      learner,
      {"x": x[:200], "y": data.labels[:200]},
      {"x": x[200:240], "y": data.labels[200:240]},
      key=jax.random.key(0), seeds="common",
      microbatch=microbatch, batch_size=count,
    )  # fmt: skip
    made.run(masks[:1])
    busy = time.process_time()
    _, best = rows.seconds(made.run, masks, repeats=config.repeats)
    yield {
      "row": "transformer", "microbatch": microbatch,
      "models_per_s": round(count / best, 2),
      "models_per_cpu_s": round(count / _busy(busy, config), 2),
    }  # fmt: skip


def _memory(config: Config) -> Iterator[rows.Row]:
  del config  # Nothing is run.
  rng = np.random.default_rng(0)
  for width, optimizer, size, tests, capacity in (
    (32, "sgd", 50, 40, None),
    (100, "adam", 50, 40, None),
    (400, "adam", 50, 40, None),
    (32, "adam", 250, 40, None),
    (32, "adam", 50, 4000, None),
    (100, "adam", 50, 40, 200),
  ):
    data, test = (
      {"x": rng.normal(size=(count, 64)), "y": np.arange(count) % 10}
      for count in (300, tests)
    )
    recipe = loop.Recipe(2, size, 0.01, optimizer)
    made = examples.Retrainer(
      network(64, width, 10, recipe, "relu", capacity), data, test,
      key=jax.random.key(0), seeds="common",
    )  # fmt: skip
    said = examples.replica_formula(
      65 * width + 10 * (width + 1),
      # Index subsets have batches of their own.
      size * (width + 10 + (64 if capacity else 0)),
      num_examples=300,
      num_read=tests * width,
      optimizer=optimizer,
    )
    counted = made.replica_bytes()
    yield {
      "row": "memory", "width": width, "optimizer": optimizer,
      "batch": size, "test_points": tests, "capacity": capacity,
      "formula_kb": round(said / 1e3, 1),
      "compiled_kb": round(counted / 1e3, 1),
      "formula_over_compiled": round(said / counted, 3),
      "replicas_per_gib": int(2**30 / said),
    }  # fmt: skip


_ROWS = {
  "banzhaf": _banzhaf,
  "loops": _loops,
  "logistic": _logistic,
  "ridge": _ridge,
  "conv": _conv,
  "transformer": _transformer,
  "memory": _memory,
}


def _batch(microbatch: int) -> dict[str, Any]:
  """Batches that were fastest on an idle core; measured on other devices."""
  if jax.default_backend() != "cpu":
    return {}
  return {"microbatch": microbatch, "batch_size": 8 * microbatch}


def _shape(stats) -> rows.Row:
  return {
    "device_batch": stats.device_batch,
    "microbatch": stats.microbatch,
    "devices": stats.device,
    "compile_s": round(stats.compile_seconds, 1),
  }


def _busy(since: float, config: Config) -> float:
  """CPU seconds of one of the calls that `rows.seconds` made: no load adds."""
  return round((time.process_time() - since) / (config.repeats + 1), 3)


def _masks(count: int, n: int) -> np.ndarray:
  return np.random.default_rng(1).random((count, n)) < 0.5


def main(argv):
  """Prints the rows."""
  del argv
  jax.config.update("jax_num_cpu_devices", flags.FLAGS.cpu_devices)
  config = dataclasses.replace(
    CONFIGS[flags.FLAGS.config], torch=flags.FLAGS.torch
  )
  rows.write(run(config, flags.FLAGS.rows), flags.FLAGS.output)


if __name__ == "__main__":
  command.some_of("rows", _ROWS, _ROWS, "Which rows")
  flags.DEFINE_integer("cpu_devices", os.cpu_count(), "Devices of a CPU.")
  flags.DEFINE_boolean("torch", False, "Run PyTorch beside ours.")
  command.run(main, CONFIGS)
