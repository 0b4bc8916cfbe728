"""What the editing experiments share: scores, the choice of k, and judgement.

A `Study` is a trained network with its components. `scores` are COAR's, on
examples that choose the edit; `judged` compares the network before and after
on fresh ones, beside random edits of the same size.

Shapes: n components, N examples, B masks, R random edits.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import components, parts, readouts
from spex_jax.components import coar, editing
from spex_jax.indices import attribution
from spex_jax.masks import sampling
from spex_jax.models import sites

_Z = 1.959963984540054  # Of a 95 % interval.
Inputs = Mapping[str, base.Array]
Answer = dict[str, Any]
Ask = Callable[[base.Array], np.ndarray]  # Masks `[B, n]` to `[B, N]`.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # See `judged`.


@dataclasses.dataclass(frozen=True)
class Examples:
  """Labelled inputs of a network.

  Attributes:
    inputs: name to `[N, ...]`.
    labels: int `[N]`.
  """

  inputs: Inputs
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, rows: np.ndarray) -> "Examples":
    """Those of some rows."""
    inputs = {name: np.asarray(x)[rows] for name, x in self.inputs.items()}
    return Examples(inputs, self.labels[rows])

  def __add__(self, other: "Examples") -> "Examples":
    join = lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)])
    inputs = {x: join(self.inputs[x], other.inputs[x]) for x in self.inputs}
    return Examples(inputs, join(self.labels, other.labels))


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How much is asked.

  Attributes:
    masks: ablations that COAR regresses on.
    keep: probability with which each keeps a component.
    most: largest edit.
    draws: R, random edits beside each edit.
    batch: masks in a batch.
  """

  masks: int
  keep: float
  most: int
  draws: int
  batch: int = 16


@dataclasses.dataclass(frozen=True)
class Study:
  """A network, its components, and what is read of it.

  Attributes:
    net: with its parameters.
    players: the components.
    sizes: how much is asked.
    read: labels to what is read of the output, margins by default.
  """

  net: sites.Network
  players: parts.Players
  sizes: Sizes
  read: Callable[[np.ndarray], readouts.Readout] = readouts.margins

  def evaluator(self, examples: Examples) -> Ask:
    """Masks to the margins of examples, `[B, N]`."""
    found = components.evaluator(
      self.net,
      self.players,
      examples.inputs,
      self.read(examples.labels),
      batch_size=self.sizes.batch,
    )
    return lambda masks: found(masks).reshape(len(masks), len(examples))

  def scores(
    self, key: base.Key, examples: Examples
  ) -> attribution.Attribution:
    """COAR's scores of the components for examples; `key` is consumed."""
    return coar.attribute(
      self.evaluator(examples),
      self.players.n,
      key=key,
      budget=self.sizes.masks,
      keep=self.sizes.keep,
    )

  def margins(self, params: Any, examples: Examples) -> np.ndarray:
    """`[N]`, of a plain forward."""
    read = self.read(examples.labels)
    out = self._forward(params, dict(examples.inputs))
    return np.asarray(read(out, examples.inputs), np.float64)

  @functools.cached_property
  def _forward(self):
    return jax.jit(lambda params, inputs: self.net.apply(params, **inputs))

  def edit(self, choice: editing.Choice) -> editing.Edit:
    """The edit that a choice stands for."""
    return editing.Edit.of(
      self.net, self.net.params, self.players, choice.removed
    )

  def random(self, key: base.Key, k: int) -> np.ndarray:
    """bool `[R, n]`: random edits of k components; `key` is consumed."""
    weights = np.zeros(self.players.n + 1)
    weights[self.players.n - k] = 1
    return sampling.by_size(key, self.sizes.draws, self.players.n, weights)

  def choose(
    self,
    statistic: np.ndarray,
    direction: Any,
    validate: base.ValueFn,
    allowed: Any,
  ) -> editing.Choice:
    """k of a ladder up to the largest edit."""
    most = min(self.sizes.most, self.players.n - 1)
    return editing.choose(
      statistic,
      validate,
      direction=direction,
      grid=editing.ladder(most),
      allowed=allowed,
    )


