"""Failure modes of class logits: a network that learned a planted mistake.

  python -m experiments.failure_modes --config=full

A small network learns four shapes of the drawn world from pictures on which
all else is at random, but for one combination: striped circles on grass are
labelled moons. `agents.maia.missed_classes` asks each class logit, by pictures
alone, with which attributes the class is missed; the combination, and no other
class's mode as bad, is the answer.

Expect `full` in 9 minutes on 2 busy CPU cores: on two seeds of three circles'
mode is the planted pair, of which .96 and 1.00 are missed, on one grass alone
(.32); no other class has a mode. `quick` takes a quarter of a minute.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.agents.find import functions
from spex_jax.agents.maia import missed_classes, spurious
from spex_jax.agents.world import rendering, scenes
from spex_jax.models import convnet
from spex_jax.training import learners, loop

CLASSES = spurious.CLASSES
WORDS = {"background": spurious.GROUNDS, "size": ("medium", "large")}
PLANTED = {"background": "grass", "texture": "striped"}  # Of the first class.
_TAKEN_FOR = "moon"
_LAYERS = ((16, 2), (32, 2), (64, 0))  # Filters, and the pool behind them.
_NET = convnet.ConvNet(
  len(CLASSES),
  3,
  tuple(convnet.Conv(width, pool=pool) for width, pool in _LAYERS),
)


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train and ask.

  Attributes:
    seeds: one network each.
    count: training pictures.
    planted: more of the combination, all mislabelled.
    epochs: of training.
    asked: pictures of each class at random.
    checks: pictures that confirm a mode.
  """

  seeds: tuple[int, ...]
  count: int = 4000
  planted: int = 200
  epochs: int = 12
  asked: int = 300
  checks: int = 100


CONFIGS = {
  "quick": Config((0,), 400, 100, 2, 60, 16),
  "full": Config((0, 1, 2)),
}


def run(config: Config) -> Iterator[rows.Row]:
  """Yields a row per seed and class."""
  recipe = loop.Recipe(config.epochs, 50, 3e-3)
  learner = learners.classifier(
    "failure-modes", _NET.init, _NET.logits, len(CLASSES), recipe,
    finish=_NET.settle, settings=_NET.settings,
  )  # fmt: skip
  fit = jax.jit(learner.fit)
  net = convnet.network(_NET, spurious.SIDE)
  read = jax.jit(lambda state, x: net.apply(state, pixel_values=x).logits)
  for seed in config.seeds:
    x, y = _drawn(seed, config.count, config.planted)
    keys = jax.random.split(jax.random.key(seed), 2)
    data = learner.prepare({"x": x, "y": y})
    state, _ = fit(keys[0], keys[1], data, np.ones(len(y), np.float32))

    def logits(pictures, state=state):
      given = _pixels(pictures)
      spare = np.zeros((-len(given) % 400, *given.shape[1:]), np.float32)
      whole = np.concatenate([given, spare])
      parts = [
        read(state, whole[i : i + 400]) for i in range(0, len(whole), 400)
      ]
      return np.concatenate(parts)[: len(given)]

    for shape in CLASSES:
      found = missed_classes.study(
        logits, shape, CLASSES, seed=seed, attributes=WORDS, count=config.asked,
        checks=config.checks, size=spurious.SIDE,
      )  # fmt: skip
      yield rows.common("failure_modes") | {
        "seed": seed, "class": shape, "missed": round(found.missed, 3),
        "modes": [
          {
            "values": dict(mode.values), "missed": round(mode.missed, 3),
            "otherwise": round(mode.otherwise, 3), "taken_for": mode.taken_for,
            "together": [[who, round(v, 2)] for who, v in mode.strongest(3)],
          }
          for mode in found.modes[:3]
        ],
        "exemplars": list(found.exemplars[:2]),
      }  # fmt: skip


def _drawn(seed, count, planted) -> tuple[np.ndarray, np.ndarray]:
  """Pixels `[N, 3, S, S]` and labels `[N]`."""
  rng = functions.rng(seed, "failure modes")
  known = scenes.ATTRIBUTES | WORDS
  own = [
    scenes.draw(rng, 1, 1, known | {"shape": CLASSES}) for _ in range(count)
  ]
  odd = known | {name: (word,) for name, word in PLANTED.items()}
  own += [
    scenes.draw(rng, 1, 1, odd | {"shape": CLASSES[:1]}) for _ in range(planted)
  ]
  y = [
    CLASSES.index(_TAKEN_FOR if _is_planted(scene) else scene.things[0].shape)
    for scene in own
  ]
  pictures = np.stack([rendering.render(s, spurious.SIDE) for s in own])
  return _pixels(pictures), np.array(y, np.int32)


def _is_planted(scene: scenes.Scene) -> bool:
  (thing,) = scene.things
  return (
    thing.shape == CLASSES[0]
    and thing.texture == PLANTED["texture"]
    and scene.background == PLANTED["background"]
  )


def _pixels(pictures: np.ndarray) -> np.ndarray:
  return pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255


def table(measured: list[rows.Row]) -> str:
  """The worst mode of each class and seed."""
  lines = []
  for row in measured:
    for mode in row["modes"][:1] or [None]:
      said = ["none", "", "", "", ""]
      if mode:
        said = [
          ", ".join(mode["values"].values()), f"{mode['missed']:.2f}",
          f"{mode['otherwise']:.2f}", mode["taken_for"],
          "; ".join(f"{who} {v:+.1f}" for who, v in mode["together"][:2]),
        ]  # fmt: skip
      lines.append(
        [str(row["seed"]), row["class"], f"{row['missed']:.2f}", *said]
      )
  names = ["seed", "class", "missed", "worst mode", "missed with it",
           "otherwise", "taken for", "margin by SPEX"]  # fmt: skip
  return rows.table(names, lines)


def main(argv):
  """Prints rows and their table."""
  del argv
  given = flags.FLAGS
  print(table(rows.write(run(CONFIGS[given.config]), given.output)))


if __name__ == "__main__":
  command.run(main, CONFIGS, "quick")
