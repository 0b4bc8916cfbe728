"""Settings as frozen dataclasses: typed, bounded, and their own help.

A class of settings derives from `Settings`, and says of each field its type,
its default, a line of help, and what it may be:

  @dataclasses.dataclass(frozen=True)
  class Asking(settings.Settings):
    budget: int = settings.field(2000, "distinct masks", low=1)
    method: str = settings.field("auto", "who", choices=("auto", "spex"))

Types are bool, int, float (finite), str, each perhaps `| None`;
`tuple[T, ...]`; another class of settings, a group, as in `model.width`;
`Mapping`, and `Any`.

However one is made, it is checked: by its constructor, by
`dataclasses.replace`, by `read` of a file's mapping, by `changed` with flags.
What is wrong is one ValueError, a line that names the setting. A check of
several fields together is a class's own `check`.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import operator
import os
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

_TRUTH = {"true": True, "yes": True, "t": True, "1": True}
_TRUTH |= {"false": False, "no": False, "f": False, "0": False}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")
_COLUMN = 32  # Where help begins.


class SettingError(ValueError):
  """A setting that is not what it may be.

  Attributes:
    name: the name of the setting; a group puts its own before it.
    said: what is wrong, behind the name.
  """

  def __init__(self, name: str, said: str):
    """See the class."""
    super().__init__(name + said)
    self.name, self.said = name, said


def field(
  default: Any = dataclasses.MISSING,
  help: str = "",
  *,
  low: float | None = None,
  high: float | None = None,
  above: float | None = None,
  below: float | None = None,
  choices: Sequence[str] | None = None,
  place: bool = False,
  filled: bool = False,
) -> Any:
  """A field of a class of settings.

  Args:
    default: its value where none is given; without one, it is needed.
    help: what it is, in a line.
    low: the least that it may be, or that each part of a tuple may be.
    high: the largest.
    above: what it must be above.
    below: what it must be below.
    choices: what it must be one of.
    place: whether it is a directory, a file or a URL.
    filled: whether a tuple must have a part.
  """
  limits: dict[str, Any] = dict(
    help=help, low=low, high=high, above=above, below=below, place=place,
    filled=filled,
  )  # fmt: skip
  if choices is not None:
    limits["choices"] = tuple(choices)
  metadata = {"kind": limits}
  if isinstance(default, dict):
    return dataclasses.field(
      default_factory=lambda: dict(default), metadata=metadata
    )
  return dataclasses.field(default=default, metadata=metadata)


def seed(help: str) -> Any:
  """The setting of a seed, 0 where none is given.

  JAX's keys have 32 bits of it: beyond them two seeds would be one.
  """
  return field(0, help, low=0, high=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Kind:
  """What values a setting has.

  Attributes:
    type: bool, int, float, str, tuple, Mapping, `Any` or a class of settings.
    part: the kind of each part of a tuple.
    optional: whether it may be None.
    help: of the field, like what follows.
  """

  type: Any
  part: "Kind | None" = None
  optional: bool = False
  help: str = ""
  low: float | None = None
  high: float | None = None
  above: float | None = None
  below: float | None = None
  choices: tuple[str, ...] | None = None
  place: bool = False
  filled: bool = False

  @property
  def is_group(self) -> bool:
    """Whether it is a class of settings."""
    return isinstance(self.type, type) and issubclass(self.type, Settings)

  def checked(self, value: Any) -> Any:
    """The value, as its type has it.

    Raises:
      ValueError: says what it must be, and not which setting it is.
    """
    if value is None and (self.optional or self.type is Any):
      return None
    if self.part is not None:
      if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError("must be a list, as in 64,32.")
      if self.filled and not len(value):
        raise ValueError("name one or more.")
      return tuple(map(self.part.checked, value))
    value = _typed(self.type, value)
    if self.choices is not None and value not in self.choices:
      close = difflib.get_close_matches(
        str(value), self.choices, n=1, cutoff=0.7
      )
      hint = f" Did you mean {close[0]}?" if close else ""
      raise ValueError(f"choose from {', '.join(self.choices)}.{hint}")
    for limit, fits, words in (
      (self.low, operator.ge, "at least"),
      (self.high, operator.le, "at most"),
      (self.above, operator.gt, "above"),
      (self.below, operator.lt, "below"),
    ):
      if limit is not None and not fits(value, limit):
        raise ValueError(f"must be {words} {limit:g}.")
    return place(value) if self.place else value

  def parsed(self, text: str) -> Any:
    """A value that a command line gives.

    Raises:
      ValueError: as `checked`.
    """
    value: Any = text
    if self.optional and text.lower() == "none":
      return None
    if self.type is bool:
      value = _TRUTH.get(text.lower(), text)
    elif self.part is not None and self.part.type is str:
      value = [word.strip() for word in text.split(",") if word.strip()]
    elif self.type is not str:
      with contextlib.suppress(ValueError, SyntaxError):  # Said below.
        value = ast.literal_eval(text)
    if self.part is not None and not isinstance(value, list | tuple | str):
      value = (value,)
    return self.checked(value)


def _typed(kind: Any, value: Any) -> Any:
  """The value as one of a type."""
  if hasattr(value, "item") and hasattr(value, "dtype"):  # NumPy's.
    value = value.item() if not getattr(value, "shape", ()) else value
  if kind is Any:
    return value
  if kind is bool:
    if not isinstance(value, bool):
      raise ValueError("must be true or false.")
  elif kind is int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
      raise ValueError("must be an integer.")
    return int(value)
  elif kind is float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
      raise ValueError("must be a number.")
    if not math.isfinite(value):
      raise ValueError("must be finite.")
    return float(value)
  elif kind is str:
    if not isinstance(value, str):
      raise ValueError("must be a text.")
  elif kind is Mapping:
    if not isinstance(value, Mapping):
      raise ValueError("must be a dictionary, as in {'alpha': 1.0}.")
    return {str(name): part for name, part in value.items()}
  elif not isinstance(value, kind):
    raise ValueError("must be a group of settings, {'name': value}.")
  return value


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all classes of settings derive from."""

  def __post_init__(self) -> None:
    """Checks every field, then `check`."""
    for name, kind in kinds(type(self)).items():
      value = getattr(self, name)
      object.__setattr__(self, name, checked(name, kind, value))
    self.check()

  def check(self) -> None:
    """Raises ValueError where fields do not go together."""


