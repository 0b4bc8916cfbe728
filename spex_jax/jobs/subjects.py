"""What `spex explain` can be asked about: a value function and its players.

A subject is made from settings, a class derived from `Ask`, by a function
beside it; a new kind of subject is a new entry of `explain.SUBJECTS`.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import baselines, evaluate, gradients
from spex_jax.api import METHODS as MASKED
from spex_jax.explanation import Explanation
from spex_jax.fourier import sparse
from spex_jax.indices import interactions as interactions_lib
from spex_jax.indices import table as index_table
from spex_jax.portfolio import additive, aimed
from spex_jax.proxies import lime
from spex_jax.report.tables import count
from spex_jax.training import checkpoint, loop

Interactions = interactions_lib.Interactions
# Draws first-order values and the strongest sets into a file.
Draw = Callable[[Interactions, pathlib.Path], None]

METHODS = (*MASKED, *gradients.METHODS)
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "tanh", "identity")
# One value for each player, and no sets.
ADDITIVE = (*additive.METHODS, *gradients.METHODS)
SPEAKERS = (
  "sets of players: auto (the best of all on your masks), spex, proxyspex, "
  "gaussian, gram, lasso, or exact (all masks); one value for each player: "
  "occlusion, lime, kernelshap, and, where the model is differentiable, "
  "gradient_x_input and integrated_gradients"
)


@dataclasses.dataclass(frozen=True)
class Ask(settings.Settings):
  """How every subject is asked, and what is shown of the answer."""

  subject: str = settings.field(help="what is asked about")
  seed: int = settings.seed(
    "of the split, the network, the masks: of everything"
  )
  budget: int = settings.field(
    2000, "distinct masks, held-out ones included", low=1
  )
  method: str = settings.field("auto", SPEAKERS, choices=METHODS)
  target_faithfulness: float | None = settings.field(
    None, "R2 on held-out masks at which no more are asked", above=0, high=1
  )
  kernel_width: float = settings.field(
    lime.WIDTH, "of lime, in cosine distance", above=0
  )
  gradient_steps: int = settings.field(
    gradients.STEPS, "of integrated_gradients", low=1
  )
  batch_size: int | None = settings.field(
    None, "masks in a batch; None measures what is fastest", low=1
  )
  cache: str = settings.field(
    "", "a file that keeps the values of all masks, for a run that goes on"
  )
  index: str = settings.field(
    "FBII",
    "what is shown of sets; SV and BV are what auto then draws masks for, in "
    "pairs, where the budget has 2 n + 2",
    choices=tuple(index_table.INDICES),
  )
  order: int | None = settings.field(
    2, "the largest sets shown; of SV and BV players alone", low=1
  )
  top: int = settings.field(
    8, "rows of single players, and of larger sets", low=1
  )

  def check(self) -> None:
    """Refuses a target where masks are of one size, and an order too large.

    Raises:
      ValueError: settings that do not go together; an index without that order.
    """
    goal, method = self.target_faithfulness, self.method
    if self.cache and method in gradients.METHODS:
      raise ValueError(
        f"cache={self.cache!r} keeps the values of masks; {method} asks for "
        "gradients."
      )
    if goal is not None and method in ("spex", *ADDITIVE):
      who = f"{method} has masks"
      if method == "spex":
        who = "SPEX asks for a plan"
      raise ValueError(
        f"target_faithfulness={goal:g}: {who} of one size; choose "
        "--config.method=auto."
      )
    # Whether the index has this order, asked of a function that is constant.
    constant = sparse.SparseFourier.from_terms(2, [((), 0.0)])
    index_table.interactions(constant, self.index, self.shown_order)

  def aim(self, n: int) -> str | None:
    """What masks are drawn for: `index`, where `auto` can do so; else None."""
    goes = self.method == "auto" and self.target_faithfulness is None
    if not goes or self.index not in aimed.INDICES:
      return None
    return self.index if self.budget >= aimed.least_budget(n) else None

  @property
  def shown_order(self) -> int | None:
    """`order`; where it is the default, an index's only order."""
    own = index_table.own_order(self.index)
    return own if self.order == Ask.order else self.order


