"""Settings: every field of every class refuses what it is not, in one line."""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import pytest

from spex_jax import configs, jobs, settings, sweeps


def _classes():
  """All classes of settings that have only fields with defaults or none."""
  found = {}
  for room in (jobs, sweeps):
    for part in pkgutil.iter_modules(room.__path__):
      module = importlib.import_module(f"{room.__name__}.{part.name}")
      for name, cls in inspect.getmembers(module, inspect.isclass):
        if issubclass(cls, settings.Settings) and cls.__module__ == (
          module.__name__
        ):
          found[f"{part.name}.{name}"] = cls
  return found


_CLASSES = _classes()
_NEEDED = {
  "build": "module:function", "rows": 8, "rows_per_shard": 4, "nan": "drop",
  "retries": 1, "max_failed": 0.5, "workdir": "run", "config": "mine.py",
  "subject": "digits",
}  # fmt: skip


def _given(cls):
  """What a class needs, and no more."""
  needed = [
    own.name
    for own in dataclasses.fields(cls)
    if own.default is own.default_factory is dataclasses.MISSING
  ]
  return {name: _NEEDED[name] for name in needed}


def _wrong(kind):
  """Values that a kind refuses, with what it says."""
  if kind.is_group:
    yield 3, "must be a group of settings"
    return
  yield (
    {bool: "perhaps", int: 1.5, float: "much", str: 3}.get(kind.type, 3),
    "must be",
  )
  part = kind.part or kind
  as_given = (lambda value: [value]) if kind.part else (lambda value: value)
  if part.choices:
    yield as_given("no_such_choice"), "choose from"
  if part.type is float:
    yield as_given(float("nan")), "must be finite"
  if part.low is not None:
    yield as_given(part.low - 1), f"must be at least {part.low:g}"
  if part.high is not None:
    yield as_given(part.high + 1), f"must be at most {part.high:g}"
  if part.above is not None:
    yield as_given(part.above), f"must be above {part.above:g}"
  if part.below is not None:
    yield as_given(part.below), f"must be below {part.below:g}"


@pytest.mark.parametrize("name", _CLASSES)
def test_every_field_refuses_what_it_is_not(name):
  cls = _CLASSES[name]
  given = _given(cls)
  settings.read(given, cls)  # All defaults are what they may be.
  for field, kind in settings.leaves(cls).items():
    if kind.type in (Any, Mapping):
      continue
    for value, said in _wrong(kind):
      with pytest.raises(ValueError) as error:
        settings.read(settings.merged(given, {field: value}), cls)
      line = str(error.value)
      assert line.startswith(f"{field}={value!r}: ") and said in line, line
      assert "\n" not in line


@pytest.mark.parametrize("name", _CLASSES)
def test_every_field_has_a_neighbour_that_is_unknown(name):
  cls = _CLASSES[name]
  for field in settings.leaves(cls):
    with pytest.raises(ValueError, match="has no setting") as error:
      settings.read(settings.merged(_given(cls), {f"{field}_": 1}), cls)
    assert f"Did you mean {field}?" in str(error.value)


@pytest.mark.parametrize("name", _CLASSES)
def test_every_field_says_what_it_is(name):
  cls = _CLASSES[name]
  assert inspect.getdoc(cls)
  for field, kind in settings.leaves(cls).items():
    assert kind.help or kind.choices or kind.is_group, field


@pytest.mark.parametrize("size", ["full", "quick"])
@pytest.mark.parametrize(
  "command",
  [
    "explain", "attribute", "components", "circuit_score", "circuit_judge",
    "circuit_find", "circuit_patch", "circuit_paths", "circuit_dcm",
    "circuit_cmap", "circuit_tasks", "context", "context_attribute",
    "context_cite", "checkup_draw", "checkup_recognise", "checkup_improve",
    "checkup_explain", "checkup_learn", "maia",
  ],
)  # fmt: skip
def test_files_give_their_class(command, size):
  from spex_jax import cli

  for name in configs.named(command):
    found = cli.load_config(f"{name}:{size}", command)
    again = configs.config(type(found), **settings.as_dict(found))
    assert settings.read(again, type(found)) == (found,)


@dataclasses.dataclass(frozen=True)
class _Part(settings.Settings):
  """A group."""

  width: int = settings.field(8, "of it", low=1)
  scale: float | None = settings.field(None, "of it", above=0)


@dataclasses.dataclass(frozen=True)
class _Whole(settings.Settings):
  """A group and what is beside it."""

  name: str
  flag: bool = settings.field(False, "or not")
  sides: tuple[int, ...] = settings.field((1, 2), "of it", low=1)
  words: tuple[str, ...] = settings.field((), choices=("red", "blue"))
  more: Mapping[str, Any] = settings.field({}, "anything")
  place: str = settings.field(".", "where", place=True)
  part: _Part = _Part(width=3)

  def check(self):
    """Two fields together."""
    if self.flag and not self.more:
      raise ValueError("flag needs more.")


