"""The subject `callable`: the user's own value function."""

import functools
import importlib
import pathlib
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import ml_collections

from spex_jax.ablate import evaluate
from spex_jax.jobs import subjects
from spex_jax.report import plots


def subject(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> subjects.Subject:
  """Imports the function and names its players.

  Raises:
    ValueError: `function` is no importable `module:function`, `n` is below 1,
      or `names` are not n names.
  """
  del workdir
  function = _load(config.function)
  n = config.n
  if n < 1:
    raise ValueError(
      f"n={n}: give the number of players, as --config.n=20 does."
    )
  names = tuple(name.strip() for name in config.names.split(",") if name)
  names = names or tuple(f"x{i}" for i in range(n))
  if len(names) != n:
    raise ValueError(f"names={config.names!r} are {len(names)} for n={n}.")
  make = evaluate.compiled if config.compiled else evaluate.host
  context = "; compiled=True needs JAX to trace it" if config.compiled else ""
  checked = _name_errors(function, config.function, context)
  evaluator = make(checked, n, batch_size=config.batch_size)

  def draw(interactions: subjects.Interactions, path: pathlib.Path) -> None:
    plots.save(plots.bars(interactions, title=config.function), path)

  return subjects.Subject(
    question=f"Which of the {n} players of {config.function} matter together?",
    facts={"value": f"{config.function}, in units of {config.units}"},
    evaluator=evaluator,
    names=names,
    units=config.units,
    draw=draw,
  )


def _load(path: str):
  module, colon, name = path.partition(":")
  if not (module and colon and name):
    raise ValueError(
      f"function={path!r}: give module:function, as "
      "--config.function=my_module:value does."
    )
  here = str(pathlib.Path.cwd())
  if here not in sys.path:  # A console script does not search it.
    sys.path.insert(0, here)
  try:
    found = importlib.import_module(module)
  except Exception as error:  # Whatever the module does when imported.
    raise ValueError(
      f"function={path!r}: importing {module!r} failed with "
      f"{type(error).__name__}: {error}."
    ) from error
  function = getattr(found, name, None)
  if not callable(function):
    raise ValueError(f"function={path!r}: {module!r} has no function {name!r}.")
  return function


def _name_errors(
  function: Callable[..., Any], path: str, context: str
) -> Callable[..., Any]:
  """Errors of the user's code say that they are, and where."""

  @functools.wraps(function)
  def call(masks):
    try:
      return function(masks)
    except Exception as error:
      text = textwrap.shorten(str(error), 200, placeholder=" ...")
      raise RuntimeError(
        f"{path} raised {type(error).__name__}: {text}{context}"
      ) from error

  return call
