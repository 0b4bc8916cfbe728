"""`spex checkup learn`: what vision models learn from drawings."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.agents import running
from spex_jax.agents.checkup import (
  augmenting,
  encoders,
  learning,
  moco,
  picture_sets,
)
from spex_jax.datasets import images, splits
from spex_jax.report import clock as clock_lib
from spex_jax.report import tables as report_tables
from spex_jax.store import folders

PROBES = "probes.json"
_MOCO = moco.Settings()


@dataclasses.dataclass(frozen=True)
class Learn(settings.Settings):
  """`spex checkup learn`."""

  seed: int = settings.seed("of the first repetition; others follow")
  seeds: int = settings.field(
    1, "repetitions, over which probes average", low=1
  )
  data: str = settings.field(
    "coloured_digits",
    "what probes are asked about: coloured_digits (scikit-learn's, within "
    "pictures), digits (as they are), or a folder with a folder for each class",
  )
  pretrainings: tuple[str, ...] = settings.field(
    learning.PRETRAININGS, "to compare", choices=learning.PRETRAININGS,
    filled=True,
  )  # fmt: skip
  source: str | None = settings.field(
    None, "a folder of pictures that MoCo learns from, too", place=True
  )
  neighbours: int | None = settings.field(
    None, "labelled pictures that probes see; None for half of all", low=2
  )
  encoder: str = settings.field(
    "small", "a ResNet of", choices=tuple(encoders.ENCODERS)
  )
  width: int = settings.field(16, "of the small one: filters at first", low=1)
  size: int = settings.field(32, "pixels a side", low=32)
  pictures: int = settings.field(8192, "of each source", low=1)
  steps: int = settings.field(_MOCO.steps, "of each pretraining", low=1)
  batch_size: int = settings.field(_MOCO.batch_size, "of a step", low=2)
  queue: int = settings.field(_MOCO.queue, "keys, a multiple of that", low=1)
  momentum: float = settings.field(
    _MOCO.momentum, "of the key encoder", low=0, high=1
  )
  temperature: float = settings.field(_MOCO.temperature, "of the loss", above=0)
  optimizer: str = settings.field(
    _MOCO.optimizer, choices=("adam", "adamw", "sgd")
  )
  learning_rate: float = settings.field(_MOCO.learning_rate, "peak", above=0)
  least_area: float = settings.field(0.35, "of a crop", above=0, high=1)
  flip: float = settings.field(
    0.0, "the chance of a mirror image; writing has none", low=0, high=1
  )

  hue: float = settings.field(
    0.5, "its change between views, in turns; .1 in the paper", low=0, high=0.5
  )
  negative: float = settings.field(
    0.5, "the chance of a negative; 0 in the paper", low=0, high=1
  )

  def check(self) -> None:
    """MoCo's sizes fit.

    Raises:
      settings.SettingError: sizes that do not go together, with the reason.
    """
    try:
      self.moco()
    except ValueError as error:
      raise settings.SettingError("batch_size", f": {error}") from error

  def moco(self) -> moco.Settings:
    """Of each pretraining by MoCo."""
    views = augmenting.Views(
      least_area=self.least_area, flip=self.flip, hue=self.hue,
      negative=self.negative,
    )  # fmt: skip
    groups = 2 if self.batch_size % 2 == 0 else 1
    return moco.Settings(
      self.steps, self.batch_size, self.queue, momentum=self.momentum,
      temperature=self.temperature, learning_rate=self.learning_rate,
      optimizer=self.optimizer, groups=groups, views=views,
    )  # fmt: skip


def run(
  config: Learn, workdir: pathlib.Path, before: float = 0.0
) -> dict[str, Any]:
  """Pretrains, probes, prints, and writes `probes.json`.

  It maps each pretraining to {"knn", "linear"}, means over seeds, and
  "by_seed", a list of the same with "seconds" and the last "loss". What is done
  is kept, a file each, and not done again.

  Raises:
    ValueError: the workdir is another configuration's, a folder without
      pictures, or too few of a class.
    FileNotFoundError: no such folder.
  """
  said = clock_lib.Session(before=before)
  folder = folders.opened(workdir)
  own = {
    name: value
    for name, value in settings.as_dict(config).items()
    if name not in ("seeds", "pretrainings")
  }
  running.check_same(folder, own)
  encoder = encoders.ENCODERS[config.encoder](
    *([config.width] if config.encoder == "small" else [])
  )
  trainer = learning.Trainer(encoder, config.moco(), _mesh(config))
  names = [*config.pretrainings, *(["source"] if config.source else [])]
  rows: dict[str, list[Any]] = {name: [] for name in names}
  for seed in range(config.seed, config.seed + config.seeds):
    asked = None
    for name in names:
      file = f"probes/{name}-{seed}.json"
      row: dict[str, Any] | None = _kept(folder, file)
      if row is None:
        asked = asked or _asked(config, seed, said)
        began = clock_lib.Clock()
        with said.of(name):
          params, losses = trainer.params(
            seed, name, _source(config, seed, name, said), asked
          )
          row = {**trainer.probed(jax.block_until_ready(params), asked)}
        row["loss"] = float(losses[-20:].mean()) if len(losses) else None
        row["seconds"] = round(began.total(), 1)
        folder.replace(file, base.to_json(row))
      rows[name].append(row)
  found = {name: learning.averaged(own) for name, own in rows.items()}
  running.write(folder, PROBES, found)
  said.show(_table(config, found))
  said.end(workdir / PROBES)
  return found


def _mesh(config: Learn) -> jax.sharding.Mesh | None:
  """All devices, where a batch can be spread over them."""
  count = len(jax.devices())
  if count == 1 or config.batch_size % count:
    return None
  return jax.make_mesh(
    (count,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )


def _kept(folder: folders.Folder, file: str) -> dict[str, Any] | None:
  try:
    return base.from_json(folder.read(file), file, must_have_checksum=True)
  except (FileNotFoundError, ValueError):  # Not there, or damaged: anew.
    return None


def _asked(config: Learn, seed: int, said: clock_lib.Session) -> learning.Asked:
  """What probes see and are asked, of a seed."""
  if config.data in ("coloured_digits", "digits"):
    digits = images.digits()
    make = picture_sets.coloured_digits
    if config.data == "digits":
      make = lambda _, given, size: picture_sets.grey_digits(given, size)
    seen = make(learning.rng_of(seed, "digits"), digits, config.size)
    labels = digits.labels
  else:
    found = picture_sets.folder(config.data, config.size)
    _tell_left_out(found, said)
    seen, labels = found.pictures, found.labels
  train, test = splits.split(learning.key_of(seed, "split"), len(seen), 0.5)
  # In a folder those of a class lie together.
  train = learning.rng_of(seed, "neighbours").permutation(train)
  train = np.sort(train[: config.neighbours])
  counts = np.bincount(labels[train], minlength=int(labels.max()) + 1)
  if len(counts) < 2 or counts.min() < 1:
    raise ValueError(
      f"data={config.data!r}: probes need two classes or more, each among the "
      f"{len(train)} labelled pictures; counts are {counts.tolist()}."
    )
  return learning.Asked(seen[train], labels[train], seen[test], labels[test])


def _source(
  config: Learn, seed: int, name: str, said: clock_lib.Session
) -> np.ndarray | None:
  """What a pretraining learns from."""
  if name == "source":
    found = picture_sets.folder(str(config.source), config.size)
    _tell_left_out(found, said)
    return found.pictures
  if name not in learning.SOURCES:
    return None
  rng = learning.rng_of(seed, name)
  return learning.SOURCES[name](rng, config.pictures, config.size)


def _tell_left_out(
  found: picture_sets.Labelled, said: clock_lib.Session
) -> None:
  for file, why in list(found.left_out.items())[:5]:
    said.tell("left out", f"{file}: {why}")


def _table(config: Learn, found: dict[str, Any]) -> Any:
  columns = ("pretraining", "k-NN", "linear", "seconds", "loss")
  rows = []
  for name, row in found.items():
    seconds = np.mean([own["seconds"] for own in row["by_seed"]])
    loss = row["by_seed"][0]["loss"]
    cells = f"{row['knn']:.3f}", f"{row['linear']:.3f}", f"{seconds:.0f}"
    rows.append((name, *cells, "" if loss is None else f"{loss:.2f}"))
  title = f"{config.data}, {config.seeds} seeds"
  return report_tables.grid(columns, rows, columns[:1], title)
