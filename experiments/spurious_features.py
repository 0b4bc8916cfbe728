"""Spurious features: a last layer on units that go by the thing alone.

  python -m experiments.spurious_features --config=full

After MAIA's experiment on Spawrious, on the drawn world
(`agents.maia.spurious`): a small network is trained where backgrounds nearly
give the class away, and tested where they are another class's. Units of its
last hidden layer whose effects are of the thing, hardly of the background, are
kept; the last layer is fitted anew on them, by unregularised logistic
regression on the same biased pictures. Beside it all units, as many random
ones, and as many that an l1 penalty leaves. No picture with an unbiased
background is trained on: effects are measured on a crossed design that the
world draws.

A failure mode of each class: what its logit goes by, `background_share`.

`full` is seeds 100 to 104, kept for the claim; `tune` is seeds 0 to 4, to set
constants on. On these units that go by the thing alone beat as many by l1 and
at random, not all units: see `experiments/README.md`.
"""

import dataclasses
import warnings
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

from experiments import rows
from spex_jax.agents.maia import spurious
from spex_jax.models import convnet
from spex_jax.training import learners, loop

_LAYERS = ((8, 2), (16, 2), (64, 0))  # Filters, and the pool behind them.
_NET = convnet.ConvNet(
  len(spurious.CLASSES),
  3,
  tuple(convnet.Conv(width, pool=pool) for width, pool in _LAYERS),
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train and keep.

  Attributes:
    seeds: one network each.
    share: of training pictures that have their class's background.
    count: training pictures.
    epochs: of training.
    units: kept, of 64.
    repeats: of the crossed design.
  """

  seeds: tuple[int, ...]
  share: float = 0.95
  count: int = 1000
  epochs: int = 8
  units: int = 12
  repeats: int = 40


CONFIGS = {
  "quick": Config((0,), count=400, epochs=3, repeats=6),
  "tune": Config(tuple(range(5))),
  "full": Config(tuple(range(100, 105))),
}


def run(config: Config) -> Iterator[rows.Row]:
  """Yields a row per seed and way to choose units."""
  recipe = loop.Recipe(config.epochs, 50, 3e-3)
  learner = learners.classifier(
    "mini-spawrious", _NET.init, _NET.logits, len(spurious.CLASSES), recipe,
    finish=_NET.settle, settings=_NET.settings,
  )  # fmt: skip
  fit = jax.jit(learner.fit)
  net = convnet.network(_NET, spurious.SIDE)
  read = jax.jit(
    lambda state, x: net.apply(state, None, ("pooled",), pixel_values=x)
  )

  def features(state, x):
    parts = [read(state, x[i : i + 400]) for i in range(0, len(x), 400)]
    pooled = np.concatenate(
      [np.asarray(p.activations["pooled"]) for p in parts]
    )
    return pooled, np.concatenate([np.asarray(p.logits) for p in parts])

  for seed in config.seeds:
    train = spurious.drawn(seed, "train", config.count, config.share)
    test = spurious.drawn(seed, "test", 1000, 0.0)
    keys = jax.random.split(jax.random.key(seed), 2)
    data = learner.prepare({"x": train.x, "y": train.y})
    state, _ = fit(keys[0], keys[1], data, np.ones(len(train.y), np.float32))
    own, logits = features(state, train.x)
    shifted, shifted_logits = features(state, test.x)
    design = spurious.crossed(seed, config.repeats)
    units, class_logits = features(state, design)
    found = spurious.effects(units)
    of_class = spurious.effects(class_logits)
    rng = np.random.default_rng(seed)
    chosen = {
      "all": np.arange(own.shape[1]),
      "effects": spurious.kept(found, config.units),
      "l1": _sparse(own, train.y, config.units),
      "random": rng.permutation(own.shape[1])[: config.units],
    }
    common = rows.common("spurious_features") | {"seed": seed}
    accuracy = lambda scores, y: round(float((scores.argmax(1) == y).mean()), 4)
    yield common | {
      "units": "network", "count": own.shape[1],
      "train": accuracy(logits, train.y),
      "shifted": accuracy(shifted_logits, test.y),
      "background_share": [
        round(float(s), 3) for s in 1 - of_class.share
      ],
    }  # fmt: skip
    for name, kept in chosen.items():
      head = _head(own[:, kept], train.y)
      yield common | {
        "units": name, "count": len(kept),
        "train": round(head.score(own[:, kept], train.y), 4),
        "shifted": round(head.score(shifted[:, kept], test.y), 4),
        "thing_share": round(float(found.share[kept].mean()), 3),
      }  # fmt: skip


def _head(x, y, **penalty):
  """Logistic regression on standardised units."""
  from sklearn import linear_model, pipeline, preprocessing

  penalty = penalty or {"C": np.inf}
  model = linear_model.LogisticRegression(**penalty, max_iter=3000)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of separable classes: weights grow.
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model).fit(
      x, y
    )


def _sparse(x, y, count):
  """The units that an l1 penalty leaves, the strongest of as many as asked."""
  for c in np.geomspace(1e-3, 10, 17):
    head = _head(x, y, C=c, l1_ratio=1.0, solver="saga", tol=1e-2)
    size = np.abs(head[-1].coef_).max(0)
    if (size > 0).sum() >= count:
      break
  return np.argsort(-size, kind="stable")[:count]


def table(measured: list[rows.Row]) -> str:
  """Means over seeds, with their standard deviation."""
  names = dict.fromkeys(row["units"] for row in measured)
  lines = []
  for name in names:
    own = [row for row in measured if row["units"] == name]
    cells = [
      f"{np.mean([r[n] for r in own]):.3f} ± {np.std([r[n] for r in own]):.3f}"
      for n in ("train", "shifted")
    ]
    share = [row["thing_share"] for row in own if "thing_share" in row]
    last = f"{np.mean(share):.2f}" if share else ""
    lines.append([name, str(own[0]["count"]), *cells, last])
  return rows.table(
    ["units", "of 64", "train", "shifted test", "thing's share"], lines
  )


def main(argv):
  """Prints rows and their table."""
  del argv
  given = flags.FLAGS
  print(table(rows.write(run(CONFIGS[given.config]), given.output)))


if __name__ == "__main__":
  flags.DEFINE_enum("config", "quick", sorted(CONFIGS), "Setting.")
  flags.DEFINE_string("output", None, "File for the rows.")
  app.run(main)
