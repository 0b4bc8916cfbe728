"""What a command was given and told, beside what it wrote: `run.json`.

`spex report` reads it: the question, the model, the command to make the same
again, the cost.
"""

import contextlib
import datetime
import hashlib
import pathlib
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import spex_jax
from spex_jax import base, settings
from spex_jax.report import tables

NAME = "run.json"
_MOST = 1 << 30  # Bytes of a model that are read for its fingerprint.


def place(config: Any, workdir: pathlib.Path) -> pathlib.Path:
  """Where it goes: into the workdir, or beside the one file that is written."""
  output = getattr(config, "output", None)
  return pathlib.Path(f"{output}.{NAME}") if output else workdir / NAME


@contextlib.contextmanager
def kept(
  path: pathlib.Path, words: Sequence[str], config: Any
) -> Iterator[None]:
  """Writes what is told meanwhile, once all went well or can go on.

  Nothing is written where the command made no folder for it.

  Args:
    path: the path of the file.
    words: the words of the command line.
    config: the settings of the command.
  """
  began = datetime.datetime.now(datetime.UTC)
  with tables.recorded() as told:
    try:
      yield
    except InterruptedError:
      _write(path, words, config, began, told)
      raise
  _write(path, words, config, began, told)


def of_sweep(
  given: Any, words: Sequence[str]
) -> contextlib.AbstractContextManager[None]:
  """`kept` for `spex sweep run`, but of what is dry, and in object stores.

  Args:
    given: the flags of the command.
    words: the arguments behind `spex sweep`.
  """
  if given.dry_run or settings.is_url(given.workdir):
    return contextlib.nullcontext()
  return kept(
    pathlib.Path(given.workdir) / NAME, ["spex", "sweep", *words], None
  )


def _write(
  path: pathlib.Path,
  words: Sequence[str],
  config: Any,
  began: datetime.datetime,
  told: tables.Told,
) -> None:
  if not path.parent.is_dir():
    return
  body = {
    "command": shlex.join(words),
    "version": spex_jax.__version__,
    "date": began.isoformat(timespec="seconds"),
    "seed": getattr(config, "seed", None),
    "index": getattr(config, "index", None),
    "order": getattr(config, "shown_order", getattr(config, "order", None)),
    "facts": [[name, value] for name, value in told],
  }
  folders = [path.parent / "model", getattr(config, "model", None)]
  for folder in folders:
    if isinstance(folder, str | pathlib.Path) and folder:
      digest = fingerprint(pathlib.Path(folder))
      if digest is not None:
        body["fingerprint"] = digest
        break
  base.write_json(path, body)


def fingerprint(folder: pathlib.Path) -> str | None:
  """16 digits of the SHA-256 of all files of a model, by name.

  None for what is no folder, and for one of more than a GiB.
  """
  if not folder.is_dir():
    return None
  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  if sum(path.stat().st_size for path in files) > _MOST:
    return None
  digest = hashlib.sha256()
  for path in files:
    digest.update(f"{path.relative_to(folder)}\0".encode())
    with path.open("rb") as file:
      digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()[:16]