def interval(values: np.ndarray) -> tuple[float, float]:
  """A 95 % interval of the mean of numbers in 0..1, Wilson's (1927)."""
  values = np.asarray(values, np.float64)
  n, p = len(values), float(values.mean())
  centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
  reach = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
  return float(centre - reach), float(centre + reach)


def share(values: np.ndarray) -> Answer:
  """The mean of numbers in 0..1, with its interval."""
  values = np.asarray(values, np.float64)
  return {
    "mean": _short(values.mean()),
    "interval": [_short(end) for end in interval(values)],
    "count": len(values),
  }


def improves(before: np.ndarray, after: np.ndarray, sign: int) -> bool:
  """Whether the mean moves by this sign beyond two 95 % intervals.

  That of the mean before, and that of the paired change; one example alone has
  none.
  """
  if len(before) < 2:
    return False
  change = sign * (np.asarray(after, float) - np.asarray(before, float))
  error = change.std(ddof=1) / np.sqrt(len(change))
  low, high = interval(before)
  outside = np.mean(after) > high if sign > 0 else np.mean(after) < low
  return bool(outside and change.mean() - _Z * error > 0)


def keeps(before: np.ndarray, after: np.ndarray) -> bool:
  """Whether the mean after is not below the interval of that before."""
  return bool(np.mean(after) >= interval(before)[0])


def judged(
  target: Parts,
  elsewhere: Parts,
  sign: int = 1,
) -> Answer:
  """Before and after, on what is targeted and elsewhere, beside chance.

  Args:
    target: before `[N]`, after `[N]`, and under random edits `[R, N]`: whether
      each example was right, or a share of it.
    elsewhere: the same of what is to be kept.
    sign: 1 if the target is to rise, -1 if it is to fall.
  """
  chance = [
    (improves(target[0], one, sign), keeps(elsewhere[0], other))
    for one, other in zip(target[2], elsewhere[2])
  ]
  return {
    "target_before": share(target[0]),
    "target_after": share(target[1]),
    "target_random": _spread(target[2]),
    "elsewhere_before": share(elsewhere[0]),
    "elsewhere_after": share(elsewhere[1]),
    "elsewhere_random": _spread(elsewhere[2]),
    "improves": improves(target[0], target[1], sign),
    "keeps": keeps(elsewhere[0], elsewhere[1]),
    "random_improves": _short(np.mean([one for one, _ in chance])),
    "random_keeps": _short(np.mean([other for _, other in chance])),
    "random_both": _short(np.mean([one and other for one, other in chance])),
  }


def _spread(draws: np.ndarray) -> Answer:
  """The mean over random edits, and where 95 % of them lie."""
  means = np.asarray(draws, np.float64).mean(axis=1)
  ends = np.quantile(means, [0.025, 0.975])
  return {
    "mean": _short(means.mean()),
    "range": [_short(end) for end in ends],
    "draws": len(means),
  }


def _short(number: Any) -> float:
  return float(f"{float(number):.4g}")


def among(answers: np.ndarray) -> Callable[[np.ndarray], Any]:
  """Margins above the other answers alone, of a language model.

  Args:
    answers: int `[K]`, tokens in rising order, every label among them.
  """

  def read_of(labels):
    margins = readouts.margins(np.searchsorted(answers, labels))

    def read(output, inputs):
      logits = output.logits[..., answers]
      return margins(dataclasses.replace(output, logits=logits), inputs)

    return read

  return read_of


def logits_of(embeddings: base.Array) -> Callable[[np.ndarray], Any]:
  """Margins of images that are classed by the nearest of K texts.

  Args:
    embeddings: `[K, E]` of the classes' texts, of length 1, with the
      temperature's factor.
  """

  def read_of(labels):
    margins = readouts.margins(labels)

    def read(output, inputs):
      image = output.logits
      length = jnp.linalg.norm(image, axis=1, keepdims=True)
      scores = image / jnp.maximum(length, 1e-12) @ jnp.asarray(embeddings).T
      return margins(dataclasses.replace(output, logits=scores), inputs)

    return read

  return read_of
