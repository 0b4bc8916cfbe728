"""The `spex` command: reads a configuration, and runs a job on it.

Bad input ends in one line on stderr and exit code 1; a signal that ended a
sweep where it can go on, in exit code 75, as `sysexits.h` has it.
"""

import contextlib
import importlib.util
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import spex_jax
from spex_jax import settings, usage

if TYPE_CHECKING:
  import ml_collections

_CONFIGS = pathlib.Path(__file__).parent / "configs"
_RUNS = pathlib.Path("runs")
GO_ON = os.EX_TEMPFAIL  # The same command goes on, later.
_SHORT = ("model", "prompt", "target", "image")  # For --config.model, ...


def run() -> None:
  """Console entry."""
  arguments = sys.argv[1:]
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
    arguments: of the command line, without the program's name.
  """
  debug = "--debug" in arguments
  arguments = [argument for argument in arguments if argument != "--debug"]
  try:
    with contextlib.nullcontext() if debug else _quiet():
      _command(arguments)
    sys.stdout.flush()
  except KeyboardInterrupt:
    print("spex: interrupted", file=sys.stderr)
    return 130
  except InterruptedError as error:  # Asked to end; and it can go on.
    print(f"spex: {_one_line(error)}", file=sys.stderr)
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
    print(f"spex: error: {_one_line(error)}", file=sys.stderr)
    return 1
  return 0


def _command(arguments: Sequence[str]) -> None:
  if not arguments or arguments[0] in ("-h", "--help", "-help", "help"):
    print(usage.SPEX, end="")
    return
  command, *rest = arguments
  if command in ("--version", "-version", "version"):
    print(f"spex {spex_jax.__version__}")
    return
  if command not in _COMMANDS:
    raise ValueError(
      f"unknown command {command!r}; known are {', '.join(_COMMANDS)}."
    )
  _COMMANDS[command](rest)


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


def load_config(
  name: str, command: str = "explain"
) -> "ml_collections.ConfigDict":
  """The configuration `NAME_OR_FILE[:SIZE]` of a command.

  Raises:
    ValueError: no such name or file, a file that does not run, or one without
      a `get_config` that returns a ConfigDict.
  """
  import ml_collections  # An interrupt while it loads is one line, too.

  path, colon, size = name.partition(":")
  file = pathlib.Path(path)
  if path in config_names(command):
    file = _CONFIGS / f"{path}.py"
  elif not file.is_file():
    raise ValueError(
      f"no configuration {path!r}: neither a file nor one of "
      f"{', '.join(config_names(command))}."
    )
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise ValueError(f"{file} is no Python file; its name must end in .py.")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(*([size] if colon else []))
  except (Exception, SystemExit) as error:  # Whatever the file does.
    raise ValueError(f"configuration {name!r}: {_one_line(error)}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      f"configuration {name!r}: get_config must return a ConfigDict; it "
      f"returns {type(config).__name__}."
    )
  return config


def config_names(command: str = "explain") -> list[str]:
  """The named configurations of a command.

  Those named `data_*` are of `attribute data`, those named `components_*` of
  `attribute components`, the others of `explain`.
  """
  names = sorted(p.stem for p in _CONFIGS.glob("*.py") if p.stem != "__init__")
  owner = {"data": "attribute", "components": "components"}
  return [
    name
    for name in names
    if owner.get(name.partition("_")[0], "explain") == command
  ]


def _parse(
  arguments: Sequence[str], default: str, command: str = "explain"
) -> "tuple[ml_collections.ConfigDict, pathlib.Path]":
  """The configuration with its overrides, and the workdir."""
  from absl import flags
  from ml_collections.config_flags import config_flags

  name, rest = _take_config(arguments, default)
  config = load_config(name, command)
  for argument in rest:
    if argument.startswith("--config."):
      settings.check_key(
        argument.removeprefix("--config.").split("=")[0],
        config,
        f"configuration {name!r}",
      )
  values = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "Where files go.", flag_values=values)
  argv = ["spex", *rest]
  config_flags.DEFINE_config_dict(
    "config", config, lock_config=True, flag_values=values, sys_argv=argv
  )  # Overrides go into `config` itself.
  extra = values(argv)[1:]
  if extra:
    raise ValueError(f"unexpected argument {extra[0]!r}; see --help.")
  stem = pathlib.Path(name.partition(":")[0]).stem
  size = name.partition(":")[2]
  workdir = values["workdir"].value
  if workdir == "":
    raise ValueError("--workdir is empty; give a directory.")
  default_dir = _RUNS / (f"{stem}-{size}" if size else stem)
  return config, pathlib.Path(workdir or default_dir)


def _take_config(
  arguments: Sequence[str], default: str
) -> tuple[str, list[str]]:
  """The value of `--config`, and all other arguments in `--key=value` form."""
  name, rest = default, []
  waiting = iter(arguments)
  for argument in waiting:
    if argument.startswith("-") and not argument.startswith("--"):
      argument = "-" + argument  # absl takes a single dash, too.
    if argument == "--config":
      argument = f"--config={next(waiting, '')}"
    if argument.startswith("--config="):
      name = argument.removeprefix("--config=")
      if not name:
        raise ValueError("--config needs a name or a file.")
    else:
      rest.append(argument)
  return name, rest


def _explain(arguments: list[str]) -> None:
  if _asks_for_help(arguments):
    _print_help(usage.EXPLAIN, "explain")
    return
  config, workdir = _parse(arguments, default="digits")
  from spex_jax.jobs import explain  # Slow to import; help needs none of it.

  explain.run(config, workdir)


def _attribute(arguments: list[str]) -> None:
  what, *rest = arguments or [""]
  if what in _ATTRIBUTE:
    _ATTRIBUTE[what](rest)
  elif _asks_for_help(arguments):
    print(f"{usage.ATTRIBUTE}\n{usage.COMPONENTS}", end="")
  else:
    raise ValueError(
      f"`spex attribute` has two words, data and components; got {what!r}: say "
      "`spex attribute data` or `spex attribute components`."
    )


def _attribute_data(arguments: list[str]) -> None:
  if _asks_for_help(arguments):
    _print_help(usage.ATTRIBUTE, "attribute")
    return
  config, workdir = _parse(
    arguments, default="data_digits", command="attribute"
  )
  import jax

  # Trainings are small: one device for each core, not all cores for one.
  with contextlib.suppress(RuntimeError):  # Its backend is up already.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
  from spex_jax.jobs import attribute  # Slow to import.

  attribute.run(config, workdir)


def _attribute_components(arguments: list[str]) -> None:
  if _asks_for_help(arguments):
    _print_help(usage.COMPONENTS, "components")
    return
  default, rest = "components_digits", []
  waiting = iter(arguments)
  for argument in waiting:
    name, equals, value = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name in _SHORT:
      if name == "image" or default == "components_digits":
        default = f"components_{'image' if name == 'image' else 'lm'}"
      value = value if equals else next(waiting, "")
      argument = f"--config.{name}={value}"
    rest.append(argument)
  config, workdir = _parse(rest, default=default, command="components")
  from spex_jax.jobs import components  # Slow to import.

  components.run(config, workdir)


def _sweep(arguments: list[str]) -> None:
  if _asks_for_help(arguments):
    print(usage.SWEEP, end="")
    return
  from spex_jax.jobs import sweep  # Slow to import.

  sweep.command(arguments)


def _asks_for_help(arguments: Sequence[str]) -> bool:
  return bool({"-h", "--help", "-help"} & {*arguments})


def _print_help(usage: str, command: str) -> None:
  print(usage)
  print("configurations:")
  for name in config_names(command):
    print(f"\n  {name}")
    for key, value in _flat(load_config(name, command)):
      print(f"    {key}={value!r}")


def _flat(config: "ml_collections.ConfigDict", prefix: str = ""):
  import ml_collections

  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _one_line(error: BaseException) -> str:
  from absl import flags

  from spex_jax import base

  text = base.printable(" ".join(str(error).split()))
  own = (ValueError, TypeError, RuntimeError, flags.Error)
  # One of ours is a sentence; the system's has a number.
  sentences = (
    OSError, FileNotFoundError, ImportError, InterruptedError, TimeoutError,
    ConnectionError,
  )  # fmt: skip
  if isinstance(error, own) or (
    type(error) in sentences and not getattr(error, "errno", None)
  ):
    return text or type(error).__name__
  return f"{type(error).__name__}: {text}"


_ATTRIBUTE: dict[str, Callable[[list[str]], None]] = {
  "data": _attribute_data,
  "components": _attribute_components,
}
_COMMANDS: dict[str, Callable[[list[str]], None]] = {
  "explain": _explain,
  "attribute": _attribute,
  "sweep": _sweep,
}
