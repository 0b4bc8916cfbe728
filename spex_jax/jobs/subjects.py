"""What `spex explain` can be asked about: a value function and its players.

A subject is made from a configuration by the function that `config.subject`
names; a new kind of subject is a new entry of `explain.SUBJECTS`.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from spex_jax import base
from spex_jax.ablate import baselines, evaluate
from spex_jax.explanation import Explanation
from spex_jax.indices import interactions as interactions_lib
from spex_jax.jobs import settings
from spex_jax.models import sites
from spex_jax.report.tables import count
from spex_jax.training import checkpoint, loop

Interactions = interactions_lib.Interactions
# Draws first-order values and the strongest sets into a file.
Draw = Callable[[Interactions, pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class Subject:
  """One question, ready to be asked.

  Attributes:
    question: in words.
    facts: what else the reader should know, by name.
    evaluator: the value function.
    names: of the players.
    units: of the values.
    draw: makes the figure.
    picture: a renderable of first-order values, shown above their table.
    together: the members of a set and the labels of all players to how the
      set is written; in braces by default.
    findings: what else the answer says, as facts by name.
    game: the same value as JAX differentiates it, for
      `ablate.gradients.METHODS`; None where there is no gradient.
  """

  question: str
  facts: Mapping[str, str]
  evaluator: evaluate.Evaluator
  names: tuple[str, ...]
  units: str
  draw: Draw
  picture: Callable[[Interactions], Any] | None = None
  together: Callable[[tuple[int, ...], Sequence[str]], str] | None = None
  findings: Callable[[Explanation], Mapping[str, str]] | None = None
  game: base.Game | None = None


def key_of(config: ml_collections.ConfigDict, cause: str) -> base.Key:
  """The key of a named cause, from the configuration's seed."""
  root = jax.random.key(config.seed)
  return jax.random.fold_in(root, zlib.crc32(cause.encode()))


def baseline_of(
  config: ml_collections.ConfigDict, x: np.ndarray, background: np.ndarray
) -> tuple[jax.Array, str]:
  """The stand-in that a configuration names, and that in words."""
  settings.choice("baseline", config.baseline, baselines.NAMES)
  if config.baseline == "zero":
    return baselines.zero(x), "zero"
  if config.baseline == "mean":
    return baselines.mean(background), "the training mean"
  if config.baseline == "median":
    return baselines.median(background), "the training median"
  if config.baseline == "constant":
    value = config.baseline_value
    return baselines.constant(x, value), f"the constant {value:g}"
  key, draws = key_of(config, "baseline"), config.baseline_draws
  examples = count(draws, "training example")
  return (
    baselines.resample(key, background, draws),
    f"the values of {examples}, averaged over",
  )


def pick(name: str, row: int, num_rows: int) -> int:
  """`row` of `num_rows`, or an error that names the setting."""
  if not 0 <= row < num_rows:
    last = num_rows - 1
    raise ValueError(f"{name}={row}: the test set has rows 0 to {last}.")
  return row


def trained(
  net: sites.Network,
  features: np.ndarray,
  targets: np.ndarray,
  losses: Callable[[Any, Any], jax.Array],
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
) -> tuple[Any, str]:
  """Parameters of `net`: those that `workdir` holds, or freshly trained ones.

  Returns:
    The parameters, and where they come from in words.

  Raises:
    ValueError: `workdir` holds a model of another configuration or a damaged
      one, or training diverged.
  """
  path = workdir / "model"
  origin = {
    "subject": config.subject,
    "seed": config.seed,
    "test_fraction": config.test_fraction,
    **{
      f"model.{k}": v
      for k, v in _plain(config.model).items()
      if k != "arguments"  # Of other models than networks.
    },
    **{f"training.{k}": v for k, v in _plain(config.training).items()},
    **_table(config),
  }

  def restored() -> tuple[Any, str]:
    like = jax.eval_shape(net.init, jax.random.key(0))  # Shapes alone.
    return checkpoint.restore(path, like, origin), f"restored from {path}"

  if path.exists():
    return restored()
  recipe = loop.Recipe(**config.training)
  data = {"features": features, "targets": targets}
  weights = np.ones(len(features), np.float32)
  loop.check(data, weights)
  fit = jax.jit(
    lambda init_key, order_key: loop.train(
      init_key,
      order_key,
      data,
      weights,
      init=net.init,
      losses=losses,
      recipe=recipe,
    )
  )
  done = fit(key_of(config, "init"), key_of(config, "order"))
  if not np.isfinite(done.losses).all():
    step = int(np.argmin(np.isfinite(done.losses)))
    raise ValueError(
      f"Training diverged at step {step}; lower training.learning_rate."
    )
  try:
    checkpoint.save(path, done.params, origin)
  except FileExistsError:  # Another task was quicker: its model holds for all.
    return restored()
  steps = count(len(done.losses), "step")
  return done.params, f"trained in {steps} and saved to {path}"


def _table(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The table of a configuration, with the contents of a file."""
  if "table" not in config:
    return {}
  path = pathlib.Path(config.table)
  data = {"data": zlib.crc32(path.read_bytes())} if path.is_file() else {}
  return {"table": config.table} | data


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """A ConfigDict as JSON holds it: tuples become lists."""
  plain = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      value = _plain(value)
    plain[name] = list(value) if isinstance(value, tuple) else value
  return plain