def test_a_group_keeps_what_is_not_given():
  (found,) = settings.read({"name": "a", "part": {"scale": 2}}, _Whole)
  assert found.part == _Part(3, 2.0) and isinstance(found.part.scale, float)
  found = settings.changed(found, {"part.width": 5, "sides": [np.int64(4)]})
  assert found.part == _Part(5, 2.0) and found.sides == (4,)
  assert settings.flat(found)["part.width"] == 5
  with pytest.raises(ValueError, match=r"^part\.width=0: must be at least 1"):
    settings.changed(found, {"part.width": 0})
  with pytest.raises(ValueError, match="Did you mean part.width"):
    settings.changed(found, {"part.widht": 0})
  with pytest.raises(ValueError, match="flag needs more"):
    dataclasses.replace(found, flag=True)
  with pytest.raises(ValueError, match="here lacks name"):
    settings.read({}, _Whole, where="here")


@pytest.mark.parametrize(
  ("field", "text", "value"),
  [
    ("name", "3", "3"),
    ("name", "None", "None"),
    ("flag", "YES", True),
    ("flag", "0", False),
    ("sides", "3,4", (3, 4)),
    ("sides", "(3,)", (3,)),
    ("sides", "5", (5,)),
    ("words", "red, blue", ("red", "blue")),
    ("words", "", ()),
    ("more", "{'a': [1]}", {"a": [1]}),
    ("part.width", "12", 12),
    ("part.scale", "1e-3", 1e-3),
    ("part.scale", "2", 2.0),
    ("part.scale", "None", None),
  ],
)
def test_text_is_read_by_the_type_of_its_field(field, text, value):
  found = settings.leaves(_Whole)[field].parsed(text)
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  ("field", "text", "message"),
  [
    ("flag", "perhaps", "true or false"),
    ("sides", "red", "must be a list"),
    ("words", "green", "choose from red, blue"),
    ("words", "bleu", "Did you mean blue?"),
    ("part.width", "1.0", "must be an integer"),
    ("part.width", "None", "must be an integer"),
    ("part.scale", "nan", "must be a number"),
    ("more", "3", "must be a dictionary"),
    ("place", "s3:/bucket/run", "two slashes: give s3://bucket/run, or ./s3:"),
    ("place", "file:/tmp/run", "give /tmp/run, or"),
    ("place", "", "is empty"),
  ],
)
def test_text_that_is_not(field, text, message):
  with pytest.raises(ValueError) as error:
    settings.leaves(_Whole)[field].parsed(text)
  assert message in str(error.value)


def test_a_mapping_without_a_class_has_that_of_its_values():
  config = ml_collections.ConfigDict(
    {"n": 1, "x": 2.0, "part": {"on": True}, "many": (1, "a"), "free": None}
  )
  cls = settings.like(config)
  (found,) = settings.read(config, cls)
  assert settings.flat(found) == {
    "n": 1, "x": 2.0, "part.on": True, "many": (1, "a"), "free": None,
  }  # fmt: skip
  changed = settings.changed(found, {"x": 3, "free": [1], "part.on": False})
  assert changed.x == 3.0 and changed.free == [1] and not changed.part.on
  for name, value in (("n", 1.5), ("part.on", 1), ("many", 3)):
    with pytest.raises(ValueError, match=f"{name}={value}: must be"):
      settings.changed(found, {name: value})


def test_files_that_do_not_run(tmp_path):
  file = tmp_path / "mine.py"
  for text, message in (
    ("def get_config(:", "SyntaxError"),
    ("", "no attribute 'get_config'"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("def get_config(): return []", "must return a ConfigDict; it returns l"),
  ):
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
      configs.load(str(file), {})
  with pytest.raises(ValueError, match="no configuration 'gone.py'"):
    configs.load("gone.py", {})
  with pytest.raises(ValueError, match="neither a file nor one of digits"):
    configs.load("digit", {"digits": file})
  (tmp_path / "notes.txt").write_text("")
  with pytest.raises(ValueError, match="name must end in .py"):
    configs.load(str(tmp_path / "notes.txt"), {})
  file.write_text(
    "import ml_collections\n"
    "def get_config(size='full'):\n"
    "  return ml_collections.ConfigDict({'size': size})\n"
    "def sweep(size='full'):\n"
    "  yield {'size': size}\n"
  )
  found = configs.load(f"{file}:quick", {})
  assert found.config == {"size": "quick"} and found.items() == [found.config]
  named = configs.load("mine", {"mine": pathlib.Path(file)})
  assert named.config == {"size": "full"}


def test_help_is_written_from_the_fields():
  (found,) = settings.read({"name": "a" * 40}, _Whole)
  text = settings.help_of(found)
  assert "    part.width=3                of it\n" in text
  assert "red, blue" in text and max(map(len, text.splitlines())) <= 80
  assert "  --flag                        or not\n" in settings.flags_of(_Whole)
