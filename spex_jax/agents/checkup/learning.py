"""What is learnt from drawings: pretrainings compared by probes.

Features of the same encoder, pretrained by MoCo on drawings of the world or on
dead leaves, not at all, or trained on the labels themselves (which the others
do not see, and which is what they may reach at most), are asked for the classes
of pictures of another kind: by nearest neighbours and by a linear probe.

Shapes: N pictures uint8 `[N, 3, S, S]`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.agents.checkup import (
  augmenting,
  encoders,
  moco,
  picture_sets,
  probes,
)
from spex_jax.training import loop

RANDOM, SUPERVISED = "random", "supervised"
SOURCES: Mapping[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
  "drawings": picture_sets.drawings,
  "dead_leaves": picture_sets.dead_leaves,
}
PRETRAININGS = (RANDOM, *SOURCES, SUPERVISED)
# Of the supervised training: small crops would cut digits in two.
_GENTLE = augmenting.Views(least_area=0.7, flip=0.0)


@dataclasses.dataclass(frozen=True)
class Asked:
  """Pictures that probes are asked about.

  Attributes:
    neighbours: uint8 `[N, 3, S, S]`, the labelled pictures.
    labels: int `[N]`, the classes of these, from 0.
    pictures: uint8 `[M, 3, S, S]`, whose classes are to be told.
    truth: int `[M]`, the classes that they have.
  """

  neighbours: np.ndarray
  labels: np.ndarray
  pictures: np.ndarray
  truth: np.ndarray


def rng_of(seed: int, what: str) -> np.random.Generator:
  """A generator for a named cause."""
  return np.random.default_rng([seed, *what.encode()])


def key_of(seed: int, what: str) -> base.Key:
  """A key for a named cause."""
  return jax.random.fold_in(jax.random.key(seed), sum(what.encode()))


class Trainer:
  """Pretrains and probes one encoder; each program is compiled once."""

  def __init__(
    self,
    encoder: encoders.Encoder,
    settings: moco.Settings,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Nothing is compiled yet."""
    self._encoder, self._settings, self._mesh = encoder, settings, mesh
    self._settle = jax.jit(encoder.settle)
    self._read = jax.jit(encoder.read)

  def params(
    self, seed: int, name: str, source: np.ndarray | None, asked: Asked
  ) -> tuple[Any, np.ndarray]:
    """Parameters of a pretraining, and the losses of its steps.

    Args:
      seed: an integer from which everything random is drawn.
      name: of `PRETRAININGS`, or another, of pictures of one's own.
      source: what MoCo learns from; None for the others.
      asked: whose labels the supervised one sees.

    Raises:
      FloatingPointError: it diverged.
    """
    key = key_of(seed, "start")
    if name == RANDOM:
      return self._encoder.init(key), np.zeros(0)
    if name == SUPERVISED:
      found = self._labelled(key, asked.neighbours, asked.labels)
    else:
      assert source is not None
      found = moco.pretrain(
        key, source, self._encoder, self._settings, self._mesh
      )
    losses = np.asarray(found.losses)
    if not np.isfinite(losses).all():
      first = int(np.flatnonzero(~np.isfinite(losses))[0])
      raise FloatingPointError(
        f"{name}: the loss is not finite from step {first} on; lower "
        "learning_rate."
      )
    return found.params, losses

  def probed(self, params: Any, asked: Asked) -> dict[str, float]:
    """`knn` and `linear`, the shares that are told, of standardised features.

    Statistics of batch norm settle on the labelled pictures first, those of an
    untrained encoder, too.
    """
    settled = self._settle(params, asked.neighbours)
    known, new = (
      np.concatenate([
        np.asarray(self._read(settled, part))
        for part in np.array_split(own, max(1, len(own) // 512))
      ])
      for own in (asked.neighbours, asked.pictures)
    )  # fmt: skip
    known, new = probes.standardised(known, new)
    both = (known, asked.labels, new, asked.truth)
    return {"knn": probes.knn(*both), "linear": probes.linear(*both)}

  def _labelled(self, key, own, labels) -> loop.Trained:
    """Cross entropy through a linear head, which is dropped."""
    settings, encoder = self._settings, self._encoder
    begin, order = jax.random.split(key)
    size = min(settings.batch_size, len(own))
    epochs = max(1, settings.steps * size // len(own))
    count = int(labels.max()) + 1

    def init(key):
      return {
        "encoder": encoder.init(key),
        "head": jnp.zeros((encoder.width, count)),
      }

    x = jnp.asarray(own).astype(jnp.float32) / 255
    trained = loop.stepwise(
      begin, order, {"x": x, "y": jnp.asarray(labels)}, jnp.ones(len(own)),
      init=init, losses=self._cross_entropy, augment=_gentle,
      recipe=loop.Recipe(epochs, size, 2e-3, "adam", "cosine"),
    )  # fmt: skip
    return loop.Trained(trained.params["encoder"], trained.losses)

  def _cross_entropy(self, params, batch) -> jax.Array:
    features = self._encoder.features(params["encoder"], batch["x"])
    scores = features @ params["head"]
    right = jnp.take_along_axis(scores, batch["y"][:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(scores, axis=1) - right


def _gentle(key, example):
  return {**example, "x": augmenting.view(key, example["x"], _GENTLE)}


def averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Means of both probes over seeds, and each seed's row, as JSON."""
  means = {
    name: float(np.mean([row[name] for row in rows]))
    for name in ("knn", "linear")
  }
  return means | {"by_seed": [dict(row) for row in rows]}
