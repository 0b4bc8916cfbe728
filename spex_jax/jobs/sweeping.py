"""Builders of sweeps: an item's configuration to masks and their values.

`build` of a sweep names one of these, or a function of your own:

  spex_jax.jobs.sweeping:explanations   a subject of `spex explain` or of
                                        `spex attribute components`
  spex_jax.jobs.sweeping:retrainings    the examples of `spex attribute data`
  spex_jax.jobs.sweeping:calls          your own function of masks
  spex_jax.jobs.circuits_sweep:sizes    circuits of a task, by a method's scores
  spex_jax.jobs.circuits_sweep:exact    every edge of a model cut alone
  spex_jax.jobs.context_dataset:prompts every prompt of a file attributed

Masks are drawn in blocks of a fixed size, each by a key of its own, so that any
range of rows is the same whoever asks for it. Batch sizes are settings, since
the last digits of values depend on them: none is measured.

Shapes: B masks, n players, T targets.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import evaluate
from spex_jax.jobs import (
  callables,
  circuits_sweep,
  context_dataset,
  explain,
  retraining,
)
from spex_jax.masks import sampling
from spex_jax.sweeps import code, grid, run

_BLOCK = 4096  # Masks of one key.


@dataclasses.dataclass(frozen=True)
class Draws(grid.Plan):
  """How the masks of an item are drawn."""

  seed: int = settings.seed("of the masks, and of what is asked")
  keep: float = settings.field(
    0.5, "probability that a player is there", above=0, high=1
  )
  anchors: int | None = settings.field(
    2, "masks whose values show whether the item is what it was", low=0
  )


@dataclasses.dataclass(frozen=True)
class Explanations(Draws):
  """Beside the settings of a subject."""

  model_dir: str = settings.field(
    "model", "where what is trained is kept, for all tasks"
  )


@dataclasses.dataclass(frozen=True)
class Retrainings(Draws):
  """Beside the settings of `spex attribute data`."""

  seed_index: int = settings.field(0, "of initialisation and order", low=0)


@dataclasses.dataclass(frozen=True)
class Calls(Draws):
  """A function of your own."""

  function: str = settings.field(
    "", "module:function, bool [B, n] to [B] or [B, T]"
  )
  n: int = settings.field(1, "number of players", low=1)
  num_targets: int | None = settings.field(1, "T", low=1)


def classes(config: Any) -> tuple[type[settings.Settings], ...]:
  """The classes of a sweep's settings, as its builder has them.

  Those of a builder of your own are what its values are.

  Raises:
    ValueError: a subject that does not exist.
  """
  given = settings.plain(config)
  module, _, builder = str(given.get("build")).partition(":")
  if module == __name__ and builder == "explanations":
    return _of_subject(given)
  if module == __name__ and builder == "retrainings":
    return Retrainings, retraining.Data
  if module == __name__ and builder == "calls":
    return (Calls,)
  if module == circuits_sweep.__name__ and builder in ("sizes", "exact"):
    return circuits_sweep.classes_of(builder)
  if module == context_dataset.__name__ and builder == "prompts":
    return context_dataset.classes_of()
  return (settings.like(given),)


def _of_subject(given: Mapping[str, Any]):
  return Explanations, explain.kind_of(given, "The sweep's configuration")


def freeze(config: Any, items: Iterable[Mapping[str, Any]]) -> grid.Sweep:
  """A sweep whose settings are checked by the classes of its builder.

  Raises:
    ValueError: as `grid.freeze`.
  """
  items = list(items)
  if any("build" in item for item in items):
    return grid.freeze(config, items)
  return grid.freeze(config, items, classes(config))


@dataclasses.dataclass(frozen=True)
class Work:
  """Of `sweeps.run.Work`.

  Attributes:
    n: the number of players.
    num_targets: T, the number of values of a mask.
    key: the random key that masks are drawn from.
    keep: probability that a player is there.
    values: masks bool `[B, n]` to values `[B]` or `[B, T]`.
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


