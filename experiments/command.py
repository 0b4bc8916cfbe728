"""How an experiment is run: the flags that all have."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags


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
  for name in ("config", "output") if configs is not None else ("output",):
    # As if defined by the experiment: --help tells of these.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  app.run(main)
