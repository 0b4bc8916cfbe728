"""Where the numbers of a sweep's shards go, besides its own log.

A sink is opened for the folder of a process's log: TensorBoard takes each such
folder for a run.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spex_jax.sweeps import process_metrics, run


@contextlib.contextmanager
def _tensorboard(place: str) -> Iterator[run.Sink]:
  writer = _optional("tensorboardX").SummaryWriter(place)

  def sink(step: int, numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
      writer.add_scalar(name, value, step)
    writer.flush()

  with contextlib.closing(writer):
    yield sink


@contextlib.contextmanager
def _wandb(place: str) -> Iterator[run.Sink]:
  workdir, _, name = place.rpartition(f"/{process_metrics.FOLDER}/")
  logged = _optional("wandb").init(
    dir=None if "://" in place else place, project="spex_jax",
    group=pathlib.PurePath(workdir).name, name=name,
  )  # fmt: skip
  try:
    yield lambda step, numbers: logged.log({"shard": step, **numbers})
  finally:
    logged.finish()


def _optional(package: str) -> Any:
  """A package that only a sink needs."""
  import importlib

  try:
    return importlib.import_module(package)
  except ImportError:
    raise ImportError(
      f"This sink needs {package} (pip install {package})."
    ) from None


# Of the folder of a process's log.
SINKS: Mapping[
  str, Callable[[str], contextlib.AbstractContextManager[run.Sink]]
] = {"tensorboard": _tensorboard, "wandb": _wandb}
