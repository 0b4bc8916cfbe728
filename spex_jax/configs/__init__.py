"""Named settings of `spex`: one file each, with `get_config(size)`.

Here, how such files are written and run.
"""

import importlib.util
import pathlib
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from spex_jax import settings

if TYPE_CHECKING:
  import ml_collections

_FOLDER = pathlib.Path(__file__).parent
_OWNERS = {"data": "attribute", "components": "components"}
_BY_TWO = ("circuit", "context", "find", "checkup", "maia")


def named(command: str) -> dict[str, pathlib.Path]:
  """The files of a command's named configurations.

  Those named `data_*` are of `attribute`, those named `components_*` of
  `components`, those named `circuit_WORD*` of `circuit_WORD`, likewise
  `context`, `context_WORD*`, `find_WORD*`, `checkup_WORD*` and `maia*`, the
  others of `explain`.
  """
  return {
    file.stem: file
    for file in sorted(_FOLDER.glob("*.py"))
    if file.stem != "__init__" and _owner(file.stem) == command
  }


def _owner(name: str) -> str:
  first, *rest = name.split("_")
  if first in _BY_TWO:
    return "_".join([first, *rest[:1]])
  return _OWNERS.get(first, "explain")


def config(
  cls: type[settings.Settings], **changes: Any
) -> "ml_collections.ConfigDict":
  """What a `get_config` returns: the defaults of a class, with changes.

  Args:
    cls: of the settings.
    **changes: of fields, or of a part of a group: `model={"width": 8}`.

  Raises:
    ValueError: as `settings.read`.
  """
  import ml_collections
  from ml_collections import config_dict

  def made(given: settings.Settings) -> ml_collections.ConfigDict:
    found = ml_collections.ConfigDict()
    for name, kind in settings.kinds(type(given)).items():
      value = getattr(given, name)
      if isinstance(value, settings.Settings):
        value = made(value)
      elif value is None:
        value = config_dict.placeholder(kind.type)
      found[name] = value
    return found

  (given,) = settings.read(changes, cls)
  return made(given)


def sized(
  size: str, cls: type[settings.Settings], **quick: Any
) -> "ml_collections.ConfigDict":
  """`config` of a class: its defaults, and if the size is "quick" changes.

  Raises:
    ValueError: as `is_quick` and `config`.
  """
  return config(cls, **quick if is_quick(size) else {})


def is_quick(size: str) -> bool:
  """Whether the size that a `get_config` is given is "quick", not "full".

  Raises:
    ValueError: it is neither.
  """
  if size not in ("full", "quick"):
    raise ValueError(f"size must be 'full' or 'quick'; got {size!r}.")
  return size == "quick"


class File(NamedTuple):
  """A configuration's file, as it was run.

  Attributes:
    name: as it was given.
    config: what `get_config` returned, as a dictionary.
    module: the file.
    arguments: of `get_config`: the size, if one was given.
  """

  name: str
  config: dict[str, Any]
  module: types.ModuleType
  arguments: tuple[str, ...]

  def items(self) -> list[Mapping[str, Any]]:
    """What `sweep` yields, of a sweep's file; one without changes otherwise.

    Raises:
      ValueError: it does not run.
    """
    if not hasattr(self.module, "sweep"):
      return [{}]
    try:
      return list(self.module.sweep(*self.arguments))
    except (Exception, SystemExit) as error:
      raise ValueError(
        f"sweep {self.name!r}: {type(error).__name__}: {error}"
      ) from error


def load(name: str, named: Mapping[str, pathlib.Path]) -> File:
  """Runs a configuration, `NAME_OR_FILE[:SIZE]`.

  Args:
    name: of `named`, or a file's.
    named: files by name.

  Raises:
    ValueError: no such name or file, a file that does not run, or one without
      a `get_config` that returns a ConfigDict.
  """
  import ml_collections  # Slow to import.

  path, colon, size = name.partition(":")
  file = named.get(path) or pathlib.Path(path).expanduser()
  if not file.is_file():
    one_of = f" nor one of {', '.join(named)}" if named else ""
    neither = "neither a file" if named else "no such file"
    raise ValueError(f"no configuration {path!r}: {neither}{one_of}.")
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise ValueError(f"{file} is no Python file; its name must end in .py.")
  module = importlib.util.module_from_spec(spec)
  arguments = (size,) if colon else ()
  try:
    spec.loader.exec_module(module)
    found = module.get_config(*arguments)
  except (Exception, SystemExit) as error:  # Whatever the file does.
    raise ValueError(
      f"configuration {name!r}: {type(error).__name__}: {error}"
    ) from error
  if not isinstance(found, ml_collections.ConfigDict):
    raise ValueError(
      f"configuration {name!r}: get_config must return a ConfigDict; it "
      f"returns {type(found).__name__}."
    )
  found = found.copy_and_resolve_references().to_dict()
  return File(name, found, module, arguments)
