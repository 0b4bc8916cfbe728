"""A module of Flax's of your own: to be trained, or with parameters of a file.

Of linen or NNX: `.msgpack` as `flax.serialization` writes it, or a directory of
Orbax's. The module takes `[rows, columns]`, float32, and gives one number for
each row, or one for each class.
"""

import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.ablate import evaluate, features
from spex_jax.datasets import casts, tabular
from spex_jax.jobs import callables, fitted, subjects

SUFFIX = ".msgpack"


def asked(config: Any, workdir: pathlib.Path) -> fitted.Asked:
  """The module of `model.kind` with the parameters of `model.file`, compiled.

  Args:
    config: the settings of the subject `table`.
    workdir: not used, as nothing is fitted.

  Raises:
    ValueError: no such row, a file that holds no parameters, a module that
      does not take them, or columns that float32 does not tell apart.
  """
  del workdir
  path = pathlib.Path(config.model.file)
  make = callables.load(config.model.kind, "model.kind")
  variables = _variables(path)
  try:
    apply, variables = _applied(make(**config.model.arguments), variables)
  except Exception as error:  # Whatever the module does.
    raise ValueError(
      f"model.kind={config.model.kind!r} with model.arguments="
      f"{dict(config.model.arguments)} does not take {path}: "
      f"{type(error).__name__}: {error}"
    ) from error
  table = fitted.frame(config)
  target = config.target_column
  columns = list(table.columns)
  if target and target not in columns:
    raise ValueError(f"{config.table} has no column {target!r}.")
  if pathlib.Path(config.table).suffix == ".csv":
    columns.remove(target or columns[-1])
  table = fitted.taken(table, columns, config)
  fitted.check_row(config, table)
  names = tuple(map(str, columns))
  # A network that was fitted to raw columns: they cannot be centred for it.
  # Each column by itself: beside floats, integers would be cast before.
  wide = np.stack(
    [
      casts.real(np.asarray(column), f"Column {name!r}", (name,))
      for name, (_, column) in zip(names, table.items())
    ],
    axis=1,
  )
  data = tabular.from_arrays(wide, np.zeros(len(wide)), columns=names)
  rows = casts.narrow(data.features, names)
  x = rows[config.row]
  baseline, absent = subjects.baseline_of(config, x, rows)
  absent = absent.replace("training", "table's")
  try:
    first = np.asarray(apply(variables, x[None]))
  except Exception as error:  # Whatever the module does.
    raise ValueError(
      f"model.kind={config.model.kind!r} does not take {len(names)} columns "
      f"with the parameters of {path}: {type(error).__name__}: {error}"
    ) from error
  if first.ndim > 2 or first.shape[0] != 1 or 0 in first.shape:
    raise ValueError(
      f"model.kind={config.model.kind!r} gives {first.shape} for one row; it "
      "must give one number for each row, or one for each class."
    )
  several = first.ndim == 2 and first.shape[1] > 1
  order = first.reshape(-1).argsort()[::-1]
  what = f"output {order[0]} less output {order[1]}" if several else "response"

  def read(rows: jax.Array, variables: Any) -> jax.Array:
    outputs = apply(variables, rows).reshape(len(rows), -1)
    values = outputs[:, order[0]]
    return values - outputs[:, order[1]] if several else values

  game = features.game(
    read,
    features.columns(names),
    x,
    np.asarray(baseline, np.float32),
    variables,
    absent=absent,
    units="output" if several else "response",
  )
  text = ", ".join(f"{name}={value:.12g}" for name, value in zip(names, x))
  return fitted.Asked(
    evaluate.compiled(game, batch_size=config.batch_size),
    names,
    what,
    game.units,
    f"{config.model.kind} of Flax, with the parameters of {path}",
    absent,
    f": {text}",
    game,
  )


def is_module(kind: str) -> bool:
  """Whether "module:Class" is a class of linen's or NNX's."""
  from flax import linen, nnx

  if ":" not in kind:
    return False
  try:
    found = callables.load(kind, "model.kind")
  except ValueError:  # Refused where it is made.
    return False
  return isinstance(found, type) and issubclass(
    found, linen.Module | nnx.Module
  )


def trainable(
  kind: str, arguments: Mapping[str, Any], columns: int, outputs: int
) -> tuple[Callable[[base.Key], Any], Callable[[Any, jax.Array], jax.Array]]:
  """How parameters of a module begin, and what it gives with them.

  What an NNX module holds besides parameters stays as it begins.

  Args:
    kind: "module:Class", of which `is_module` holds; one of NNX's may take
      `rngs`.
    arguments: keyword arguments of the class.
    columns: F, how many numbers a row has.
    outputs: C, how many numbers the module gives a row.

  Returns:
    `init`: a key to parameters; `forward`: them and rows `[R, F]` to `[R, C]`.

  Raises:
    ValueError: arguments, rows or outputs that it does not take or give.
  """
  from flax import linen, nnx

  cls: Any = callables.load(kind, "model.kind")
  blank = np.zeros((1, columns), np.float32)
  try:
    # Linen holds no parameters; of NNX they are split from the rest.
    if issubclass(cls, linen.Module):
      module = cls(**arguments)
      init = lambda key: module.init(key, blank)["params"]
      apply = lambda params, rows: module.apply({"params": params}, rows)
    else:
      # Of the class itself, a metaclass hides them.
      takes = "rngs" in inspect.signature(cls.__init__).parameters
      make = lambda key: nnx.split(
        cls(**arguments, **({"rngs": nnx.Rngs(key)} if takes else {})),
        nnx.Param,
        ...,
      )
      graph, like, rest = make(jax.random.key(0))
      init = lambda key: nnx.to_pure_dict(make(key)[1])

      def apply(params: Any, rows: jax.Array) -> Any:
        state = jax.tree.map(lambda leaf: leaf, like)  # Its own, to be filled.
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, rest)(rows)

    def forward(params: Any, rows: jax.Array) -> jax.Array:
      given: Any = apply(params, rows)
      return given.reshape(len(rows), -1)

    # Tried on one row, by shapes alone.
    shape = jax.eval_shape(
      forward, jax.eval_shape(init, jax.random.key(0)), blank
    ).shape
  except Exception as error:  # Whatever the module does.
    raise ValueError(
      f"model.kind={kind!r} with model.arguments={dict(arguments)} does not "
      f"take {columns} columns: {type(error).__name__}: {error}. What its "
      "class needs is --config.model.arguments=\"{'NAME': VALUE}\"."
    ) from error
  if shape != (1, outputs):
    raise ValueError(
      f"model.kind={kind!r} gives {shape[1]} numbers for a row; this table "
      f"needs {outputs}: one for each class, or one for a response."
    )
  return init, forward


def _variables(path: pathlib.Path) -> Any:
  """A tree of arrays that Flax or Orbax saved."""
  try:
    if path.is_dir():
      import orbax.checkpoint as ocp

      return ocp.StandardCheckpointer().restore(path.resolve())
    import flax.serialization

    return flax.serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # Whatever a damaged file brings about.
    text = str(error).strip().splitlines() or [""]
    raise ValueError(
      f"model.file={str(path)!r} holds no parameters of Flax: "
      f"{type(error).__name__}: {text[0]}"
    ) from error


def _applied(module: Any, variables: Any) -> tuple[Callable, Any]:
  """How a module of linen or NNX is applied, and to which variables."""
  from flax import nnx

  if isinstance(module, nnx.Module):
    graph, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, variables)
    return (lambda state, rows: nnx.merge(graph, state)(rows)), state
  if "params" not in variables:
    variables = {"params": variables}
  return module.apply, variables
