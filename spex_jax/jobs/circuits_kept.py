"""Exact effects that are kept as they are done, so that a killed run goes on.

A folder of `store.ledger` for each question, `exact/HASH`: what the effects
depend on (settings, weights, pairs, releases, the code of a metric of your own)
is its configuration. A shard has the cuts that start at one block, on one batch
of pairs; its masks are the cuts' places in binary.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import spex_jax
from spex_jax import settings
from spex_jax.circuits import exact_effects, metrics
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.components import identity
from spex_jax.jobs import callables, circuits
from spex_jax.models import sites
from spex_jax.store import configs, ledger, shards

_BITS = 32
# Settings that effects depend on, beside weights and pairs.
_USED = (
  "dtype", "metric", "seed", "batch_size", "ablation", "grouped", "level",
)  # fmt: skip


class Kept:
  """What `scores.score` takes as `keep`.

  Attributes:
    done: how many effects were computed.
    found: how many were there already.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    config: circuits.Asked,
    net: sites.Network,
    pairs: pairs_lib.Pairs,
  ):
    """Opens the folder of a question, or starts it.

    Args:
      workdir: the folder of the command; effects are kept in `exact/`.
      config: the settings that effects depend on.
      net: the network, with its parameters.
      pairs: the pairs of prompts that are scored.
    """
    known: dict[str, Any] = {
      name: value
      for name, value in settings.as_dict(config).items()
      if name in _USED
    }
    known |= {
      "model": identity.of(net, net.params),
      "pairs": [
        identity.digest(getattr(pairs, part))
        for part in ("clean", "corrupted", "lengths", "right", "wrong")
      ],
      "versions": [spex_jax.__version__, jax.__version__],
      "device": jax.devices()[0].device_kind,
    }
    if config.metric not in metrics.METRICS:  # Its name alone tells little.
      known["code"] = callables.source(config.metric, "metric")
    name = configs.digest(configs.as_json(known))[:12]
    self._ledger = ledger.Ledger(workdir / "exact" / name, known)
    self._starts = net.config.num_blocks + 1
    self.done = self.found = 0

  def __call__(self, batch: int) -> exact_effects.Keep:
    """Of one batch of pairs: reads, or computes and publishes."""

    def keep(start: int, run: Callable[[], np.ndarray]) -> np.ndarray:
      index = batch * self._starts + start
      sound = self._ledger.check([index])
      if sound:
        try:
          rows = self._ledger.read(index)
          self.found += rows.values.size
          return rows.values
        except shards.DamagedError as error:
          self._ledger.quarantine(index, str(error))
      values = run()
      places = np.arange(len(values))[:, None]
      masks = (places >> np.arange(_BITS)) % 2 == 1
      self._ledger.write(
        index, shards.rows_of(masks, values, status=np.zeros(len(values)))
      )
      self.done += values.size
      return values

    return keep

  def __str__(self) -> str:
    return (
      f"{self.done:,} effects of single pairs computed, {self.found:,} found "
      f"in {self._ledger.path}"
    )