def explanations(config: Any) -> Work:
  """A subject of `spex explain`; what it trains is kept in `model_dir`.

  `batch_size` is of one device, so that any number of them gives the same bits.

  Raises:
    ValueError: a setting that the subject refuses, or no batch size.
  """
  draws, asked = settings.read(config, *_of_subject(config))
  one = _batch(asked.batch_size)
  folder = pathlib.Path(draws.model_dir)
  folder.mkdir(parents=True, exist_ok=True)

  def evaluator_of(size: int) -> evaluate.Evaluator:
    sized = dataclasses.replace(asked, batch_size=size)
    return explain.subject_of(sized, folder).evaluator

  devices = jax.local_device_count()
  evaluator = evaluator_of(one * devices)
  if evaluator.prepare().device == "host" and devices > 1:
    evaluator = evaluator_of(one)  # Of a call, which knows of no devices.
  return _work(draws, evaluator.n, 1, evaluator)


def retrainings(config: Any) -> Work:
  """Retrainings on subsets: T test points, under seed index `seed_index`.

  A subset that keeps no example, or those of one class, is trained all the
  same; one that diverges has no value.

  Raises:
    ValueError: a setting that `spex attribute data` refuses, or no microbatch.
  """
  draws, data = settings.read(config, Retrainings, retraining.Data)
  _batch(data.microbatch)
  retrainer = retraining.problem_of(data, degenerate="train").retrainer

  def values(masks: np.ndarray) -> np.ndarray:
    return retrainer.run(masks, draws.seed_index).values

  return _work(draws, retrainer.n, retrainer.num_targets, values)


def calls(config: Any) -> Work:
  """Your own `function`, "module:function": bool `[B, n]` to `[B]`.

  Raises:
    ValueError: no such function.
  """
  (given,) = settings.read(config, Calls)
  function = callables.load(given.function)
  return _work(given, given.n, given.num_targets or 1, function)


def _batch(size: int | None) -> int:
  if not size:
    raise ValueError(
      f"A sweep needs a batch size of its own, not {size!r}: what is measured "
      "may differ from one machine to the next, and so may last digits."
    )
  return size


def _work(draws: Draws, n: int, num_targets: int, values: Callable) -> Work:
  # The key of an item's masks: of the seed, and of no setting of JAX.
  root = jax.random.key(draws.seed, impl="threefry2x32")
  key = jax.random.fold_in(root, zlib.crc32(b"sweep"))
  anchors = 2 if draws.anchors is None else draws.anchors
  return Work(n, num_targets, key, draws.keep, values, anchors)


def build(config: Any) -> run.Work:
  """An item's work, by the builder that its configuration names.

  Raises:
    ValueError: no such builder; and what the builder raises.
  """
  return callables.load(config.build, "build")(config)


def check_models(sweep: grid.Sweep) -> None:
  """Looks for the checkpoints that items name as their `model`.

  Of a builder of your own a `model` may be anything: only a path that begins
  with `/`, `.` or `~` is looked for.

  Raises:
    FileNotFoundError: one that is nowhere.
    ImportError: one of the hub's, without the library for it.
  """
  from spex_jax.models import hub  # Slow to import.

  config = sweep.config
  ours = str(config.get("build")).startswith("spex_jax.")
  given = (item.get("model", config.get("model")) for item in sweep.items)
  for name in sorted({name for name in given if isinstance(name, str)} - {""}):
    if ours or name[0] in "/.~":
      hub.local(name)


def sources(sweep: grid.Sweep) -> dict[str, str]:
  """SHA-256 of your own code that the items name, by module.

  Of `build`, `function` and a `metric` of your own, with what these import
  from beside them; and of `files`, a setting that may be left out. See
  `sweeps.code`.

  Raises:
    ValueError: a function that is not there, or a file that cannot be read.
  """
  found = code.files(sweep.config.get("files") or ())
  for item in range(len(sweep.items)):
    for name in ("build", "function", "metric"):
      path = str(sweep.items[item].get(name, sweep.config.get(name)) or "")
      named = name == "metric" and ":" not in path  # One that is known here.
      if path and not named and path.partition(":")[0] not in found:
        found |= callables.source(path, name)
  return found
