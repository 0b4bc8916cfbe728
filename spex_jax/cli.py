"""The `spex` command: turns flags and files into settings, and runs a job.

Bad input ends in one line on stderr and exit code 1; a signal that ended a
sweep where it can go on, in exit code 75, as `sysexits.h` has it.
"""

import contextlib
import functools
import importlib
import logging
import operator
import os
import pathlib
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

import spex_jax
from spex_jax import configs, settings, usage
from spex_jax.jobs import compiled

_RUNS = pathlib.Path("runs")
_BEGAN = time.perf_counter()
_HELP = {"-h", "--help", "-help"}
GO_ON = os.EX_TEMPFAIL  # The same command goes on, later.


def run() -> None:
  """Console entry."""
  arguments = sys.argv[1:]
  compiled.keep()
  with contextlib.nullcontext() if "--debug" in arguments else _quiet():
    code = main(arguments)
    if code:
      # Threads that a failure left behind would speak up on the way out.
      with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
      os._exit(code)
  sys.exit(0)


def main(arguments: Sequence[str]) -> int:
  """Runs one command; returns the exit code: 0, 1, or `GO_ON`.

  Args:
    arguments: the arguments of the command line, without the program's name.
  """
  debug = "--debug" in arguments
  arguments = [argument for argument in arguments if argument != "--debug"]
  try:
    with contextlib.nullcontext() if debug else _quiet():
      command(arguments)
    sys.stdout.flush()
  except KeyboardInterrupt:
    print("spex: interrupted", file=sys.stderr)
    return 130
  except InterruptedError as error:  # Asked to end; and it can go on.
    print(f"spex: {usage.one_line(error)}", file=sys.stderr)
    return GO_ON
  except (Exception, SystemExit) as error:  # One line, whatever went wrong.
    if _is_broken_pipe(error):
      # Nobody reads on, as in `spex ... | head`: no error of ours. What is
      # left in the buffer must not fail again when Python exits.
      with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 1
    if debug:
      raise
    print(f"spex: error: {usage.one_line(error)}", file=sys.stderr)
    return 1
  return 0


def command(arguments: Sequence[str]) -> None:
  """Runs one command.

  Raises:
    ValueError: what is unknown, missing, or not what it may be, in a line.
    InterruptedError: it can go on, later.
  """
  if not arguments or arguments[0] in ("-h", "--help", "-help", "help"):
    print(usage.SPEX, end="")
    return
  first, *rest = arguments
  if first in ("--version", "-version", "version"):
    print(f"spex {spex_jax.__version__}")
    return
  if first not in _COMMANDS:
    raise ValueError(
      f"unknown command {first!r}; known are {', '.join(_COMMANDS)}."
    )
  _COMMANDS[first](rest)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences the log and the threads of Orbax: errors come as one line."""
  loggers = [logging.getLogger(name) for name in ("absl", "orbax", "asyncio")]
  levels = [logger.level for logger in loggers]
  hooks = threading.excepthook, sys.excepthook, sys.unraisablehook
  for logger in loggers:
    logger.setLevel(logging.CRITICAL + 1)
  threading.excepthook = lambda _: None
  # Native threads report through these two.
  sys.excepthook = lambda *_: None
  sys.unraisablehook = lambda _: None
  try:
    yield
  finally:
    threading.excepthook, sys.excepthook, sys.unraisablehook = hooks
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)


def _is_broken_pipe(error: BaseException) -> bool:
  # rich exits when it meets one.
  return isinstance(error, BrokenPipeError) or (
    isinstance(error, SystemExit)
    and isinstance(error.__context__, BrokenPipeError)
  )


class _Parser(flags.ArgumentParser):
  """Reads one setting."""

  def __init__(self, kind: settings.Kind):
    """Of a kind."""
    self._kind = kind

  def parse(self, argument: Any) -> Any:
    """Text, as the setting has it; absl names the flag."""
    if isinstance(argument, str):
      return self._kind.parsed(argument)
    return argument


def _read(
  words: Sequence[str],
  known: Mapping[str, settings.Kind],
  prefix: str = "",
) -> tuple[dict[str, Any], list[str]]:
  """Values of the flags `--PREFIXname` that are given, and all other words."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  for name, kind in known.items():
    if kind.is_group:
      kind = settings.Kind(Mapping)
    values[prefix + name] = flags.Flag(
      _Parser(kind), None, prefix + name, None, kind.help,
      boolean=kind.type is bool,
    )  # fmt: skip
  try:
    _, *rest = values(["spex", *words], known_only=True)
  except flags.Error as error:
    raise ValueError(str(error)) from error
  given = {
    name: values[prefix + name].value
    for name in known
    if values[prefix + name].present
  }
  return given, rest


