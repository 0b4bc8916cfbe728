"""The subject `callable`: the user's own value function."""

import dataclasses
import functools
import importlib
import pathlib
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from spex_jax import settings
from spex_jax.ablate import evaluate
from spex_jax.jobs import subjects
from spex_jax.masks import packing
from spex_jax.report import plots
from spex_jax.sweeps import code

_COMPILED_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Function(subjects.Ask):
  """Your own value function."""

  subject: str = settings.field("callable", choices=("callable",))
  function: str = settings.field(
    "", "module:function; the current directory is searched"
  )
  n: int = settings.field(0, "number of players", low=0)
  names: str = settings.field(
    "", "n names, with commas between; x0, x1, ... where empty"
  )
  units: str = settings.field("value", "of the values")
  compiled: bool = settings.field(
    False, "whether it takes one mask, and JAX traces it"
  )
  target: int | None = settings.field(
    None, "which of T, if it returns [B, T] (compiled: [T])"
  )
  batch_size: int | None = settings.field(
    None,
    "masks in a batch; None for a few at first, then about a second's (1024 "
    "where compiled)",
    low=1,
  )


def subject(config: Function, workdir: pathlib.Path) -> subjects.Subject:
  """Imports the function and names its players.

  Raises:
    ValueError: `function` is no importable `module:function`, `n` is below 1,
      or `names` are not n names.
  """
  del workdir
  function = load(config.function)
  n = config.n
  if n < 1:
    raise ValueError(
      f"n={n}: give the number of players, as --config.n=20 does."
    )
  packing.check_fits(1024, n, f"n={n:,}")  # A batch of them.
  names = tuple(name.strip() for name in config.names.split(",") if name)
  names = names or tuple(f"x{i}" for i in range(n))
  if len(names) != n:
    raise ValueError(f"names={config.names!r} are {len(names)} for n={n}.")
  target = config.target
  checked = _checked(function, config.function, target, config.compiled)
  if config.compiled:
    batch_size = config.batch_size or _COMPILED_BATCH
    evaluator = evaluate.compiled(checked, n, batch_size=batch_size)
  else:
    evaluator = evaluate.host(checked, n, batch_size=config.batch_size)

  def draw(interactions: subjects.Interactions, path: pathlib.Path) -> None:
    plots.save(plots.bars(interactions, title=config.function), path)

  return subjects.Subject(
    question=f"Which of the {n} players of {config.function} matter together?",
    facts={
      "value": config.function
      + ("" if target is None else f", target {target}")
      + f", in units of {config.units}"
    },
    evaluator=evaluator,
    names=names,
    units=config.units,
    draw=draw,
  )


def load(path: str, setting: str = "function") -> Callable[..., Any]:
  """The function that a setting names as "module:function".

  Raises:
    ValueError: another form, a module that cannot be imported, or no function.
  """
  module, colon, name = path.partition(":")
  if not (module and colon and name):
    raise ValueError(
      f"{setting}={path!r}: give module:function, as "
      f"--config.{setting}=my_module:value does."
    )
  try:
    found = imported(module)
  except (Exception, SystemExit) as error:  # Whatever the module does.
    raise ValueError(
      f"{setting}={path!r}: importing {module!r} failed with "
      f"{type(error).__name__}: {error}."
    ) from error
  function = getattr(found, name, None)
  if not callable(function):
    raise ValueError(
      f"{setting}={path!r}: {module!r} has no function {name!r}."
    )
  return function


def imported(module: str) -> types.ModuleType:
  """A module of the user's, who may keep it in the current folder."""
  here = str(pathlib.Path.cwd())
  if here not in sys.path:  # A console script does not search it.
    sys.path.insert(0, here)
  return importlib.import_module(module)


def source(path: str, setting: str = "function") -> dict[str, str]:
  """SHA-256 of the code behind "module:function", by the name of its module.

  With what that imports from beside it (`sweeps.code`). Nothing of a module of
  this package, whose version says more, or of one that has no file.

  Raises:
    ValueError: as `load`.
  """
  module = path.partition(":")[0]
  if module.startswith("spex_jax."):
    return {}
  load(path, setting)  # Imports it, from where it will be.
  file = getattr(sys.modules[module], "__file__", None)
  if not file:
    return {}
  return {module: code.digest(module, pathlib.Path(file).resolve())}


def _checked(
  function: Callable[..., Any], path: str, target: int | None, compiled: bool
) -> Callable[..., Any]:
  """The function, one target of it; what goes wrong is said to be its doing."""
  context = "; compiled=True needs JAX to trace it" if compiled else ""

  @functools.wraps(function)
  def call(masks):
    try:
      values = function(masks)
    except (Exception, SystemExit) as error:
      text = textwrap.shorten(str(error), 200, placeholder=" ...")
      raise RuntimeError(
        f"{path} raised {type(error).__name__}: {text}{context}"
      ) from error
    if not compiled:
      return _chosen(_array(values, path), 1, target, path)
    if values is None:
      raise TypeError(f"{path} returns None; it must return a number.")
    return _chosen(jnp.asarray(values), 0, target, path)

  return call


def _array(values: Any, path: str) -> np.ndarray:
  """Real numbers, as an array; their shape is checked where they are used."""
  try:
    array = np.asarray(values)
  except ValueError as error:  # Rows of several lengths.
    raise ValueError(
      f"{path} returns no array of numbers, but rows of different lengths."
    ) from error
  if array.dtype.kind not in "fiub":
    what = "None" if values is None else f"values of type {array.dtype}"
    raise TypeError(f"{path} returns {what}; it must return real numbers.")
  return array


def _chosen(values: Any, rank: int, target: int | None, path: str) -> Any:
  """Values `[...]` of rank `rank`, or a target of `[..., T]`."""
  if values.ndim != rank + 1:
    if target is not None and values.ndim == rank:
      raise ValueError(
        f"target={target}: {path} has a single target; leave it out."
      )
    return values
  count = values.shape[-1]
  if not count:
    raise ValueError(f"{path} returns no value: an array {values.shape}.")
  if target is None and count > 1:
    raise ValueError(
      f"{path} returns {count} targets; choose one by --config.target=t, or "
      "use spex.explain."
    )
  if not 0 <= (target or 0) < count:
    raise ValueError(
      f"target={target}: {path} returns targets 0 to {count - 1}."
    )
  return values[..., target or 0]
