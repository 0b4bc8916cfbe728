"""What `spex attribute data` retrains: settings, examples, players, a model.

Shapes: N training examples, n players, T test points.
"""

import dataclasses
from typing import Literal

import jax
import numpy as np

from spex_jax import settings
from spex_jax.api import DECODERS
from spex_jax.datasets import casts, labelled
from spex_jax.influence import (
  classifiers,
  examples,
  problem,
  subsets,
  valuations,
)
from spex_jax.jobs import subjects

PLAYERS = ("examples", "classes", "clusters")
# More is better: helpful examples raise them.
OUTPUTS = {"margin": "margin", "log_odds": "log odds", "logit": "logit"}


@dataclasses.dataclass(frozen=True)
class Model(settings.Settings):
  """What is retrained, see `classifiers.classifier`."""

  kind: str = settings.field(
    "mlp",
    "mlp; transformer, convnet, on images; logistic, ridge: solved outright. "
    "Ridge takes a response, too, and tells what moves its prediction",
    choices=classifiers.MODELS,
  )
  widths: tuple[int, ...] = settings.field((64, 32), "of the MLP", low=1)
  activation: str = settings.field("relu", choices=subjects.ACTIVATIONS)
  width: int = settings.field(16, "of transformer and convnet", low=1)
  num_blocks: int = settings.field(1, "of the transformer", low=1)
  num_heads: int = settings.field(2, "of the transformer", low=1)
  patch_size: int = settings.field(2, "of the transformer, in pixels", low=1)
  penalty: float = settings.field(1.0, "of logistic and ridge", low=0)
  output: str = settings.field(
    "margin", "of the right class, at a test point", choices=tuple(OUTPUTS)
  )


@dataclasses.dataclass(frozen=True)
class Training(subjects.Training):
  """How a network is trained, so that training has a derivative."""

  num_epochs: int = settings.field(15, "passes over the examples", low=1)
  batch_size: int = settings.field(20, "examples in a step", low=1)
  optimizer: str = settings.field("adam", choices=("adam", "adamw", "sgd"))
  schedule: str = settings.field(
    "constant", choices=("constant", "cosine", "triangle")
  )
  weight_decay: float = settings.field(0.0, "0 for adam", low=0)
  denominator: str = settings.field(
    "batch", "of a step's sum of losses", choices=("batch", "weight")
  )
  eps_root: float = settings.field(
    1e-12, "of adam: added inside its square root", low=0
  )