Own = TypeVar("Own", bound=Settings)


def checked(name: str, kind: Kind, value: Any) -> Any:
  """A value of a named setting.

  Raises:
    SettingError: says which, what it is, and what it must be.
  """
  try:
    return kind.checked(value)
  except ValueError as error:
    raise SettingError(name, f"={value!r}: {error}") from None


@functools.cache
def kinds(cls: type[Settings]) -> dict[str, Kind]:
  """The kinds of a class's fields, by name: its own, then its bases'."""
  hints = typing.get_type_hints(cls)
  order = [inspect.get_annotations(base) for base in cls.__mro__]
  depth = lambda own: [own.name in names for names in order].index(True)
  found = {}
  for own in sorted(dataclasses.fields(cls), key=depth):
    limits = own.metadata.get("kind", {})
    found[own.name] = _kind(hints[own.name], **limits)
  return found


def _kind(hint: Any, **limits: Any) -> Kind:
  arguments = typing.get_args(hint)
  if isinstance(hint, types.UnionType):
    (hint,) = (part for part in arguments if part is not type(None))
    return dataclasses.replace(_kind(hint, **limits), optional=True)
  if typing.get_origin(hint) is tuple:
    return Kind(tuple, part=_kind(arguments[0], **limits), **limits)
  return Kind(typing.get_origin(hint) or hint, **limits)


def leaves(cls: type[Settings], prefix: str = "") -> dict[str, Kind]:
  """All kinds by dotted names, those of groups among them."""
  found: dict[str, Kind] = {}
  for name, kind in kinds(cls).items():
    found[prefix + name] = kind
    if kind.is_group:
      found |= leaves(kind.type, f"{prefix}{name}.")
  return found


def flat(given: Any, prefix: str = "") -> dict[str, Any]:
  """Values of settings or of a mapping by dotted names, without groups.

  An empty mapping is a value.
  """
  found: dict[str, Any] = {}
  if isinstance(given, Settings):
    given = {name: getattr(given, name) for name in kinds(type(given))}
  for name, value in plain(given).items():
    if isinstance(value, Settings) or (isinstance(value, Mapping) and value):
      found |= flat(value, f"{prefix}{name}.")
    else:
      found[prefix + str(name)] = value
  return found


def plain(given: Any) -> dict[str, Any]:
  """A ConfigDict, or another mapping, as a dictionary."""
  if hasattr(given, "to_dict"):
    return given.to_dict()
  return dict(given)