@dataclasses.dataclass(frozen=True)
class Training(settings.Settings):
  """How a network is trained: a `loop.Recipe`."""

  num_epochs: int = settings.field(60, "passes over the examples", low=1)
  batch_size: int = settings.field(32, "examples in a step", low=1)
  learning_rate: float = settings.field(3e-3, "the peak", above=0)
  optimizer: str = settings.field("adamw", choices=("adam", "adamw", "sgd"))
  schedule: str = settings.field(
    "cosine", choices=("constant", "cosine", "triangle")
  )
  weight_decay: float = settings.field(1e-2, "0 for adam", low=0)

  @property
  def recipe(self) -> loop.Recipe:
    """What the loop takes."""
    return loop.Recipe(**settings.as_dict(self))


@dataclasses.dataclass(frozen=True)
class Mlp(settings.Settings):
  """A small network."""

  widths: tuple[int, ...] = settings.field((32,), "of its layers", low=1)
  activation: str = settings.field("relu", choices=ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class Trained(Ask):
  """A model that the command trains, asked against its training data."""

  baseline: str = settings.field(
    "mean", "what an absent player takes", choices=baselines.NAMES
  )
  baseline_value: float = settings.field(0.0, "of baseline=constant")
  baseline_draws: int = settings.field(16, "of baseline=resample", low=1)
  test_fraction: float = settings.field(
    0.25, "share of the examples that are tested", above=0, below=1
  )
  model: Mlp = Mlp()
  training: Training = Training()


@dataclasses.dataclass(frozen=True)
class Subject:
  """One question, ready to be asked.

  Attributes:
    question: what is asked, in words.
    facts: what else the reader should know, by name.
    evaluator: the value function, masks of n players to values.
    names: the n names of the players.
    units: the units of the values.
    draw: interactions and a path to the figure, written there.
    picture: a renderable of first-order values, shown above their table.
    together: the members of a set and the labels of all players to how the
      set is written; in braces by default.
    findings: what else the answer says, as facts by name.
    notes: what is asked about, as it is kept with the answer.
    scene: where the players stand, as `report.page.prose` or `picture` has it.
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
  notes: tuple[str, ...] = ()
  game: base.Game | None = None
  scene: Mapping[str, Any] | None = None


def key_of(seed: int, cause: str) -> base.Key:
  """The key of a named cause, from the settings' seed."""
  root = jax.random.key(seed)
  return jax.random.fold_in(root, zlib.crc32(cause.encode()))


def baseline_of(
  config: Trained, x: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, str]:
  """The stand-in that is asked for, as float64, and that in words."""
  if config.baseline == "zero":
    return np.zeros(x.shape), "zero"
  if config.baseline == "mean":
    return baselines.mean(background), "the training mean"
  if config.baseline == "median":
    return baselines.median(background), "the training median"
  if config.baseline == "constant":
    value = config.baseline_value
    return np.full(x.shape, value), f"the constant {value:g}"
  key, draws = key_of(config.seed, "baseline"), config.baseline_draws
  examples = count(draws, "training example")
  # Drawn by number: JAX would narrow the values themselves.
  rows = baselines.resample(key, np.arange(len(background)), draws)
  return (
    np.asarray(background, np.float64)[np.asarray(rows)],
    f"the values of {examples}, averaged over",
  )


def pick(
  name: str, row: int, source: str, train: np.ndarray, test: np.ndarray
) -> tuple[str, int]:
  """Where a row of the data is after a split.

  Args:
    name: the name of the setting, for the message.
    row: as the data number it, from 0.
    source: what the data are called, for the message.
    train: int64, the numbers of the training rows.
    test: the same of the test rows.

  Returns:
    "train" or "test", and the place among those rows.

  Raises:
    ValueError: no such row.
  """
  for part, rows in (("test", test), ("train", train)):
    place = np.flatnonzero(rows == row)
    if len(place):
      return part, int(place[0])
  last = len(train) + len(test) - 1
  raise ValueError(f"{name}={row}: {source} has rows 0 to {last}.")


# Whether the model has seen what it is asked about.
SEEN = {"train": "which it was trained on", "test": "unseen in training"}


def trained(
  init: Callable[[base.Key], Any],
  features: np.ndarray,
  targets: np.ndarray,
  losses: Callable[[Any, Any], jax.Array],
  workdir: pathlib.Path,
  *,
  seed: int,
  training: Training,
  depends: Mapping[str, Any],
) -> tuple[Any, str]:
  """A network's parameters: what `workdir` holds, or freshly trained ones.

  Args:
    init: a key to parameters to begin with.
    features: the training examples, the first axis being that of examples.
    targets: what is to be predicted of each of these.
    losses: parameters and a batch to the loss of each example.
    workdir: the folder of the run; parameters are kept in `model/`.
    seed: an integer, of initialisation and order.
    training: steps, step sizes and the rest of a recipe.
    depends: what else a trained network depends on, as JSON: a saved one of
      another is refused.

  Returns:
    The parameters, and where they come from in words.

  Raises:
    ValueError: `workdir` holds a model of another configuration or a damaged
      one, or training diverged.
  """
  origin = {**depends, "seed": seed}
  for name, value in settings.flat(training).items():
    origin[f"training.{name}"] = value

  def fresh() -> tuple[Any, str]:
    data = {"features": features, "targets": targets}
    weights = np.ones(len(features), np.float32)
    loop.check(data, weights)
    fit = jax.jit(
      lambda init_key, order_key: loop.train(
        init_key,
        order_key,
        data,
        weights,
        init=init,
        losses=losses,
        recipe=training.recipe,
      )
    )
    done = fit(key_of(seed, "init"), key_of(seed, "order"))
    if not np.isfinite(done.losses).all():
      step = int(np.argmin(np.isfinite(done.losses)))
      raise ValueError(
        f"Training diverged at step {step}; lower training.learning_rate."
      )
    return done.params, f"trained in {count(len(done.losses), 'step')} and "

  like = jax.eval_shape(init, jax.random.key(0))  # Shapes alone.
  return kept(workdir / "model", like, origin, fresh)


def kept(
  path: pathlib.Path,
  like: Any,
  origin: dict[str, Any],
  fresh: Callable[[], tuple[Any, str]],
) -> tuple[Any, str]:
  """The state that a checkpoint holds, or a fresh one, saved there.

  Args:
    path: the folder of the checkpoint.
    like: a state of the same shapes and dtypes; values do not matter.
    origin: what it depends on, as JSON: a saved one of another is refused.
    fresh: makes one, and says what to put before "saved to".

  Returns:
    The state, and where it comes from in words.

  Raises:
    ValueError: `path` holds one of another origin, or a damaged one.
  """
  if not path.exists():
    state, made = fresh()
    try:
      checkpoint.save(path, state, origin)
    except FileExistsError:
      pass  # Another task was quicker: its state holds for all.
    else:
      return state, f"{made}saved to {path}"
  return checkpoint.restore(path, like, origin), f"restored from {path}"


def depends_on(config: Any) -> dict[str, Any]:
  """What a network depends on besides its training, as JSON.

  Args:
    config: settings with `subject`, `test_fraction` and a group `model`.
  """
  model = {
    f"model.{name}": list(value) if isinstance(value, tuple) else value
    for name, value in settings.as_dict(config.model).items()
    if name not in ("arguments", "file")  # Of other models than networks.
  }
  split = {"subject": config.subject, "test_fraction": config.test_fraction}
  return split | model