def _flags(
  words: Sequence[str], own: type[settings.Settings], who: str
) -> tuple[Any, list[str]]:
  """The flags of a word, and the words that remain.

  Raises:
    ValueError: one that is unknown (with one that is close), without its
      value, or needed and not given.
  """
  known = settings.kinds(own)
  for word, after in zip(words, [*words[1:], "--"]):
    kind = known.get(word.lstrip("-"))
    needs = word.startswith("-") and kind and kind.type is not bool
    if needs and after.startswith("--"):
      raise ValueError(f"{word} needs a value: {word}=VALUE.")
  given, rest = _read(words, known)
  for word in rest:
    name = word.lstrip("-").partition("=")[0]
    if word.startswith("-") and not name.removeprefix("no").startswith(
      "config."
    ):
      flags_of = [f"--{flag}" for flag in known]
      error = settings.unknown(f"--{name}", flags_of, who, "flag")
      hint = f" A setting is --config.{word.lstrip('-')}." * ("config" in known)
      raise ValueError(f"{error}{hint}")
  return settings.read(given, own, where=who, missing="needs --")[0], rest


def _overrides(
  words: Sequence[str],
  classes: Sequence[type[settings.Settings]],
  where: str,
) -> dict[str, Any]:
  """Settings that `--config.KEY=VALUE` changes; nothing else may be left.

  Raises:
    ValueError: an unknown setting, with one that is close.
  """
  known: dict[str, settings.Kind] = {}
  for cls in classes:
    known |= settings.leaves(cls)
  given, rest = _read(words, known, "config.")
  for word in rest:
    if not word.startswith("-"):
      raise ValueError(f"unexpected argument {word!r}; see --help.")
    name = word.lstrip("-").partition("=")[0].partition("config.")[2]
    names = [name for name, kind in known.items() if not kind.is_group]
    raise settings.unknown(name, names, where)
  return given


class Word(NamedTuple):
  """What runs a configuration.

  Attributes:
    flags: the flags of the word: a class with `config`, and `workdir` where its
      job writes into one.
    help: its text.
    job: the module of `jobs`, slow to import.
    settings: in it the class of its settings, or what takes a configuration's
      mapping and where it is from to one.
    run: in it what takes settings, a workdir where there is that flag, and
      `before`: seconds since the command began.
    config: the configuration that is taken without --config, from the settings
      that flags change; in the flag's own default where this is None.
  """

  flags: type[settings.Settings]
  help: str
  job: str
  settings: str
  run: str = "run"
  config: Callable[[Mapping[str, Any]], str] | None = None

  def kind(
    self, given: Mapping[str, Any], where: str
  ) -> type[settings.Settings]:
    """The class of the settings of a configuration."""
    found = self._of_job(self.settings)
    return found if isinstance(found, type) else found(given, where)

  def start(self, config: Any, workdir: pathlib.Path) -> None:
    """Runs the job."""
    place = [workdir] if "workdir" in settings.kinds(self.flags) else []
    run_it = self._of_job(self.run)
    run_it(config, *place, before=time.perf_counter() - _BEGAN)

  def _of_job(self, name: str) -> Any:
    job = importlib.import_module(f"spex_jax.jobs.{self.job}")
    return operator.attrgetter(name)(job)


