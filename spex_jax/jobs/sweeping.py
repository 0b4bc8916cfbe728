"""Builders of sweeps: an item's configuration to masks and their values.

`build` of a sweep names one of these, or a function of your own:

  spex_jax.jobs.sweeping:explanations   a subject of `spex explain` or of
                                        `spex attribute components`
  spex_jax.jobs.sweeping:retrainings    the examples of `spex attribute data`
  spex_jax.jobs.sweeping:calls          your own function of masks

Masks are drawn in blocks of a fixed size, each by a key of its own, so that any
range of rows is the same whoever asks for it. Batch sizes are settings, since
the last digits of values depend on them: none is measured.

Shapes: B masks, n players, T targets.
"""

import dataclasses
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from spex_jax import base
from spex_jax.jobs import callables, explain, retraining
from spex_jax.masks import sampling
from spex_jax.sweeps import code, grid, run

_BLOCK = 4096  # Masks of one key.


@dataclasses.dataclass(frozen=True)
class Work:
  """Of `sweeps.run.Work`.

  Attributes:
    n: players.
    num_targets: T.
    key: of the masks.
    keep: probability that a player is there.
    values: the value function.
    anchors: masks whose values show whether the item is what it was.
  """

  n: int
  num_targets: int
  key: base.Key
  keep: float
  values: Callable[[np.ndarray], base.Array]
  anchors: int = 0

  def masks(self, start: int, stop: int) -> np.ndarray:
    """bool `[stop - start, n]`; distinct only by chance."""
    parts = []
    for block in range(start // _BLOCK, -(-stop // _BLOCK)):
      with jax.threefry_partitionable(True):  # Else other bits.
        key = jax.random.fold_in(self.key, block)
        if self.keep == 0.5:
          drawn = sampling.uniform(key, _BLOCK, self.n)
        else:
          drawn = sampling.biased(key, _BLOCK, self.n, self.keep)
      first = block * _BLOCK
      parts.append(drawn[max(start - first, 0) : stop - first])
    return np.concatenate(parts)


def explanations(config: ml_collections.ConfigDict) -> Work:
  """A subject of `spex explain`; what it trains is kept in `model_dir`.

  `batch_size` is of one device, so that any number of them gives the same bits.

  Raises:
    ValueError: a setting that the subject refuses, or no batch size.
  """
  _need_batch(config.batch_size)
  folder = pathlib.Path(config.model_dir)
  folder.mkdir(parents=True, exist_ok=True)
  make = explain.SUBJECTS[config.subject]
  one = config.batch_size
  config.batch_size = one * jax.local_device_count()
  evaluator = make(config, folder).evaluator
  if evaluator.prepare().device == "host" and config.batch_size != one:
    config.batch_size = one  # Of a call, which knows of no devices.
    evaluator = make(config, folder).evaluator
  return Work(
    evaluator.n, 1, _key(config), config.keep, evaluator, _anchors(config)
  )


def retrainings(config: ml_collections.ConfigDict) -> Work:
  """Retrainings on subsets: T test points, under seed index `seed_index`.

  A subset that keeps no example, or those of one class, is trained all the
  same; one that diverges has no value.

  Raises:
    ValueError: a setting that `spex attribute data` refuses, or no microbatch.
  """
  _need_batch(config.microbatch)
  problem = retraining.problem(config, degenerate="train")
  retrainer = problem.retrainer

  def values(masks: np.ndarray) -> np.ndarray:
    return retrainer.run(masks, config.seed_index).values

  return Work(
    retrainer.n,
    retrainer.num_targets,
    _key(config),
    config.keep,
    values,
    _anchors(config),
  )


def calls(config: ml_collections.ConfigDict) -> Work:
  """Your own `function`, "module:function": bool `[B, n]` to `[B]`.

  Raises:
    ValueError: no such function.
  """
  function = callables.load(config.function)
  return Work(
    config.n,
    config.get("num_targets") or 1,
    _key(config),
    config.keep,
    function,
    _anchors(config),
  )


def _anchors(config: ml_collections.ConfigDict) -> int:
  """`anchors`, a setting that may be left out."""
  return 2 if config.get("anchors") is None else config.anchors


def _need_batch(size: Any) -> None:
  if not isinstance(size, int) or size < 1:
    raise ValueError(
      f"A sweep needs a batch size of its own, not {size!r}: what is measured "
      "may differ from one machine to the next, and so may last digits."
    )


def _key(config: ml_collections.ConfigDict) -> base.Key:
  """Of an item's masks: of the seed, and of no setting of JAX."""
  root = jax.random.key(config.seed, impl="threefry2x32")
  return jax.random.fold_in(root, zlib.crc32(b"sweep"))


def build(config: ml_collections.ConfigDict) -> run.Work:
  """An item's work, by the builder that its configuration names.

  Raises:
    ValueError: no such builder; and what the builder raises.
  """
  return callables.load(config.build, "build")(config)


def sources(sweep: grid.Sweep) -> dict[str, str]:
  """SHA-256 of your own code that the items name, by module.

  Of `build` and `function`, with what these import from beside them; and of
  `files`, a setting that may be left out. See `sweeps.code`.

  Raises:
    ValueError: a function that is not there, or a file that cannot be read.
  """
  found = code.files(sweep.config.get("files") or ())
  for item in range(len(sweep.items)):
    for name in ("build", "function"):
      path = sweep.items[item].get(name, sweep.config.get(name))
      module = str(path).partition(":")[0]
      if not path or module in found or module.startswith("spex_jax."):
        continue
      callables.load(path, name)  # Imports it, from where it will be.
      file = getattr(sys.modules[module], "__file__", None)
      if file:
        found[module] = code.digest(module, pathlib.Path(file).resolve())
  return found