def merged(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict:
  """A mapping with changes by dotted names; groups are changed in part."""
  found = dict(given)
  for name, value in changes.items():
    first, dot, rest = str(name).partition(".")
    inner, own = found.get(first), {rest: value} if dot else value
    if isinstance(inner, Mapping) and inner and isinstance(own, Mapping):
      own = merged(inner, own)
    elif dot:
      own = merged({}, {rest: value})
    found[first] = own
  return found


def read(
  given: Any,
  *classes: type[Settings],
  where: str = "The configuration",
  missing: str = "lacks ",
) -> tuple[Any, ...]:
  """Settings of each class from a mapping that holds all of them.

  Args:
    given: a ConfigDict, or a mapping; its groups are such, too.
    *classes: whose they are; two may share a field.
    where: they stand, for the messages.
    missing: stands before the names of those that are, its last word before
      each.

  Raises:
    ValueError: a name that no class has (with one that comes close), one that
      is needed and missing, or a value that is not what it must be.
  """
  given = plain(given)
  known = {name for cls in classes for name in kinds(cls)}
  for name in given:
    if name not in known:
      raise unknown(str(name), sorted(known), where)
  return tuple(_made(cls, given, where, missing) for cls in classes)


def _made(
  cls: type[Own], given: Mapping[str, Any], where: str, missing: str
) -> Own:
  defaults = {own.name: own.default for own in dataclasses.fields(cls)}
  lacking = [
    own.name
    for own in dataclasses.fields(cls)
    if own.name not in given
    and own.default is own.default_factory is dataclasses.MISSING
  ]
  if lacking:
    _, _, mark = missing.rpartition(" ")  # As of flags, before each of them.
    raise ValueError(f"{where} {missing}{f', {mark}'.join(lacking)}.")
  values = {}
  for name, kind in kinds(cls).items():
    if name not in given:
      continue
    value = given[name]
    if kind.is_group and isinstance(value, Mapping):
      own = kinds(kind.type)
      for key in value:
        if key not in own:
          known = [f"{name}.{k}" for k in own]
          raise unknown(f"{name}.{key}", known, where)
      default = defaults[name]
      if isinstance(default, Settings):
        value = as_dict(default) | dict(value)
      try:
        value = _made(kind.type, value, where, missing)
      except SettingError as error:
        raise SettingError(f"{name}.{error.name}", error.said) from None
    values[name] = value
  return cls(**values)


def changed(given: Own, changes: Mapping[str, Any]) -> Own:
  """Settings with changes by dotted names; groups may be given in part.

  Raises:
    ValueError: as `read`.
  """
  (found,) = read(merged(as_dict(given), changes), type(given))
  return found


def as_dict(given: Settings) -> dict[str, Any]:
  """Fields by name, those of groups as dictionaries."""
  values = {name: getattr(given, name) for name in kinds(type(given))}
  return {
    name: as_dict(value) if isinstance(value, Settings) else value
    for name, value in values.items()
  }


def unknown(
  name: str, known: Sequence[str], where: str, what: str = "setting"
) -> ValueError:
  """The error of a name that is not known; it offers one that is close."""
  close = difflib.get_close_matches(name, known, n=1)
  hint = f" Did you mean {close[0]}?" if close else ""
  some = ", ".join(known) or "nothing there"
  return ValueError(f"{where} has no {what} {name!r}.{hint} It has: {some}.")


def like(given: Any) -> type[Settings]:
  """The class of a mapping that has none: types as its values have them.

  None stands for anything, and so does what is in a list.
  """
  fields = []
  for name, value in plain(given).items():
    hint: Any = type(value)
    if isinstance(value, Mapping) and value:
      hint = like(value)
      value = hint(**value)
    elif isinstance(value, list | tuple):
      hint = tuple[Any, ...]
      value = tuple(value)
    elif isinstance(value, Mapping) or hint not in (bool, int, float, str):
      hint = Any
    fields.append((str(name), hint, field(value)))
  return dataclasses.make_dataclass(
    "Given", fields, bases=(Settings,), frozen=True
  )


def is_url(path: str) -> bool:
  """Whether it names an object store, with one slash or two."""
  return _URL.match(path) is not None


def place(path: str) -> str:
  """A directory, file or URL; `~` is the home directory.

  Raises:
    ValueError: nothing, or a URL with one slash, a path from here otherwise.
  """
  if not path:
    raise ValueError("is empty; give a place.")
  found = _URL.match(path)
  if found and not found[2]:
    right = f"{found[1]}://{path[found.end() :]}"
    if found[1] == "file":
      right = path[len("file:") :]
    raise ValueError(
      f"a URL has two slashes: give {right}, or ./{path} for a directory of "
      "that name."
    )
  return os.path.expanduser(path)


def help_of(given: Settings) -> str:
  """The lines of `NAME=VALUE`, each with what it is."""
  values = flat(given).items()
  heads = {name: f"    {name}={value!r}" for name, value in values}
  return _table(leaves(type(given)), heads)


def flags_of(cls: type[Settings]) -> str:
  """The lines of `--NAME`, for a class whose fields are flags."""
  return _table(kinds(cls), {name: f"  --{name}" for name in kinds(cls)})


def _table(known: Mapping[str, Kind], heads: Mapping[str, str]) -> str:
  lines: list[str] = []
  for name, head in heads.items():
    said, choices = known[name].help, known[name].choices or ()
    if not all(word in said + head for word in choices):
      said = f"{said}: {', '.join(choices)}" if said else ", ".join(choices)
    text = textwrap.wrap(said, 79 - _COLUMN) or [""]
    if len(head) < _COLUMN - 1:
      head = f"{head:{_COLUMN}}{text.pop(0)}"
    lines += [head.rstrip(), *(" " * _COLUMN + line for line in text if line)]
  return "\n".join(lines)