def load_config(
  name: str,
  command: str = "explain",
  changes: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
  """The settings `NAME_OR_FILE[:SIZE]` of a command.

  Args:
    name: the name of the configuration.
    command: "explain", "attribute" (data), "components", "circuit_WORD", ...
    changes: the changes of settings, by dotted names.

  Raises:
    ValueError: as `configs.load` and `settings.read`.
  """
  file = configs.load(name, configs.named(command))
  where = f"configuration {name!r}"
  kind = _WORDS[command].kind(file.config, where)
  given = settings.merged(file.config, changes)
  return settings.read(given, kind, where=where)[0]


def _run(word: str, arguments: Sequence[str]) -> None:
  """Runs `explain`, `attribute data`, `attribute components`, `circuit ...`."""
  own = _WORDS[word]
  if _asks_for_help(arguments):
    _print_help(word, arguments)
    return
  given, rest = _flags(arguments, own.flags, "the command")
  name, changes = _named(own, given)
  file = configs.load(name, configs.named(word))
  where = f"configuration {name!r}"
  kind = own.kind(file.config, where)
  changes |= _overrides(rest, [kind], where)
  merged = settings.merged(file.config, changes)
  (config,) = settings.read(merged, kind, where=where)
  stem, _, size = name.partition(":")
  default = "-".join(filter(None, (pathlib.Path(stem).stem, size)))
  workdir = pathlib.Path(getattr(given, "workdir", None) or _RUNS / default)
  from spex_jax.jobs import record  # Slow to import, like what follows.

  words = ["spex", *_SPOKEN.get(word, word.split("_")), *arguments]
  with record.kept(record.place(config, workdir), words, config):
    own.start(config, workdir)


def _named(own: Word, given: Any) -> tuple[str, dict[str, Any]]:
  """The configuration, and the settings, that flags of a word speak of."""
  changes = {
    name: value
    for name, value in settings.as_dict(given).items()
    if name not in ("config", "workdir") and value is not None
  }
  name = given.config
  if name is None and own.config is not None:
    name = own.config(changes)
  if not name:
    raise ValueError("--config needs a name or a file.")
  return name, changes


def _of_components(changes: Mapping[str, Any]) -> str:
  if "image" in changes:
    return "components_image"
  return "components_lm" if changes else "components_digits"


def _attribute(arguments: Sequence[str]) -> None:
  what, *rest = arguments or [""]
  if what in ("data", "components"):
    _run({"data": "attribute"}.get(what, what), rest)
  else:
    said = "`spex attribute` has two words, data and components; got "
    said += f"{what!r}: say `spex attribute data`."
    _only_help(arguments, f"{usage.DATA}\n{usage.COMPONENTS}", said)


def _worded(first: str, arguments: Sequence[str]) -> None:
  """`spex circuit WORD`, `spex find WORD`, `spex checkup WORD`."""
  word, *rest = arguments or [""]
  known, text = _BY_WORDS[first]
  if word in known:
    if (first, word) == ("circuit", "judge"):
      rest = usage.listed(rest, "--circuit")
    _run(f"{first}_{word}", rest)
  elif f"{first} {word}" in usage.PLAIN:
    _plain(f"{first} {word}", rest)
  else:
    plain = [own.split()[1:] for own in usage.PLAIN if own.startswith(first)]
    words = ", ".join([*known, *(w for own in plain for w in own)])
    said = f"`spex {first}` has the words {words}; got {word!r}."
    _only_help(arguments, text, said)


def _only_help(arguments: Sequence[str], text: str, complaint: str) -> None:
  """Help, where it is asked for; else an error."""
  if not _asks_for_help(arguments):
    raise ValueError(complaint)
  print(text, end="")


def _preset(key: str, changes: Mapping[str, Any]) -> str:
  """Of a word of `_BY_WORDS`."""
  return "circuit_find_lm" if key == "circuit_find" and changes else key


def _context(arguments: Sequence[str]) -> None:
  word = arguments[0] if arguments[:1] and arguments[0] in _ASKED else ""
  own = importlib.import_module("spex_jax.jobs.context_names")
  rest = own.of_inseq(arguments[bool(word) :], word)
  _run(f"context_{word}" if word else "context", rest)


def _sweep(arguments: Sequence[str]) -> None:
  from spex_jax.jobs import record, sweep, sweeping  # Slow to import.

  if _asks_for_help(arguments):
    print(sweep.usage(), end="")
    return
  action, *rest = arguments or [""]
  if action not in sweep.ACTIONS:
    raise ValueError(
      f"`spex sweep` has the words {', '.join(sweep.ACTIONS)}; got {action!r}."
    )
  own, act = sweep.ACTIONS[action]
  given, rest = _flags(rest, own, f"spex sweep {action}")
  if own is not sweep.Run:
    _overrides(rest, [], "the command")
    act(given)
    return
  file = configs.load(given.config, {})
  where = "the command: the sweep's configuration"
  changes = _overrides(rest, sweeping.classes(file.config), where)
  config = settings.merged(file.config, changes)
  frozen = sweeping.freeze(config, file.items())
  with record.of_sweep(given, arguments):
    act(given, frozen)


def _plain(word: str, arguments: Sequence[str]) -> None:
  """Runs what has flags and words, and no configuration."""
  own, text, job = usage.PLAIN[word]
  if _asks_for_help(arguments):
    print(text, end="")
    return
  given, words = _flags(arguments, own, f"spex {word}")
  file, _, function = job.partition(".")
  run = getattr(importlib.import_module(f"spex_jax.jobs.{file}"), function)
  run(words, **settings.as_dict(given))


def _asks_for_help(arguments: Sequence[str]) -> bool:
  return bool(_HELP & {*arguments})


def _print_help(word: str, arguments: Sequence[str]) -> None:
  """Of all configurations, or of the one that is named."""
  words = [argument for argument in arguments if argument not in _HELP]
  name = _read(words, settings.kinds(_WORDS[word].flags))[0].get("config")
  names = [name] if name else configs.named(word)
  texts = [f"\n  {x}\n{settings.help_of(load_config(x, word))}" for x in names]
  head = "configurations (--config=NAME --help prints one):"
  print(*([] if name else [_WORDS[word].help, head]), *texts, sep="\n")


_WORDS: dict[str, Word] = {
  "explain": Word(usage.Explain, usage.EXPLAIN, "explain", "kind_of"),
  "attribute": Word(
    usage.Data, usage.DATA, "attribute", "retraining.Data", "command"
  ),
  "components": Word(
    usage.Components, usage.COMPONENTS, "attribute_components",
    "explain.kind_of", config=_of_components,
  ),
  "maia": Word(usage.Maia, usage.MAIA, "maia", "Maia"),
}  # fmt: skip
# Commands whose words have configurations: flags and help of each, and of all.
_BY_WORDS = {
  "circuit": (usage.CIRCUITS, usage.CIRCUIT),
  "context": (usage.CONTEXTS, ""),
  "find": (usage.FINDS, usage.FIND),
  "checkup": (usage.CHECKUPS, usage.CHECKUP),
}
_ASKED = tuple(word for word in usage.CONTEXTS if word)
# Job, settings and function of their words.
_JOBS: dict[str, tuple[str, ...]] = {
  "circuit_score": ("circuits_files", "Score", "score"),
  "circuit_judge": ("circuits_files", "Judge", "judge"),
  "circuit_find": ("circuits_find", "kind_of"),
  "circuit_patch": ("circuits_patch", "Patch"),
  "circuit_paths": ("circuits_paths", "Paths"),
  "circuit_dcm": ("circuits_dcm", "Dcm"),
  "circuit_cmap": ("circuits_cmap", "Cmap"),
  "circuit_tasks": ("circuits_tasks", "Tasks"),
  "context": ("context", "Context"),
  "context_attribute": ("context_attribute", "Attribute"),
  "context_cite": ("context_cite", "Cite"),
  "find_run": ("find", "Find", "scored"),
  "checkup_draw": ("checkup", "Draw"),
  "checkup_recognise": ("checkup", "Recognise"),
  "checkup_improve": ("checkup", "Improve"),
  "checkup_explain": ("checkup", "Explain"),
  "checkup_learn": ("checkup_learn", "Learn"),
}
for _first, (_words, _) in _BY_WORDS.items():
  for _word, _flags_and_help in _words.items():
    _key = "_".join(filter(None, (_first, _word)))
    _WORDS[_key] = Word(
      *_flags_and_help, *_JOBS[_key], config=functools.partial(_preset, _key)
    )
# How a word is written that is not written as it is named.
_SPOKEN = {
  "attribute": ("attribute", "data"),
  "components": ("attribute", "components"),
}
_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
  "explain": lambda arguments: _run("explain", arguments),
  "attribute": _attribute,
  "circuit": functools.partial(_worded, "circuit"),
  "context": _context,
  "find": functools.partial(_worded, "find"),
  "checkup": functools.partial(_worded, "checkup"),
  "maia": lambda arguments: _run("maia", arguments),
  "sweep": _sweep,
  "serve": functools.partial(_plain, "serve"),
  "report": functools.partial(_plain, "report"),
  "cache": functools.partial(_plain, "cache"),
}