@dataclasses.dataclass(frozen=True)
class Data(settings.Settings):
  """Which training examples are asked about, and how."""

  seed: int = settings.seed(
    "of the split, the networks, the masks: of everything"
  )
  data: str = settings.field(
    "digits",
    "digits, breast_cancer, iris, wine; a .npz file with x and y, and perhaps "
    "x_test, y_test and classes; or a .csv file",
  )
  classes: str = settings.field(
    "3,8", "only these, by name, with commas between; all where empty"
  )
  num_train: int = settings.field(
    200, "examples that are not tested, 2 or more; 0 for all", low=0
  )
  num_test: int = settings.field(32, "test points that are scored", low=1)
  points: str = settings.field(
    "",
    "rows of the data (of its x_test, if it has one) that are tested and "
    "explained, as in 0,3,5; or",
  )
  num_points: int = settings.field(4, "the least certain ones", low=1)
  players: str = settings.field(
    "examples", "or groups of them: classes, clusters", choices=PLAYERS
  )
  num_clusters: int = settings.field(20, "of players=clusters", low=1)
  budget: int = settings.field(
    4000, "subsets, halves drawn at random, to fit to", low=8
  )
  fresh: int = settings.field(200, "more of them, to judge by", low=4)
  num_seeds: int = settings.field(
    4, "of initialisation and order, to judge by", low=1
  )
  method: str = settings.field(
    "datamodel",
    "scores of single examples: datamodel, lasso, banzhaf, shapley read the "
    "retrained models; knn needs none; trak, influence, tracin, metagradient "
    "differentiate one",
    choices=tuple(valuations.METHODS),
  )
  decoder: str = settings.field(
    "gram",
    "of sets",
    choices=tuple(name for name in DECODERS if name != "spex"),
  )
  order: int = settings.field(2, "the largest sets", low=2)
  checked: int = settings.field(12, "sets that are retrained", low=0)
  contexts: int = settings.field(24, "among so many random others each", low=2)
  top: int = settings.field(5, "rows of every list", low=1)
  microbatch: int = settings.field(
    64, "trainings side by side; 0 measures what is fastest", low=0
  )
  rows_per_shard: int = settings.field(
    512, "trainings that a kill may cost", low=1
  )
  neighbours: int = settings.field(5, "of knn", low=1)
  damping: float = settings.field(1e-2, "of influence")
  trak_models: int = settings.field(5, "retrained for trak", low=1)
  trak_dim: int = settings.field(64, "of trak's projection; 0 for none", low=0)
  model: Model = Model()
  training: Training = Training()

  def check(self) -> None:
    """Refuses a method that this model or training does not allow.

    Raises:
      ValueError: a method that does not go with the model, or with training.
    """
    if self.num_train == 1:
      raise ValueError("num_train=1: must be 2 or more, or 0 for all.")
    method, training = self.method, self.training
    kinds = valuations.NEEDS.get(method, classifiers.MODELS)
    if self.model.kind not in kinds:
      raise ValueError(
        f"method={method} needs model.kind={' or '.join(kinds)}; got "
        f"{self.model.kind}."
      )
    if method == "tracin" and training.schedule != "constant":
      raise ValueError(
        "method=tracin trains up to each checkpoint, which needs "
        f"training.schedule=constant; got {training.schedule}."
      )
    adaptive = training.optimizer != "sgd"
    if method == "metagradient" and adaptive and not training.eps_root > 0:
      raise ValueError(
        f"method=metagradient with training.optimizer={training.optimizer} "
        "needs training.eps_root above 0, 1e-12 say: its square root has no "
        "derivative at 0."
      )

  @property
  def rows(self) -> tuple[int, ...]:
    """Rows of the data that `points` names.

    Raises:
      ValueError: no numbers.
    """
    parts = [part.strip() for part in self.points.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
      raise ValueError(
        f"points={self.points!r}: give rows of the data, as in 0,3,5."
      )
    return tuple(dict.fromkeys(map(int, parts)))

  def key(self, cause: str) -> jax.Array:
    """The key of a named cause."""
    return subjects.key_of(self.seed, cause)

  @property
  def options(self) -> valuations.Options:
    """What the methods need to know."""
    return valuations.Options(
      self.key("trak"),
      self.decoder,
      self.order,
      self.neighbours,
      self.damping,
      self.trak_models,
      self.trak_dim,
    )


@dataclasses.dataclass(frozen=True)
class Problem(problem.Problem):
  """Everything that is retrained, and where it is from.

  Attributes:
    train: N training examples, as they came.
    test: T test points, as they came.
  """

  train: labelled.Labelled
  test: labelled.Labelled

  def point(self, target: int) -> str:
    """A test point in words."""
    label = _label(self.test, target)
    return f"test point {target} (row {self.test.rows[target]}: {label})"


def _label(data: labelled.Labelled, place: int) -> str:
  y = data.y[place]
  return data.classes[y] if data.classes else f"{y:.4g}"


def problem_of(
  config: Data, degenerate: Literal["refuse", "train"] = "refuse"
) -> Problem:
  """Reads, splits and checks; nothing is trained.

  Args:
    config: the settings of `spex attribute data`.
    degenerate: what is done where too few are kept, see `examples.Retrainer`.

  Raises:
    ValueError: a setting out of range, or data that cannot be used, named.
    TypeError: labels that are no integers.
    FileNotFoundError: no such file.
  """
  train, test = _split(config)
  flat = [part.x.reshape(part.num_examples, -1) for part in (train, test)]
  if not train.are_images:
    # Columns differ in scale; the scale is of all examples, and stays.
    mean, std = flat[0].mean(axis=0), flat[0].std(axis=0)
    std = np.where(np.ptp(flat[0], axis=0) > 0, std, 1.0)
    flat = [(x - mean) / std for x in flat]
  names = [f"x{i}" for i in range(flat[0].shape[1])]
  flat = [casts.narrow(x, names) for x in flat]
  kind = np.int32 if train.classes else np.float32
  data = {"x": flat[0], "y": train.y.astype(kind)}
  test_data = {"x": flat[1], "y": test.y.astype(kind)}
  players = _players(config, train, flat[0])
  made = classifiers.classifier(
    shape=train.x.shape[1:],
    num_classes=len(train.classes) or None,
    recipe=config.training.recipe,
    **settings.as_dict(config.model),
  )
  if made.recipe is not None:
    # Refuses a batch that is too large.
    made.recipe.num_steps(train.num_examples)
  retrainer = examples.Retrainer(
    made.learner,
    data,
    test_data,
    key=config.key("retraining"),
    seeds="common",
    players=players,
    degenerate=degenerate,
    batch_size=config.microbatch or None,
    microbatch=config.microbatch or None,
  )
  return Problem(
    train=train,
    test=test,
    data=data,
    test_data=test_data,
    num_classes=len(train.classes),
    players=players,
    classifier=made,
    retrainer=retrainer,
  )


def _split(config: Data) -> tuple[labelled.Labelled, labelled.Labelled]:
  """Training examples, and the test points that are scored."""
  ridge = config.model.kind == "ridge"
  train, test = labelled.load(config.data, response=ridge)
  if not train.classes and (config.classes or config.method == "knn"):
    raise ValueError(
      f"{config.data} has a response, no classes: leave --config.classes= "
      "empty, and choose another method than knn."
    )
  if config.classes:
    names = [name.strip() for name in config.classes.split(",")]
    train = train.only(names)
    test = None if test is None else test.only(names)
  _check_classes(train)
  key = config.key("split")
  order = np.asarray(jax.random.permutation(key, train.num_examples))
  if test is None:
    if train.num_examples < config.num_test + 2:
      raise ValueError(
        f"num_test={config.num_test}: there are {train.num_examples} examples, "
        "and two at least are to be trained on."
      )
    drawn = _drawn(config, train, order)
    test, order = train.take(drawn), order[~np.isin(order, drawn)]
  elif config.num_test > test.num_examples:
    raise ValueError(
      f"num_test={config.num_test}: {config.data} has {test.num_examples} test "
      "examples."
    )
  else:
    test = test.take(_drawn(config, test, np.arange(test.num_examples)))
  if config.num_train > len(order):
    raise ValueError(
      f"num_train={config.num_train}: {len(order)} examples are left beside "
      "the test points; 0 takes them all."
    )
  train = train.take(order[: config.num_train or len(order)])
  _check_classes(train)
  return train, test


def _drawn(
  config: Data, data: labelled.Labelled, order: np.ndarray
) -> np.ndarray:
  """Places of the test points: the first of an order, the named among them."""
  named = []
  for row in config.rows:
    place = np.flatnonzero(data.rows == row)
    if not len(place):
      raise ValueError(
        f"points={config.points!r}: {config.data} has no row {row}"
        + (f" of classes {config.classes}." if config.classes else ".")
      )
    named.append(place[0])
  if len(named) > config.num_test:
    raise ValueError(
      f"points={config.points!r} are {len(named)}; num_test={config.num_test}."
    )
  first = order[: config.num_test]
  others = first[~np.isin(first, named)][: config.num_test - len(named)]
  return order[np.isin(order, [*named, *others])]


def _check_classes(train: labelled.Labelled) -> None:
  if not train.classes:
    return
  present = np.unique(train.y)
  if len(present) < 2:
    raise ValueError(
      f"The {train.num_examples} training examples are all of class "
      f"{train.classes[present[0]]}; two classes are needed."
    )


def _players(config: Data, train: labelled.Labelled, x: np.ndarray):
  if config.players == "classes":
    if not train.classes:
      raise ValueError("players=classes: a response has none; take clusters.")
    names = [train.classes[c] for c in np.unique(train.y)]
    return subsets.players_of(train.y, names)
  if config.players == "clusters":
    if not 2 <= config.num_clusters <= train.num_examples:
      raise ValueError(
        f"num_clusters={config.num_clusters}: must lie in "
        f"2..{train.num_examples}."
      )
    groups = subsets.clusters(x, config.num_clusters, config.seed)
    names = []
    for group in np.unique(groups):
      labels = train.y[groups == group]
      most = f"mean {labels.mean():.4g}"
      if train.classes:
        most = f"mostly {train.classes[np.bincount(labels).argmax()]}"
      names.append(f"cluster {group} ({len(labels)}, {most})")
    return subsets.players_of(groups, names)
  names = [f"{row} ({_label(train, i)})" for i, row in enumerate(train.rows)]
  return subsets.players_of(np.arange(train.num_examples), names)
