"""What a model does on pairs, before any question about its parts.

Shapes: N pairs, B of a batch.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.circuits import metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import sites

LEAST = 0.55  # Accuracy below which a model fails a task.


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """A model on N pairs.

  Attributes:
    clean: float64 `[N]`, the metric on the clean prompts.
    corrupted: float64 `[N]`, on the corrupted ones.
    correct: bool `[N]`: the mean logit of right answers is above that of wrong
      ones on the clean prompt; without wrong ones, the likeliest token is
      right.
    first: bool `[N]`, whether the likeliest token is right.
  """

  clean: np.ndarray
  corrupted: np.ndarray
  correct: np.ndarray
  first: np.ndarray

  @property
  def accuracy(self) -> float:
    """The share of pairs that are correct."""
    return float(self.correct.mean())

  def check(self, name: str, forced: bool = False) -> None:
    """Refuses a task that the model fails.

    Raises:
      ValueError: an accuracy under 55 %, unless it is forced.
    """
    if self.accuracy < LEAST and not forced:
      raise ValueError(
        f"The model fails {name}: {self.accuracy:.0%} correct, fewer than "
        f"{LEAST:.0%}. A circuit of what it cannot do says little; "
        "--config.force asks all the same."
      )


def measure(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  *,
  size: int | None = None,
) -> Measured:
  """Runs both prompts of every pair.

  Args:
    net: a causal language model.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    metric: one example's logits to a number, see `metrics`.
    size: pairs of a batch; `runs.batch_size` by default.

  Raises:
    ValueError: ids that the model lacks, or NaN or infinity.
  """
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size, net.config.max_positions)
  size = runs.batch_size(pairs) if size is None else size
  model, parts = sites.Model(net), []
  for batch in runs.batches(pairs, size):
    found = _measured(model, metric, params, batch)
    parts.append([runs.real_rows(batch, part) for part in found])
  clean, corrupted, correct, first = map(np.concatenate, zip(*parts))
  for name, values in (("clean", clean), ("corrupted", corrupted)):
    if not np.isfinite(values).all():
      pair = int(np.argmin(np.isfinite(values)))
      raise ValueError(
        f"The metric of pair {pair} is {values[pair]} on its {name} prompt: "
        "the model's weights, its dtype or the metric may be at fault."
      )
  return Measured(
    clean.astype(np.float64), corrupted.astype(np.float64), correct, first
  )


@functools.partial(jax.jit, static_argnames=("model", "metric"))
def _measured(model, metric, params, batch):
  ends = runs.ends(model.net, params, metric, batch)
  chex.assert_rank(ends.logits, 2)
  apart = runs.read(metrics.logit_difference, ends.logits, ends.logits, batch)
  likeliest = ends.logits.argmax(axis=-1)
  first = (jnp.asarray(batch.right) == likeliest[:, None]).any(axis=1)
  told = (jnp.asarray(batch.wrong) >= 0).any(axis=1)
  correct = jnp.where(told, apart > 0, first)
  return ends.clean, ends.corrupted, correct, first
