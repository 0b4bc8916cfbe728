"""How an experiment is run: the flags that all have."""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import app, flags

from spex_jax import usage
from third_party import process

# --help tells of what is defined here as if the experiment defined it.
flags.disclaim_key_flags()


def run(
  main: Callable[[Sequence[str]], Any],
  configs: Mapping[str, Any] | None = None,
  default: str = "full",
) -> None:
  """Calls `main` with --config and --output beside the flags of its own.

  Flags are defined where an experiment runs, so that a test may import several.

  Args:
    main: what absl calls.
    configs: by name; without them there is no --config.
    default: one of their names.
  """
  if configs is not None:
    flags.DEFINE_enum("config", default, sorted(configs), "Which sizes.")
  flags.DEFINE_string("output", None, "File for the rows, too.")
  start(main)


def start(main: Callable[[Sequence[str]], Any]) -> None:
  """Calls `main`; what a user gave wrongly is said in a line, with code 1.

  Args:
    main: what absl calls. Of its errors those of values, files, packages and
      peers that are not there are a line; with `--debug`, and all others, a
      traceback.
  """
  flags.DEFINE_bool("debug", False, "Where an error was raised, too.")

  def said(argv):
    try:
      return main(argv)
    except (ValueError, OSError, ImportError, process.PeerError) as error:
      if flags.FLAGS.debug:
        raise
      name = pathlib.Path(sys.argv[0]).stem
      text = f"{name}: error: {usage.one_line(error)} (--debug says where)"
      print(text, file=sys.stderr)
      return 1

  app.run(said)


def some_of(
  name: str, default: Iterable[str] | None, known: Iterable[str], text: str
) -> None:
  """Defines a flag that lists some of what is known, and refuses all else.

  Args:
    name: of the flag.
    default: what it lists where it is not given.
    known: what it may list.
    text: for --help, which names them all behind.
  """
  among = list(known)
  choices = f"choose from {', '.join(among)}."
  listed = None if default is None else list(default)
  flags.DEFINE_list(name, listed, f"{text}: {choices}")
  flags.register_validator(
    name, lambda given: set(given or ()) <= set(among), choices
  )
